# Printed from ../../bus/_transactions.py by tools/async_to_sync.py; edit that file.
"""Transactions that are the bus's own, or a part of the caller's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolTimeout

from commandbus.errors import PoolTimeoutError
from commandbus.sync.repositories._base import check_connection, translate


@contextmanager
def transaction(pool: ConnectionPool[Any], conn: Connection[Any] | None) -> Iterator[Connection[Any]]:
    """Open a transaction on a connection of *pool*, or a part of the caller's transaction."""
    try:
        if conn is None:
            with pool.connection() as own, own.transaction():
                yield own
        else:
            with _part_of_transaction(check_connection(conn)):
                yield conn
    except PoolTimeout:
        raise PoolTimeoutError("no connection became free in time") from None
    except psycopg.Error as error:
        failure = translate(error)
        raise failure from None


@contextmanager
def _part_of_transaction(conn: Connection[Any]) -> Iterator[None]:
    """Let the block succeed or fail as a whole, and leave the commit to the caller."""
    if not conn.autocommit and conn.info.transaction_status is TransactionStatus.IDLE:
        yield  # the first statement opens the caller's transaction; transaction() would also commit it
        return
    with conn.transaction():
        yield
