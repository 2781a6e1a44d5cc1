"""Redrives: selections of waiting commands, queued again at a rate."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from commandbus.models import Redrive, RedriveProgress, RedriveStatus
from commandbus.repositories._arrays import uuid_array
from commandbus.repositories._base import Repository

_FIELDS = (
    "redrive_id",
    "domain",
    "status",
    "rate",
    "stop_after",
    "total_count",
    "sent_count",
    "refused_count",
    "failed_count",
    "operator",
    "reason",
    "created_at",
    "finished_at",
)


class PostgresRedrives(Repository):
    """Redrives, over the functions of schema ``commandbus``. Arguments must have been checked."""

    async def start(
        self,
        domain: str,
        command_ids: Sequence[UUID] | None,
        failure_key: UUID | None,
        *,
        rate: float,
        stop_after: int | None,
        operator: str | None,
        reason: str | None,
        limit: int,
        redrive_id: UUID | None,
    ) -> UUID:
        """Freeze a selection; return the redrive's id. Source: ``commandbus.sp_start_redrive``."""
        started: UUID = await self._value(
            "select commandbus.sp_start_redrive($1::text, $2::uuid[], $3::uuid, $4::float8, $5::int, $6::text,"
            " $7::text, $8::int, $9::uuid)",
            (
                domain,
                None if command_ids is None else uuid_array(command_ids),
                failure_key,
                rate,
                stop_after,
                operator,
                reason,
                limit,
                redrive_id,
            ),
            repeatable=False,
        )
        return started

    async def control(self, redrive_id: UUID, action: str, operator: str | None, reason: str | None) -> RedriveStatus:
        """PAUSE, RESUME or STOP one; return its new status. Source: ``commandbus.sp_control_redrive``."""
        status = await self._value(
            "select commandbus.sp_control_redrive($1::uuid, $2::text, $3::text, $4::text)",
            (redrive_id, action, operator, reason),
            repeatable=False,
        )
        return RedriveStatus(status)

    async def step(self, domain: str) -> int:
        """Queue again what is due; return how many redrives need another call soon.

        Source: ``commandbus.sp_step_redrives``.
        """
        running: int = await self._value(
            "select commandbus.sp_step_redrives($1::text, $2::boolean)",
            (domain, self._settings.notify),
            repeatable=False,
        )
        return running

    async def list(self, domain: str | None, limit: int) -> list[Redrive]:
        """Return redrives, newest first. Source: ``commandbus.list_redrives``."""
        rows = await self._rows(
            f"select {', '.join(_FIELDS)} from commandbus.list_redrives($1::text, $2::int)",  # noqa: S608  (a constant)
            (domain, limit),
        )
        return [_to_redrive(row) for row in rows]

    async def get(self, redrive_id: UUID) -> RedriveProgress | None:
        """Return one, and what became of its commands, or None. Source: ``commandbus.get_redrive``."""
        fields = ", ".join(f"(redrive).{name}" for name in _FIELDS)
        rows = await self._rows(
            f"select completed, failed, canceled, again, forgotten, {fields} from commandbus.get_redrive($1::uuid)",  # noqa: S608  (a constant)
            (redrive_id,),
        )
        if not rows:
            return None
        completed, failed, canceled, again, forgotten, *redrive = rows[0]
        return RedriveProgress(_to_redrive(tuple(redrive)), completed, failed, canceled, again, forgotten)


def _to_redrive(row: tuple[Any, ...]) -> Redrive:
    redrive_id, domain, status, *rest = row
    return Redrive(redrive_id, domain, RedriveStatus(status), *rest)
