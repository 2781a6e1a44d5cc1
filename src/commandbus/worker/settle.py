"""Ends attempts in groups: one call takes whatever has finished since the last one."""

import asyncio
import logging
from collections.abc import Callable, Iterable

import psycopg

from commandbus.errors import CommandBusError
from commandbus.models import ErrorType, TsqReason
from commandbus.repositories import PostgresCommandRepository
from commandbus.retry import Outcome, Settlement
from commandbus.worker.backoff import TROUBLE, Backoff
from commandbus.worker.received import ReceivedCommand

logger = logging.getLogger(__name__)

_MOST = 1_000


class Settler:
    """Stores what became of attempts. While one call is under way, the next group gathers.

    Args:
        commands: the repository, on connections that handlers cannot exhaust.
        domain: the worker's domain.
        on_settled: called after each group; there may be room for more.

    Attributes:
        done: how many attempts have ended and are stored.
        given_back: how many commands went back to the queue without an attempt.
    """

    def __init__(self, commands: PostgresCommandRepository, domain: str, on_settled: Callable[[], None]) -> None:
        self._commands = commands
        self._domain = domain
        self.done = self.given_back = 0
        self._on_settled = on_settled
        self._waiting: list[ReceivedCommand] = []
        self._under_way: list[ReceivedCommand] = []
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def backlog(self) -> int:
        """How many ended attempts are not stored yet."""
        return len(self._waiting) + len(self._under_way)

    def add(self, received: ReceivedCommand, settlement: Settlement) -> None:
        """Store the end of an attempt soon."""
        received.end = settlement
        self._waiting.append(received)
        self._arrived.set()
        self._empty.clear()

    def waiting(self) -> Iterable[ReceivedCommand]:
        """Return those whose end is not on its way yet; their leases must be kept."""
        return self._waiting

    async def drain(self) -> None:
        """Return when everything is stored."""
        await self._empty.wait()

    async def run(self) -> None:
        """Store what arrives, until cancelled."""
        while True:
            await self._arrived.wait()
            self._under_way, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            if not self._waiting:
                self._arrived.clear()
            self._under_way.sort(key=_by_message)
            for received in self._under_way:
                received.is_settling = True
            await self._store(self._under_way)
            self._under_way = []
            if not self._waiting:
                self._empty.set()
            self._on_settled()

    async def _store(self, group: list[ReceivedCommand]) -> None:
        """Store a group; one end that the database cannot take does not hold the others up."""
        try:
            await self._settle(group)
        except (psycopg.Error, CommandBusError) as error:
            if len(group) > 1:
                half = len(group) // 2
                await self._store(group[:half])
                await self._store(group[half:])
                return
            (received,) = group
            logger.warning(
                "the end of an attempt cannot be stored",
                extra=_facts(received) | {"sqlstate": getattr(error, "sqlstate", None)},
            )
            if received.end is not _UNSTORABLE:
                received.end = _UNSTORABLE
                await self._store(group)

    async def _settle(self, group: list[ReceivedCommand]) -> None:
        backoff = Backoff()
        while True:
            try:
                refused = await self._commands.settle(
                    self._domain,
                    [received.lease for received in group],
                    [received.end for received in group],
                )
            except TROUBLE as error:
                logger.warning(
                    "attempts cannot be settled now, trying again",
                    extra={"domain": self._domain, "attempts": len(group), "error": type(error).__name__},
                )
                await asyncio.sleep(backoff.next())
            else:
                break
        for received in group:
            end = received.end
            if refused and refused.get(received.command.command_id) == "STALE":
                logger.warning("lease was stale, nothing settled", extra=_facts(received))
                continue
            if end.outcome is Outcome.RELEASE:
                self.given_back += 1
                continue
            self.done += 1
            if end.outcome is Outcome.TROUBLESHOOT:
                logger.warning(
                    "command moved to the troubleshooting queue",
                    extra=_facts(received) | {"reason": end.reason, "error_code": end.error_code},
                )


_UNSTORABLE = Settlement(
    Outcome.TROUBLESHOOT,
    error_type=ErrorType.PERMANENT,
    error_code="UNSTORABLE_OUTCOME",
    error_msg="the database cannot store what became of the attempt",
    reason=TsqReason.PERMANENT,
)


def _by_message(received: ReceivedCommand) -> int:
    return received.lease.msg_id


def _facts(received: ReceivedCommand) -> dict[str, object]:
    command = received.command
    return {
        "domain": command.domain,
        "command_type": command.command_type,
        "command_id": command.command_id,
        "msg_id": received.msg_id,
        "attempt": received.context.attempt,
    }
