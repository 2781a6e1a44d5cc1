"""Queues and maintenance: what an operator of the database looks at."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


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
            "redrives" (with what they selected), "archives" and "replies".
        is_complete: False when another session was at it or in the way; a later run does the rest.
    """

    partitions_made: list[str] = field(default_factory=list)
    partitions_dropped: list[str] = field(default_factory=list)
    deleted: dict[str, int] = field(default_factory=dict)
    is_complete: bool = True
