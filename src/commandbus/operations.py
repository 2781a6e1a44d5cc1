"""What operators see of domains and workers, and how they hold a domain."""

from typing import Any

from psycopg_pool import AsyncConnectionPool

from commandbus.errors import InvalidArgumentError
from commandbus.models import DomainOverview, LeaseInfo, ThroughputPoint, WorkerInfo
from commandbus.payload import check_count, check_domain, check_limit, check_operator, check_reason
from commandbus.repositories import PostgresOperations
from commandbus.repositories._base import check_pool

_LONGEST = 7 * 86_400
# How far back pieces are known whose length is a multiple of this one, longest first: as commandbus._pieces keeps them.
_KNOWN = ((3_600, _LONGEST), (600, 4 * 86_400), (180, 86_400), (30, 21_600), (10, 5_400))


class Operations:
    """The running system, as workers and queues show it.

    Args:
        pool: a `CommandBusPool`, or any psycopg pool on a migrated database.
    """

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._operations = PostgresOperations(check_pool(pool))

    async def overview(self, domain: str | None = None) -> list[DomainOverview]:
        """Return what each domain with a queue holds now, by name; of one domain, or all."""
        return await self._operations.overview(None if domain is None else check_domain(domain))

    async def throughput(
        self, domain: str | None = None, *, seconds: int = 3_600, step: int = 10
    ) -> list[ThroughputPoint]:
        """Return what workers did lately, oldest first; pieces in which no worker ran are missing.

        Args:
            domain: only of this one; the sum of all when None.
            seconds: how far back, 10 to 604,800.
            step: the length of a piece, a multiple of 10 up to 86,400. Short ones are forgotten early: a multiple of
                30 goes back 6 hours, of 180 a day, of 600 four days, of 3,600 seven; any other 90 minutes.

        Raises:
            InvalidArgumentError: an argument breaks its limit, or pieces of this length do not go back so far.
        """
        check_count(seconds, "seconds", 10, _LONGEST)
        check_count(step, "step", 10, 86_400)
        if step % 10:
            raise InvalidArgumentError("step", "must be a multiple of 10, the length of the shortest pieces")
        if seconds > next(known for length, known in _KNOWN if step % length == 0):
            fit = min(length for length, known in _KNOWN if seconds <= known)
            raise InvalidArgumentError("step", f"must be a multiple of {fit:,} to go back {seconds:,} seconds")
        return await self._operations.list_throughput(None if domain is None else check_domain(domain), seconds, step)

    async def list_workers(self, domain: str | None = None) -> list[WorkerInfo]:
        """Return the workers of a domain, or all; one that ended without a word stays for a day."""
        return await self._operations.list_workers(None if domain is None else check_domain(domain))

    async def list_leases(self, domain: str, limit: int = 100) -> list[LeaseInfo]:
        """Return up to *limit* (1 to 1,000) commands that workers have now; the lease that ends first comes first.

        Raises:
            QueueNotFoundError: the domain has no queue.
        """
        return await self._operations.list_leases(check_domain(domain), check_limit(limit))

    async def pause(self, domain: str, operator: str | None = None, reason: str | None = None) -> bool:
        """Let no worker have a domain's commands until `resume`; what runs goes on, what is sent waits.

        Args:
            domain: the domain.
            operator: who decides, for the audit; up to 200 characters.
            reason: and why; up to 2,000.

        Returns:
            Whether it was not paused before.

        Raises:
            QueueNotFoundError: the domain has no queue.
        """
        return await self._operations.pause(check_domain(domain), check_operator(operator), check_reason(reason))

    async def resume(self, domain: str, operator: str | None = None, reason: str | None = None) -> bool:
        """Let workers have a domain's commands again; return whether it was paused."""
        return await self._operations.resume(check_domain(domain), check_operator(operator), check_reason(reason))
