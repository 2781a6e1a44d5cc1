"""One connection to migrate on, its locked transactions, and what its errors become."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from commandbus._conninfo import connection_error, parse_url
from commandbus.errors import (
    CommandBusError,
    DatabaseUnavailableError,
    InvalidArgumentError,
    MigrationError,
    ReadOnlyServerError,
    ServerTooOldError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

OLDEST_SERVER = 15


def _java_hash(text: str) -> int:
    value = 0
    for character in text:
        value = (31 * value + ord(character)) % 2**32
    return value - 2**32 if value >= 2**31 else value


# Flyway's own key for this history table, so that Flyway and this runner keep each other out.
LOCK_KEY = int.from_bytes(b"Flyway", "big") + _java_hash('"public"."flyway_schema_history"')


# What a database or role may have set otherwise, and what changes how SQL is read and how catalogs are printed.
SETTINGS: tuple[LiteralString, ...] = (
    "set local client_encoding = 'UTF8'",
    "set local standard_conforming_strings = on",
    "set local quote_all_identifiers = off",
    "set local intervalstyle = 'postgres'",
    "set local datestyle = 'ISO, MDY'",
    "set local bytea_output = 'hex'",
    "set local extra_float_digits = 1",
)

# What each transaction of a migration begins with. READ COMMITTED lets it see what the holder of the lock before it
# committed; the lock ends with the transaction, so that it works through a transaction pooler too. Strings end for the
# server where they end for `statements`. Whoever sets a database to read only wants it as it is, so that no "read
# write" is here.
OPENING: tuple[LiteralString, ...] = (
    "set transaction isolation level read committed",
    "set local lock_timeout = 0",
    "set local statement_timeout = 0",
    *SETTINGS,
)
LOCK: LiteralString = "select pg_catalog.pg_advisory_xact_lock(%s)"


@contextlib.contextmanager
def connected(url_or_connection: str | psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """Give a connection to migrate on: the caller's, or one of our own that is closed afterwards.

    Raises:
        InvalidArgumentError: the URL is malformed, or the caller's connection is not idle in autocommit mode.
        DatabaseUnavailableError: there is no connection, or it was lost; its subclasses say what will not mend itself.
        ServerTooOldError: the server is older than PostgreSQL 15.
        MigrationError: any other complaint of the server.
    """
    with translated("the database"), contextlib.ExitStack() as stack:
        if isinstance(url_or_connection, str):
            connection = stack.enter_context(_connect(url_or_connection))
        else:
            connection = url_or_connection
            _check_idle(connection)
        if connection.info.server_version < OLDEST_SERVER * 10_000:
            raise ServerTooOldError(f"the server is older than PostgreSQL {OLDEST_SERVER}")
        yield connection


@contextlib.contextmanager
def locked_transaction(connection: psycopg.Connection[Any], *, changes: bool = True) -> Iterator[None]:
    """Run the block in one transaction, alone among all who migrate this database.

    The session's settings are the same afterwards.

    Args:
        connection: in autocommit mode.
        changes: False for a block that only looks.

    Raises:
        ReadOnlyServerError: the server is a replica, or read-only for this role.
    """
    ((is_replica,),) = select(connection, "select pg_catalog.pg_is_in_recovery()")
    if is_replica:
        raise ReadOnlyServerError("the server is a read-only replica: migrate the primary")
    with connection.transaction():
        for statement in OPENING:
            connection.execute(statement)
        if changes:
            _check_writable(connection)
        path = search_path(connection)
        connection.execute(LOCK, (LOCK_KEY,))
        yield
        if search_path(connection) != path:
            connection.execute("select pg_catalog.set_config('search_path', %s, false)", (path,))


def select(
    connection: psycopg.Connection[Any],
    statement: LiteralString,
    parameters: Sequence[object] | Mapping[str, object] = (),
) -> list[tuple[Any, ...]]:
    """Return the rows of a query as tuples, whatever row factory the connection has."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(statement, parameters).fetchall()


def has_table(connection: psycopg.Connection[Any], schema: str, name: str) -> bool:
    """Say whether there is a table; any role may ask."""
    return bool(
        select(
            connection,
            "select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname = %s and c.relname = %s",
            (schema, name),
        )
    )


@contextlib.contextmanager
def translated(subject: str, *, text: str = "") -> Iterator[None]:
    """Turn psycopg's errors into ours, whose texts quote the server's primary message and no statement.

    Args:
        subject: what is being worked on; the error's text begins with it.
        text: the SQL being run, to find the line of an error in.
    """
    failure: CommandBusError
    try:
        yield
    except psycopg.Error as error:
        failure = _translate(error, subject, text)
    else:
        return
    raise failure from None


def _translate(error: psycopg.Error, subject: str, text: str) -> CommandBusError:
    state = error.sqlstate or ""
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)) and (
        not state or state.startswith(("08", "57P"))
    ):
        return DatabaseUnavailableError(f"{subject}: the connection was lost; what was not finished is undone")
    position = error.diag.statement_position
    line = f" line {text.count(chr(10), 0, int(position) - 1) + 1}" if position and text else ""
    message = error.diag.message_primary or "no reason given"
    return MigrationError(f"{subject}{line}: {message} ({state or type(error).__name__})", sqlstate=error.sqlstate)


def search_path(connection: psycopg.Connection[Any]) -> str:
    """Return the search_path in force, as text."""
    ((path,),) = select(connection, "select pg_catalog.current_setting('search_path')")
    return str(path)


def _check_writable(connection: psycopg.Connection[Any]) -> None:
    ((is_read_only, role),) = select(
        connection, "select pg_catalog.current_setting('transaction_read_only')::boolean, current_user::text"
    )
    if is_read_only:
        raise ReadOnlyServerError(
            f'transactions of role "{role}" are read-only: default_transaction_read_only must be off'
        )


def _check_idle(connection: psycopg.Connection[Any]) -> None:
    idle = connection.info.transaction_status == TransactionStatus.IDLE
    if not connection.autocommit or not idle:
        raise InvalidArgumentError("connection", "must be open, in autocommit mode and outside a transaction")


def _connect(url: str) -> psycopg.Connection[Any]:
    if not url.strip():  # as where a script's variable is not set
        raise InvalidArgumentError(
            "database_url", 'is empty: give a URL ("postgresql://" takes all of it from libpq\'s PG* variables)'
        )
    parameters = parse_url(url, "database_url")
    defaults = {"application_name": "commandbus migrate", "connect_timeout": 10}
    try:
        return psycopg.connect(**{**defaults, **parameters}, autocommit=True, prepare_threshold=None)
    except (psycopg.Error, OSError, UnicodeError) as error:
        failure = connection_error(error, parameters)
    raise failure
