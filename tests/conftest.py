"""Fixtures for all tests: one server and one migrated template per run, one database per test."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from commandbus import CommandBus, CommandBusPool
from commandbus.migrate import migrate
from commandbus.sync import CommandBusPool as SyncCommandBusPool
from tests.pgbouncer import (
    DIRECT,
    LISTENS,
    PgBouncer,
    pgbouncer,
    pytest_collection_modifyitems,
    pytest_terminal_summary,
)
from tests.support import Server, any_server, batch_counters_off
from tests.traps import set_traps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["pytest_collection_modifyitems", "pytest_terminal_summary"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--server``, ``--hostile`` and ``--pgbouncer``."""
    parser.addoption(
        "--server",
        default="auto",
        choices=("auto", "embedded", "15", "url", "container"),
        help="where PostgreSQL comes from; auto: the URL in the environment, else embedded",
    )
    parser.addoption(
        "--hostile",
        action="store_true",
        help="set traps in schema public of every migrated database, and empty the search_path of all sessions",
    )
    parser.addoption("--pgbouncer", action="store_true", help="reach the databases through PgBouncer")


def pytest_configure(config: pytest.Config) -> None:
    """Register our markers; with ``--hostile``, let pools ask for a path in which nothing of ours can be seen."""
    # A shell without job control starts what runs in its background deaf to interrupts, and so all its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--hostile"):
        os.environ["COMMANDBUS_SEARCH_PATH"] = "pg_catalog"
    if config.getoption("--pgbouncer"):
        os.environ["COMMANDBUS_PGBOUNCER"] = "true"
    config.addinivalue_line("markers", "counters_off: the test leaves batch counters wrong on purpose")
    config.addinivalue_line("markers", DIRECT)
    config.addinivalue_line("markers", LISTENS)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A PostgreSQL server of the tests' own, for the whole run."""
    with any_server(request.config.getoption("--server")) as found:
        yield found


@pytest.fixture(scope="session")
def commandbus_server(server: Server) -> Server:
    """The same, for the fixtures that users have."""
    return server


@pytest.fixture(scope="session")
def pooler(server: Server, request: pytest.FixtureRequest) -> Iterator[PgBouncer | None]:
    """The PgBouncer that all databases are reached through, for the whole run; None without ``--pgbouncer``."""
    if not request.config.getoption("--pgbouncer"):
        yield None
        return
    with pgbouncer(server) as found:
        yield found


@pytest.fixture(scope="session")
def template_database(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a database migrated once, V001 and V002, that nobody is connected to."""
    with server.database() as url:
        migrate(url, with_e2e=True)
        if request.config.getoption("--hostile"):
            set_traps(url)
        yield server.database_name(url)


@pytest.fixture
def template_of_test(template_database: str) -> str:
    """The name of the database that the test's own begins as a copy of."""
    return template_database


@pytest.fixture
def direct_url(server: Server, template_of_test: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated database for one test, past any PgBouncer; afterwards every batch's counters must equal a recount."""
    with server.database(template_of_test) as url:
        if request.config.getoption("--hostile"):
            server.set_path(url, "")
        yield url
        if request.node.get_closest_marker("counters_off") is None:
            assert batch_counters_off(url) == []


@pytest.fixture
def database_url(
    direct_url: str, pooler: PgBouncer | None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The same database as programs reach it: through PgBouncer when the run is about that."""
    if pooler is None:
        return direct_url
    pooler.revive()
    if request.node.get_closest_marker("listens") is not None:
        monkeypatch.setenv("COMMANDBUS_LISTEN_DATABASE_URL", direct_url)
    return pooler.url(direct_url)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[CommandBusPool]:
    """An open pool on the test's own database."""
    async with CommandBusPool(database_url=database_url) as opened:
        yield opened


@pytest.fixture
async def bus(pool: CommandBusPool) -> CommandBus:
    """A bus on that pool, its domain "pay" made."""
    made = CommandBus(pool)
    await made.create_domain("pay")
    return made


@pytest.fixture
def sync_pool(database_url: str) -> Iterator[SyncCommandBusPool]:
    """The same without an event loop."""
    with SyncCommandBusPool(database_url=database_url) as opened:
        yield opened


@pytest.fixture
def empty_database_url(server: Server, pooler: PgBouncer | None) -> Iterator[str]:
    """An empty database for one test, as programs reach it: no PGMQ, no history."""
    with server.database() as url:
        if pooler is not None:
            pooler.revive()
        yield url if pooler is None else pooler.url(url)
