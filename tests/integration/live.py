"""What the tests of bus and worker share: waits with a deadline, workers for a block, and a look at the tables."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID, uuid4

import psycopg

from commandbus import (
    BatchCommand,
    CommandBus,
    CommandBusPool,
    HandlerRegistry,
    RetryPolicy,
    SendRequest,
    Worker,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from psycopg_pool import AsyncConnectionPool

    from commandbus import Command, HandlerContext

T = TypeVar("T")

DOMAIN = "pay"
QUEUE = "pay__commands"
REPLIES = "pay__replies"
TERMINAL_EVENTS = ("COMPLETED", "BUSINESS_RULE_FAILED", "OPERATOR_CANCEL", "OPERATOR_COMPLETE")
AT_ONCE = RetryPolicy(backoff_schedule=[0], jitter=0)


class Gate:
    """A handler that says that it began and waits until it may end."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.runs = 0

    async def __call__(self, _: Command, __: HandlerContext) -> str:
        self.runs += 1
        self.began.set()
        await self.may_end.wait()
        return "done"


async def until(condition: Callable[[], Awaitable[T]], seconds: float = 15.0) -> T:
    """Return the first result of *condition* that is true; fail when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < deadline, "what was waited for did not happen"
        await asyncio.sleep(0.01)
    return found


@asynccontextmanager
async def running(worker: Worker, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Let a worker run during the block; it must end in time and without an error."""
    task = asyncio.create_task(worker.run(**{"concurrency": 4, "poll_interval": 0.05, **options}))

    async def has_begun() -> bool:
        return worker.is_running or task.done()

    await until(has_begun)
    try:
        yield task
    finally:
        await worker.stop(timeout=10)
        async with asyncio.timeout(10):
            await task


def make_worker(pool: AsyncConnectionPool[Any], registry: HandlerRegistry, **options: Any) -> Worker:
    """Return a worker of our domain that retries at once."""
    return Worker(pool, DOMAIN, registry, **{"retry_policy": AT_ONCE, **options})


def registry_of(**handlers: Callable[..., Any]) -> HandlerRegistry:
    """Return a registry of our domain with one handler per command type."""
    registry = HandlerRegistry()
    for command_type, handler in handlers.items():
        registry.register(DOMAIN, command_type, handler)
    return registry


async def send(bus: CommandBus, command_type: str = "charge", data: Any = None, **options: Any) -> UUID:
    """Send one new command of our domain and return its id."""
    command_id = options.pop("command_id", None) or uuid4()
    await bus.send(DOMAIN, command_type, command_id, {} if data is None else data, **options)
    return command_id


async def send_many(bus: CommandBus, count: int, command_type: str = "charge", **options: Any) -> list[UUID]:
    """Send new commands ``{"n": <place>}`` of our domain; return their ids in queue order."""
    requests = [SendRequest(DOMAIN, command_type, uuid4(), {"n": n}, **options) for n in range(count)]
    await bus.send_batch(requests)
    return [request.command_id for request in requests]


def batch_commands(count: int, command_type: str = "charge", **options: Any) -> list[BatchCommand]:
    """Return new commands ``{"n": <place>}`` for a batch."""
    return [BatchCommand(command_type, uuid4(), {"n": n}, **options) for n in range(count)]


async def rows(pool: AsyncConnectionPool[Any], statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Return the rows of a statement."""
    async with pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
        if "pgmq." in statement:  # PGMQ's own functions look names up in the session's path
            await cursor.execute("set local search_path = pg_catalog")
        await cursor.execute(statement.encode(), parameters or None)
        return [] if cursor.description is None else await cursor.fetchall()


async def value(pool: AsyncConnectionPool[Any], statement: str, *parameters: object) -> Any:
    """Return the only value of a statement."""
    ((found,),) = await rows(pool, statement, *parameters)
    return found


async def status(bus: CommandBus, command_id: UUID) -> str:
    """Return a command's status."""
    command = await bus.get_command(DOMAIN, command_id)
    assert command is not None
    return command.status


async def reached(bus: CommandBus, command_ids: Sequence[UUID] | UUID, wanted: str = "COMPLETED") -> None:
    """Return when all commands have a status; fail when they do not in time."""
    waiting = [command_ids] if isinstance(command_ids, UUID) else list(command_ids)

    async def is_so() -> bool:
        while waiting and await status(bus, waiting[-1]) == wanted:
            waiting.pop()
        return not waiting

    await until(is_so)


async def events(bus: CommandBus, command_id: UUID) -> list[str]:
    """Return the audit events of a command or batch, oldest first."""
    return [str(event.event_type) for event in await bus.get_audit_trail(command_id)]


async def park(bus: CommandBus, pool: AsyncConnectionPool[Any], count: int = 1, **options: Any) -> list[UUID]:
    """Send commands and move them to the TSQ one after the other; the queue must have been empty."""
    command_ids = await send_many(bus, count, **options)
    worker = Worker(pool, DOMAIN)
    for received in await worker.receive(batch_size=count):
        await worker.fail_permanent(received, ValueError("cannot work"))
    return command_ids


def raises(error: BaseException) -> Any:
    """Return a handler that raises."""

    async def fail(_: Command, __: HandlerContext) -> None:
        raise error

    return fail


async def last_error(bus: CommandBus, command_id: UUID) -> tuple[str | None, str | None, str | None, int]:
    """Return type, code and text of a command's last error, and its attempts."""
    command = await bus.get_command(DOMAIN, command_id)
    assert command is not None
    return command.last_error_type, command.last_error_code, command.last_error_msg, command.attempts


async def failure_of(bus: CommandBus, command_id: UUID) -> dict[str, Any]:
    """Return what the audit says of a command's only failed attempt."""
    (failed,) = [event for event in await bus.get_audit_trail(command_id) if event.event_type == "FAILED"]
    return dict(failed.details)


async def reason_of(bus: CommandBus, command_id: UUID) -> str:
    """Return why a command waits for an operator."""
    trail = await bus.get_audit_trail(command_id)
    return str(next(event.details["reason"] for event in trail[::-1] if event.event_type == "MOVED_TO_TSQ"))


async def replies_to(pool: AsyncConnectionPool[Any], command_id: UUID) -> list[dict[str, Any]]:
    """Return the replies to a command that wait in our reply queue."""
    found = await rows(
        pool, "select message from pgmq.q_pay__replies where message ->> 'command_id' = %s", str(command_id)
    )
    return [message for (message,) in found]


def url_of(pool: CommandBusPool) -> str:
    """Return where a pool connects to."""
    return pool.settings.database_url.get_secret_value()


def terminate(pool: CommandBusPool, condition: str = "true") -> int:
    """End the connections to a pool's database for which *condition* on pg_stat_activity holds; return how many."""
    with psycopg.connect(url_of(pool), autocommit=True) as connection:
        ended = connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = current_database()"
            f" and pid <> pg_backend_pid() and backend_type = 'client backend' and {condition}".encode()
        )
        return len(ended.fetchall())
