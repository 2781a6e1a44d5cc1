"""What operators look at: domains, workers, throughput, failures that look the same, redrives, pages of commands."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from commandbus.models.commands import CommandMetadata
from commandbus.models.states import ErrorType


class MessagePlace(StrEnum):
    """Where what was sent is now."""

    QUEUE = "QUEUE"
    SCHEDULED = "SCHEDULED"  # waits for its next attempt
    TSQ = "TSQ"
    ARCHIVE = "ARCHIVE"  # PGMQ's


class RedriveStatus(StrEnum):
    """Where a redrive is; STOPPED and COMPLETED are final."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"
    COMPLETED = "COMPLETED"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """What was sent.

    Attributes:
        place: where it is now.
        data: the JSON object of the sender, or its text where it cannot be decoded.
    """

    place: MessagePlace
    data: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class PageKey:
    """The place in a list from which the next page goes on.

    Attributes:
        created_at: of the last command looked at; in the troubleshooting queue, since when that one waits.
        command_id: its id.
    """

    created_at: datetime
    command_id: UUID


@dataclass(frozen=True, slots=True)
class CommandPage:
    """Some commands, and where more would be found.

    Attributes:
        commands: newest first.
        next_key: for the next page; None at the end.
        is_cut_short: the search has looked at as many commands as one call may, and did not fill the page.
    """

    commands: list[CommandMetadata]
    next_key: PageKey | None = None
    is_cut_short: bool = False


@dataclass(frozen=True, slots=True)
class DomainOverview:
    """What a domain holds now. Messages are counted up to 10,000, and estimated beyond.

    Attributes:
        domain: its name.
        depth: messages in the command queue.
        in_flight: of these, leased by workers.
        scheduled: commands that wait outside the queue for their next attempt.
        in_troubleshooting: commands that wait for an operator.
        archived: messages in PGMQ's archive of the queue.
        oldest_at: since when the first message waits that a worker could have now, or None.
        workers: workers heard of in the last 20 seconds.
        capacity: how many handlers these can run at once.
        paused_at: since when an operator holds the domain, or None.
        paused_by: who does.
        pause_reason: and why.
        dead_rows: of the queue's table, that vacuum has not removed yet.
        vacuumed_at: when that was last done, or None.
    """

    domain: str
    depth: int
    in_flight: int
    scheduled: int
    in_troubleshooting: int
    archived: int
    oldest_at: datetime | None
    workers: int
    capacity: int
    paused_at: datetime | None
    paused_by: str | None
    pause_reason: str | None
    dead_rows: int
    vacuumed_at: datetime | None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker process.

    Attributes:
        worker_id: made at its start.
        domain: whose commands it executes.
        host: where it runs.
        pid: its process there.
        concurrency: how many handlers it runs at once, at most.
        in_flight: how many commands it had when it was heard of last.
        started_at: when it was heard of first.
        seen_at: when it was heard of last; a worker that lives is heard of every 5 seconds.
    """

    worker_id: UUID
    domain: str
    host: str
    pid: int
    concurrency: int
    in_flight: int
    started_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """A command that a worker has.

    Attributes:
        command_id: the command.
        command_type: its type.
        attempts: the attempt under way.
        max_attempts: deliveries allowed.
        msg_id: its message.
        read_ct: with msg_id, the lease.
        leased_at: when it was delivered.
        expires_at: when it is delivered again, unless the lease is extended.
    """

    command_id: UUID
    command_type: str
    attempts: int
    max_attempts: int
    msg_id: int
    read_ct: int
    leased_at: datetime | None
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ThroughputPoint:
    """What workers did in a piece of time. Sends and depth are known while a worker runs.

    Attributes:
        at: the beginning of the piece.
        enqueued: messages put into the queue: sends and retries; None where the piece before is unknown.
        completed: commands that ended well.
        failed: commands that a business rule refused.
        retried: attempts that failed and are tried again.
        parked: commands that were left to an operator.
        depth: messages in the queue.
        oldest_at: since when the first of them waited.
        waits: histogram of the time that messages were in the queue until a handler had them: element i counts those
            that took less than 2^i milliseconds, and not less than half of that. Delays before a retry are not in it.
        runs: the same of the time in handlers.
    """

    at: datetime
    enqueued: int | None
    completed: int
    failed: int
    retried: int
    parked: int
    depth: int | None
    oldest_at: datetime | None
    waits: list[int]
    runs: list[int]


class Verdict(NamedTuple):
    """What became of one command of an operator's call.

    Attributes:
        command_id: the command.
        msg_id: its new message, where it was queued again.
        refusal: why nothing was done: NOT_FOUND, NO_PAYLOAD, or the status it has; None where it was done.
    """

    command_id: UUID
    msg_id: int | None
    refusal: str | None


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Commands that wait for an operator, and whose failures look the same.

    Attributes:
        domain: their domain.
        failure_key: what they have in common; for a retry, a redrive or a list of exactly these.
        waiting: how many there are.
        first_seen: when the first of them was left to an operator.
        last_seen: when the last was.
        command_type: their type.
        error_type: how they failed.
        error_code: with this code.
        error_text: the error without what differs between them: numbers, ids, quoted words.
        example_id: the one that waits longest.
    """

    domain: str
    failure_key: UUID
    waiting: int
    first_seen: datetime
    last_seen: datetime
    command_type: str
    error_type: ErrorType | None
    error_code: str | None
    error_text: str | None
    example_id: UUID


@dataclass(frozen=True, slots=True)
class Redrive:
    """A frozen selection of waiting commands that workers queue again at a chosen rate.

    Attributes:
        redrive_id: made at its start.
        domain: the domain of all its commands.
        status: see `RedriveStatus`.
        rate: commands per second.
        stop_after: this many that fail again end it; None for any number.
        total_count: commands selected.
        sent_count: of these, queued again.
        refused_count: of these, decided about by somebody else before their turn.
        failed_count: of those queued, back with an operator, as far as workers have counted; `RedriveProgress` is
            newer.
        operator: who started it.
        reason: and why.
        created_at: when it was started.
        finished_at: when the last one was queued, or it was stopped; None before.
    """

    redrive_id: UUID
    domain: str
    status: RedriveStatus
    rate: float
    stop_after: int | None
    total_count: int
    sent_count: int
    refused_count: int
    failed_count: int
    operator: str | None
    reason: str | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class RedriveProgress:
    """A redrive, and what became first of the commands it queued.

    Workers count it once a second, and what they have counted stays as it is, whatever is done to the commands later.
    Of what they have not counted yet, 2,000 are looked at: when there are more, some that ended are under way here.

    Attributes:
        redrive: its state.
        completed: of those queued, COMPLETED.
        failed: of those queued, FAILED.
        canceled: of those queued, CANCELED.
        again: of those queued, back with an operator.
        forgotten: of those queued, ended and deleted before they were counted. The rest is under way.
    """

    redrive: Redrive
    completed: int
    failed: int
    canceled: int
    again: int
    forgotten: int
