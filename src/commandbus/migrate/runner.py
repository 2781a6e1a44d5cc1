"""Bring a database to the state the migration files describe, or say what that would take."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from commandbus.errors import InvalidArgumentError, MigrationError
from commandbus.migrate import history
from commandbus.migrate.connection import connected, has_table, locked_transaction, select, translated
from commandbus.migrate.files import CORE_SCRIPT, SCHEMA_VERSION, Migration, discover, version_order
from commandbus.migrate.pgmq_install import ensure_pgmq, needed_pgmq
from commandbus.migrate.placeholders import NO_PLACEHOLDERS, Placeholders
from commandbus.migrate.script import psql_script
from commandbus.migrate.statements import check_statements
from commandbus.migrate.states import MigrationInfo, MigrationState, all_states, problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from psycopg import Connection

    from commandbus.migrate.history import History

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """What `migrate` would do now.

    Attributes:
        migrations: what it would apply, in order.
        installs_pgmq: version of the PGMQ that it would install, or None.
        sql: a script for psql that does the same, history included.
    """

    migrations: tuple[Migration, ...]
    installs_pgmq: str | None
    sql: str = field(repr=False)


def migrate(
    url_or_connection: str | Connection[Any],
    *,
    directories: Path | str | Iterable[Path | str] | None = None,
    target: str | None = None,
    with_e2e: bool = False,
    placeholders: Mapping[str, str] | None = NO_PLACEHOLDERS,
    on_progress: Callable[[Migration, float], None] | None = None,
) -> MigrateResult:
    """Apply every pending migration, each in one transaction together with its row in the history.

    Versions come first, in their order, then the repeatable migrations that are new or have changed. Any number of
    processes may do so at once: one applies, the others wait and find it done. PGMQ is installed before, where the
    server neither has nor offers it.

    Args:
        url_or_connection: a PostgreSQL URL or key=value list, or an idle connection in autocommit mode.
        directories: where the files are; by default the library's own.
        target: the last version to apply; by default the newest.
        with_e2e: also the files for tests, whose descriptions begin with "e2e", in whatever order they come.
        placeholders: values for ``${name}`` in files; None leaves that text alone.
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
    _check_wanted(files, target, with_e2e)
    applied: list[Migration] = []
    installed_pgmq: str | None = None
    with connected(url_or_connection) as connection:
        values = Placeholders(connection, placeholders)
        files = values.settle(files)
        wanted = _wanted(files, target, with_e2e)
        pending = _pending(connection, files, wanted)
        texts = [_text(values, migration) for migration in pending]  # all of them, before anything is changed
        if pending:
            installed_pgmq = _prepare(connection)
        for migration, text in zip(pending, texts, strict=True):
            seconds = _apply(connection, migration, text, files)
            if seconds is not None:
                applied.append(migration)
                if on_progress is not None:
                    on_progress(migration, seconds)
    skipped = tuple(migration for migration in wanted if migration not in applied)
    return MigrateResult(tuple(applied), skipped, installed_pgmq)


def plan(
    url_or_connection: str | Connection[Any],
    *,
    directories: Path | str | Iterable[Path | str] | None = None,
    target: str | None = None,
    with_e2e: bool = False,
    placeholders: Mapping[str, str] | None = NO_PLACEHOLDERS,
) -> MigrationPlan:
    """Return what `migrate` with the same arguments would do now; nothing is changed or locked.

    Raises:
        As `migrate`, but for what only running the files shows.
    """
    files = discover(directories)
    _check_wanted(files, target, with_e2e)
    with connected(url_or_connection) as connection:
        values = Placeholders(connection, placeholders)
        files = values.settle(files)
        pending = _pending(connection, files, _wanted(files, target, with_e2e))
        pgmq = needed_pgmq(connection) if pending else None
        texts = [(migration, _text(values, migration)) for migration in pending]
        sql = psql_script(connection.info.dbname, pgmq, texts, last_rank=history.last_rank(connection))
    return MigrationPlan(tuple(pending), None if pgmq is None else pgmq.version, sql)


def info(
    url_or_connection: str | Connection[Any],
    *,
    directories: Path | str | Iterable[Path | str] | None = None,
    with_e2e: bool = False,
    placeholders: Mapping[str, str] | None = NO_PLACEHOLDERS,
) -> list[MigrationInfo]:
    """Return how each file, and each recorded migration without a file, stands; in the order they are applied.

    Raises:
        As `migrate`, except for what the history says: that is in the states.
    """
    files, past = _look(url_or_connection, discover(directories), placeholders)
    return all_states(files, past, with_e2e=with_e2e)


def validate(
    url_or_connection: str | Connection[Any],
    *,
    directories: Path | str | Iterable[Path | str] | None = None,
    with_e2e: bool = False,
    placeholders: Mapping[str, str] | None = NO_PLACEHOLDERS,
) -> list[MigrationInfo]:
    """Make sure that the database has exactly what the files say; return what `info` returns.

    Raises:
        MigrationError: a migration is pending, changed, failed or unknown; the text names each.
    """
    files, past = _look(url_or_connection, discover(directories), placeholders)
    found = all_states(files, past, with_e2e=with_e2e)
    todo = {
        MigrationState.PENDING: "is not applied",
        MigrationState.OUTDATED: "was changed and is not applied again",
    }
    unfinished = (f'{row.script} {todo[row.state]}: run "commandbus migrate"' for row in found if row.state in todo)
    wrong = [*problems(files, past), *unfinished]
    if wrong:
        raise MigrationError(*wrong)
    return found


def _look(
    url_or_connection: str | Connection[Any], files: list[Migration], placeholders: Mapping[str, str] | None
) -> tuple[list[Migration], History]:
    with connected(url_or_connection) as connection:
        return Placeholders(connection, placeholders).settle(files), history.read(connection)


def _check_wanted(files: list[Migration], target: str | None, with_e2e: bool) -> None:
    if with_e2e and not any(migration.is_e2e for migration in files):
        raise InvalidArgumentError("with_e2e", "there is no migration for tests; installed packages have none")
    if target is None:
        return
    try:
        last = version_order(target)
    except ValueError:
        last = ()
    if last not in {migration.key for migration in files}:
        raise InvalidArgumentError("target", f"no migration has version {target!r}")


def _wanted(files: list[Migration], target: str | None, with_e2e: bool) -> list[Migration]:
    """Choose among the files. Repeatable ones have no version and come with every target, as in Flyway."""
    wanted = [migration for migration in files if with_e2e or not migration.is_e2e]
    if target is None:
        return wanted
    last = version_order(target)
    return [migration for migration in wanted if isinstance(migration.key, str) or migration.key <= last]


def _pending(connection: Connection[Any], files: list[Migration], wanted: list[Migration]) -> list[Migration]:
    # Before the history is read: both come with one commit, perhaps now.
    is_made = has_table(connection, "commandbus", "command")
    past = history.read(connection)
    _check(files, past)
    if is_made and not past.entries and any(migration.script == CORE_SCRIPT for migration in wanted):
        raise MigrationError(
            "schema commandbus is there, but its history, public.flyway_schema_history, is not:"
            f' run "commandbus migrate baseline --version {SCHEMA_VERSION}", once "commandbus verify" is content'
        )
    return [migration for migration in wanted if not past.covers(migration)]


def _text(values: Placeholders, migration: Migration) -> str:
    text = values.sql(migration)
    check_statements(migration, text)
    return text


def _check(files: list[Migration], past: History) -> None:
    if wrong := list(problems(files, past)):
        raise MigrationError(*wrong)


def _prepare(connection: Connection[Any]) -> str | None:
    with locked_transaction(connection):
        history.create(connection)
        return ensure_pgmq(connection)


def _apply(connection: Connection[Any], migration: Migration, text: str, files: list[Migration]) -> float | None:
    """Apply one file; return its seconds, or None when somebody was faster."""
    with translated(migration.script), locked_transaction(connection):
        past = history.read(connection)
        _check(files, past)
        if past.covers(migration):
            return None
        transaction = _transaction_id(connection)
        started = time.monotonic()
        with translated(migration.script, text=text):
            connection.execute(text.encode(), prepare=False)
        seconds = time.monotonic() - started
        if _transaction_id(connection) != transaction:  # cannot be, as check_statements has read the text
            raise MigrationError(f"{migration.script} ends its own transaction: remove its commit or rollback")
        history.record(connection, migration, round(seconds * 1000))
    facts = {"script": migration.script, "seconds": round(seconds, 3)}
    logger.info("Migration applied.", extra=facts)
    return seconds


def _transaction_id(connection: Connection[Any]) -> int:
    ((number,),) = select(connection, "select pg_catalog.pg_current_xact_id()::text::bigint")
    return int(number)
