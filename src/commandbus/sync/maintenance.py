# Printed from ../maintenance.py by tools/async_to_sync.py; edit that file.
"""Keeps a database from growing for ever: the audit's partitions are made ahead, and what is old enough goes."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from psycopg.errors import LockNotAvailable
from psycopg_pool import ConnectionPool

from commandbus.models import MaintenanceReport
from commandbus.settings import CommandBusSettings
from commandbus.sync.repositories import PostgresMaintenance
from commandbus.sync.repositories._base import check_pool, settings_of

logger = logging.getLogger(__name__)

MONTHS_AHEAD = 3
STEP = 10_000
"""Most rows that a step removes, but for a batch, which goes as a whole."""

Progress = Callable[[str, int], None]
T = TypeVar("T")


class _BusyError(Exception):
    """Another session maintains the database."""


class Maintenance:
    """Does the housekeeping of one database, in steps of up to 10,000 rows, each a transaction of its own.

    No command that waits, runs or is with an operator is ever removed, though its audit goes with its month; and no
    sender or worker is held up. Workers do this by themselves; `commandbus maintain` does it from cron.

    Args:
        pool: a `CommandBusPool`, or any psycopg pool on a migrated database.
        settings: whose ``keep_…_days`` say what to remove; the pool's when None.
    """

    def __init__(self, pool: ConnectionPool[Any], settings: CommandBusSettings | None = None) -> None:
        self._settings = settings_of(check_pool(pool)) if settings is None else settings
        self._pool = pool
        self._steps = PostgresMaintenance(pool)

    def run(self, on_progress: Progress | None = None, *, dry_run: bool = False) -> MaintenanceReport:
        """Make partitions, and remove everything that the settings do not keep.

        Args:
            on_progress: called after each step that deleted rows, with their kind and their number.
            dry_run: undo the first step of each kind at once, and take no other.

        Returns:
            What was done, or what the first steps would do. It is not complete when another session was at it, or held
            for longer than a second what had to change; then a later run does the rest.
        """
        report = MaintenanceReport()
        is_complete = True
        for part in (_make_partitions, _forget_throughput, _forget_audit, _prune_commands, _prune_domains):
            try:
                if dry_run:
                    with self._pool.connection() as connection, connection.transaction(force_rollback=True):
                        part(_Round(self._steps.on(connection), self._settings, report, on_progress, dry_run))
                else:
                    part(_Round(self._steps, self._settings, report, on_progress, dry_run))
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
                "dry_run": dry_run,
            },
        )
        return report


@dataclass(frozen=True, slots=True)
class _Round:
    """One part of a run."""

    steps: PostgresMaintenance
    keep: CommandBusSettings
    report: MaintenanceReport
    on_progress: Progress | None
    dry_run: bool

    def walk(self, kind: str, days: int | None, prune: Callable[[int, Any], Any]) -> None:
        """Prune from place to place, until there is no next one."""
        place = None
        while days is not None:
            deleted, place = _unless_busy(prune(days, place))
            self._count(kind, deleted)
            if place is None or self.dry_run:
                break

    def empty(self, kind: str, prune: Callable[[], int | None]) -> None:
        """Prune until a step finds less than it could take."""
        deleted = STEP
        while deleted >= STEP:
            deleted = _unless_busy(prune())
            self._count(kind, deleted)
            if self.dry_run:
                break

    def _count(self, kind: str, rows: int) -> None:
        self.report.deleted[kind] = self.report.deleted.get(kind, 0) + rows
        if rows and self.on_progress is not None:
            self.on_progress(kind, rows)


def _make_partitions(now: _Round) -> None:
    now.report.partitions_made.extend(_unless_busy(now.steps.make_partitions(MONTHS_AHEAD)))


def _forget_throughput(now: _Round) -> None:
    while now.steps.prune_throughput() >= STEP and not now.dry_run:
        pass


def _forget_audit(now: _Round) -> None:
    days = now.keep.keep_audit_days
    if days is None:
        return
    now.empty("audit", partial(now.steps.prune_audit, days))
    while dropped := _unless_busy(now.steps.drop_partitions(days)):
        new = [name for name in dropped if name not in now.report.partitions_dropped]
        now.report.partitions_dropped.extend(new)
        if now.dry_run and not new:
            break  # all have been emptied, and are dropped next


def _prune_commands(now: _Round) -> None:
    now.walk("commands", now.keep.keep_commands_days, now.steps.prune_commands)
    now.walk("payloads", now.keep.keep_payloads_days, now.steps.prune_payloads)
    if now.keep.keep_commands_days is not None:
        now.empty("redrives", partial(now.steps.prune_redrives, now.keep.keep_commands_days))


def _prune_domains(now: _Round) -> None:
    for kind, days, prune in (
        ("batches", now.keep.keep_commands_days, now.steps.prune_batches),
        ("archives", now.keep.keep_archives_days, now.steps.prune_archives),
        ("replies", now.keep.keep_replies_days, now.steps.prune_replies),
    ):
        if days is not None:
            for domain in now.steps.list_domains():
                now.empty(kind, partial(prune, domain, days))


def _unless_busy(found: T | None) -> T:
    if found is None:
        raise _BusyError
    return found
