"""The pytest plugin of commandbus: a server per run, a migrated database per test, pools and workers on it.

pytest imports this module in every run where commandbus is installed: commandbus itself is imported by the fixtures,
when a test asks for one.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from commandbus import CommandBusPool
    from commandbus.sync import CommandBusPool as SyncCommandBusPool
    from commandbus.testing import DatabaseServer, SyncWorkerFactory, WorkerFactory

try:
    from pytest_asyncio import fixture as async_fixture
except ImportError:  # another plugin, such as anyio's, may run async tests
    async_fixture = pytest.fixture  # type: ignore[assignment]  # no plugin, no async

URL_VARIABLE = "COMMANDBUS_TEST_DATABASE_URL"
URL_OPTION = "commandbus_database_url"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ways to name a server of one's own."""
    text = "PostgreSQL server on which the tests of commandbus create and drop databases; default: an embedded one"
    parser.getgroup("commandbus").addoption("--commandbus-database-url", dest=URL_OPTION, metavar="URL", help=text)
    parser.addini(URL_OPTION, text, default="")


@pytest.fixture(scope="session")
def commandbus_server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    """The server of this run: the one that --commandbus-database-url names, or $COMMANDBUS_TEST_DATABASE_URL, or the
    ini option commandbus_database_url; else an embedded one, which ends with the run."""
    from commandbus.errors import EmbeddedServerError
    from commandbus.testing import DatabaseServer, temporary_server

    config = request.config
    url = config.getoption(URL_OPTION) or os.environ.get(URL_VARIABLE) or config.getini(URL_OPTION)
    if url:
        yield DatabaseServer(url)
        return
    with ExitStack() as stack:
        try:
            server = stack.enter_context(temporary_server())
        except EmbeddedServerError as error:
            pytest.fail(f"{error}; or name a server of your own with {URL_VARIABLE}", pytrace=False)
        yield server


@pytest.fixture(scope="session")
def commandbus_template_setup() -> Callable[[str], object]:
    """What else to do, once per run, to the database that all tests' databases are copies of: nothing.

    Override it with a session fixture that returns a function of the database's URL, which makes your own tables.
    """
    return lambda _: None


@pytest.fixture(scope="session")
def commandbus_template(
    commandbus_server: DatabaseServer, commandbus_template_setup: Callable[[str], object]
) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    from commandbus.errors import CommandBusError
    from commandbus.testing import apply_core_migrations

    with ExitStack() as stack:
        try:
            url = stack.enter_context(commandbus_server.database())
            apply_core_migrations(url)
        except CommandBusError as error:  # a traceback would show the arguments of functions, and so the password
            pytest.fail(f"no database can be made for the tests: {error}", pytrace=False)
        commandbus_template_setup(url)
        yield commandbus_server.database_name(url)


@pytest.fixture
def commandbus_database(commandbus_server: DatabaseServer, commandbus_template: str) -> Iterator[str]:
    """The URL of a migrated database for one test, dropped afterwards."""
    with commandbus_server.database(commandbus_template) as url:
        yield url


@async_fixture
async def commandbus_pool(commandbus_database: str) -> AsyncIterator[CommandBusPool]:
    """An open pool on the test's own database."""
    from commandbus import CommandBusPool

    async with CommandBusPool(database_url=commandbus_database) as pool:
        yield pool


@pytest.fixture
def commandbus_sync_pool(commandbus_database: str) -> Iterator[SyncCommandBusPool]:
    """An open pool on the test's own database, for code without an event loop."""
    from commandbus.sync import CommandBusPool

    with CommandBusPool(database_url=commandbus_database) as pool:
        yield pool


@async_fixture
async def commandbus_worker(commandbus_pool: CommandBusPool) -> AsyncIterator[WorkerFactory]:
    """Workers on the test's own database: ``await commandbus_worker.drain(registry, domain)`` executes what is due,
    ``await commandbus_worker(registry, domain)`` lets a worker run until the test ends.

    A command that waits for an operator in the end is an error, unless the call says ``allow_troubleshooting=True``.
    """
    from commandbus.testing import WorkerFactory

    factory = WorkerFactory(commandbus_pool)
    yield factory
    try:
        await factory.close()
    except AssertionError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def commandbus_sync_worker(commandbus_database: str) -> Iterator[SyncWorkerFactory]:
    """The same for tests without an event loop: ``commandbus_sync_worker.drain(registry, domain)``."""
    from commandbus.testing import SyncWorkerFactory

    factory = SyncWorkerFactory(commandbus_database)
    yield factory
    try:
        factory.close()
    except AssertionError as error:
        pytest.fail(str(error), pytrace=False)
