"""What a worker counts: kept when a beat fails or is broken off, waits by the server's clock, redrives in turn."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from commandbus import CommandBus, CommandBusPool, Operations, Redrives, Worker
from commandbus.settings import CommandBusSettings
from commandbus.worker.vitals import Vitals
from tests.integration.live import DOMAIN, park, rows, send_many, until, value
from tests.integration.test_operations import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WAITING = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


def vitals_of(pool: CommandBusPool) -> Vitals:
    """Return what a worker of one handler would count with."""
    return Vitals(pool, CommandBusSettings.load(), DOMAIN, 1, lambda: 0)


async def do_some(bus: CommandBus, pool: CommandBusPool, vitals: Vitals, count: int) -> None:
    """Let commands be taken and done at once."""
    await send_many(bus, count)
    for received in await Worker(pool, DOMAIN).receive(count):
        now = time.monotonic()
        vitals.note(received, None, now, now)


@asynccontextmanager
async def held(pool: CommandBusPool, table: str) -> AsyncIterator[None]:
    """Let nobody write to a table."""
    async with pool.connection() as connection, connection.transaction():
        await connection.execute(f"lock table commandbus.{table} in exclusive mode".encode())
        yield


@pytest.mark.direct("it renames a function")
async def test_a_beat_that_fails_or_is_broken_off_loses_no_counts(bus: CommandBus, pool: CommandBusPool) -> None:
    vitals = vitals_of(pool)
    await do_some(bus, pool, vitals, 3)
    await rows(pool, "alter function commandbus.sp_worker_beat rename to lost")
    with pytest.raises(psycopg.Error):
        await vitals.beat()
    await rows(pool, "alter function commandbus.lost rename to sp_worker_beat")
    async with held(pool, "worker"):
        beating = asyncio.create_task(vitals.beat())

        async def waits() -> bool:
            return bool(await value(pool, WAITING))

        await until(waits)
        await do_some(bus, pool, vitals, 2)
        beating.cancel()
        await asyncio.wait([beating])
    await vitals.end()
    done = await Operations(pool).throughput(DOMAIN)
    assert sum(point.completed for point in done) == 5
    assert (counted(done, "runs"), counted(done, "waits")) == (5, 5)


@pytest.mark.parametrize("seconds", [-300, 300])
async def test_waits_are_by_the_clock_of_the_server(
    bus: CommandBus, pool: CommandBusPool, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    own = time.time
    monkeypatch.setattr(time, "time", lambda: own() + seconds)
    vitals = vitals_of(pool)
    await vitals.beat()
    await send_many(bus, 1)
    await asyncio.sleep(0.3)  # what it waits, at least
    for received in await Worker(pool, DOMAIN).receive(1):
        now = time.monotonic()
        vitals.note(received, None, now, now)
    await vitals.end()
    (point,) = [one for one in await Operations(pool).throughput(DOMAIN) if one.waits]
    waited = point.waits.index(1)
    assert 2 ** (waited - 1) / 1000 < 60, "it did not wait for minutes"
    assert 2**waited / 1000 >= 0.3


async def test_each_redrive_has_a_turn_at_once(bus: CommandBus, pool: CommandBusPool) -> None:
    command_ids = await park(bus, pool, 6)
    redrives = Redrives(pool)
    for first in (0, 2, 4):
        await redrives.start(DOMAIN, rate=0.001, command_ids=command_ids[first : first + 2])
    await vitals_of(pool).redrive()
    assert [one.sent_count for one in await redrives.list()] == [1, 1, 1]
