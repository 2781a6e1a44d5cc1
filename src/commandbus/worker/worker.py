"""The worker's public face: run handlers for a domain, or take commands by hand."""

import asyncio
import logging
from typing import Any

from psycopg_pool import AsyncConnectionPool

from commandbus.errors import (
    BusinessRuleException,
    InvalidArgumentError,
    InvalidOperationError,
    PermanentCommandError,
    StaleLeaseError,
    TransientCommandError,
)
from commandbus.handlers import HandlerRegistry
from commandbus.maintenance import Maintenance
from commandbus.payload import check_count, check_domain, check_timeout
from commandbus.repositories import PgmqClient, PostgresCommandRepository
from commandbus.repositories._base import check_pool, settings_of
from commandbus.retry import RetryPolicy, Settlement, recast, settle_result
from commandbus.worker.cancels import Cancels
from commandbus.worker.connections import listening, open_now, own_pool
from commandbus.worker.engine import Engine, RunOptions
from commandbus.worker.housekeeping import keep_house
from commandbus.worker.leases import make_extender
from commandbus.worker.limits import (
    MAX_BATCH_SIZE,
    check_concurrency,
    check_poll_interval,
    check_visibility_timeout,
)
from commandbus.worker.received import ReceivedCommand, to_received, without_faults
from commandbus.worker.vitals import Vitals

logger = logging.getLogger(__name__)

_LAST_CALLS = 5.0


class Worker:
    """Executes the commands of one domain.

    Args:
        pool: a `CommandBusPool`, or any psycopg pool on a migrated database. Handlers may use all of it: the
            worker's own statements have two or three connections besides, and one to listen.
        domain: the domain.
        registry: the handlers; none is needed to take commands by hand.
        visibility_timeout: seconds after which a command is delivered again unless its lease is extended,
            which a running worker does every third of that; 1 to 86,400.
        retry_policy: delays between attempts. How many there are is the command's own.

    Raises:
        InvalidArgumentError: an argument breaks its limit.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[Any],
        domain: str,
        registry: HandlerRegistry | None = None,
        visibility_timeout: int = 30,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        self._pool = check_pool(pool)
        self._domain = check_domain(domain)
        if not isinstance(registry, HandlerRegistry | None):
            raise InvalidArgumentError("registry", "must be a HandlerRegistry")
        if not isinstance(retry_policy, RetryPolicy | None):
            raise InvalidArgumentError("retry_policy", "must be a RetryPolicy")
        self._registry = HandlerRegistry() if registry is None else registry
        self._visibility_timeout = check_visibility_timeout(visibility_timeout)
        self._policy = retry_policy or RetryPolicy()
        self._settings = settings_of(pool)
        self._commands = PostgresCommandRepository(pool)
        self._engine: Engine | None = None
        self._finished = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None  # what executes run()
        self._is_stop_asked = False

    @property
    def domain(self) -> str:
        """The domain whose commands it executes."""
        return self._domain

    @property
    def queue_name(self) -> str:
        """The queue it reads."""
        return f"{self._domain}__commands"

    @property
    def is_running(self) -> bool:
        """Whether `run` is under way."""
        return self._engine is not None

    @property
    def in_flight_count(self) -> int:
        """How many commands run now, or have ended and are not stored yet."""
        return 0 if self._engine is None else self._engine.in_flight

    async def receive(self, batch_size: int = 1, visibility_timeout: int | None = None) -> list[ReceivedCommand]:
        """Lease up to *batch_size* commands and count one attempt for each; the caller must settle them.

        A message that cannot be worked on is taken out of the queue, logged, and not returned.

        Args:
            batch_size: 1 to 10,000.
            visibility_timeout: seconds until an unsettled command is delivered again; the worker's when None.

        Returns:
            0 to *batch_size* commands in queue order.

        Raises:
            InvalidArgumentError: an argument breaks its limit.
            QueueNotFoundError: the domain has no queue.

        Source: ``commandbus.sp_receive_commands``; one round trip.
        """
        deliveries = await self._commands.receive(
            self._domain,
            limit=check_count(batch_size, "batch_size", 1, 10_000),
            visibility_timeout=self._visibility_timeout
            if visibility_timeout is None
            else check_visibility_timeout(visibility_timeout),
        )
        received = []
        extender = make_extender(self._commands, self._domain, self._visibility_timeout)
        for delivery in without_faults(self._domain, deliveries):
            one = to_received(self._domain, delivery, extender)
            if one.problem is None:
                received.append(one)
            else:
                await self._settle(one, one.failed(one.problem, self._policy))
        return received

    async def complete(self, received: ReceivedCommand, result: Any | None = None) -> None:  # noqa: ANN401  (any JSON)
        """End an attempt: the work is done.

        Args:
            received: from `receive`.
            result: any JSON value, for the reply.

        Raises:
            StaleLeaseError: the lease ran out and somebody else may have the command; nothing was stored.
            InvalidArgumentError: *result* has no JSON form; nothing was stored.
        """
        settlement = settle_result(result, max_bytes=self._settings.max_payload_bytes)
        await self._settle(received, settlement)

    async def fail(self, received: ReceivedCommand, error: Exception, is_transient: bool = True) -> None:
        """End an attempt that failed: the command is retried or, its attempts used up, waits for an operator.

        Args:
            received: from `receive`.
            error: what went wrong.
            is_transient: False to let it wait for an operator at once.

        Raises:
            StaleLeaseError: as `complete`.
        """
        if not is_transient:
            await self.fail_permanent(received, error)
            return
        if isinstance(error, PermanentCommandError | BusinessRuleException):
            error = recast(error, TransientCommandError)
        await self._settle(received, received.failed(error, self._policy))

    async def fail_permanent(self, received: ReceivedCommand, error: Exception) -> None:
        """End an attempt whose command cannot work as it is: it waits for an operator.

        Raises:
            StaleLeaseError: as `complete`.
        """
        await self._settle(received, received.failed(recast(error, PermanentCommandError), self._policy))

    async def fail_business_rule(self, received: ReceivedCommand, error: Exception) -> None:
        """End an attempt whose command the business refuses: it is FAILED, and nobody needs to look at it.

        Raises:
            StaleLeaseError: as `complete`.
        """
        await self._settle(received, received.failed(recast(error, BusinessRuleException), self._policy))

    async def run(
        self,
        concurrency: int = 1,
        poll_interval: float = 1.0,
        use_notify: bool = True,
        *,
        batch_size: int = MAX_BATCH_SIZE,
    ) -> None:
        """Execute commands until `stop` is called or this task is cancelled.

        The domain's queues are made if they are missing. A lost database is waited for. Plain ``def`` handlers
        run in up to *concurrency* threads.

        Args:
            concurrency: most handlers at the same time, 1 to 10,000.
            poll_interval: seconds between looks at an empty queue, 0.01 to 3,600.
            use_notify: let NOTIFY wake the worker in between; polling goes on all the same.
            batch_size: most commands taken in one look, 1 to 1,000; never more than there are free handlers for.

        Raises:
            InvalidArgumentError: an argument breaks its limit.
            InvalidOperationError: it runs already.
            DatabaseUnavailableError: the database cannot be reached at the start.
        """
        options = self._run_options(concurrency, poll_interval, batch_size, use_notify=use_notify)
        if self._task is not None:
            raise InvalidOperationError("the worker runs already")
        own = own_pool(self._pool, self._domain, self._settings)
        vitals = Vitals(own, self._settings, self._domain, concurrency, lambda: self.in_flight_count)
        beside: set[asyncio.Task[None]] = set()
        self._finished.clear()
        self._is_stop_asked = False
        self._task = asyncio.current_task()
        cancels = Cancels()
        try:
            await open_now(own)
            await PgmqClient(own, self._settings).create_domain(self._domain)
            cancels.check()
            if self._is_stop_asked:
                return
            commands = PostgresCommandRepository(own, self._settings)
            engine = self._engine = Engine(options, self._registry, commands, self._pool, vitals.note)
            beside.update(map(asyncio.create_task, vitals.loops()))
            if self._settings.maintain:
                beside.add(asyncio.create_task(keep_house(Maintenance(own, self._settings))))
            facts = {"domain": self._domain, "concurrency": concurrency}
            logger.info("worker started", extra=facts)
            try:
                await engine.run()
            finally:
                counts = {"done": engine.done, "given_back": engine.given_back}
                logger.info("worker stopped", extra=facts | counts)
        finally:
            self._engine = None
            self._task = None
            self._finished.set()
            for task in beside:
                task.cancel()
            if beside:
                await asyncio.wait(beside, timeout=_LAST_CALLS)
                await vitals.end()
            await own.close()

    async def stop(self, timeout: float | None = None) -> None:
        """Take no more commands, and return when those under way are settled.

        Args:
            timeout: seconds to let handlers finish; those that have not are cancelled, and their commands
                retried. None lets them take the time they need.

        Raises:
            InvalidArgumentError: *timeout* is out of its range.
        """
        if timeout is not None:
            check_timeout(timeout)
        if self._task is None:
            return
        self._is_stop_asked = True
        if self._engine is not None:
            self._engine.stop()
        if await self._is_finished_within(timeout):
            return
        logger.warning("handlers did not end in time, cancelling them", extra={"in_flight": self.in_flight_count})
        if self._engine is not None:
            self._engine.cancel()
        if not await self._is_finished_within(_LAST_CALLS) and self._task is not None:
            self._task.cancel()

    def _run_options(self, concurrency: int, poll_interval: float, batch_size: int, *, use_notify: bool) -> RunOptions:
        return RunOptions(
            domain=self._domain,
            concurrency=check_concurrency(concurrency),
            poll_interval=check_poll_interval(poll_interval),
            batch_size=check_count(batch_size, "batch_size", 1, MAX_BATCH_SIZE),
            visibility_timeout=self._visibility_timeout,
            policy=self._policy,
            max_result_bytes=self._settings.max_payload_bytes,
            connect=listening(self._pool, self._settings) if use_notify and self._settings.notify else None,
        )

    async def _is_finished_within(self, timeout: float | None) -> bool:
        try:
            await asyncio.wait_for(self._finished.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def _settle(self, received: ReceivedCommand, settlement: Settlement) -> None:
        refused = await self._commands.settle(self._domain, [received.lease], [settlement])
        if refused.get(received.lease.command_id) == "STALE":
            raise StaleLeaseError(
                f"the lease of command {received.lease.command_id} is no longer held: nothing was stored"
            )
