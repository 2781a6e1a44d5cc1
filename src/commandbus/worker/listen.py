"""Wakes the reader when the database says that something arrived; only ever a hint, polling goes on."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from commandbus.errors import CommandBusError, DatabaseUnavailableError
from commandbus.worker.backoff import Backoff
from commandbus.worker.cancels import Cancels

logger = logging.getLogger(__name__)

_HEARTBEAT = 15.0


class Listener:
    """Listens for one queue on a connection of its own, and connects again when that is lost.

    Args:
        connect: opens a connection in autocommit, outside of any pool.
        queue: the queue's name; the channel is ``commandbus:<queue>``.
        wake: called for every notification, and after every new connection, since some may have been missed.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[AsyncConnection[Any]]], queue: str, wake: Callable[[], None]
    ) -> None:
        self._connect = connect
        self._queue = queue
        self._wake = wake

    async def run(self) -> None:
        """Listen until cancelled."""
        backoff = Backoff()
        cancels = Cancels()
        while True:
            try:
                async with await self._connect() as connection:
                    await connection.execute(sql.SQL("listen {}").format(sql.Identifier(f"commandbus:{self._queue}")))
                    self._wake()
                    backoff.reset()
                    await self._listen(connection, cancels)
            except (psycopg.Error, DatabaseUnavailableError, OSError) as error:
                logger.warning(
                    "listening stopped, connecting again",
                    extra={"queue": self._queue, "error": type(error).__name__, "reason": _reason(error)},
                )
            cancels.check()
            await asyncio.sleep(backoff.next())

    async def _listen(self, connection: AsyncConnection[Any], cancels: Cancels) -> None:
        while True:
            cancels.check()
            async for _ in connection.notifies(timeout=_HEARTBEAT):
                self._wake()
            await connection.execute("select 1")  # finds out whether the server is still there


def _reason(error: Exception) -> str | None:
    """Return the text of an error of ours, which names no password."""
    return str(error) if isinstance(error, CommandBusError) else None
