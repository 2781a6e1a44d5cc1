"""A PostgreSQL server for tests, and databases on it that are copies of a migrated one."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from commandbus._conninfo import parse_url
from commandbus.embedded import EmbeddedServer
from commandbus.migrate.connection import connected

if TYPE_CHECKING:
    from collections.abc import Iterator

# A crash of PostgreSQL loses nothing without fsync; only a crash of the machine would.
FAST = {"fsync": "off"}

# Several runs may share a server, and their processes may have the same number in different containers.
_RUN = secrets.token_hex(4)
_numbers = count(1)


class DatabaseUrl(str):
    """A URL whose repr hides its password: pytest shows the arguments of a test that failed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(re.sub(r"((?:^|[?&])(?:ssl)?password=)[^&]*", r"\1***", str(self)))


@dataclass(frozen=True)
class DatabaseServer:
    """A server whose databases tests create and drop.

    Attributes:
        maintenance_url: a database to create others from; its user must be allowed to. Not shown in a repr.
        embedded: its handle, to stop and start it; None for any other server.
    """

    maintenance_url: str = field(repr=False)
    embedded: EmbeddedServer | None = None

    def url(self, database: str) -> DatabaseUrl:
        """Return the URL of *database*."""
        parts = {**parse_url(self.maintenance_url, "maintenance_url"), "dbname": database}
        query = urlencode({name: value for name, value in parts.items() if name != "dbname"}, quote_via=quote)
        return DatabaseUrl(f"postgresql:///{quote(database, safe='')}?{query}")

    @staticmethod
    def database_name(url: str) -> str:
        """Return the name of the database that a URL leads to."""
        return str(conninfo_to_dict(url)["dbname"])

    def create_database(self, name: str, template: str = "template0") -> str:
        """Create a database as a copy of *template*, to which nobody is connected, and return its URL.

        Raises:
            MigrationError: the server refuses.
            DatabaseUnavailableError: it cannot be reached.
        """
        # Without fsync a file copy takes 13 ms and a copy through the WAL 17. With it 84, as it waits for two
        # checkpoints of the whole server, and 51.
        strategy = "file_copy" if self.embedded is not None else "wal_log"
        statement = sql.SQL("create database {} template {} strategy {}")
        self.execute(statement.format(sql.Identifier(name), sql.Identifier(template), sql.SQL(strategy)))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database and end its connections; nothing happens when it does not exist."""
        self.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    @contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """Give the URL of a fresh database for the duration of the block, a copy of *template*."""
        name = f"commandbus_test_{_RUN}_{next(_numbers)}"
        url = self.create_database(name, template)
        try:
            yield url
        finally:
            self.drop_database(name)

    def execute(self, statement: sql.Composed) -> None:
        """Execute a statement in the maintenance database, outside of a transaction."""
        with connected(self.maintenance_url) as connection:
            connection.execute(statement)


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """Give a directory that every user may enter, with a path short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="cb-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def temporary_server() -> Iterator[DatabaseServer]:
    """Give an embedded PostgreSQL that exists for the duration of the block. It ends with its data.

    Raises:
        EmbeddedServerError: the extra ``embedded`` is not installed, or the server does not start.
    """
    with scratch_directory() as directory:
        handle = EmbeddedServer(directory / "data", settings=FAST)
        try:
            yield DatabaseServer(handle.start().url(), handle)
        finally:
            handle.destroy()
