"""Transactions that are the bus's own, or a part of the caller's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from commandbus.errors import PoolTimeoutError
from commandbus.repositories._base import check_connection, translate


@asynccontextmanager
async def transaction(
    pool: AsyncConnectionPool[Any], conn: AsyncConnection[Any] | None
) -> AsyncIterator[AsyncConnection[Any]]:
    """Open a transaction on a connection of *pool*, or a part of the caller's transaction."""
    try:
        if conn is None:
            async with pool.connection() as own, own.transaction():
                yield own
        else:
            async with _part_of_transaction(check_connection(conn)):
                yield conn
    except PoolTimeout:
        raise PoolTimeoutError("no connection became free in time") from None
    except psycopg.Error as error:
        failure = translate(error)
        raise failure from None


@asynccontextmanager
async def _part_of_transaction(conn: AsyncConnection[Any]) -> AsyncIterator[None]:
    """Let the block succeed or fail as a whole, and leave the commit to the caller."""
    if not conn.autocommit and conn.info.transaction_status is TransactionStatus.IDLE:
        yield  # the first statement opens the caller's transaction; transaction() would also commit it
        return
    async with conn.transaction():
        yield
