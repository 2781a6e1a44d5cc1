"""The worker of the test domain: a handler that behaves as it is told, under settings that may change at any time."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.types.json import Jsonb

from commandbus import (
    Command,
    CommandBusError,
    CommandBusPool,
    HandlerContext,
    HandlerRegistry,
    PermanentCommandError,
    StaleLeaseError,
    TransientCommandError,
    Worker,
)
from commandbus.cli.serve import stop_at_end_of_input
from tests.e2e.app.config import COMMAND_TYPE, DOMAIN, ConfigStore, RetryConfig, WorkerConfig

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

logger = logging.getLogger("commandbus.e2e.worker")

STARTED = "test worker started"
_LOOK_EVERY = 0.5  # seconds between looks at the settings
_GRACE = 5.0  # seconds for handlers when the process shall end
_CONNECTIONS = 20

_BEGIN = "update e2e.test_command set attempts = attempts + 1 where command_id = %s returning behavior, attempts"
_END = "update e2e.test_command set processed_at = now(), result = %s where command_id = %s"
_LEASE = "select read_ct from pgmq.q_test__commands where msg_id = %s"
# Only the delivery that this handler has: the next one has a read_ct of its own.
_LAPSE = "update pgmq.q_test__commands set vt = now() where msg_id = %s and read_ct = %s"

Settings = tuple[WorkerConfig, RetryConfig]


class TestHandler:
    """Does what e2e.test_command says, and writes there what came of it.

    Args:
        pool: for its own statements.
        visibility_timeout: of the worker, in seconds.
    """

    __test__ = False

    def __init__(self, pool: AsyncConnectionPool[Any], visibility_timeout: int) -> None:
        self._pool = pool
        self._visibility_timeout = visibility_timeout

    async def handle(self, command: Command, context: HandlerContext) -> dict[str, Any]:
        """Carry out one attempt."""
        row = await self._fetch(_BEGIN, command.command_id)
        if row is None:
            raise PermanentCommandError("NO_TEST_COMMAND", "e2e.test_command does not know this command")
        behavior, attempt = row
        try:
            result = await self._behave(behavior, attempt, context)
        except (PermanentCommandError, TransientCommandError) as error:
            if isinstance(error, PermanentCommandError) or context.attempt >= context.max_attempts:
                await self._end(command, {"status": "failed", "error_code": error.code})
            raise
        await self._end(command, result)
        return result

    async def _behave(self, behavior: dict[str, Any], attempt: int, context: HandlerContext) -> dict[str, Any]:
        kind, seconds = behavior.get("type"), behavior.get("execution_time_ms", 0) / 1_000
        if kind == "timeout" and seconds > self._visibility_timeout:
            await self._time_out(context)
        if seconds > 0:
            await asyncio.sleep(seconds)
        match kind:
            case "success" | "timeout":
                return {"status": "success"}
            case "fail_permanent":
                raise PermanentCommandError(*_error(behavior, "PERMANENT", "Simulated permanent failure"))
            case "fail_transient":
                raise TransientCommandError(*_error(behavior, "TRANSIENT", "Simulated transient failure"))
            case "fail_transient_then_succeed":
                if attempt <= behavior.get("transient_failures", 1):
                    raise TransientCommandError("TRANSIENT", f"Transient failure {attempt}")
                return {"status": "success", "attempts": attempt}
            case _:
                raise PermanentCommandError("UNKNOWN_BEHAVIOR", "e2e.test_command names no behaviour that is known")

    async def _time_out(self, context: HandlerContext) -> None:
        """Sleep for the visibility timeout, then let the lease lapse, until the command is delivered again.

        Workers keep the leases of handlers that run: only one whose process hangs or dies loses its own. That is
        what this imitates; the settle of this attempt is refused, as the lease is another's by then.
        """
        row = await self._fetch(_LEASE, context.msg_id)
        await asyncio.sleep(self._visibility_timeout)
        while row is not None:
            async with self._pool.connection() as connection:
                if (await connection.execute(_LAPSE, (context.msg_id, row[0]))).rowcount == 0:
                    break
            await asyncio.sleep(0.05)
        raise StaleLeaseError("the command was delivered again before its handler ended")

    async def _end(self, command: Command, result: dict[str, Any]) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(_END, (Jsonb(result), command.command_id))

    async def _fetch(self, statement: str, argument: object) -> Any:
        async with self._pool.connection() as connection:
            return await (await connection.execute(statement.encode(), (argument,))).fetchone()


def make_registry(pool: AsyncConnectionPool[Any], visibility_timeout: int = 30) -> HandlerRegistry:
    """Return the handlers of the test domain."""
    registry = HandlerRegistry()
    registry.register(DOMAIN, COMMAND_TYPE, TestHandler(pool, visibility_timeout).handle)
    return registry


async def work(url: str, stop: asyncio.Event) -> None:
    """Execute test commands until *stop*; a changed setting starts a new worker, while the old one ends its handlers.

    Raises:
        CommandBusError: the database cannot be used.
    """
    async with CommandBusPool(database_url=url, pool_max_size=_CONNECTIONS) as pool:
        store = ConfigStore(pool)
        ending: set[asyncio.Task[None]] = set()
        workers: list[Worker] = []
        while not stop.is_set():
            settings = await _settings(store)
            worker, running = _start(pool, settings)
            workers = [one for one in workers if one.is_running] + [worker]
            ending.add(running)
            change = asyncio.create_task(_wait_for_change(store, settings, stop))
            await asyncio.wait({change, running}, return_when=asyncio.FIRST_COMPLETED)
            change.cancel()
            if running.done():
                break
            if not stop.is_set():
                ending.add(asyncio.create_task(worker.stop()))
        await asyncio.gather(*(worker.stop(_GRACE) for worker in workers))
        await asyncio.gather(*ending)


def _start(pool: CommandBusPool, settings: Settings) -> tuple[Worker, asyncio.Task[None]]:
    config, retry = settings
    registry = make_registry(pool, config.visibility_timeout)
    worker = Worker(pool, DOMAIN, registry, config.visibility_timeout, retry.policy())
    running = worker.run(config.concurrency, config.poll_interval, batch_size=config.batch_size)
    logger.info(STARTED, extra={"concurrency": config.concurrency, "visibility_timeout": config.visibility_timeout})
    return worker, asyncio.create_task(running)


async def _settings(store: ConfigStore) -> Settings:
    return await store.get_worker_config(), await store.get_retry_config()


async def _wait_for_change(store: ConfigStore, settings: Settings, stop: asyncio.Event) -> None:
    """Return when the settings differ from these, or it is time to stop; a lost database is waited for."""
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), _LOOK_EVERY)
        except TimeoutError:
            try:
                if await _settings(store) != settings:
                    return
            except (CommandBusError, psycopg.Error) as error:
                logger.warning("the settings cannot be read now", extra={"error": type(error).__name__})


def _error(behavior: dict[str, Any], code: str, message: str) -> tuple[str, str]:
    return behavior.get("error_code", code), behavior.get("error_message", message)


async def _main(url: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stop_at_end_of_input()
    await work(url, stop)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("commandbus").setLevel(logging.ERROR)  # what fails here fails on purpose
    logger.setLevel(logging.INFO)
    try:
        asyncio.run(_main(os.environ["COMMANDBUS_DATABASE_URL"]))
    except CommandBusError as problem:
        sys.exit(f"worker: {problem}")
