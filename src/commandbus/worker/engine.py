"""One run of a worker: reads what free slots allow, runs it, and winds down in order."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from commandbus.errors import TransientCommandError
from commandbus.handlers import HandlerRegistry
from commandbus.repositories import PostgresCommandRepository
from commandbus.repositories.command import Delivery
from commandbus.retry import RetryPolicy, Settlement, settle_error
from commandbus.worker.backoff import TROUBLE, Backoff
from commandbus.worker.execute import RELEASE, Runner
from commandbus.worker.leases import LeaseKeeper, extend_lease
from commandbus.worker.listen import Listener
from commandbus.worker.received import ReceivedCommand, log_fault, to_received
from commandbus.worker.settle import Settler

logger = logging.getLogger(__name__)

_MOST = 1_000


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a worker runs: see `Worker` and `Worker.run`."""

    domain: str
    concurrency: int
    poll_interval: float
    visibility_timeout: int
    policy: RetryPolicy
    max_result_bytes: int
    connect: Callable[[], Awaitable[AsyncConnection[Any]]] | None  # for LISTEN; None to poll only


class Engine:
    """Everything that exists while a worker runs.

    Args:
        options: how to run.
        registry: the handlers.
        commands: the worker's own statements, on connections that handlers cannot exhaust.
        handler_pool: connections for transactional handlers.
    """

    def __init__(
        self,
        options: RunOptions,
        registry: HandlerRegistry,
        commands: PostgresCommandRepository,
        handler_pool: AsyncConnectionPool[Any],
    ) -> None:
        self._options = options
        self._commands = commands
        self._threads = ThreadPoolExecutor(options.concurrency, thread_name_prefix="commandbus-handler")
        self._runner = Runner(registry, options.policy, handler_pool, options.max_result_bytes, self._threads)
        self._settler = Settler(commands, options.domain, self.wake)
        self._running: set[ReceivedCommand] = set()
        self._wake = asyncio.Event()
        self._stopping = False

    @property
    def in_flight(self) -> int:
        """How many commands are running, or ended and not stored yet."""
        return len(self._running) + self._settler.backlog

    def wake(self) -> None:
        """Let the reader look again: something arrived, or there is room."""
        self._wake.set()

    def stop(self) -> None:
        """Read no more. `run` returns when what runs has ended."""
        self._stopping = True
        self.wake()

    def cancel(self) -> None:
        """Stop the handlers that still run; their commands are retried."""
        for received in list(self._running):
            if received.task is not None:
                received.task.cancel()

    async def run(self) -> None:
        """Work until stopped, then until everything that was received is settled."""
        keeper = LeaseKeeper(self._commands, self._options.domain, self._options.visibility_timeout, self._held)
        helpers = [asyncio.create_task(self._settler.run()), asyncio.create_task(keeper.run())]
        listener = self._start_listener()
        try:
            await self._read()
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            self._stopping = True
            if listener is not None:
                helpers.append(listener)
                listener.cancel()
            try:
                await self._wind_down()
            finally:
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)
                self._threads.shutdown(wait=False, cancel_futures=True)

    def _start_listener(self) -> asyncio.Task[None] | None:
        if self._options.connect is None:
            return None
        listener = Listener(self._options.connect, f"{self._options.domain}__commands", self.wake)
        return asyncio.create_task(listener.run())

    def _held(self) -> Iterable[ReceivedCommand]:
        return [*self._running, *self._settler.waiting()]

    def _room(self) -> int:
        """How many commands may be received now."""
        if self._settler.backlog > 2 * self._options.concurrency:
            return 0
        return min(self._options.concurrency - len(self._running), _MOST)

    async def _read(self) -> None:
        backoff = Backoff()
        while not self._stopping:
            self._wake.clear()
            room = self._room()
            if room == 0:
                await self._wake.wait()
                continue
            try:
                deliveries = await self._commands.receive(
                    self._options.domain, limit=room, visibility_timeout=self._options.visibility_timeout
                )
            except TROUBLE as error:
                logger.warning(
                    "commands cannot be received now, trying again",
                    extra={"domain": self._options.domain, "error": type(error).__name__},
                )
                await self._pause(backoff.next(), only_stop=True)
                continue
            backoff.reset()
            for delivery in deliveries:
                self._start(delivery)
            if len(deliveries) < room:
                await self._pause(self._options.poll_interval)

    async def _pause(self, seconds: float, *, only_stop: bool = False) -> None:
        """Wait for *seconds*, or until woken, or (*only_stop*) until told to stop."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, self._wake.set)  # a task with a timeout would cost more
        try:
            await self._wake.wait()
            while only_stop and not self._stopping and loop.time() < timer.when():
                self._wake.clear()
                await self._wake.wait()
        finally:
            timer.cancel()

    def _start(self, delivery: Delivery) -> None:
        if delivery.fault is not None:
            log_fault(self._options.domain, delivery)
            return
        received = to_received(self._options.domain, delivery)
        received.context.extender = partial(extend_lease, self._commands, received)
        if self._stopping:
            self._settler.add(received, RELEASE)
            return
        self._running.add(received)
        received.task = asyncio.create_task(self._runner.run(received))
        received.task.add_done_callback(partial(self._ended, received))

    def _ended(self, received: ReceivedCommand, task: asyncio.Task[Settlement | None]) -> None:
        """Hand the end of an attempt to the settler."""
        self._running.discard(received)
        settlement = self._interrupted(received) if task.cancelled() else task.result()
        if settlement is not None:
            self._settler.add(received, settlement)
        self.wake()

    def _interrupted(self, received: ReceivedCommand) -> Settlement:
        """Return the end of an attempt whose handler was cancelled."""
        if received.is_lost:
            return RELEASE  # will be refused, and the audit says so
        return settle_error(
            TransientCommandError("WORKER_STOPPED", "the worker stopped before the handler ended"),
            attempt=received.context.attempt,
            max_attempts=received.context.max_attempts,
            policy=self._options.policy,
        )

    async def _wind_down(self) -> None:
        """Return when nothing runs and everything is stored."""
        while self._running:
            tasks = [received.task for received in self._running if received.task is not None]
            await asyncio.wait(tasks)
            await asyncio.sleep(0)  # lets their callbacks run
        await self._settler.drain()
