"""PGMQ in the database: found, refused when too old, or installed from the SQL in the ``pgmq`` package."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from commandbus.errors import PgmqMissingError, PgmqTooOldError
from commandbus.migrate.connection import search_path, select, translated

if TYPE_CHECKING:
    from psycopg import Connection

OLDEST_PGMQ = (1, 10)


@dataclass(frozen=True, slots=True)
class PgmqSql:
    """PGMQ's own SQL, which must run with a search_path of pg_catalog only."""

    version: str
    text: str

    @property
    def note(self) -> str:
        """The statement that leaves the version in the database: the SQL itself does not."""
        return f"comment on type pgmq.message_record is 'PGMQ {self.version}'"


def needed_pgmq(connection: Connection[Any]) -> PgmqSql | None:
    """Return what must be installed: nothing where the server has PGMQ, or offers the extension, which V001 creates.

    Raises:
        PgmqTooOldError: the PGMQ that is there or on offer is older than 1.10.
        PgmqMissingError: the ``pgmq`` package carries no SQL.
    """
    # last_read_at came with 1.10; an installation from SQL has no version to ask for.
    ((is_there, is_recent, on_offer),) = select(
        connection,
        "select pg_catalog.to_regtype('pgmq.message_record') is not null,"
        " exists (select from pg_catalog.pg_attribute"
        "  where attrelid = pg_catalog.to_regclass('pgmq.message_record') and attname = 'last_read_at'),"
        " (select default_version from pg_catalog.pg_available_extensions where name = 'pgmq')",
    )
    if is_there and not is_recent:
        raise PgmqTooOldError("the database has a PGMQ older than 1.10: update it first")
    if not is_there and on_offer is not None and _version(on_offer) < OLDEST_PGMQ:
        raise PgmqTooOldError(f"the server offers PGMQ {on_offer}, older than 1.10: update the server's package")
    return None if is_there or on_offer is not None else _packaged()


def ensure_pgmq(connection: Connection[Any]) -> str | None:
    """Install what is needed, inside the caller's transaction and lock; return its version, or None.

    Raises:
        As `needed_pgmq`.
    """
    needed = needed_pgmq(connection)
    if needed is None:
        return None
    with translated("PGMQ", text=needed.text):
        path = search_path(connection)
        connection.execute("set local search_path = pg_catalog, pg_temp")
        connection.execute(needed.text.encode(), prepare=False)
        connection.execute(needed.note.encode())
        connection.execute("select pg_catalog.set_config('search_path', %s, true)", (path,))
    return needed.version


def _packaged() -> PgmqSql:
    from pgmq.install import PGMQInstallError, get_embedded_install_sql, get_embedded_sql_version

    try:
        return PgmqSql(get_embedded_sql_version(), get_embedded_install_sql())
    except PGMQInstallError:
        raise PgmqMissingError(
            "the server has no PGMQ and the pgmq package brings no SQL: install the extension"
        ) from None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])
