"""Repair the history of migrations, or begin one in a database that was made by other means; as Flyway does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from commandbus.errors import InvalidArgumentError, MigrationError
from commandbus.migrate import history
from commandbus.migrate.connection import connected, locked_transaction, select
from commandbus.migrate.files import LONGEST_DESCRIPTION, LONGEST_VERSION, discover, version_order
from commandbus.migrate.placeholders import NO_PLACEHOLDERS, Placeholders
from commandbus.migrate.states import is_missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from psycopg import Connection

    from commandbus.migrate.files import Migration
    from commandbus.migrate.history import Entry, History


@dataclass(frozen=True, slots=True)
class RepairResult:
    """What `repair` changed in the history; the names of scripts, as they stand there.

    Attributes:
        removed: rows of failed migrations.
        deleted: migrations without a file, which count as never applied from now on.
        realigned: migrations whose checksum or description now is that of their file.
    """

    removed: tuple[str, ...]
    deleted: tuple[str, ...]
    realigned: tuple[str, ...]


def repair(
    url_or_connection: str | Connection[Any],
    *,
    directories: Path | str | Iterable[Path | str] | None = None,
    placeholders: Mapping[str, str] | None = NO_PLACEHOLDERS,
) -> RepairResult:
    """Make the history agree with the files, without running any.

    As in Flyway, what a failed or deleted migration left in the database stays there, and versions newer than all
    files stay in the history. So do those for tests.

    Args:
        url_or_connection: as for `migrate`.
        directories: where the files are; by default the library's own.
        placeholders: as for `migrate`; they count in the checksums of repeatable migrations.

    Raises:
        As `migrate`.
    """
    files = discover(directories)
    with connected(url_or_connection) as connection:
        files = Placeholders(connection, placeholders).settle(files)
        if not history.exists(connection):
            return RepairResult((), (), ())
        with locked_transaction(connection):
            removed = history.read(connection).failed
            history.remove_failed(connection)
            past = history.read(connection)
            deleted = [entry for entry in past.entries.values() if is_missing(entry, files)]
            for entry in deleted:
                history.record_deleted(connection, entry)
            realigned = list(_misaligned(files, past))
            for migration, entry in realigned:
                history.realign(connection, entry, migration)
    return RepairResult(
        tuple(entry.script for entry in removed),
        tuple(entry.script for entry in deleted),
        tuple(entry.script for _, entry in realigned),
    )


def _misaligned(files: list[Migration], past: History) -> Iterable[tuple[Migration, Entry]]:
    for migration in files:
        entry = past.entries.get(migration.key)
        if entry is None or entry.is_baseline:
            continue
        same = (entry.type, entry.description, entry.checksum) == ("SQL", migration.description, migration.checksum)
        # A repeatable migration that has changed is no mistake: it will be applied again.
        if not same and (migration.version is not None or migration.matches(entry.checksum)):
            yield migration, entry


def baseline(
    url_or_connection: str | Connection[Any],
    *,
    version: str = "1",
    description: str = history.BASELINE_DESCRIPTION,
    directories: Path | str | Iterable[Path | str] | None = None,
) -> bool:
    """Let a database that has no history yet begin one: everything up to *version* counts as applied.

    Args:
        url_or_connection: as for `migrate`.
        version: the last one that the database has already; "0" for none.
        description: what the history says of it.
        directories: where the files are whose versions these are; by default the library's own.

    Returns:
        False when the same baseline is there already.

    Raises:
        MigrationError: there is another baseline, or migrations were applied; or the version is one of the library's,
            and there is no schema ``commandbus`` that it could stand for.
        InvalidArgumentError: *version* is none, or *description* is empty or too long.
    """
    if not re.fullmatch(r"[0-9]+(?:[._][0-9]+)*", version) or len(version) > LONGEST_VERSION:
        raise InvalidArgumentError("version", f"{version[:LONGEST_VERSION]!r} is not a version, such as 1 or 2.1")
    if not 0 < len(description) <= LONGEST_DESCRIPTION:
        raise InvalidArgumentError("description", f"must have 1 to {LONGEST_DESCRIPTION} characters")
    version = version.replace("_", ".")
    discover(directories)
    with connected(url_or_connection) as connection, locked_transaction(connection):
        past = history.read(connection)
        if past.baseline is not None:
            _check_same(past.baseline, version, description)
            return False
        if past.has_migrations:
            raise MigrationError("the history has migrations already, so it cannot begin with a baseline")
        if directories is None and version_order(version) > (0,) and not _has_schema(connection):
            raise MigrationError(
                f"there is no schema commandbus, so version {version} cannot be there already:"
                ' run "commandbus migrate", which needs no baseline'
            )
        history.create(connection)
        history.record_baseline(connection, version, description)
    return True


def _has_schema(connection: Connection[Any]) -> bool:
    return bool(select(connection, "select from pg_catalog.pg_namespace where nspname = 'commandbus'"))


def _check_same(found: Entry, version: str, description: str) -> None:
    if found.key != version_order(version) or found.description != description:
        raise MigrationError(f'the history has a baseline already: version {found.version}, "{found.description}"')
