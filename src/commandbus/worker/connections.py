"""The connections that a worker has besides those of its handlers: its own few, and one to listen."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from psycopg import AsyncConnection
from psycopg.errors import InsufficientPrivilege
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from commandbus._conninfo import WORKERS_POOL
from commandbus._parameters import connection_parameters
from commandbus.errors import DatabaseUnavailableError
from commandbus.pool import RECONNECT_TIMEOUT, CommandBusPool, keep_trying
from commandbus.repositories import PostgresCommandRepository
from commandbus.settings import CommandBusSettings

_FEWEST_CONNECTIONS = 2  # one receives while the other settles
OWN_CONNECTIONS = 3  # at most, beside those of handlers


def own_pool(pool: AsyncConnectionPool[Any], domain: str, settings: CommandBusSettings) -> AsyncConnectionPool[Any]:
    """Return a pool with the parameters of *pool* for the worker's own statements, not yet open."""
    return AsyncConnectionPool(
        pool.conninfo,
        connection_class=pool.connection_class,
        kwargs=pool.kwargs,
        configure=partial(_prepare, domain, settings),
        min_size=_FEWEST_CONNECTIONS,
        max_size=OWN_CONNECTIONS,
        timeout=settings.pool_timeout,
        reconnect_timeout=RECONNECT_TIMEOUT,
        reconnect_failed=keep_trying,
        name=f"{WORKERS_POOL}{domain}",
        open=False,
    )


async def _prepare(domain: str, settings: CommandBusSettings, connection: AsyncConnection[Any]) -> None:
    """Make a new connection of the worker's own ready, so that no command waits for its first plans."""
    await connection.set_autocommit(True)
    with suppress(InsufficientPrivilege):  # what a role may not call here it may not need; the first call will say
        await PostgresCommandRepository(connection, settings).warm_up(domain)


async def open_now(pool: AsyncConnectionPool[Any]) -> None:
    """Open *pool* and wait for its first connections.

    Raises:
        DatabaseUnavailableError: none could be opened in time.
    """
    try:
        await pool.open(wait=True)
    except PoolTimeout:
        raise DatabaseUnavailableError("no connection could be opened for the worker") from None


def listening(
    pool: AsyncConnectionPool[Any], settings: CommandBusSettings
) -> Callable[[], Awaitable[AsyncConnection[Any]]] | None:
    """Return what opens a connection for LISTEN, or None where there is no way for one."""
    if isinstance(pool, CommandBusPool):
        return pool.listen_connection if pool.can_listen else None
    if settings.pgbouncer:
        if not settings.listen_database_url:
            return None
        return partial(AsyncConnection.connect, **connection_parameters(settings, listen=True))
    conninfo, kwargs = pool.conninfo, pool.kwargs or {}
    if not isinstance(conninfo, str) or callable(kwargs):
        return None
    return partial(AsyncConnection.connect, conninfo, **{**kwargs, "autocommit": True})
