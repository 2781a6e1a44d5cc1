"""Lets a worker say that it lives and what it did, and carry on the redrives of its domain."""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from uuid import uuid4

import psycopg
from psycopg_pool import AsyncConnectionPool

from commandbus.errors import CommandBusError
from commandbus.repositories import PostgresOperations, PostgresRedrives
from commandbus.retry import Outcome, Settlement
from commandbus.settings import CommandBusSettings
from commandbus.worker.cancels import Cancels
from commandbus.worker.received import ReceivedCommand

logger = logging.getLogger(__name__)

_INTERVAL = 5.0
_REDRIVE_INTERVAL = 0.1  # a step takes up to 1,000 commands
_LAST_WORDS = 2.0
_HISTOGRAM = 32  # up to 2**31 milliseconds
_PLACES = {Outcome.COMPLETED: 0, Outcome.FAILED: 1, Outcome.RETRY: 2, Outcome.TROUBLESHOOT: 3}


class Vitals:
    """Counts what a worker does, for people to look at; nothing depends on it.

    Args:
        pool: the worker's own connections.
        settings: the pool's.
        domain: the worker's domain.
        concurrency: how many handlers it runs at once.
        in_flight: returns how many commands it has.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[Any],
        settings: CommandBusSettings,
        domain: str,
        concurrency: int,
        in_flight: Callable[[], int],
    ) -> None:
        self._operations = PostgresOperations(pool, settings)
        self._redrives = PostgresRedrives(pool, settings)
        self._worker = (uuid4(), domain, socket.gethostname(), os.getpid(), concurrency)
        self._in_flight = in_flight
        self._reset()

    def _reset(self) -> None:
        self._counts = [0] * len(_PLACES)
        self._waits = [0] * _HISTOGRAM
        self._runs = [0] * _HISTOGRAM

    def note(
        self, received: ReceivedCommand, settlement: Settlement | None, started_at: float, ended_at: float
    ) -> None:
        """Count an attempt between two times of the monotonic clock; without settlement, its transaction stored it."""
        place = 0 if settlement is None else _PLACES.get(settlement.outcome)
        if place is None:
            return  # given back
        self._counts[place] += 1
        self._runs[_bucket(ended_at - started_at)] += 1
        if received.lease.read_ct == 1:
            self._waits[_bucket(started_at - received.queued_at)] += 1

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """Return what tells it to the database every five seconds, and what carries on redrives, until cancelled.

        What fails is tried again, and neither waits for the other.
        """
        return [
            self._repeat(self._tell, "a worker cannot say that it lives"),
            self._repeat(self.redrive, "a worker cannot carry on redrives"),
        ]

    async def _repeat(self, act: Callable[[], Awaitable[float]], complaint: str) -> None:
        """Do something again and again, after as many seconds as it says; complain once of a trouble that lasts."""
        log = logger.warning
        cancels = Cancels()
        while True:
            pause = _INTERVAL
            try:
                pause = await act()
                log = logger.warning
            except (psycopg.Error, CommandBusError) as error:
                log(complaint, extra={"error": type(error).__name__, "sqlstate": getattr(error, "sqlstate", None)})
                log = logger.debug
            cancels.check()
            await asyncio.sleep(pause)

    async def _tell(self) -> float:
        await self.beat()
        return _INTERVAL

    async def redrive(self) -> float:
        """Carry each redrive of the domain on by a step; return after how many seconds to do it again."""
        running = await self._redrives.step(self._worker[1])
        for _ in range(running - 1):  # one redrive per call
            await self._redrives.step(self._worker[1])
        return _REDRIVE_INTERVAL if running else _INTERVAL

    async def beat(self) -> None:
        """Tell what was done since the last beat."""
        counts, waits, runs = self._counts, self._waits, self._runs
        self._reset()
        try:
            await self._operations.beat(self._worker, self._in_flight(), counts, _short(waits), _short(runs))
        except BaseException:  # broken off, too: the last words come after that
            for mine, lost in ((self._counts, counts), (self._waits, waits), (self._runs, runs)):
                mine[:] = map(sum, zip(mine, lost, strict=True))
            raise

    async def end(self) -> None:
        """Say the last words: what was done since the last beat, and that the worker is gone."""
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await self.beat()
                await self._operations.gone(self._worker[0])
        except (psycopg.Error, CommandBusError, TimeoutError):
            logger.debug("a worker could not say that it ends")


def _bucket(seconds: float) -> int:
    """Return the least i so that it took less than 2**i milliseconds."""
    return 0 if seconds < 0.001 else min(int(seconds * 1_000).bit_length(), _HISTOGRAM - 1)


def _short(histogram: list[int]) -> list[int]:
    """Return a histogram without the zeros at its end."""
    used = max((place for place, count in enumerate(histogram, 1) if count), default=0)
    return histogram[:used]
