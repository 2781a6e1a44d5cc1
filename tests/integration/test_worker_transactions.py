"""Handlers with a transaction: what they write counts once with the completion, or not at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commandbus import (
    BusinessRuleException,
    CommandStatus,
    HandlerRegistry,
    InvalidOperationError,
    PermanentCommandError,
    Worker,
)
from tests.integration.live import (
    DOMAIN,
    QUEUE,
    REPLIES,
    batch_commands,
    events,
    last_error,
    make_worker,
    reached,
    registry_of,
    replies_to,
    rows,
    running,
    send,
    send_many,
    terminate,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from commandbus import Command, CommandBus, CommandBusPool, HandlerContext

IN_TSQ = CommandStatus.IN_TROUBLESHOOTING_QUEUE


@pytest.fixture(autouse=True)
async def effect(pool: CommandBusPool) -> None:
    """A table for what handlers do; nothing in it keeps a row from being there twice."""
    await rows(pool, "create table public.effect (command_id uuid, attempt int)")


async def effects(pool: CommandBusPool) -> list[Any]:
    """Return the commands that had an effect, as often as they had it."""
    return [command_id for (command_id,) in await rows(pool, "select command_id from public.effect order by 1")]


def writing(then: Callable[[HandlerContext], Awaitable[object]]) -> HandlerRegistry:
    """Return a registry whose handler writes, and goes on as told."""

    async def charge(_: Command, context: HandlerContext) -> object:
        await context.connection.execute(
            "insert into public.effect values (%s, %s)", [context.command_id, context.attempt]
        )
        return await then(context)

    registry = HandlerRegistry()
    registry.register(DOMAIN, "charge", charge, transactional=True)
    return registry


async def nothing(_: HandlerContext) -> str:
    """Return at once."""
    return "done"


async def test_effects_commit_with_the_completion(bus: CommandBus, pool: CommandBusPool) -> None:
    ids = await send_many(bus, 50, reply_to=REPLIES)
    async with running(make_worker(pool, writing(nothing)), concurrency=10):
        await reached(bus, ids)
    assert await effects(pool) == sorted(ids)
    for command_id in ids:
        assert await events(bus, command_id) == ["SENT", "RECEIVED", "COMPLETED"]
        assert [reply["result"] for reply in await replies_to(pool, command_id)] == ["done"]


async def test_effects_are_not_seen_before_the_completion(bus: CommandBus, pool: CommandBusPool) -> None:
    seen: list[Any] = []

    async def look(_: HandlerContext) -> None:
        seen.append(await effects(pool))

    command_id = await send(bus)
    async with running(make_worker(pool, writing(look))):
        await reached(bus, command_id)
    assert seen == [[]]


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (BusinessRuleException("NO", "not allowed"), "FAILED"),
        (PermanentCommandError("BROKEN", "cannot work"), IN_TSQ),
        (OSError("not now"), IN_TSQ),
        (asyncio.CancelledError(), IN_TSQ),
    ],
)
async def test_effects_of_a_handler_that_raises_are_gone(
    bus: CommandBus, pool: CommandBusPool, error: BaseException, ends: str
) -> None:
    async def fail(_: HandlerContext) -> None:
        raise error

    command_id = await send(bus, max_attempts=2)
    async with running(make_worker(pool, writing(fail))):
        await reached(bus, command_id, ends)
    assert await effects(pool) == []


async def test_effects_of_failed_attempts_are_gone_and_those_of_the_last_one_stay(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    async def fail_twice(context: HandlerContext) -> None:
        if context.attempt < 3:
            raise OSError("not now")

    command_id = await send(bus)
    async with running(make_worker(pool, writing(fail_twice))):
        await reached(bus, command_id)
    assert await rows(pool, "select * from public.effect") == [(command_id, 3)]


async def test_effects_are_gone_when_the_result_is_no_json(bus: CommandBus, pool: CommandBusPool) -> None:
    async def return_a_set(_: HandlerContext) -> object:
        return {1}

    command_id = await send(bus)
    async with running(make_worker(pool, writing(return_a_set))):
        await reached(bus, command_id, IN_TSQ)
    assert await effects(pool) == []
    assert (await last_error(bus, command_id))[1] == "INVALID_RESULT"


async def test_a_database_error_that_the_handler_swallows_rolls_back_and_is_retried(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    async def swallow(context: HandlerContext) -> None:
        if context.attempt == 1:
            with pytest.raises(psycopg.errors.DivisionByZero):
                await context.connection.execute("select 1/0")

    command_id = await send(bus)
    async with running(make_worker(pool, writing(swallow))):
        await reached(bus, command_id)
    assert await rows(pool, "select * from public.effect") == [(command_id, 2)]
    once = ["RECEIVED", "FAILED", "RETRY_SCHEDULED"]
    assert await events(bus, command_id) == ["SENT", *once, "RECEIVED", "COMPLETED"]


async def test_an_error_that_comes_with_the_commit_is_the_handlers(bus: CommandBus, pool: CommandBusPool) -> None:
    await rows(pool, "alter table public.effect add unique (command_id) deferrable initially deferred")

    async def twice(context: HandlerContext) -> None:
        await context.connection.execute("insert into public.effect values (%s)", [context.command_id])

    command_id = await send(bus, max_attempts=2)
    async with running(make_worker(pool, writing(twice))):
        await reached(bus, command_id, IN_TSQ)
    kind, code, text, attempts = await last_error(bus, command_id)
    assert (kind, code, attempts) == ("TRANSIENT", "UniqueViolation", 2)
    assert text is not None
    assert str(command_id) not in text  # the server's DETAIL quotes the row
    assert await effects(pool) == []


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize(
    ("statement", "count"), [("commit", 1), ("rollback", 0), ("end", 1), ("abort and no chain", 0)]
)
async def test_a_handler_that_ends_its_transaction_in_sql_waits_for_an_operator(
    bus: CommandBus, pool: CommandBusPool, database_url: str, statement: str, count: int, autocommit: bool
) -> None:
    async def end_it(context: HandlerContext) -> None:
        await context.connection.execute(statement.encode())

    plain = AsyncConnectionPool(database_url, kwargs={"autocommit": autocommit}, open=False)
    command_id = await send(bus, reply_to=REPLIES)
    async with plain, running(make_worker(plain, writing(end_it))):
        await reached(bus, command_id, IN_TSQ)
        # The connection is as good as before.
        await rows(plain, "select 1")
    kind, code, text, attempts = await last_error(bus, command_id)
    assert (kind, code, attempts) == ("PERMANENT", "TRANSACTION_ENDED", 1)
    assert "commit or rollback" in str(text)
    assert await effects(pool) == [command_id] * count
    assert await replies_to(pool, command_id) == []


async def test_a_handler_that_ends_its_transaction_and_goes_on_is_found_out(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    async def end_it(context: HandlerContext) -> None:
        await context.connection.execute("commit")
        await context.connection.execute("insert into public.effect values (%s)", [context.command_id])

    command_id = await send(bus)
    async with running(make_worker(pool, writing(end_it))):
        await reached(bus, command_id, IN_TSQ)
    assert (await last_error(bus, command_id))[1] == "TRANSACTION_ENDED"


async def test_a_savepoint_of_the_handler_is_its_own(bus: CommandBus, pool: CommandBusPool) -> None:
    async def try_more(context: HandlerContext) -> None:
        async def fail() -> None:
            async with context.connection.transaction():
                await context.connection.execute("insert into public.effect values (null, 0)")
                await context.connection.execute("select 1/0")

        with pytest.raises(psycopg.errors.DivisionByZero):
            await fail()

    command_id = await send(bus)
    async with running(make_worker(pool, writing(try_more))):
        await reached(bus, command_id)
    assert await effects(pool) == [command_id]


async def test_a_command_sent_in_the_handler_is_sent_with_the_completion_or_not_at_all(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    followed: list[Any] = []

    async def follow_up(context: HandlerContext) -> None:
        followed.append(await send(bus, "next", conn=context.connection))
        batch = await bus.create_batch(DOMAIN, batch_commands(2, "next"), conn=context.connection)
        followed.append(batch.batch_id)
        if context.attempt == 1:
            raise OSError("not now")

    command_id = await send(bus)
    async with running(make_worker(pool, writing(follow_up)), concurrency=1):
        await reached(bus, command_id)
    assert [await bus.command_exists(DOMAIN, sent) for sent in followed[::2]] == [False, True]
    assert [batch.batch_id for batch in await bus.list_batches(DOMAIN)] == [followed[3]]


async def test_effects_count_once_when_the_lease_is_lost_meanwhile(bus: CommandBus, pool: CommandBusPool) -> None:
    async def lose_the_lease(context: HandlerContext) -> None:
        if context.attempt == 1:
            await rows(pool, f"update pgmq.q_{QUEUE} set vt = clock_timestamp() - interval '1 s'")

            async def others_are_done() -> bool:
                return "COMPLETED" in await events(bus, context.command_id)

            await until(others_are_done)

    command_id = await send(bus, reply_to=REPLIES)
    # Neither finds out by extending; the first one's settle is what is refused.
    first, second = (make_worker(pool, writing(lose_the_lease), visibility_timeout=60) for _ in range(2))
    async with running(first), running(second):
        await reached(bus, command_id)

        async def is_refused() -> bool:
            return "STALE_SETTLE" in await events(bus, command_id)

        await until(is_refused)
    assert await rows(pool, "select * from public.effect") == [(command_id, 2)]
    assert await events(bus, command_id) == ["SENT", "RECEIVED", "RECEIVED", "COMPLETED", "STALE_SETTLE"]
    assert len(await replies_to(pool, command_id)) == 1


async def test_effects_count_once_when_the_connection_breaks_in_the_handler(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    async def break_it(context: HandlerContext) -> None:
        if context.attempt == 1:
            cursor = await context.connection.execute("select pg_backend_pid()")
            ((pid,),) = await cursor.fetchall()
            terminate(pool, f"pid = {pid}")

    ids = await send_many(bus, 3)
    async with running(make_worker(pool, writing(break_it))):
        await reached(bus, ids)
    assert await rows(pool, "select * from public.effect order by 1") == [(command_id, 2) for command_id in sorted(ids)]


async def test_batches_and_interleaved_effects_agree(bus: CommandBus, pool: CommandBusPool) -> None:
    batches = [(await bus.create_batch(DOMAIN, batch_commands(10))).batch_id for _ in range(3)]
    async with running(make_worker(pool, writing(nothing)), concurrency=8):
        for batch_id in batches:
            batch = await bus.wait_for_batch(DOMAIN, batch_id)
            assert batch.completed_count == 10
    assert len(await effects(pool)) == 30


async def test_a_handler_without_transaction_has_no_connection(bus: CommandBus, pool: CommandBusPool) -> None:
    refused = asyncio.Event()

    async def charge(_: Command, context: HandlerContext) -> None:
        with pytest.raises(InvalidOperationError, match="transactional=True"):
            str(context.connection)
        refused.set()

    command_id = await send(bus)
    async with running(make_worker(pool, registry_of(charge=charge))):
        await reached(bus, command_id)
    assert refused.is_set()


async def test_a_context_gives_its_connection_back_with_the_attempt(bus: CommandBus, pool: CommandBusPool) -> None:
    kept: list[HandlerContext] = []

    async def keep(context: HandlerContext) -> None:
        kept.append(context)

    command_id = await send(bus)
    async with running(make_worker(pool, writing(keep))):
        await reached(bus, command_id)
    with pytest.raises(InvalidOperationError):
        str(kept[0].connection)


async def test_a_plain_pool_without_autocommit_serves_as_well(
    bus: CommandBus, database_url: str, pool: CommandBusPool
) -> None:
    ids = await send_many(bus, 10)
    plain = AsyncConnectionPool(database_url, kwargs={"prepare_threshold": None}, min_size=1, open=False)
    async with plain, running(Worker(plain, DOMAIN, writing(nothing))):
        await reached(bus, ids)
    assert await effects(pool) == sorted(ids)
