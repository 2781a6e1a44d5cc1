"""How every repository reaches the database: a pool or the caller's connection, and errors of ours."""

import random
from collections.abc import Sequence
from typing import Any, Self
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from commandbus._compat import asleep
from commandbus.errors import (
    CommandBusError,
    DatabaseUnavailableError,
    DuplicateCommandError,
    InvalidArgumentError,
    InvalidOperationError,
    PoolTimeoutError,
    from_sqlstate,
)
from commandbus.pool import CommandBusPool
from commandbus.settings import CommandBusSettings

# Two transactions got into each other's way; nothing was done, and the same call will work.
_COLLISIONS = frozenset({"40001", "40P01"})
_MOST_TRIES = 5
_MOST_LOSSES = 3
_CURSOR = "_commandbus_cursor"

Row = tuple[Any, ...]
Source = AsyncConnectionPool[Any] | AsyncConnection[Any]


class Repository:
    """Calls functions of schema ``commandbus``, each in one round trip.

    Args:
        source: a pool, where every call is a transaction of its own; or a connection of the caller's, whose
            transaction the calls join. A plain psycopg pool or connection will do.
        settings: those of our pool when None; for another pool, those of the environment.
    """

    def __init__(self, source: Source, settings: CommandBusSettings | None = None) -> None:
        self._source = source
        self._settings = settings or settings_of(source)
        # PgBouncer gives the next call another session. Our own pool knows; other connections may not.
        self._prepare = False if self._settings.pgbouncer else None

    def on(self, connection: AsyncConnection[Any] | None) -> Self:
        """Return the same repository on the caller's connection, or this one when there is none.

        Raises:
            InvalidArgumentError: it is no connection.
        """
        if connection is None:
            return self
        return type(self)(check_connection(connection), self._settings)

    @property
    def _owns_transactions(self) -> bool:
        """Whether each call is a transaction of its own."""
        return not isinstance(self._source, AsyncConnection)

    async def _rows(self, sql: str, parameters: Sequence[object] = (), *, repeatable: bool = True) -> list[Row]:
        """Return all rows of one call.

        On a pool a call that collided with another is repeated, and after a lost connection one that may
        have been carried out already is repeated if it is *repeatable*.

        Raises:
            CommandBusError: what the function raised, as our class.
            DatabaseUnavailableError: the connection was lost.
            PoolTimeoutError: no connection became free.
        """
        if isinstance(self._source, AsyncConnection):
            try:
                cursor = AsyncRawCursor(self._source, row_factory=tuple_row)
                return await _execute(cursor, sql, parameters, self._prepare)
            except psycopg.Error as error:
                failure = translate(error)
            raise failure
        tries = 0
        while True:
            tries += 1
            try:
                return await _execute_on_pool(self._source, sql, parameters, self._prepare)
            except PoolTimeout:
                raise PoolTimeoutError("no connection became free in time") from None
            except psycopg.Error as error:
                failure = translate(error)
                collided = error.sqlstate in _COLLISIONS and tries < _MOST_TRIES
                lost = isinstance(failure, DatabaseUnavailableError) and repeatable and tries < _MOST_LOSSES
            if lost:
                await recover(self._source)
            elif collided:
                await asleep(random.uniform(0.5, 1.5) * 0.01 * tries)  # noqa: S311  (spreads repeats)
            else:
                raise failure

    async def _send(self, sql: str, parameters: Sequence[object]) -> None:
        """Send one call in the pipeline of the caller's connection; its errors come at the pipeline's end."""
        assert isinstance(self._source, AsyncConnection)  # noqa: S101  (a pool has no pipeline)
        await AsyncRawCursor(self._source).execute(sql.encode(), parameters, prepare=self._prepare)

    async def _value(self, sql: str, parameters: Sequence[object] = (), *, repeatable: bool = True) -> Any:  # noqa: ANN401  (as the call says)
        """Return the only value of one call; as `_rows` otherwise."""
        rows = await self._rows(sql, parameters, repeatable=repeatable)
        return rows[0][0]


async def _execute_on_pool(
    pool: AsyncConnectionPool[Any], sql: str, parameters: Sequence[object], prepare: bool | None
) -> list[Row]:
    if not isinstance(pool, CommandBusPool):
        async with pool.connection() as connection:
            return await _execute(_cursor_of_pooled(connection), sql, parameters, prepare)
    # Ours is in autocommit: the commit that `connection` makes at its end would only cost time.
    connection = await pool.getconn()
    try:
        return await _execute(_cursor_of_pooled(connection), sql, parameters, prepare)
    finally:
        await pool.putconn(connection)


async def _execute(
    cursor: AsyncRawCursor[Row], sql: str, parameters: Sequence[object], prepare: bool | None
) -> list[Row]:
    await cursor.execute(sql.encode(), parameters, prepare=prepare)
    return await cursor.fetchall()


def _cursor_of_pooled(connection: AsyncConnection[Any]) -> AsyncRawCursor[Row]:
    """Return the cursor that all calls on a pool's connection share, one after the other.

    A new one for each call would cost a tenth of a send.
    """
    cursor: AsyncRawCursor[Row] | None = getattr(connection, _CURSOR, None)
    if cursor is None:
        cursor = AsyncRawCursor(connection, row_factory=tuple_row)
        setattr(connection, _CURSOR, cursor)
    return cursor


def check_connection(value: object) -> AsyncConnection[Any]:
    """Return *value* when it is a connection of the caller's.

    Raises:
        InvalidArgumentError: it is not.
    """
    if isinstance(value, AsyncConnection):
        return value
    raise InvalidArgumentError("conn", "must be an open connection of class psycopg.AsyncConnection")


def check_pool(value: object) -> AsyncConnectionPool[Any]:
    """Return *value* when it is a pool.

    Raises:
        InvalidArgumentError: it is not.
    """
    if isinstance(value, AsyncConnectionPool):
        return value
    raise InvalidArgumentError("pool", "must be a CommandBusPool, or another psycopg_pool.AsyncConnectionPool")


def settings_of(source: object) -> CommandBusSettings:
    """Return the settings of our pool; for any other pool or connection, those of the environment."""
    settings = getattr(source, "settings", None)
    return settings if isinstance(settings, CommandBusSettings) else CommandBusSettings.load()


async def recover(pool: AsyncConnectionPool[Any]) -> None:
    """Replace a pool's broken connections after an error, so that the next caller meets none."""
    try:
        await getattr(pool, "recover", pool.check)()
    except (psycopg.Error, PoolTimeout):
        return  # the repeated call will say what is wrong


def translate(error: psycopg.Error) -> Exception:
    """Return our error for one of psycopg's, or the same one when it is none of ours.

    The server's text can quote a payload, so only its primary message is kept.
    """
    ours: CommandBusError | None = from_sqlstate(error.sqlstate, error.diag.message_primary or "")
    if isinstance(ours, DuplicateCommandError) and error.diag.message_detail:
        ours.command_id = UUID(error.diag.message_detail)
    if ours is not None:
        return ours
    if isinstance(error, PoolClosed):
        return InvalidOperationError("the pool is not open")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and (
        error.sqlstate is None or (error.sqlstate[:2] in {"08", "57"} and error.sqlstate != "57014")
    ):
        return DatabaseUnavailableError("the connection to the database was lost")
    return error
