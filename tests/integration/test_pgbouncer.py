"""Pools through a PgBouncer in transaction pooling mode: what they say and leave out, and that work gets done."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commandbus import CommandBus, CommandBusPool, HandlerRegistry, Worker
from commandbus.errors import DatabaseUnavailableError
from tests.cli_process import Cli, environment
from tests.integration.live import DOMAIN, registry_of, running, send, until
from tests.pgbouncer import PgBouncer, pgbouncer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from commandbus import Command, HandlerContext
    from tests.support import Server

pytestmark = pytest.mark.direct("starts a PgBouncer of its own")

RESTRICTIONS = {
    "search_path": "not set: the one of the role or the database",
    "prepared statements": "not used",
    "LISTEN": "not used: workers poll, unless COMMANDBUS_LISTEN_DATABASE_URL gives a direct way",
}


@pytest.fixture(scope="module")
def between(server: Server) -> Iterator[PgBouncer]:
    """A PgBouncer as it comes."""
    with pgbouncer(server) as found:
        yield found


@pytest.fixture
def pooled_url(between: PgBouncer, direct_url: str) -> str:
    """The way through it to the test's own database."""
    return between.url(direct_url)


async def test_the_sessions_are_shared_out(pooled_url: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(pooled_url) as first,
        await psycopg.AsyncConnection.connect(pooled_url) as second,
    ):
        await first.execute("set work_mem = '5MB'")
        await first.commit()
        cursor = await second.execute("show work_mem")
        assert await cursor.fetchone() == ("5MB",)


async def test_a_pool_that_does_not_know_of_it_says_what_to_set(pooled_url: str) -> None:
    with pytest.raises(DatabaseUnavailableError, match="unsupported startup parameter") as caught:
        async with CommandBusPool(database_url=pooled_url, pgbouncer=False):
            pass
    assert "set COMMANDBUS_PGBOUNCER=true" in str(caught.value)


async def test_a_pool_whose_startup_options_are_swallowed_says_so(
    server: Server, direct_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pgbouncer(server, more="ignore_startup_parameters = options") as between:
        async with CommandBusPool(database_url=between.url(direct_url), pgbouncer=False):
            pass
    assert caplog.messages == [
        "startup options do not reach the server: if a pooler is in between, set COMMANDBUS_PGBOUNCER=true"
    ]


async def test_a_pool_says_what_it_does_without(
    pooled_url: str, direct_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "commandbus")
    async with CommandBusPool(database_url=pooled_url, pgbouncer=True) as pool:
        assert pool.restrictions == RESTRICTIONS
        assert caplog.records[-1].__dict__["restrictions"] == RESTRICTIONS
    async with CommandBusPool(database_url=pooled_url, pgbouncer=True, listen_database_url=direct_url) as pool:
        assert list(pool.restrictions) == ["search_path", "prepared statements"]
    async with CommandBusPool(database_url=direct_url) as pool:
        assert pool.restrictions == {}


def test_doctor_says_the_same(tmp_path: Path, pooled_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = Cli(tmp_path, pooled_url)
    assert "set COMMANDBUS_PGBOUNCER=true" in cli.json("doctor", code=1)["checks"][-1]["found"]
    monkeypatch.setenv("COMMANDBUS_PGBOUNCER", "true")
    found = {check["name"]: check["found"] for check in cli.json("doctor")["checks"]}
    assert found.items() >= RESTRICTIONS.items()


def test_doctor_counts_the_connections_that_go_past_it(
    tmp_path: Path, pooled_url: str, direct_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMMANDBUS_PGBOUNCER", "true")

    def budget(processes: int, code: int = 0) -> dict[str, Any]:
        options = ("--processes", processes, "--concurrency", 2)
        checks = Cli(tmp_path, pooled_url).json("doctor", *options, code=code)["checks"]
        return next(check for check in checks if check["name"] == "connection budget")

    found = budget(1000)
    assert (found["status"], found["facts"]["needed"], found["facts"]["to_listen"]) == ("warning", 5000, 0)
    monkeypatch.setenv("COMMANDBUS_LISTEN_DATABASE_URL", direct_url)
    found = budget(2)
    assert (found["status"], found["facts"]["needed"], found["facts"]["to_listen"]) == ("warning", 10, 2)
    assert "need 10 of PgBouncer's, whose limits this cannot see, and 2 past it to LISTEN" in found["found"]
    found = budget(1000, code=1)
    assert found["status"] == "problem"
    assert f"max_connections raised by {1000 - found['facts']['available']}" in found["run"]
    polling = environment(pooled_url) | {"COMMANDBUS_NOTIFY": "false"}
    monkeypatch.setattr("tests.cli_process.environment", lambda _: polling)
    assert budget(1000)["facts"]["to_listen"] == 0


def test_doctor_finds_that_notifications_are_lost(tmp_path: Path, server: Server, direct_url: str) -> None:
    with pgbouncer(server, more="ignore_startup_parameters = options") as between:
        checks = {check["name"]: check for check in Cli(tmp_path, between.url(direct_url)).json("doctor")["checks"]}
    assert checks["LISTEN"]["status"] == "warning"
    assert "COMMANDBUS_PGBOUNCER=true" in checks["LISTEN"]["run"]


async def test_a_worker_listens_past_it_and_works_through_it(pooled_url: str, direct_url: str) -> None:
    registry = HandlerRegistry()

    @registry.handler(DOMAIN, "charge", transactional=True)
    async def charge(command: Command, _: HandlerContext) -> object:
        return command.data

    async with CommandBusPool(database_url=pooled_url, pgbouncer=True, listen_database_url=direct_url) as pool:
        bus = CommandBus(pool)
        await bus.create_domain(DOMAIN)
        async with running(Worker(pool, DOMAIN, registry), poll_interval=3600):
            await until(lambda: _is_listening(direct_url))
            assert await bus.call(DOMAIN, "charge", {"n": 1}, timeout=10) == {"n": 1}


@pytest.mark.parametrize("listens", [False, True])
async def test_a_plain_pool_works_through_it_too(
    pooled_url: str, direct_url: str, monkeypatch: pytest.MonkeyPatch, *, listens: bool
) -> None:
    monkeypatch.setenv("COMMANDBUS_PGBOUNCER", "true")
    if listens:
        monkeypatch.setenv("COMMANDBUS_LISTEN_DATABASE_URL", direct_url)
    registry = registry_of(charge=lambda command, _: command.data)
    async with AsyncConnectionPool(pooled_url, kwargs={"autocommit": True}, max_size=8, open=False) as pool:
        bus = CommandBus(pool)
        await bus.create_domain(DOMAIN)
        async with running(Worker(pool, DOMAIN, registry)):
            # psycopg prepares a statement when it is used for the sixth time on one connection.
            for _ in range(10):
                calls = [bus.call(DOMAIN, "charge", {"n": n}, timeout=10) for n in range(8)]
                assert await asyncio.gather(*calls) == [{"n": n} for n in range(8)]
            assert await _is_listening(direct_url) is listens


async def test_a_callers_plain_connection_works_through_it_too(pooled_url: str) -> None:
    async with CommandBusPool(database_url=pooled_url, pgbouncer=True) as pool:
        bus = CommandBus(pool)
        await bus.create_domain(DOMAIN)
        async with (
            await psycopg.AsyncConnection.connect(pooled_url) as first,
            await psycopg.AsyncConnection.connect(pooled_url) as second,
        ):
            for _ in range(10):
                await send(bus, conn=first)
                await send(bus, conn=second)  # meets another session, as the first is in a transaction
                await first.commit()
                await second.commit()
                await send(bus, conn=second)  # may meet the first one's
                await second.commit()


async def test_a_transaction_through_it_holds_its_session(pooled_url: str) -> None:
    async with (
        CommandBusPool(database_url=pooled_url, pgbouncer=True) as pool,
        pool.connection() as connection,
        connection.transaction(),
    ):
        await connection.execute("set local lock_timeout = 77")
        await connection.execute("select 1")
        cursor = await connection.execute("show lock_timeout")
        assert await cursor.fetchone() == ("77ms",)


async def _is_listening(url: str) -> bool:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute(
            "select from pg_stat_activity where datname = current_database() and query like 'listen%'"
        )
        return cursor.rowcount > 0
