"""Workers for one test: in the background or on demand, and the check that nothing was left for an operator."""

from __future__ import annotations

import asyncio
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from commandbus.pool import CommandBusPool
from commandbus.repositories import PgmqClient
from commandbus.testing.draining import Executed, Recorder, drain, waiting_commands
from commandbus.troubleshooting import TroubleshootingQueue
from commandbus.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from uuid import UUID

    from psycopg_pool import AsyncConnectionPool

    from commandbus.handlers import HandlerRegistry
    from commandbus.models import Command
    from commandbus.retry import RetryPolicy

T = TypeVar("T")

_LOOK = 0.02
_SHOWN = 10
_IS_DUE = (
    "select exists (select from commandbus.scheduled where domain = %s and due_at <= pg_catalog.clock_timestamp())"
)


@dataclass(frozen=True, slots=True)
class _Running:
    worker: Worker
    task: asyncio.Task[None]


class WorkerFactory:
    """Workers of one test on one database. `close` ends them.

    Args:
        pool: what they, and handlers with a transaction, connect with.
        timeout: seconds that `close` gives background workers to do what is due.
    """

    def __init__(self, pool: AsyncConnectionPool[Any], *, timeout: float = 10.0) -> None:
        self._pool = pool
        self._timeout = timeout
        self._running: list[_Running] = []
        self._recorders: list[Recorder] = []
        self._checked: dict[str, None] = {}  # domains, in order

    async def __call__(
        self,
        registry: HandlerRegistry,
        domain: str,
        *,
        concurrency: int = 4,
        visibility_timeout: int = 30,
        retry_policy: RetryPolicy | None = None,
        allow_troubleshooting: bool = False,
    ) -> Worker:
        """Return a worker that runs until the test ends, and then does first what is due.

        Args:
            registry: the handlers.
            domain: the domain; its queues are made if they are missing.
            concurrency: most handlers at the same time.
            visibility_timeout: as of `Worker`.
            retry_policy: as of `Worker`; ``RetryPolicy(backoff_schedule=[0])`` tries again at once.
            allow_troubleshooting: commands of the domain may wait for an operator when the test ends.

        Raises:
            CommandBusError: it cannot run; the errors are those of `Worker` and its ``run``.
        """
        worker = Worker(self._pool, domain, self._recorded(registry), visibility_timeout, retry_policy)
        self._watch(domain, allow_troubleshooting)
        task = asyncio.create_task(worker.run(concurrency, poll_interval=0.05))
        while not worker.is_running:  # it does not say when it has begun
            await asyncio.wait({task}, timeout=_LOOK)
            if task.done():
                await task  # which raises
        self._running.append(_Running(worker, task))
        return worker

    async def drain(
        self,
        registry: HandlerRegistry,
        domain: str,
        *,
        retries: bool = False,
        limit: int = 1_000,
        allow_troubleshooting: bool = False,
    ) -> dict[UUID, Executed]:
        """Execute everything due now and return what became of each command; see `commandbus.testing.drain`.

        Args:
            registry: the handlers.
            domain: the domain.
            retries: carry out retries at once, instead of leaving them until they are due.
            limit: most attempts.
            allow_troubleshooting: commands of the domain may wait for an operator when the test ends.
        """
        self._watch(domain, allow_troubleshooting)
        return await drain(self._pool, self._recorded(registry), domain, retries=retries, limit=limit)

    async def waiting(self, domain: str, command_type: str | None = None) -> list[Command]:
        """Return the commands that wait for a worker; see `commandbus.testing.waiting_commands`."""
        return await waiting_commands(self._pool, domain, command_type)

    async def close(self) -> None:
        """Let background workers do what is due, stop them, and look for what they left.

        Raises:
            AssertionError: a worker failed or had still something to do, or commands wait for an operator.
        """
        complaints = []
        for running in self._running:
            if not running.task.done() and not await self._is_idle_in_time(running.worker):
                complaints.append(
                    f'the worker of domain "{running.worker.domain}" was still busy after {self._timeout:g} s'
                )
            await running.worker.stop(timeout=1)
            await asyncio.wait({running.task})
            if not running.task.cancelled() and (error := running.task.exception()) is not None:
                complaints.append(f'the worker of domain "{running.worker.domain}" failed: {error}')
        complaints += [complaint for domain in self._checked if (complaint := await self._left(domain))]
        if complaints:
            raise AssertionError("\n".join(complaints))

    def _recorded(self, registry: HandlerRegistry) -> Recorder:
        self._recorders.append(Recorder(registry))
        return self._recorders[-1]

    def _watch(self, domain: str, allow_troubleshooting: bool) -> None:
        """Remember whether a domain must be clean in the end; the last call for it decides."""
        self._checked.pop(domain, None)
        if not allow_troubleshooting:
            self._checked[domain] = None

    async def _is_idle_in_time(self, worker: Worker) -> bool:
        deadline = time.monotonic() + self._timeout
        while not await self._is_idle(worker):
            if time.monotonic() > deadline or not worker.is_running:
                return False
            await asyncio.sleep(_LOOK)
        return True

    async def _is_idle(self, worker: Worker) -> bool:
        async with self._pool.connection() as connection:
            row = await (await connection.execute(_IS_DUE, (worker.domain,))).fetchone()
        if row is None or row[0]:
            return False
        metrics = await PgmqClient(self._pool).metrics(worker.domain)
        return metrics.length == 0 and worker.in_flight_count == 0

    async def _left(self, domain: str) -> str:
        """Return a paragraph about the commands of a domain that wait for an operator; empty for none."""
        queue = TroubleshootingQueue(self._pool)
        count = await queue.count_troubleshooting(domain)
        lines = []
        for item in await queue.list_troubleshooting(domain, limit=_SHOWN) if count else []:
            lines.append(f"  {item.command_type} {item.command_id}: {item.last_error_code}: {item.last_error_msg}")
            lines += [f"    {line}" for line in self._traceback(item.command_id)]
        if not count:
            return ""
        verb = "command waits" if count == 1 else "commands wait"
        return "\n".join([f'{count} {verb} for an operator in domain "{domain}" (allow_troubleshooting=True):', *lines])

    def _traceback(self, command_id: UUID) -> list[str]:
        found = [recorder.errors[command_id] for recorder in self._recorders if command_id in recorder.errors]
        return "".join(traceback.format_exception(found[-1])).splitlines() if found else []


class SyncWorkerFactory:
    """What a test without an event loop can use of it: `drain` and `waiting`. `close` ends it.

    Args:
        database_url: a migrated database.
    """

    def __init__(self, database_url: str) -> None:
        self._loop = asyncio.Runner()
        self._pool = CommandBusPool(database_url=database_url)
        self._workers = WorkerFactory(self._pool)

    def drain(
        self,
        registry: HandlerRegistry,
        domain: str,
        *,
        retries: bool = False,
        limit: int = 1_000,
        allow_troubleshooting: bool = False,
    ) -> dict[UUID, Executed]:
        """Execute everything due now and return what became of each command; as `WorkerFactory.drain`."""
        work = self._workers.drain(
            registry, domain, retries=retries, limit=limit, allow_troubleshooting=allow_troubleshooting
        )
        return self._run(work)

    def waiting(self, domain: str, command_type: str | None = None) -> list[Command]:
        """Return the commands that wait for a worker; as `WorkerFactory.waiting`."""
        return self._run(self._workers.waiting(domain, command_type))

    def close(self) -> None:
        """Look for what was left.

        Raises:
            AssertionError: commands wait for an operator.
        """
        try:
            self._run(self._workers.close())
        finally:
            self._loop.run(self._pool.close())
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        async def with_pool() -> T:
            await self._pool.open()
            return await work

        return self._loop.run(with_pool())
