"""The records and enumerations that cross the library's border: frozen, slotted, and without behaviour.

Times are aware and in UTC. Fields that may hold business data are left out of every repr.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID


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


@dataclass(frozen=True, slots=True)
class Command:
    """What a handler works on.

    Attributes:
        domain: the owner of the queue it came from.
        command_type: selects the handler within the domain.
        command_id: chosen by the sender, unique in the domain.
        data: the JSON object that was sent.
        correlation_id: joins commands and replies of one conversation.
        reply_to: the reply queue that is told the outcome, or None.
        created_at: when it was sent.
    """

    domain: str
    command_type: str
    command_id: UUID
    data: Any = field(repr=False)
    correlation_id: UUID | None
    reply_to: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SendRequest:
    """One command of ``send_batch``.

    Attributes:
        domain: ``^[a-z][a-z0-9_]{0,36}$``.
        command_type: 1 to 200 characters.
        command_id: unique in the domain.
        data: JSON object.
        correlation_id: made at the send when None.
        reply_to: a queue ``<domain>__replies``, or None for no reply.
        max_attempts: 1 to 1,000; the bus's default when None.
        batch_id: an existing batch that is not complete, or None.
    """

    domain: str
    command_type: str
    command_id: UUID
    data: Any = field(repr=False)
    correlation_id: UUID | None = None
    reply_to: str | None = None
    max_attempts: int | None = None
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class SendResult:
    """One command that is in its queue.

    Attributes:
        command_id: as it was sent.
        msg_id: PGMQ's number of the message, rising within the queue.
    """

    command_id: UUID
    msg_id: int


@dataclass(frozen=True, slots=True)
class BatchSendResult:
    """The outcome of ``send_batch``.

    Attributes:
        results: one per request, in the same order.
        chunks_processed: how many calls of the database it took.
        total_commands: how many commands were sent.
    """

    results: list[SendResult]
    chunks_processed: int
    total_commands: int


@dataclass(frozen=True, slots=True)
class BatchCommand:
    """One command of ``create_batch``; its domain is the batch's. Fields as in `SendRequest`."""

    command_type: str
    command_id: UUID
    data: Any = field(repr=False)
    correlation_id: UUID | None = None
    reply_to: str | None = None
    max_attempts: int | None = None


@dataclass(frozen=True, slots=True)
class CreateBatchResult:
    """The outcome of ``create_batch``.

    Attributes:
        batch_id: given or made.
        command_results: one per command, in the same order.
        total_commands: how many commands were sent.
    """

    batch_id: UUID
    command_results: list[SendResult]
    total_commands: int


@dataclass(frozen=True, slots=True)
class BatchMetadata:
    """A batch and its counters.

    Attributes:
        domain: the domain of all its commands.
        batch_id: unique in the domain.
        name: for people, or None.
        custom_data: the JSON object given at creation, or None.
        status: see `BatchStatus`.
        total_count: commands in the batch.
        completed_count: of these, COMPLETED.
        failed_count: of these, FAILED.
        canceled_count: of these, CANCELED.
        in_troubleshooting_count: of these, waiting for an operator.
        created_at: when it was made.
        started_at: when its first command was received, or None.
        completed_at: when its last command became final, or None.
    """

    domain: str
    batch_id: UUID
    name: str | None
    custom_data: Any = field(repr=False)
    status: BatchStatus
    total_count: int
    completed_count: int
    failed_count: int
    canceled_count: int
    in_troubleshooting_count: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @property
    def is_complete(self) -> bool:
        """Whether every command is final; one that waits for an operator is not."""
        return self.status in (BatchStatus.COMPLETED, BatchStatus.COMPLETED_WITH_FAILURES)


@dataclass(frozen=True, slots=True)
class CommandMetadata:
    """The stored state of a command, without its data.

    Attributes:
        domain: the owner of its queue.
        command_id: unique in the domain.
        command_type: selects the handler.
        status: see `CommandStatus`.
        attempts: deliveries to a handler so far.
        max_attempts: deliveries allowed.
        msg_id: its latest message, or None.
        correlation_id: joins a conversation, or None.
        reply_to: the reply queue, or None.
        last_error_type: of the last failed attempt, or None.
        last_error_code: of the last failed attempt, or None.
        last_error_msg: of the last failed attempt, or None.
        created_at: when it was sent.
        updated_at: when it last changed.
        batch_id: its batch, or None.
    """

    domain: str
    command_id: UUID
    command_type: str
    status: CommandStatus
    attempts: int
    max_attempts: int
    msg_id: int | None
    correlation_id: UUID | None
    reply_to: str | None
    last_error_type: ErrorType | None
    last_error_code: str | None
    last_error_msg: str | None
    created_at: datetime
    updated_at: datetime
    batch_id: UUID | None


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One row of the audit trail.

    Attributes:
        audit_id: rises with time within a command.
        domain: the domain of the command or batch.
        command_id: the command's id, or the batch's in BATCH_* events.
        event_type: see `AuditEventType`.
        timestamp: when it happened, by the server's clock.
        details: JSON object of further facts, or None.
    """

    audit_id: int
    domain: str
    command_id: UUID
    event_type: AuditEventType
    timestamp: datetime
    details: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class TroubleshootingItem:
    """A command that waits for an operator. Fields as in `CommandMetadata`; payload is what was sent."""

    domain: str
    command_id: UUID
    command_type: str
    attempts: int
    max_attempts: int
    last_error_type: ErrorType | None
    last_error_code: str | None
    last_error_msg: str | None
    correlation_id: UUID | None
    reply_to: str | None
    payload: Any = field(repr=False)
    created_at: datetime
    updated_at: datetime
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class PgmqMessage:
    """One message of a PGMQ queue.

    Attributes:
        msg_id: rises within the queue; gaps are normal.
        read_count: deliveries, this one included.
        enqueued_at: when it was sent.
        vt: when it becomes visible again.
        message: any JSON value, or None.
    """

    msg_id: int
    read_count: int
    enqueued_at: datetime
    vt: datetime
    message: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a command.

    Attributes:
        command_id: the command it answers.
        correlation_id: as in the command.
        outcome: see `ReplyOutcome`.
        result: what the handler or the operator returned; any JSON value.
        error_type: None unless the outcome is FAILED.
        error_code: None unless the outcome is FAILED.
        error_message: the error's text, or the reason of a cancel, or None.
        details: JSON object of further facts of an error, or None.
    """

    command_id: UUID
    correlation_id: UUID | None
    outcome: ReplyOutcome
    result: Any = field(default=None, repr=False)
    error_type: ErrorType | None = None
    error_code: str | None = None
    error_message: str | None = None
    details: Any = field(default=None, repr=False)


class Lease(NamedTuple):
    """The right to end one attempt: whoever names it must still hold it.

    Attributes:
        command_id: the command that was delivered.
        msg_id: its message.
        read_ct: PGMQ's count of deliveries of that message; a later delivery has a higher one.
    """

    command_id: UUID
    msg_id: int
    read_ct: int


@dataclass(frozen=True, slots=True)
class QueueMetrics:
    """What is in a queue now.

    Attributes:
        queue_name: ``<domain>__commands`` or ``<domain>__replies``.
        length: messages in the queue table.
        visible: of these, ready to be read.
        in_flight: of these, leased and not yet visible again.
        scheduled: commands that wait outside the queue for their next attempt.
        archived: payloads kept for the troubleshooting queue.
        newest_age_seconds: age of the newest message, or None when there is none.
        oldest_age_seconds: age of the oldest message, or None when there is none.
    """

    queue_name: str
    length: int
    visible: int
    in_flight: int
    scheduled: int
    archived: int
    newest_age_seconds: float | None
    oldest_age_seconds: float | None


@dataclass(frozen=True, slots=True)
class MaintenanceReport:
    """What one run of maintenance did.

    Attributes:
        partitions_made: of the audit.
        partitions_dropped: of the audit; one that is in use is emptied now, and dropped by a later run.
        deleted: rows, by "audit" (outside of partitions), "commands", "payloads", "batches" (with their commands),
            "archives" and "replies".
        is_complete: False when another session was at it or in the way; a later run does the rest.
    """

    partitions_made: list[str] = field(default_factory=list)
    partitions_dropped: list[str] = field(default_factory=list)
    deleted: dict[str, int] = field(default_factory=dict)
    is_complete: bool = True
