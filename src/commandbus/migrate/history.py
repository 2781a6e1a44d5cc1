"""Flyway's table of applied migrations, ``public.flyway_schema_history``: made, read and written as Flyway does."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING, Any, LiteralString

from commandbus.migrate.connection import connected, has_table, select
from commandbus.migrate.files import Key, Migration, is_e2e, key_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from psycopg import Connection

CREATE = """\
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
create index if not exists flyway_schema_history_s_idx on public.flyway_schema_history (success)"""

BASELINE_DESCRIPTION = "<< Flyway Baseline >>"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row.

    Attributes:
        rank: its number; rows are written in this order.
        version: as written there; None for repeatable migrations.
        type: "SQL", "BASELINE", "DELETE", or what else Flyway knows.
        checksum: None where Flyway has none.
        installed_on: UTC. The table has the server's local time without a zone, as Flyway stores it.
        execution_time: milliseconds.
    """

    rank: int
    version: str | None
    description: str
    type: str
    script: str
    checksum: int | None
    installed_on: datetime
    execution_time: int
    success: bool

    @property
    def key(self) -> Key:
        """What tells its migration apart from others."""
        return key_of(self.version, self.description)

    @property
    def is_baseline(self) -> bool:
        """It stands for all versions up to its own; SQL_BASELINE is that of a file, which only Flyway applies."""
        return self.type in ("BASELINE", "SQL_BASELINE")

    @property
    def is_e2e(self) -> bool:
        """For tests only: may be unknown to an installation without the test files."""
        return is_e2e(self.description)


@dataclass(slots=True)
class History:
    """What counts in the table: deleted and undone rows are gone, and each migration has its latest row only.

    Attributes:
        entries: by what tells the migrations apart.
        failed: rows of failed migrations, in their order.
        out_of_order: versions that were applied after a higher one.
        has_migrations: something was applied here, even if it was deleted later.
        baseline: the version that Flyway or `baseline` took over at; None when there is none.
    """

    entries: dict[Key, Entry] = field(default_factory=dict)
    failed: list[Entry] = field(default_factory=list)
    out_of_order: set[Key] = field(default_factory=set)
    has_migrations: bool = False
    baseline: Entry | None = None

    def covers(self, migration: Migration) -> bool:
        """Say whether nothing is left to do: applied as it is, or at or below the baseline."""
        entry = self.entries.get(migration.key)
        if migration.version is None:
            return entry is not None and migration.matches(entry.checksum)
        return entry is not None or self.is_below_baseline(migration)

    def is_below_baseline(self, migration: Migration) -> bool:
        """Say whether the baseline stands for this migration, too."""
        if self.baseline is None or isinstance(migration.key, str):
            return False
        return isinstance(self.baseline.key, tuple) and migration.key <= self.baseline.key


def history_of(rows: Iterable[Entry]) -> History:
    """Return what the rows, in order of their rank, amount to."""
    history = History()
    newest: tuple[int, ...] = ()
    for row in rows:
        if row.type == "DELETE" or row.type.startswith("UNDO"):
            history.entries.pop(row.key, None)
            continue
        history.entries[row.key] = row
        if not row.success:
            history.failed.append(row)
        if row.is_baseline:
            history.baseline = row
        else:
            history.has_migrations = True
        if isinstance(row.key, tuple):
            history.out_of_order.discard(row.key)
            if row.key <= newest:
                history.out_of_order.add(row.key)
            newest = max(newest, row.key)
    return history


def exists(connection: Connection[Any]) -> bool:
    """Say whether there is a table."""
    return has_table(connection, "public", "flyway_schema_history")


def has_history(url: str) -> bool:
    """Say whether a database has the table; any role may ask.

    Raises:
        DatabaseUnavailableError, MigrationError: the catalogs cannot be read.
    """
    with connected(url) as connection:
        return exists(connection)


def create(connection: Connection[Any]) -> None:
    """Make the table as Flyway makes it, when it is missing."""
    if not exists(connection):
        connection.execute(CREATE)


def read(connection: Connection[Any]) -> History:
    """Return what happened to each migration; nothing when there is no table."""
    if not exists(connection):
        return History()
    # A row of type SCHEMA tells of a schema that Flyway made, not of a migration.
    rows = select(
        connection,
        "select installed_rank, version, description, type, script, checksum,"
        " installed_on::timestamptz at time zone 'UTC', execution_time, success"
        " from public.flyway_schema_history where type <> 'SCHEMA' order by installed_rank",
    )
    in_utc = ((*row[:6], row[6].replace(tzinfo=UTC), *row[7:]) for row in rows)
    return history_of(Entry(*row) for row in in_utc)


def last_rank(connection: Connection[Any]) -> int | None:
    """Return the number of the last row, 0 when there is none, or None when there is no table."""
    if not exists(connection):
        return None
    ((rank,),) = select(connection, "select coalesce(max(installed_rank), 0) from public.flyway_schema_history")
    return int(rank)


_INSERT: LiteralString = (
    "insert into public.flyway_schema_history"
    " (installed_rank, version, description, type, script, checksum, installed_by, execution_time, success)"
    " select coalesce(max(installed_rank), 0) + 1, %s::varchar, %s::varchar, %s::varchar, %s::varchar, %s::int,"
    " current_user, %s::int, %s::boolean from public.flyway_schema_history"
)


def record(connection: Connection[Any], migration: Migration, milliseconds: int) -> None:
    """Write that *migration* was applied, in the transaction that applied it."""
    names = (migration.version, migration.description, "SQL", migration.script, migration.checksum)
    connection.execute(_INSERT, (*names, milliseconds, True))


def record_baseline(connection: Connection[Any], version: str, description: str) -> None:
    """Write that everything up to *version* is there already."""
    connection.execute(_INSERT, (version, description, "BASELINE", description, None, 0, True))


def record_deleted(connection: Connection[Any], entry: Entry) -> None:
    """Write that *entry* counts no longer."""
    names = (entry.version, entry.description, "DELETE", entry.script, entry.checksum)
    connection.execute(_INSERT, (*names, 0, entry.success))


def remove_failed(connection: Connection[Any]) -> None:
    """Delete the rows of failed migrations."""
    connection.execute("delete from public.flyway_schema_history where not success")


def realign(connection: Connection[Any], entry: Entry, migration: Migration) -> None:
    """Let *entry* say what the file says. As Flyway does, the script's name stays."""
    connection.execute(
        "update public.flyway_schema_history set description = %s, type = 'SQL', checksum = %s"
        " where installed_rank = %s",
        (migration.description, migration.checksum, entry.rank),
    )
