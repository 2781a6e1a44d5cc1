"""Keeps a database from growing for ever: the audit's partitions are made ahead, and what is old enough goes."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from psycopg.errors import LockNotAvailable
from psycopg_pool import AsyncConnectionPool

from commandbus.models import MaintenanceReport
from commandbus.repositories import PgmqClient, PostgresMaintenance
from commandbus.repositories._base import settings_of
from commandbus.settings import CommandBusSettings

logger = logging.getLogger(__name__)

MONTHS_AHEAD = 3
_STEP = 10_000

Progress = Callable[[str, int], None]
T = TypeVar("T")


class _BusyError(Exception):
    """Another session maintains the database."""


class Maintenance:
    """Does the housekeeping of one database, in steps of up to 10,000 rows, each a transaction of its own.

    Nothing that waits, runs or is with an operator is ever touched, and no sender or worker is held up. Workers do
    this by themselves; `commandbus maintain` does it from cron.

    Args:
        pool: a `CommandBusPool`, or any psycopg pool on a migrated database.
        settings: whose ``keep_…_days`` say what to remove; the pool's when None.
    """

    def __init__(self, pool: AsyncConnectionPool[Any], settings: CommandBusSettings | None = None) -> None:
        self._settings = settings_of(pool) if settings is None else settings
        self._steps = PostgresMaintenance(pool)
        self._queues = PgmqClient(pool)

    async def run(self, on_progress: Progress | None = None) -> MaintenanceReport:
        """Make partitions, and remove everything that the settings do not keep.

        Args:
            on_progress: called after each step that deleted rows, with their kind and their number.

        Returns:
            What was done. It is not complete when another session was at it, or held for longer than a second what
            had to change; then a later run does the rest.
        """
        report = MaintenanceReport()
        try:
            await self._run(report, on_progress or _ignore)
        except (_BusyError, LockNotAvailable):
            report = replace(report, is_complete=False)
        logger.info(
            "maintenance done",
            extra={
                "partitions_made": report.partitions_made,
                "partitions_dropped": report.partitions_dropped,
                "deleted": report.deleted,
                "is_complete": report.is_complete,
            },
        )
        return report

    async def _run(self, report: MaintenanceReport, on_progress: Progress) -> None:
        report.partitions_made.extend(_unless_busy(await self._steps.make_partitions(MONTHS_AHEAD)))
        keep = self._settings
        if keep.keep_audit_days is not None:
            await self._drop_partitions(keep.keep_audit_days, report)
        if keep.keep_commands_days is not None:
            await self._prune_commands(keep.keep_commands_days, report, on_progress)
        for kind, days, prune in (
            ("batches", keep.keep_commands_days, self._steps.prune_batches),
            ("archives", keep.keep_archives_days, self._steps.prune_archives),
            ("replies", keep.keep_replies_days, self._steps.prune_replies),
        ):
            if days is not None:
                for domain in await self._queues.list_domains():
                    await self._prune(kind, domain, days, prune, report, on_progress)

    async def _drop_partitions(self, days: int, report: MaintenanceReport) -> None:
        while True:
            dropped = _unless_busy(await self._steps.drop_partitions(days))
            report.partitions_dropped.extend(name for name in dropped if name not in report.partitions_dropped)
            if "audit_default" not in dropped:
                return

    async def _prune_commands(self, days: int, report: MaintenanceReport, on_progress: Progress) -> None:
        step = _unless_busy(await self._steps.prune_commands(days))
        while True:
            _count(report, "commands", step.deleted, on_progress)
            if step.resume_at is None:
                return
            step = _unless_busy(await self._steps.prune_commands(days, step.resume_at))

    async def _prune(
        self,
        kind: str,
        domain: str,
        days: int,
        prune: Callable[[str, int], Awaitable[int | None]],
        report: MaintenanceReport,
        on_progress: Progress,
    ) -> None:
        while True:
            deleted = _unless_busy(await prune(domain, days))
            _count(report, kind, deleted, on_progress)
            if deleted < _STEP:
                return


def _unless_busy(found: T | None) -> T:
    if found is None:
        raise _BusyError
    return found


def _count(report: MaintenanceReport, kind: str, rows: int, on_progress: Progress) -> None:
    report.deleted[kind] = report.deleted.get(kind, 0) + rows
    if rows:
        on_progress(kind, rows)


def _ignore(_kind: str, _rows: int) -> None:
    """Tell nobody."""
