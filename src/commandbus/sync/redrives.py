# Printed from ../redrives.py by tools/async_to_sync.py; edit that file.
"""Redrives: a frozen selection of waiting commands, queued again at a chosen rate."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from commandbus.errors import InvalidArgumentError
from commandbus.models import Redrive, RedriveProgress, RedriveStatus
from commandbus.payload import (
    MAX_REDRIVE,
    check_count,
    check_domain,
    check_items,
    check_limit,
    check_operator,
    check_rate,
    check_reason,
    check_uuid,
)
from commandbus.sync.repositories import PostgresRedrives
from commandbus.sync.repositories._base import check_pool


class Redrives:
    """Queues waiting commands again little by little, so that what failed yesterday does not fall over today.

    The workers of the domain do it, ten times a second, whoever started it; it survives any restart.

    Args:
        pool: a `CommandBusPool`, or any psycopg pool on a migrated database.
    """

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._redrives = PostgresRedrives(check_pool(pool))

    def start(
        self,
        domain: str,
        *,
        rate: float,
        command_ids: Sequence[UUID] | None = None,
        failure_key: UUID | None = None,
        stop_after: int | None = None,
        operator: str | None = None,
        reason: str | None = None,
        limit: int = MAX_REDRIVE,
        redrive_id: UUID | None = None,
    ) -> UUID:
        """Freeze a selection of a domain's waiting commands and begin to queue them again, longest waiting first.

        Args:
            domain: the domain.
            rate: commands per second, 0.001 to 10,000.
            command_ids: exactly these, 1 to 100,000.
            failure_key: those of this group of failures; all of the domain when both are None.
            stop_after: stop when this many wait for an operator again. It looks once a second: choose a rate that lets
                failures be seen before everything is sent.
            operator: who decides, for the audit; up to 200 characters.
            reason: and why; up to 2,000.
            limit: the most to select, 1 to 100,000.
            redrive_id: one of yours, made when None: then it is started once, however often you ask.

        Returns:
            The redrive's id.

        Raises:
            InvalidArgumentError: an argument breaks its limit.
            InvalidOperationError: nothing of the selection waits, or there is a redrive of this id.
            QueueNotFoundError: the domain has no queue.
        """
        if command_ids is not None:
            if failure_key is not None:
                raise InvalidArgumentError("command_ids", "cannot be given together with failure_key")
            check_items(command_ids, "command_ids", object, MAX_REDRIVE)
            command_ids = [check_uuid(command_id, "command_ids") for command_id in command_ids]
        return self._redrives.start(
            check_domain(domain),
            command_ids,
            None if failure_key is None else check_uuid(failure_key, "failure_key"),
            rate=check_rate(rate),
            stop_after=None if stop_after is None else check_count(stop_after, "stop_after", 1, MAX_REDRIVE),
            operator=check_operator(operator),
            reason=check_reason(reason),
            limit=check_count(limit, "limit", 1, MAX_REDRIVE),
            redrive_id=None if redrive_id is None else check_uuid(redrive_id, "redrive_id"),
        )

    def list(self, domain: str | None = None, limit: int = 50) -> list[Redrive]:
        """Return redrives of a domain, or all, newest first; *limit* is 1 to 1,000."""
        return self._redrives.list(None if domain is None else check_domain(domain), check_limit(limit))

    def get(self, redrive_id: UUID) -> RedriveProgress | None:
        """Return a redrive and what has become of its commands, or None."""
        return self._redrives.get(check_uuid(redrive_id, "redrive_id"))

    def pause(self, redrive_id: UUID, operator: str | None = None, reason: str | None = None) -> RedriveStatus:
        """Queue no more until `resume`; return the new status.

        Raises:
            InvalidOperationError: it does not run, or there is none.
        """
        return self._control(redrive_id, "PAUSE", operator, reason)

    def resume(self, redrive_id: UUID, operator: str | None = None, reason: str | None = None) -> RedriveStatus:
        """Go on with a paused redrive; return the new status.

        Raises:
            InvalidOperationError: it is not paused, or there is none.
        """
        return self._control(redrive_id, "RESUME", operator, reason)

    def stop(self, redrive_id: UUID, operator: str | None = None, reason: str | None = None) -> RedriveStatus:
        """End a redrive for good; what it has queued stays queued. Return the new status.

        Raises:
            InvalidOperationError: it has ended, or there is none.
        """
        return self._control(redrive_id, "STOP", operator, reason)

    def _control(self, redrive_id: UUID, action: str, operator: str | None, reason: str | None) -> RedriveStatus:
        return self._redrives.control(
            check_uuid(redrive_id, "redrive_id"), action, check_operator(operator), check_reason(reason)
        )
