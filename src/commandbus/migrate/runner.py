"""Bring a database to the state the migration files describe, or say how far it is from there."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from commandbus.errors import InvalidArgumentError, MigrationError
from commandbus.migrate import history
from commandbus.migrate.connection import connected, locked_transaction, select, translated
from commandbus.migrate.files import Migration, discover, version_order
from commandbus.migrate.pgmq_install import ensure_pgmq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from pathlib import Path

    from psycopg import Connection

logger = logging.getLogger(__name__)


class MigrationState(StrEnum):
    """How a migration stands in one database."""

    APPLIED = "applied"
    PENDING = "pending"
    OPTIONAL = "optional"  # for tests only, and not asked for
    BASELINE = "baseline"  # at or below the version Flyway took over at
    CHANGED = "changed"  # the file is not what was applied
    FAILED = "failed"  # Flyway recorded a failure
    UNKNOWN = "unknown"  # applied, but there is no file


@dataclass(frozen=True, slots=True)
class MigrationInfo:
    """One migration, seen from the files and the database.

    Attributes:
        checksum: of the file, or of the history where there is no file.
        installed_on: server's local time without zone; None while not applied.
        execution_time: milliseconds; None while not applied.
    """

    version: str
    description: str
    script: str
    state: MigrationState
    checksum: int | None
    installed_on: datetime | None = None
    execution_time: int | None = None


@dataclass(frozen=True, slots=True)
class MigrateResult:
    """What `migrate` did.

    Attributes:
        applied: the migrations that this call applied, in order.
        skipped: those that were there already, or that another process applied meanwhile.
        installed_pgmq: version of the PGMQ that this call installed, or None.
    """

    applied: tuple[Migration, ...]
    skipped: tuple[Migration, ...]
    installed_pgmq: str | None


def migrate(
    url_or_connection: str | Connection[Any],
    *,
    directories: Path | str | Iterable[Path | str] | None = None,
    target: str | None = None,
    with_e2e: bool = False,
    on_progress: Callable[[Migration, float], None] | None = None,
) -> MigrateResult:
    """Apply every pending migration, each in one transaction together with its row in the history.

    Any number of processes may do so at once: one applies, the others wait and find it done. PGMQ comes
    first, where the server neither has nor offers it.

    Args:
        url_or_connection: a PostgreSQL URL or key=value list, or an idle connection in autocommit mode.
        directories: where the files are; by default the library's own.
        target: the last version to apply; by default the newest.
        with_e2e: also the files for tests, whose descriptions begin with "e2e".
        on_progress: called after each commit with the migration and its seconds.

    Returns:
        What was applied and what was not.

    Raises:
        MigrationError: a file cannot be read or applied, or does not fit the history; the database is as the
            last complete file left it.
        PgmqTooOldError, PgmqMissingError: PGMQ cannot be used or installed.
        DatabaseUnavailableError: there is no connection, or it was lost.
        ReadOnlyServerError, ServerTooOldError: this server cannot be migrated.
        InvalidArgumentError: *target* is no known version, or *url_or_connection* is unusable.
    """
    files = discover(directories)
    wanted = _select_wanted(files, target, with_e2e)
    applied: list[Migration] = []
    installed_pgmq: str | None = None
    with connected(url_or_connection) as connection:
        entries = history.read(connection)
        history.check(files, entries)
        pending = [migration for migration in wanted if not history.is_covered(migration, entries)]
        if pending:
            installed_pgmq = _prepare(connection)
        for migration in pending:
            seconds = _apply(connection, migration, files)
            if seconds is not None:
                applied.append(migration)
                if on_progress is not None:
                    on_progress(migration, seconds)
    skipped = tuple(migration for migration in wanted if migration not in applied)
    return MigrateResult(tuple(applied), skipped, installed_pgmq)


def info(
    url_or_connection: str | Connection[Any],
    *,
    directories: Path | str | Iterable[Path | str] | None = None,
    with_e2e: bool = False,
) -> list[MigrationInfo]:
    """Return how each file, and each recorded version without a file, stands; in version order.

    Raises:
        As `migrate`, except for what the history says: that is in the states.
    """
    return _info(url_or_connection, discover(directories), with_e2e)


def validate(
    url_or_connection: str | Connection[Any],
    *,
    directories: Path | str | Iterable[Path | str] | None = None,
    with_e2e: bool = False,
) -> list[MigrationInfo]:
    """Make sure that the database has exactly what the files say; return what `info` returns.

    Raises:
        MigrationError: a migration is pending, changed, failed or unknown; the text names it.
    """
    files = discover(directories)
    with connected(url_or_connection) as connection:
        history.check(files, history.read(connection))
        found = _info(connection, files, with_e2e)
    for migration in found:
        if migration.state is MigrationState.PENDING:
            raise MigrationError(f'{migration.script} is not applied: run "commandbus migrate"')
    return found


def _info(url_or_connection: str | Connection[Any], files: list[Migration], with_e2e: bool) -> list[MigrationInfo]:
    with connected(url_or_connection) as connection:
        entries = history.read(connection)
    found = {migration.order: _file_info(migration, entries, with_e2e) for migration in files}
    found |= {order: _entry_info(entry) for order, entry in entries.items() if order not in found}
    return [found[order] for order in sorted(found)]


def _file_info(migration: Migration, entries: history.Entries, with_e2e: bool) -> MigrationInfo:
    names = (migration.version, migration.description, migration.script)
    entry = entries.get(migration.order)
    if entry is None:
        if history.is_covered(migration, entries):
            state = MigrationState.BASELINE
        else:
            optional = migration.is_e2e and not with_e2e
            state = MigrationState.OPTIONAL if optional else MigrationState.PENDING
        return MigrationInfo(*names, state, migration.checksum)
    if not entry.success:
        state = MigrationState.FAILED
    elif entry.kind == "BASELINE":
        state = MigrationState.BASELINE
    else:
        same = entry.checksum in (None, migration.checksum)
        state = MigrationState.APPLIED if same else MigrationState.CHANGED
    return MigrationInfo(*names, state, migration.checksum, entry.installed_on, entry.execution_time)


def _entry_info(entry: history.Entry) -> MigrationInfo:
    state = MigrationState.BASELINE if entry.kind == "BASELINE" else MigrationState.UNKNOWN
    names = (entry.version, entry.description, entry.script)
    return MigrationInfo(*names, state, entry.checksum, entry.installed_on, entry.execution_time)


def _select_wanted(files: list[Migration], target: str | None, with_e2e: bool) -> list[Migration]:
    if with_e2e and not any(migration.is_e2e for migration in files):
        raise InvalidArgumentError("with_e2e", "there is no migration for tests; installed packages have none")
    wanted = [migration for migration in files if with_e2e or not migration.is_e2e]
    if target is None:
        return wanted
    try:
        last = version_order(target)
    except ValueError:
        last = ()
    if last not in {migration.order for migration in files}:
        raise InvalidArgumentError("target", f"no migration has version {target!r}")
    return [migration for migration in wanted if migration.order <= last]


def _prepare(connection: Connection[Any]) -> str | None:
    with locked_transaction(connection):
        history.create(connection)
        return ensure_pgmq(connection)


def _apply(connection: Connection[Any], migration: Migration, files: list[Migration]) -> float | None:
    """Apply one file; return its seconds, or None when somebody was faster."""
    with translated(migration.script), locked_transaction(connection):
        entries = history.read(connection)
        history.check(files, entries)
        if history.is_covered(migration, entries):
            return None
        transaction = _transaction_id(connection)
        started = time.monotonic()
        with translated(migration.script, text=migration.text):
            connection.execute(migration.text.encode(), prepare=False)
        seconds = time.monotonic() - started
        if _transaction_id(connection) != transaction:
            raise MigrationError(f"{migration.script} ends its own transaction: remove its commit or rollback")
        history.record(connection, migration, round(seconds * 1000))
    facts = {"script": migration.script, "seconds": round(seconds, 3)}
    logger.info("Migration applied.", extra=facts)
    return seconds


def _transaction_id(connection: Connection[Any]) -> int:
    ((number,),) = select(connection, "select pg_catalog.pg_current_xact_id()::text::bigint")
    return int(number)
