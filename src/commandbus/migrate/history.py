"""Flyway's table of applied migrations, ``public.flyway_schema_history``: made, read, written and judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from commandbus.errors import MigrationError
from commandbus.migrate.connection import select
from commandbus.migrate.files import Migration, is_e2e, version_order

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from psycopg import Connection

_CREATE = """
create table if not exists public.flyway_schema_history (
    installed_rank int           not null,
    version        varchar(50),
    description    varchar(200)  not null,
    type           varchar(20)   not null,
    script         varchar(1000) not null,
    checksum       int,
    installed_by   varchar(100)  not null,
    installed_on   timestamp     not null default now(),
    execution_time int           not null,
    success        boolean       not null,
    constraint flyway_schema_history_pk primary key (installed_rank)
);
create index if not exists flyway_schema_history_s_idx on public.flyway_schema_history (success)
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row about a version.

    Attributes:
        version: as written there.
        kind: "SQL", "BASELINE", or what else Flyway knows.
        checksum: None where Flyway has none.
        installed_on: server's local time, without zone, as Flyway stores it.
        execution_time: milliseconds.
    """

    version: str
    description: str
    kind: str
    script: str
    checksum: int | None
    installed_on: datetime
    execution_time: int
    success: bool

    @property
    def is_e2e(self) -> bool:
        """For tests only: may be unknown to an installation without the test files."""
        return is_e2e(self.description)


Entries = dict[tuple[int, ...], Entry]


def create(connection: Connection[Any]) -> None:
    """Make the table as Flyway makes it, when it is missing."""
    ((found,),) = select(connection, "select pg_catalog.to_regclass('public.flyway_schema_history') is not null")
    if not found:
        connection.execute(_CREATE)


def read(connection: Connection[Any]) -> Entries:
    """Return what happened to each version, by `version_order`; nothing when there is no table."""
    ((found,),) = select(connection, "select pg_catalog.to_regclass('public.flyway_schema_history') is not null")
    if not found:
        return {}
    rows = select(
        connection,
        "select version, description, type, script, checksum, installed_on, execution_time, success"
        " from public.flyway_schema_history where version is not null order by installed_rank",
    )
    entries: Entries = {}
    for row in rows:
        entry = Entry(*row)
        order = version_order(entry.version)
        if entry.kind == "DELETE" or entry.kind.startswith("UNDO"):
            entries.pop(order, None)
        else:
            entries[order] = entry
    return entries


def record(connection: Connection[Any], migration: Migration, milliseconds: int) -> None:
    """Write that *migration* was applied, in the transaction that applied it."""
    connection.execute(
        "insert into public.flyway_schema_history"
        " (installed_rank, version, description, type, script, checksum,"
        "  installed_by, execution_time, success)"
        " select coalesce(max(installed_rank), 0) + 1, %s::varchar, %s::varchar, 'SQL', %s::varchar, %s::int,"
        " current_user, %s::int, true from public.flyway_schema_history",
        (migration.version, migration.description, migration.script, migration.checksum, milliseconds),
    )


def is_covered(migration: Migration, entries: Mapping[tuple[int, ...], Entry]) -> bool:
    """Say whether nothing is left to do: the version was applied, or lies below Flyway's baseline."""
    baselines = [order for order, entry in entries.items() if entry.kind == "BASELINE"]
    return migration.order in entries or any(migration.order <= order for order in baselines)


def check(files: Sequence[Migration], entries: Entries) -> None:
    """Make sure that the database and the files tell the same story.

    Raises:
        MigrationError: a migration failed under Flyway, was changed after it was applied, is unknown here, or
            would have to be applied below one that is there already.
    """
    known = {migration.order: migration for migration in files}
    for order, entry in entries.items():
        if not entry.success:
            raise MigrationError(f"{entry.script} failed when it was applied: repair the database and the history")
        migration = known.get(order)
        if migration is not None:
            _check_unchanged(migration, entry)
        elif entry.kind != "BASELINE" and not entry.is_e2e:
            raise MigrationError(_unknown(entry, files))
    newest = max((order for order, entry in entries.items() if not entry.is_e2e), default=())
    for migration in files:
        if migration.order < newest and not migration.is_e2e and not is_covered(migration, entries):
            raise MigrationError(f"{migration.script} is older than what the database has, but was never applied")


def _check_unchanged(migration: Migration, entry: Entry) -> None:
    if entry.kind == "SQL" and entry.checksum is not None and entry.checksum != migration.checksum:
        raise MigrationError(
            f"{migration.script} was changed after it was applied: its checksum is {migration.checksum}, "
            f"the history has {entry.checksum}"
        )


def _unknown(entry: Entry, files: Sequence[Migration]) -> str:
    first, last = files[0], files[-1]
    supported = f"versions {first.version} to {last.version} are supported"
    if version_order(entry.version) > last.order:
        return f"the database is newer than this installation: it has version {entry.version}, {supported}"
    return f"the database has version {entry.version} ({entry.script}), which has no file: {supported}"
