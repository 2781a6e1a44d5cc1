"""What was looked up a moment ago, for all who ask: however many watch, the database is asked once."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast
from uuid import UUID

import psycopg
from flask import current_app

from commandbus.console.activity import Charts, Span, Sparks, draw, merge, spark
from commandbus.console.state import Console
from commandbus.errors import CommandBusError
from commandbus.models import (
    DomainOverview,
    FailureGroup,
    LeaseInfo,
    Redrive,
    RedriveProgress,
    ThroughputPoint,
    WorkerInfo,
)
from commandbus.payload.times import utc_now
from commandbus.sync import Redrives

EXTENSION = "commandbus_console_recent"

_NOW = 1.0  # seconds that an answer serves all who ask
_CLOCK = 60.0  # how far our clock is off
_SMALL = 4.0  # what workers tell of one domain; they do every 5
_GROUPS = 3
_MOST = 1_000  # answers that are kept; which redrive is asked about, say, is for the one who asks
T = TypeVar("T")


@dataclass(slots=True)
class _Answer:
    """One answer, and when it is too old; a failure is remembered as well, or each who waited would wait again."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    until: float = 0.0
    value: Any = None
    error: CommandBusError | psycopg.Error | None = None


class Recent:
    """The running system as it was up to a second ago; charts of long spans are as old as a tenth of their pieces."""

    def __init__(self, console: Console) -> None:
        self._pool = console.pool
        self._operations = console.operations
        self._tsq = console.tsq
        self._redrives = Redrives(console.pool)
        self._lock = threading.Lock()
        self._answers: dict[object, _Answer] = {}
        self._past: dict[tuple[str | None, Span], list[ThroughputPoint]] = {}

    def now(self) -> datetime:
        """Return the time by the server's clock, as all times of the library are; ours may be wrong."""
        return utc_now() + self.ask("clock", _CLOCK, self._ahead)

    def overview(self) -> list[DomainOverview]:
        """Return what each domain holds."""
        return self.ask("overview", _NOW, self._operations.overview)

    def workers(self) -> list[WorkerInfo]:
        """Return the workers of all domains."""
        return self.ask("workers", _NOW, self._operations.list_workers)

    def redrives(self) -> list[Redrive]:
        """Return the newest redrives."""
        return self.ask("redrives", _NOW, self._redrives.list)

    def redrive(self, redrive_id: UUID) -> RedriveProgress | None:
        """Return a redrive and what became of its commands."""
        return self.ask(("redrive", redrive_id), _NOW, lambda: self._redrives.get(redrive_id))

    def groups(self, parked: int) -> list[FailureGroup]:
        """Return the largest groups of failures; of the *parked*, which are counted anew where there are many."""
        age = _NOW + parked / 10_000
        return self.ask("groups", age, lambda: self._tsq.list_failure_groups(limit=_GROUPS))

    def leases(self, domain: str, limit: int) -> list[LeaseInfo]:
        """Return commands of a domain that workers have."""
        return self.ask(("leases", domain, limit), _NOW, lambda: self._operations.list_leases(domain, limit))

    def charts(self, domain: str | None, span: Span) -> Charts:
        """Return the charts of a domain, which must exist, or of all."""

        found, at = self._throughput(domain, span)
        return draw(found, span, at)

    def points(self, domain: str | None, span: Span) -> list[ThroughputPoint]:
        """Return the numbers of these charts."""
        return self._throughput(domain, span)[0]

    def spark(self, domain: str | None) -> Sparks:
        """Return a domain's last quarter of an hour in small, or that of all."""
        return spark(*self._throughput(domain, Span.QUARTER))

    def sparks(self, domains: Sequence[DomainOverview]) -> dict[str, Sparks]:
        """Return the small lines of these domains."""
        return {domain.domain: self.spark(domain.domain) for domain in domains}

    def ask(self, key: object, seconds: float, find: Callable[[], T]) -> T:
        """Return what *find* found up to *seconds* ago; nobody else finds the same meanwhile."""
        with self._lock:
            if len(self._answers) > _MOST:
                self._answers.clear()
            answer = self._answers.setdefault(key, _Answer())
        with answer.lock:
            if time.monotonic() > answer.until:
                try:
                    answer.value, answer.error = find(), None
                except (CommandBusError, psycopg.Error) as error:
                    answer.error, seconds = error, _NOW
                answer.until = time.monotonic() + seconds
            if answer.error is not None:
                raise answer.error
            return cast("T", answer.value)

    def _ahead(self) -> timedelta:
        """Return how much the server's clock is ahead of ours."""
        with self._pool.connection() as connection:
            began = utc_now()
            ((there,),) = connection.execute("select clock_timestamp()").fetchall()
        return cast("datetime", there) - began - (utc_now() - began) / 2

    def forget(self) -> None:
        """Let the next who asks see what was just changed."""
        with self._lock:
            self._answers.clear()

    def _throughput(self, domain: str | None, span: Span) -> tuple[list[ThroughputPoint], datetime]:
        """Return what workers did, and when that was looked up: all of it the first time, then what is new."""

        def look() -> tuple[list[ThroughputPoint], datetime]:
            now = self.now()
            past = self._past.get((domain, span), [])
            known = int((now - past[-1].at).total_seconds()) + span.step if past else span.seconds
            known = max(known, span.step)  # the database's clock may be ahead of this one
            fresh = self._operations.throughput(domain, seconds=min(known, span.seconds), step=span.step)
            points = merge(past, fresh, now - timedelta(seconds=span.seconds + span.step))
            self._past[domain, span] = points
            return points, now

        return self.ask(("throughput", domain, span), max(_SMALL if domain else _NOW, span.step / 10), look)


def recent() -> Recent:
    """Return the answers of the app that answers this request."""
    return cast("Recent", current_app.extensions[EXTENSION])
