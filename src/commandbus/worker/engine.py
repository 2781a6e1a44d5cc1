"""One run of a worker: reads what free slots allow, runs it, and winds down in order."""

import asyncio
import contextvars
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from commandbus.errors import TransientCommandError
from commandbus.handlers import HandlerRegistry
from commandbus.repositories import PostgresCommandRepository
from commandbus.repositories.command import Delivery
from commandbus.retry import RELEASE, RetryPolicy, Settlement
from commandbus.worker.backoff import TROUBLE, Backoff
from commandbus.worker.cancels import Cancels
from commandbus.worker.execute import Runner
from commandbus.worker.leases import LeaseKeeper, make_extender
from commandbus.worker.listen import Listener
from commandbus.worker.received import ReceivedCommand, to_received, without_faults
from commandbus.worker.settle import Settler

logger = logging.getLogger(__name__)

_LONGEST_TURN = 0.005  # seconds of the loop's time for handlers that never wait
_LAST_WORDS = 1.0


Note = Callable[[ReceivedCommand, Settlement | None, float, float], None]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a worker runs: see `Worker` and `Worker.run`."""

    domain: str
    concurrency: int
    poll_interval: float
    batch_size: int
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
        note: is told of every attempt that ended, how, and from when to when by the monotonic clock.
    """

    def __init__(
        self,
        options: RunOptions,
        registry: HandlerRegistry,
        commands: PostgresCommandRepository,
        handler_pool: AsyncConnectionPool[Any],
        note: Note,
    ) -> None:
        self._options = options
        self._note = note
        self._commands = commands
        self._extender = make_extender(commands, options.domain, options.visibility_timeout)
        self._threads = ThreadPoolExecutor(options.concurrency, thread_name_prefix="commandbus-handler")
        self._runner = Runner(registry, options.policy, handler_pool, options.max_result_bytes, self._threads)
        self._settler = Settler(commands, options.domain, self._free)
        self._ready: deque[ReceivedCommand] = deque()
        self._running: set[ReceivedCommand] = set()
        self._slots: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._is_waking = False  # a slot was woken and has not looked yet
        self._context = contextvars.copy_context()  # what every slot begins with
        self._arrived = asyncio.Event()
        self._freed = asyncio.Event()
        self._stopping = False
        self._failure: BaseException | None = None
        self._done_in_transactions = 0

    @property
    def in_flight(self) -> int:
        """How many commands are running, or ended and not stored yet."""
        return len(self._ready) + len(self._running) + self._settler.backlog

    @property
    def done(self) -> int:
        """How many attempts have ended and are stored."""
        return self._settler.done + self._done_in_transactions

    @property
    def given_back(self) -> int:
        """How many commands went back to the queue without an attempt."""
        return self._settler.given_back

    def wake(self) -> None:
        """Let the reader look again: something may have arrived."""
        self._arrived.set()

    def _free(self) -> None:
        """Let the reader look again if it waits for room."""
        self._freed.set()

    def stop(self) -> None:
        """Read no more, and give back what has not begun. `run` returns when what runs has ended."""
        self._stopping = True
        while self._ready:
            self._settler.add(self._ready.popleft(), RELEASE)
        self.wake()
        self._free()

    def cancel(self) -> None:
        """Stop the handlers that still run; their commands are retried."""
        for received in list(self._running):
            if received.task is not None:
                received.task.cancel()

    async def run(self) -> None:
        """Work until stopped, then until everything that was received is settled."""
        keeper = LeaseKeeper(self._commands, self._options.domain, self._options.visibility_timeout, self._held)
        settling = asyncio.create_task(self._settler.run())
        helpers = [settling, asyncio.create_task(keeper.run())]
        for helper in helpers:
            helper.add_done_callback(self._helper_ended)
        listener = self._start_listener()
        try:
            await self._read()
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            self.stop()
            if listener is not None:
                helpers.append(listener)
                listener.cancel()
            try:
                await self._wind_down(settling)
            finally:
                await _end([*helpers, *self._slots])
                self._threads.shutdown(wait=False, cancel_futures=True)
        if self._failure is not None:
            raise self._failure

    def _helper_ended(self, helper: asyncio.Task[None]) -> None:
        """Stop everything when the settler or the lease keeper fails: nothing is safe without them."""
        if not helper.cancelled() and helper.exception() is not None:
            self._failure = helper.exception()
            self.stop()
            self.cancel()

    def _start_listener(self) -> asyncio.Task[None] | None:
        if self._options.connect is None:
            return None
        listener = Listener(self._options.connect, f"{self._options.domain}__commands", self.wake)
        return asyncio.create_task(listener.run())

    def _held(self) -> Iterable[ReceivedCommand]:
        return [*self._ready, *self._running, *self._settler.waiting()]

    def _room(self) -> int:
        """How many commands may be received now."""
        if self._settler.backlog > 2 * self._options.concurrency:
            return 0
        return min(self._options.concurrency - len(self._running) - len(self._ready), self._options.batch_size)

    async def _read(self) -> None:
        backoff = Backoff()
        cancels = Cancels()
        while not self._stopping:
            self._freed.clear()
            room = self._room()
            if room == 0:
                await self._freed.wait()
                continue
            self._arrived.clear()
            try:
                deliveries = await self._commands.receive(
                    self._options.domain, limit=room, visibility_timeout=self._options.visibility_timeout
                )
            except TROUBLE as error:
                logger.warning(
                    "commands cannot be received now, trying again",
                    extra={"domain": self._options.domain, "error": type(error).__name__},
                )
                cancels.check()
                await self._pause(backoff.next(), only_stop=True)
                continue
            backoff.reset()
            for delivery in without_faults(self._options.domain, deliveries):
                self._accept(delivery)
            cancels.check()
            self._wake_slot()
            if len(deliveries) < room:
                await self._pause(self._options.poll_interval)

    async def _pause(self, seconds: float, *, only_stop: bool = False) -> None:
        """Wait for *seconds*, or until woken, or (*only_stop*) until told to stop."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, self._arrived.set)  # a task with a timeout would cost more
        try:
            await self._arrived.wait()
            while only_stop and not self._stopping and loop.time() < timer.when():
                self._arrived.clear()
                await self._arrived.wait()
        finally:
            timer.cancel()

    def _accept(self, delivery: Delivery) -> None:
        received = to_received(self._options.domain, delivery, self._extender)
        if self._stopping:
            self._settler.add(received, RELEASE)
            return
        self._ready.append(received)

    def _wake_slot(self) -> None:
        """Let one idle slot look for a command; one that takes a command wakes the next if there are more."""
        if self._is_waking or not self._ready:
            return
        self._is_waking = True
        while self._idle:
            waiting = self._idle.pop()
            if not waiting.done():
                waiting.set_result(None)
                return
        if len(self._slots) < self._options.concurrency:
            slot = asyncio.get_running_loop().create_task(self._run_slot(), context=self._context.copy())
            self._slots.add(slot)
        else:
            self._is_waking = False  # all are busy, and look for themselves

    async def _run_slot(self) -> None:
        """Run one command after the other. A task of its own for each would cost more than all else here.

        A handler that changes the context, or was cancelled, takes the slot with it: the next command has a new
        one, and sees nothing of either.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (a slot is a task)
        untouched = contextvars.copy_context()
        self._is_waking = False
        now = yielded_at = time.monotonic()
        while contextvars.copy_context() == untouched:
            if now - yielded_at > _LONGEST_TURN:
                await asyncio.sleep(0)
                now = yielded_at = time.monotonic()
            if not self._ready:
                waiting = asyncio.get_running_loop().create_future()
                self._idle.append(waiting)
                await waiting
                self._is_waking = False
                now = yielded_at = time.monotonic()
                continue
            received = self._ready.popleft()
            self._wake_slot()
            if received.is_lost:
                self._settler.add(received, RELEASE)
                continue
            received.task = task
            self._running.add(received)
            try:
                settlement = await self._runner.run(received)
            except asyncio.CancelledError as error:
                self._settler.add(received, self._interrupted(received, error, is_own=task.cancelling() == 0))
                break
            finally:
                received.task = None
                self._running.discard(received)
                self._freed.set()
            if settlement is None:
                self._done_in_transactions += 1
            else:
                self._settler.add(received, settlement)
            started_at, now = now, time.monotonic()
            self._note(received, settlement, started_at, now)
            if task.cancelling():
                break  # the handler refused to be cancelled; the next one must not inherit that
        self._slots.discard(task)
        self._wake_slot()

    def _interrupted(self, received: ReceivedCommand, error: asyncio.CancelledError, *, is_own: bool) -> Settlement:
        """Return the end of an attempt whose handler was cancelled, or raised that error of its own."""
        if received.is_lost:
            return RELEASE  # will be refused, and the audit says so
        if is_own:
            return self._runner.fail(received, error)
        stopped = TransientCommandError("WORKER_STOPPED", "the worker stopped before the handler ended")
        return self._runner.fail(received, stopped.with_traceback(error.__traceback__))

    async def _wind_down(self, settling: asyncio.Task[None]) -> None:
        """Return when nothing runs and everything is stored, or nothing can be stored any more."""
        while self._running:
            self._freed.clear()
            await self._freed.wait()
        drained = asyncio.create_task(self._settler.drain())
        await asyncio.wait({drained, settling}, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks and give them a moment; a handler may refuse to be cancelled."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=_LAST_WORDS)
