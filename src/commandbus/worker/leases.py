"""Keeps commands leased while their handlers run, and stops handlers whose lease is gone."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from functools import partial

from commandbus.errors import StaleLeaseError
from commandbus.handlers import Extender
from commandbus.models import Lease
from commandbus.repositories import PostgresCommandRepository
from commandbus.worker.backoff import TROUBLE
from commandbus.worker.cancels import Cancels
from commandbus.worker.received import ReceivedCommand

logger = logging.getLogger(__name__)

_MOST = 10_000


class LeaseKeeper:
    """Extends leases every third of their time, all in one call.

    It runs on the event loop: an ``async def`` handler that blocks the loop for longer than the visibility
    timeout loses its lease. Plain ``def`` handlers, which run in threads, may block.

    Args:
        commands: the repository, on connections that handlers cannot exhaust.
        domain: the worker's domain.
        visibility_timeout: seconds, as given to the receive.
        held: returns the commands whose leases must be kept.
    """

    def __init__(
        self,
        commands: PostgresCommandRepository,
        domain: str,
        visibility_timeout: int,
        held: Callable[[], Iterable[ReceivedCommand]],
    ) -> None:
        self._commands = commands
        self._domain = domain
        self._timeout = visibility_timeout
        self._interval = visibility_timeout / 3
        self._held = held

    async def run(self) -> None:
        """Keep leases until cancelled."""
        cancels = Cancels()
        while True:
            await asyncio.sleep(self._interval)
            now = time.monotonic()
            due = [r for r in self._held() if not r.is_settling and now - r.lease.renewed_at >= self._interval / 2]
            due.sort(key=_by_message)
            for start in range(0, len(due), _MOST):
                await self._extend(due[start : start + _MOST])
                cancels.check()

    async def _extend(self, due: list[ReceivedCommand]) -> None:
        asked_at = time.monotonic()
        try:
            lost = await self._commands.extend(self._domain, [r.lease for r in due], visibility_timeout=self._timeout)
        except TROUBLE as error:
            logger.warning(
                "leases cannot be extended now",
                extra={"domain": self._domain, "leases": len(due), "error": type(error).__name__},
            )
            lost = {r.command.command_id for r in due if asked_at - r.lease.renewed_at > self._timeout}
        else:
            for received in due:
                received.lease.renewed_at = max(received.lease.renewed_at, asked_at)  # the handler's may be longer
        for received in due:
            if received.command.command_id in lost and not received.is_settling:
                self._give_up(received)

    def _give_up(self, received: ReceivedCommand) -> None:
        """Stop the handler: somebody else may run the same command now."""
        received.is_lost = True
        if received.task is not None:
            received.task.cancel()
        logger.warning(
            "lease was lost, handler stopped",
            extra={"domain": self._domain, "command_id": received.command.command_id, "msg_id": received.msg_id},
        )


def make_extender(commands: PostgresCommandRepository, domain: str, visibility_timeout: int) -> Extender:
    """Return what the contexts of a domain's handlers extend their leases with.

    Args:
        commands: the repository to extend with.
        domain: the domain.
        visibility_timeout: seconds that a lease usually holds.
    """
    return partial(_extend_lease, commands, domain, visibility_timeout)


async def _extend_lease(
    commands: PostgresCommandRepository, domain: str, visibility_timeout: int, lease: Lease, seconds: float
) -> None:
    """Keep one command leased for *seconds* from now at least, though the usual time is *visibility_timeout*.

    Raises:
        StaleLeaseError: the lease is somebody else's now.
    """
    asked_at = time.monotonic()
    lost = await commands.extend(domain, [lease], visibility_timeout=math.ceil(seconds))
    if lost:
        raise StaleLeaseError(f"the lease of command {lease.command_id} is no longer held")
    # As if renewed for the usual time so early or late that it ends as asked, or as it would have anyway.
    lease.renewed_at = max(lease.renewed_at, asked_at + seconds - visibility_timeout)


def _by_message(received: ReceivedCommand) -> int:
    return received.lease.msg_id
