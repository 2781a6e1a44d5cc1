"""What a run of the demo found out."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from commandbus.models import AuditEvent


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison of what the plan says with what the database says."""

    name: str
    expected: Any
    found: Any

    @property
    def is_right(self) -> bool:
        """Whether both say the same."""
        return bool(self.expected == self.found)


@dataclass(frozen=True, slots=True)
class Figures:
    """How fast it went until the operator stepped in, by the server's clock.

    Attributes:
        seconds: from the send to the end of the last command that ended by itself.
        per_second: commands that ended by themselves, per second of that time.
        latency_p50: seconds from send to completion that half of the completed commands took at most; all
            commands were sent at once, so this is mostly time in the queue.
        latency_p95: of 95 %.
        latency_p99: of 99 %.
        latency_max: of all.
    """

    seconds: float
    per_second: float
    latency_p50: float
    latency_p95: float
    latency_p99: float
    latency_max: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """Commands of one type that waited for the operator for the same reason."""

    command_type: str
    error_code: str | None
    commands: int


@dataclass(frozen=True, slots=True)
class Report:
    """One run.

    Attributes:
        commands: how many were sent.
        processes: how many worker processes there were.
        batch_id: their batch.
        waiting: what the operator found.
        retried: commands that the operator retried.
        canceled: commands that the operator gave up afterwards.
        statuses: commands by final status.
        figures: throughput and latency.
        trail: the audit trail of one command that the operator rescued.
        checks: everything that was compared.
        kept: data directory of the server that was left running, or None.
    """

    commands: int
    processes: int
    batch_id: UUID
    waiting: list[Waiting]
    retried: int
    canceled: int
    statuses: dict[str, int]
    figures: Figures
    trail: list[AuditEvent]
    checks: list[Check]
    kept: str | None

    @property
    def is_right(self) -> bool:
        """Whether every check came out right."""
        return all(check.is_right for check in self.checks)
