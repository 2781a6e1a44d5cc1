"""Fixtures for the tests with Flyway: both Flyways, files to change, and what a database looks like afterwards."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from commandbus import _postmaster as postmaster
from commandbus.migrate import migrate, packaged_directory
from commandbus.migrate.connection import connected, locked_transaction
from commandbus.migrate.pgmq_install import ensure_pgmq
from tests.flyway.tool import Answer, CommandLine, Engine, Flyway, tcp_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.support import Server


@pytest.fixture(scope="session")
def address(server: Server) -> Iterator[tuple[str, int]]:
    """Where JDBC finds the server."""
    with tcp_address(server.maintenance_url) as found:
        yield found


@pytest.fixture(scope="session")
def engine(server: Server, address: tuple[str, int]) -> Iterator[Engine]:
    """The newest engine."""
    made = Engine(server.maintenance_url, address)
    yield made
    made.close()


@pytest.fixture(scope="session")
def command_line(server: Server, address: tuple[str, int]) -> CommandLine:
    """The newest command line."""
    return CommandLine(server.maintenance_url, address)


class Base:
    """One database, migrated by the runner and by Flyway with the same files.

    Args:
        url: the database.
        flyway: what else migrates it.
        files: the directory of the migrations.
    """

    def __init__(self, url: str, flyway: Flyway, files: Path) -> None:
        self.url = url
        self.flyway = flyway
        self.files = files

    def theirs(self, verb: str, settings: Mapping[str, str] | None = None) -> Answer:
        """Let Flyway do something that must succeed."""
        answer = self.try_theirs(verb, settings)
        assert answer.ok, answer.text
        return answer

    def try_theirs(self, verb: str, settings: Mapping[str, str] | None = None) -> Answer:
        """Let Flyway do something."""
        return self.flyway(verb, str(psycopg.conninfo.conninfo_to_dict(self.url)["dbname"]), self.files, settings)

    def ours(self, **options: Any) -> list[str]:
        """Let the runner migrate; return the scripts it applied."""
        return [migration.script for migration in migrate(self.url, directories=self.files, **options).applied]

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, none when it returns none."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the history without its times; nothing when there is none."""
        if self.query("select to_regclass('public.flyway_schema_history')") == [(None,)]:
            return []
        return self.query(
            "select installed_rank, version, description, type, script, checksum, installed_by, success"
            " from public.flyway_schema_history order by installed_rank"
        )

    def catalog(self, *options: str) -> str:
        """Return the whole schema, the history's included, as pg_dump prints it."""
        dump = (str(postmaster.binaries() / "pg_dump"), "--schema-only", "--dbname", self.url, *options)
        text = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
        # A random word that pg_dump makes for each dump.
        return "".join(line for line in text.splitlines(keepends=True) if "restrict " not in line)

    def write(self, name: str, text: str) -> None:
        """Write one migration."""
        path = self.files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


@pytest.fixture
def bases(server: Server, engine: Engine, tmp_path: Path) -> Iterator[tuple[Base, Base]]:
    """Two empty databases with one directory of three small migrations, and the engine."""
    for number, name in enumerate(("first", "second", "third"), 1):
        text = f"create table public.{name} (id int);\n-- the end"
        (tmp_path / f"V{number}__{name}.sql").write_text(text)
    with server.database() as one, server.database() as other:
        yield Base(one, engine, tmp_path), Base(other, engine, tmp_path)


@pytest.fixture
def base(bases: tuple[Base, Base]) -> Base:
    """One of them."""
    return bases[0]


def packaged(url: str, flyway: Flyway, directory: Path) -> Base:
    """Return a database for the library's own files, with PGMQ, which Flyway cannot install."""
    shutil.copytree(packaged_directory(), directory, dirs_exist_ok=True)
    with connected(url) as connection, locked_transaction(connection):
        ensure_pgmq(connection)
    return Base(url, flyway, directory)
