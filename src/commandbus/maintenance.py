"""Keeps a database from growing for ever: the audit's partitions are made ahead, and what is old enough goes."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from psycopg.errors import LockNotAvailable
from psycopg_pool import AsyncConnectionPool

from commandbus.models import MaintenanceReport
from commandbus.repositories import PostgresMaintenance
from commandbus.repositories._base import check_pool, settings_of
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
        self._settings = settings_of(check_pool(pool)) if settings is None else settings
        self._steps = PostgresMaintenance(pool)

    async def run(self, on_progress: Progress | None = None) -> MaintenanceReport:
        """Make partitions, and remove everything that the settings do not keep.

        Args:
            on_progress: called after each step that deleted rows, with their kind and their number.

        Returns:
            What was done. It is not complete when another session was at it, or held for longer than a second what
            had to change; then a later run does the rest.
        """
        report = MaintenanceReport()
        is_complete = True
        for part in (self._make_partitions, self._forget_audit, self._prune_commands, self._prune_domains):
            try:
                await part(report, on_progress or _ignore)
            except _BusyError:
                is_complete = False
                break
            except LockNotAvailable:
                is_complete = False  # somebody is in the way of this part; the others need not wait for that
        report = replace(report, is_complete=is_complete)
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

    async def _make_partitions(self, report: MaintenanceReport, _: Progress) -> None:
        report.partitions_made.extend(_unless_busy(await self._steps.make_partitions(MONTHS_AHEAD)))

    async def _forget_audit(self, report: MaintenanceReport, on_progress: Progress) -> None:
        days = self._settings.keep_audit_days
        if days is None:
            return
        deleted = _STEP
        while deleted == _STEP:
            deleted = _unless_busy(await self._steps.prune_audit(days))
            _count(report, "audit", deleted, on_progress)
        while dropped := _unless_busy(await self._steps.drop_partitions(days)):
            report.partitions_dropped.extend(name for name in dropped if name not in report.partitions_dropped)

    async def _prune_commands(self, report: MaintenanceReport, on_progress: Progress) -> None:
        if self._settings.keep_commands_days is not None:
            place = None
            while True:
                step = _unless_busy(await self._steps.prune_commands(self._settings.keep_commands_days, place))
                _count(report, "commands", step.deleted, on_progress)
                place = step.resume_at
                if place is None:
                    break
        if self._settings.keep_payloads_days is not None:
            after = None
            while True:
                deleted, after = _unless_busy(
                    await self._steps.prune_payloads(self._settings.keep_payloads_days, after)
                )
                _count(report, "payloads", deleted, on_progress)
                if after is None:
                    break

    async def _prune_domains(self, report: MaintenanceReport, on_progress: Progress) -> None:
        keep = self._settings
        for kind, days, prune in (
            ("batches", keep.keep_commands_days, self._steps.prune_batches),
            ("archives", keep.keep_archives_days, self._steps.prune_archives),
            ("replies", keep.keep_replies_days, self._steps.prune_replies),
        ):
            if days is None:
                continue
            for domain in await self._steps.list_domains():
                deleted = _STEP
                while deleted >= _STEP:
                    deleted = _unless_busy(await prune(domain, days))
                    _count(report, kind, deleted, on_progress)


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
