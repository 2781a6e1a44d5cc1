"""Commands: as they are sent, handled and stored, and their answers."""

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from commandbus.models.states import AuditEventType, CommandStatus, ErrorType, ReplyOutcome


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
    """A command that waits for an operator.

    Fields as in `CommandMetadata`; payload is what was sent, and waiting_since when it was left to the operator.
    """

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
    batch_id: UUID | None
    waiting_since: datetime


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


@dataclass(slots=True)
class Lease:
    """The right to end one attempt: whoever names it must still hold it.

    Attributes:
        command_id: the command that was delivered.
        msg_id: its message.
        read_ct: PGMQ's count of deliveries of that message; a later delivery has a higher one.
        renewed_at: when it last began to hold for its holder's usual time, by the holder's monotonic clock.
    """

    command_id: UUID
    msg_id: int
    read_ct: int
    renewed_at: float = field(default_factory=time.monotonic, repr=False, compare=False)
