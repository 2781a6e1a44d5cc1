"""Runs one command's handler and decides what becomes of the attempt."""

import logging
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from commandbus.errors import HandlerNotFoundError, PermanentCommandError, StaleLeaseError
from commandbus.handlers import HandlerRegistry, Registration
from commandbus.repositories import PostgresCommandRepository
from commandbus.repositories._base import translate
from commandbus.retry import RELEASE, Outcome, RetryPolicy, Settlement, settle_success
from commandbus.worker.received import ReceivedCommand

logger = logging.getLogger(__name__)


class _RolledBackError(Exception):
    """Ends a transactional handler's transaction without its writes."""

    def __init__(self, settlement: Settlement) -> None:
        super().__init__()
        self.settlement = settlement


class Runner:
    """Runs handlers.

    Args:
        registry: the handlers.
        policy: the delays of retries.
        pool: connections for transactional handlers.
        max_result_bytes: largest JSON text of a result.
        executor: threads for plain ``def`` handlers.
    """

    def __init__(
        self,
        registry: HandlerRegistry,
        policy: RetryPolicy,
        pool: AsyncConnectionPool[Any],
        max_result_bytes: int,
        executor: Executor,
    ) -> None:
        self._registry = registry
        self._policy = policy
        self._pool = pool
        self._max_result_bytes = max_result_bytes
        self._executor = executor
        self._commands = PostgresCommandRepository(pool)

    async def run(self, received: ReceivedCommand) -> Settlement | None:
        """Return what to store about the attempt, or None when the handler's transaction has stored it."""
        try:
            return await self._attempt(received)
        except (Exception, SystemExit) as error:  # noqa: BLE001  (the one place where anything may come: a handler)
            return self.fail(received, error)

    def fail(self, received: ReceivedCommand, error: BaseException) -> Settlement:
        """Return what to store about an attempt that ended with an error, which is logged."""
        registration = self._registry.registration(received.command.domain, received.command.command_type)
        settlement = received.failed(error, self._policy, None if registration is None else registration.fn)
        _log_failure(received, error, settlement)
        return settlement

    async def _attempt(self, received: ReceivedCommand) -> Settlement | None:
        command = received.command
        if received.problem is not None:
            raise received.problem
        registration = self._registry.registration(command.domain, command.command_type)
        if registration is None:
            raise HandlerNotFoundError(command.domain, command.command_type)
        if registration.transactional:
            return await self._run_in_transaction(registration, received)
        result = await registration.run(command, received.context, self._executor)
        return settle_success(result, max_bytes=self._max_result_bytes)

    async def _run_in_transaction(self, registration: Registration, received: ReceivedCommand) -> Settlement | None:
        """Run a handler whose writes commit with its completion, or not at all."""
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(self._pool.connection())
            except PoolTimeout:
                facts = {"command_id": received.command.command_id}
                logger.warning("no connection for a transactional handler", extra=facts)
                return RELEASE
            received.context.transaction = connection
            try:
                await self._run_on(connection, registration, received)
            except _RolledBackError as stop:
                return stop.settlement
            finally:
                received.context.transaction = None
        return None

    async def _run_on(
        self, connection: AsyncConnection[Any], registration: Registration, received: ReceivedCommand
    ) -> None:
        """Run the handler, settle and commit, or raise; the pool rolls back what was not committed.

        The settle and the COMMIT travel together: a batch row that the settle locks is free again one round trip
        earlier, which is what commands of one batch wait for.
        """
        transaction = connection.transaction()
        await transaction.__aenter__()
        try:
            result = await registration.run(received.command, received.context)
            _check_open(connection)
        except BaseException as error:
            await transaction.__aexit__(type(error), error, error.__traceback__)
            raise
        settlement = settle_success(result, max_bytes=self._max_result_bytes)
        if settlement.outcome is not Outcome.COMPLETED:
            stop = _RolledBackError(settlement)
            await transaction.__aexit__(_RolledBackError, stop, None)
            raise stop
        received.is_settling = True
        try:
            async with connection.pipeline():
                await self._commands.on(connection).settle_unfetched(
                    received.command.domain, received.lease, settlement
                )
                await transaction.__aexit__(None, None, None)
        except psycopg.Error as error:
            if isinstance(translate(error), StaleLeaseError):
                # Nothing is left to say so in the audit. Giving the lease back, which is refused as well, does.
                raise _RolledBackError(RELEASE) from None
            raise


def _check_open(connection: AsyncConnection[Any]) -> None:
    """Refuse a handler that ended its transaction by SQL text: the settle would commit without what it wrote.

    To run it again would repeat what it committed, so an operator decides. The client knows the transaction's status
    without asking; a handler that also begins another transaction is not found out.
    """
    if connection.info.transaction_status is TransactionStatus.IDLE:
        raise PermanentCommandError(
            "TRANSACTION_ENDED",
            "the handler ended the transaction of context.connection itself, with commit or rollback as SQL: what it"
            " wrote did not wait for the completion of its command; take that statement out",
        )


def _log_failure(received: ReceivedCommand, error: BaseException, settlement: Settlement) -> None:
    """Say what failed and where. The error's text can hold a payload: it is stored, and logged at DEBUG only."""
    command = received.command
    logger.warning(
        "attempt failed",
        extra={
            "domain": command.domain,
            "command_type": command.command_type,
            "command_id": command.command_id,
            "attempt": received.context.attempt,
            "outcome": settlement.outcome,
            "error_code": settlement.error_code,
            "at": settlement.error_place,
        },
    )
    logger.debug("handler raised", extra={"command_id": command.command_id}, exc_info=error)
