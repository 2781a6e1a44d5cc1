"""The settler by itself: groups of any size, and ends that the database cannot take."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from commandbus import CommandStatus, Worker
from commandbus.repositories import PostgresCommandRepository
from commandbus.retry import RELEASE, Outcome, Settlement
from commandbus.worker.settle import Settler
from tests.integration.live import DOMAIN, last_error, rows, send_many, status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from commandbus import CommandBus, CommandBusPool

DONE = Settlement(Outcome.COMPLETED)


@asynccontextmanager
async def settling(pool: CommandBusPool) -> AsyncIterator[Settler]:
    """Give a settler that runs during the block, and let it store everything at its end."""
    settler = Settler(PostgresCommandRepository(pool), DOMAIN, lambda: None)
    run = asyncio.create_task(settler.run())
    try:
        yield settler
        async with asyncio.timeout(30):
            await settler.drain()
        assert settler.backlog == 0
    finally:
        run.cancel()


async def test_more_ends_than_one_call_takes_are_all_stored(bus: CommandBus, pool: CommandBusPool) -> None:
    await send_many(bus, 1_100)
    received = await Worker(pool, DOMAIN).receive(batch_size=2_000)
    async with settling(pool) as settler:
        for one in received:
            settler.add(one, DONE)
        assert settler.backlog == 1_100
    assert (settler.done, settler.given_back) == (1_100, 0)
    counted = "select status::text, count(*)::int from commandbus.command group by 1"
    assert await rows(pool, counted) == [(CommandStatus.COMPLETED, 1_100)]


async def test_an_end_that_cannot_be_stored_holds_no_other_up(bus: CommandBus, pool: CommandBusPool) -> None:
    ids = await send_many(bus, 7)
    received = await Worker(pool, DOMAIN).receive(batch_size=7)
    async with settling(pool) as settler:
        for place, one in enumerate(received):
            settler.add(one, Settlement(Outcome.COMPLETED, result="no JSON") if place == 4 else DONE)
    assert [await status(bus, command_id) for command_id in ids[:4] + ids[5:]] == [CommandStatus.COMPLETED] * 6
    assert await status(bus, ids[4]) == CommandStatus.IN_TROUBLESHOOTING_QUEUE
    assert (await last_error(bus, ids[4]))[1] == "UNSTORABLE_OUTCOME"


async def test_what_is_stale_counts_neither_as_done_nor_as_given_back(bus: CommandBus, pool: CommandBusPool) -> None:
    await send_many(bus, 3)
    first, second, third = await Worker(pool, DOMAIN).receive(batch_size=3)
    async with settling(pool) as settler:
        settler.add(first, DONE)
        await settler.drain()
        settler.add(second, RELEASE)
        await rows(pool, "update pgmq.q_pay__commands set read_ct = read_ct + 1 where msg_id = %s", third.msg_id)
        settler.add(third, DONE)
    assert (settler.done, settler.given_back) == (1, 1)


async def test_ends_on_their_way_are_no_longer_extended(bus: CommandBus, pool: CommandBusPool) -> None:
    await send_many(bus, 1)
    (received,) = await Worker(pool, DOMAIN).receive()
    async with settling(pool) as settler:
        settler.add(received, DONE)
        assert list(settler.waiting()) == [received]
        await settler.drain()
        assert list(settler.waiting()) == []
        assert received.is_settling
