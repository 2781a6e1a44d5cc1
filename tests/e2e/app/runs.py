"""Runs: many test commands, sent in the background, and how far they are."""

from __future__ import annotations

import logging
import random
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from commandbus import CommandBusError
from tests.e2e.app.config import DOMAIN, RetryConfig, WorkerConfig
from tests.e2e.app.schemas import Behavior, BehaviorType, NewRun, RunProgress

if TYPE_CHECKING:
    from commandbus import BatchMetadata
    from commandbus.sync import CommandBus
    from tests.e2e.app.config import SyncConfigStore
    from tests.e2e.app.models import TestCommands

logger = logging.getLogger(__name__)

_SET = 500  # commands of one transaction, which is one batch
_KEPT = 20  # runs that are remembered


@dataclass
class _Run:
    """One run; only its own thread writes, but for *counted*."""

    new: NewRun
    run_id: UUID = field(default_factory=uuid4)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    generated: int = 0
    batches: list[UUID] = field(default_factory=list)
    counted: dict[UUID, BatchMetadata] = field(default_factory=dict)  # complete ones, which change no more
    error: str | None = None


class Runs:
    """The runs since the application started.

    Args:
        commands: what sends them.
        bus: what counts them.
        store: the settings.
    """

    def __init__(self, commands: TestCommands, bus: CommandBus, store: SyncConfigStore) -> None:
        self._commands = commands
        self._bus = bus
        self._store = store
        self._runs: dict[UUID, _Run] = {}
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()

    def start(self, new: NewRun) -> RunProgress:
        """Begin to send commands, in random order; the run counts from the first one on."""
        run = _Run(new)
        behaviors = list(_behaviors(new, self._store.get(WorkerConfig)))
        attempts = self._store.get(RetryConfig).max_attempts if new.max_attempts is None else new.max_attempts
        self._bus.create_domain(DOMAIN)
        self._runs = dict([*self._runs.items(), (run.run_id, run)][-_KEPT:])
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=self._send, args=(run, behaviors, attempts), name="run", daemon=True)
        self._threads.append(thread)
        thread.start()
        return self._progress(run)

    def latest(self) -> list[RunProgress]:
        """Return the runs, newest first."""
        return [self._progress(run) for run in reversed(list(self._runs.values()))]

    def get(self, run_id: UUID) -> RunProgress | None:
        """Return one run, or None."""
        run = self._runs.get(run_id)
        return None if run is None else self._progress(run)

    def close(self) -> None:
        """Send no further sets, and return when none is under way."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _send(self, run: _Run, behaviors: list[Behavior], max_attempts: int) -> None:
        numbers = count(1)
        try:
            for index, some in enumerate(_sets(behaviors), 1):
                if self._stopping.is_set():
                    return
                payloads = [{"run": str(run.run_id), "number": next(numbers)} for _ in some]
                name = f"Run {str(run.run_id)[:8]}, set {index}"
                run.batches.append(self._commands.create_set(some, payloads, max_attempts, name))
                run.generated += len(some)
        except (CommandBusError, SQLAlchemyError, psycopg.Error) as error:
            logger.warning("a run ended early", extra={"error": type(error).__name__})
            run.error = str(error) if isinstance(error, CommandBusError) else "the database refused a set"

    def _progress(self, run: _Run) -> RunProgress:
        batches = [self._batch(run, batch_id) for batch_id in list(run.batches)]
        found = [batch for batch in batches if batch is not None]
        names = ("completed", "failed", "canceled", "in_troubleshooting")
        counters = {name: sum(getattr(batch, f"{name}_count") for batch in found) for name in names}
        processed = sum(counters.values())
        return RunProgress(
            run_id=run.run_id,
            started_at=run.started_at,
            total=run.new.count,
            generated=run.generated,
            processed=processed,
            error=run.error,
            is_done=processed >= run.new.count or (run.error is not None and processed >= run.generated),
            **counters,
        )

    def _batch(self, run: _Run, batch_id: UUID) -> BatchMetadata | None:
        if batch_id in run.counted:
            return run.counted[batch_id]
        batch = self._bus.get_batch(DOMAIN, batch_id)
        if batch is not None and batch.is_complete:
            run.counted[batch_id] = batch
        return batch


def _behaviors(new: NewRun, worker: WorkerConfig) -> list[Behavior]:
    """Return the behaviours of a run: exact shares, in random order. A timeout takes a little longer than its lease."""
    long = worker.visibility_timeout * 1_000 + 1_000
    found = []
    for kind, amount in _amounts(new).items():
        time = max(new.execution_time_ms, long) if kind is BehaviorType.TIMEOUT else new.execution_time_ms
        found += [Behavior(type=kind, execution_time_ms=time)] * amount
    random.shuffle(found)
    return found


def _amounts(new: NewRun) -> dict[BehaviorType, int]:
    """Return how many commands behave how; what rounding leaves goes to the largest remainders."""
    exact = {kind: new.count * percent / 100 for kind, percent in new.mix.parts().items()}
    whole = {kind: int(amount) for kind, amount in exact.items()}
    by_remainder = sorted(exact, key=lambda kind: exact[kind] - whole[kind], reverse=True)
    for kind in by_remainder[: new.count - sum(whole.values())]:
        whole[kind] += 1
    return whole


def _sets(behaviors: list[Behavior]) -> list[list[Behavior]]:
    return [behaviors[start : start + _SET] for start in range(0, len(behaviors), _SET)]
