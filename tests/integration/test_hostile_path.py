"""Bus and worker under a search_path that leads somewhere else first: nothing of it is ever called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commandbus import CommandBus, CommandBusPool, CommandStatus, HandlerRegistry, TroubleshootingQueue, Worker
from tests.integration.live import (
    AT_ONCE,
    DOMAIN,
    REPLIES,
    batch_commands,
    events,
    reached,
    running,
    send,
    send_many,
)
from tests.traps import set_traps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from commandbus import Command, HandlerContext

pytestmark = pytest.mark.direct("it sets up its session")


@pytest.fixture
def hostile_url(database_url: str) -> Iterator[str]:
    """A database whose schema public raises at every turn, and where everybody's path begins there."""
    set_traps(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        (database,) = connection.execute("select current_database()").fetchone() or ("",)
        connection.execute(f'alter database "{database}" set search_path = public, pg_catalog'.encode())
    yield database_url
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'alter database "{database}" reset search_path'.encode())


async def test_the_trap_is_set(hostile_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(hostile_url) as connection:
        with pytest.raises(psycopg.errors.RaiseException, match="hijacked"):
            await connection.execute("select now()")


@pytest.fixture(params=["ours, as set", "ours, public first", "plain, public first", "plain, empty"])
async def any_pool(request: pytest.FixtureRequest, hostile_url: str) -> AsyncIterator[AsyncConnectionPool[Any]]:
    """A pool whose sessions have a path that one should not have."""
    match request.param:
        case "ours, as set":
            pool: AsyncConnectionPool[Any] = CommandBusPool(database_url=hostile_url)
        case "ours, public first":
            pool = CommandBusPool(database_url=hostile_url, search_path="public, pg_catalog")
        case "plain, public first":
            pool = AsyncConnectionPool(hostile_url, kwargs={"autocommit": True}, open=False)
        case _:
            pool = AsyncConnectionPool(hostile_url, kwargs={"options": "-c search_path="}, open=False)
    async with pool:
        yield pool


async def test_commands_live_their_whole_life(any_pool: AsyncConnectionPool[Any]) -> None:
    bus, tsq, registry = CommandBus(any_pool), TroubleshootingQueue(any_pool), HandlerRegistry()

    @registry.handler(DOMAIN, "charge")
    async def charge(command: Command, _: HandlerContext) -> object:
        return command.data

    @registry.handler(DOMAIN, "write", transactional=True)
    async def write(_: Command, context: HandlerContext) -> None:
        if context.attempt == 1:
            raise OSError("not now")

    @registry.handler(DOMAIN, "broken")
    async def broken(_: Command, __: HandlerContext) -> None:
        raise ValueError("no")

    await bus.create_domain(DOMAIN)
    async with running(Worker(any_pool, DOMAIN, registry, visibility_timeout=1, retry_policy=AT_ONCE)):
        assert await bus.call(DOMAIN, "charge", {"n": 1}, timeout=10) == {"n": 1}
        await reached(bus, await send(bus, "write"))
        await reached(bus, await send_many(bus, 5))
        batch = await bus.create_batch(DOMAIN, batch_commands(3), on_complete=REPLIES)
        await bus.wait_for_batch(DOMAIN, batch.batch_id)
        waiting = [await send(bus, "broken", max_attempts=1) for _ in range(3)]
        await reached(bus, waiting, CommandStatus.IN_TROUBLESHOOTING_QUEUE)
        assert len(await tsq.list_troubleshooting(DOMAIN)) == 3
        await tsq.operator_cancel(DOMAIN, waiting[0], "no")
        await tsq.operator_complete(DOMAIN, waiting[1])
        await tsq.operator_retry(DOMAIN, waiting[2])
        await reached(bus, waiting[2], CommandStatus.IN_TROUBLESHOOTING_QUEUE)
    assert len(await bus.query_commands(domain=DOMAIN)) == 13
    assert len(await bus.list_batches(DOMAIN)) == 1
    assert "OPERATOR_CANCEL" in await events(bus, waiting[0])
