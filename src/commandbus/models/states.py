"""What commands, batches, replies and audit events can be; the same words as in the tables."""

from enum import StrEnum


class CommandStatus(StrEnum):
    """Where a command is in its life; COMPLETED, FAILED and CANCELED are final."""

    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    IN_TROUBLESHOOTING_QUEUE = "IN_TROUBLESHOOTING_QUEUE"


class ReplyOutcome(StrEnum):
    """What a reply says about its command."""

    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class BatchStatus(StrEnum):
    """Where a batch is; COMPLETED means that every command completed."""

    PENDING = "PENDING"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    COMPLETED_WITH_FAILURES = "COMPLETED_WITH_FAILURES"


class AuditEventType(StrEnum):
    """What an audit row records; BATCH_* rows carry the batch's id in place of the command's."""

    SENT = "SENT"
    RECEIVED = "RECEIVED"
    RELEASED = "RELEASED"  # a worker gave back a command that it had not started
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"  # one attempt failed
    RETRY_SCHEDULED = "RETRY_SCHEDULED"
    RETRY_EXHAUSTED = "RETRY_EXHAUSTED"
    MOVED_TO_TSQ = "MOVED_TO_TSQ"
    BUSINESS_RULE_FAILED = "BUSINESS_RULE_FAILED"
    OPERATOR_RETRY = "OPERATOR_RETRY"
    OPERATOR_CANCEL = "OPERATOR_CANCEL"
    OPERATOR_COMPLETE = "OPERATOR_COMPLETE"
    OPERATOR_EDIT = "OPERATOR_EDIT"  # data before and after; OPERATOR_RETRY follows
    DOMAIN_PAUSED = "DOMAIN_PAUSED"  # under the id of zeros
    DOMAIN_RESUMED = "DOMAIN_RESUMED"
    REDRIVE_STARTED = "REDRIVE_STARTED"  # under the redrive's id
    REDRIVE_PAUSED = "REDRIVE_PAUSED"
    REDRIVE_RESUMED = "REDRIVE_RESUMED"
    REDRIVE_STOPPED = "REDRIVE_STOPPED"
    REDRIVE_COMPLETED = "REDRIVE_COMPLETED"
    BATCH_STARTED = "BATCH_STARTED"
    BATCH_COMPLETED = "BATCH_COMPLETED"
    STALE_SETTLE = "STALE_SETTLE"


class ErrorType(StrEnum):
    """How an attempt failed."""

    TRANSIENT = "TRANSIENT"
    PERMANENT = "PERMANENT"
    BUSINESS_RULE = "BUSINESS_RULE"


class TsqReason(StrEnum):
    """Why a command waits for an operator."""

    EXHAUSTED = "EXHAUSTED"  # no attempts left
    PERMANENT = "PERMANENT"  # the handler says that it cannot work
    CRASHED = "CRASHED"  # the last attempt never ended: its process died
    INVALID_PAYLOAD = "INVALID_PAYLOAD"  # the data cannot be read, or does not fit the handler's model
    TAMPERED = "TAMPERED"  # the message does not agree with the command's row
    LOST = "LOST"  # there is no message any more: the queue was purged, or dropped and made again
