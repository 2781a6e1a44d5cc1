"""The schema of commandbus for any test environment: applied, and verified table by table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from commandbus.errors import InvalidArgumentError, MissingTablesError
from commandbus.migrate import MigrateResult, Migration, discover, migrate, validate
from commandbus.migrate.connection import connected, select
from commandbus.testing.targets import reach, teller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from psycopg import Connection

    from commandbus.testing.targets import Output, Target

CORE = "core"
E2E = "e2e"
# The files are the only list of tables there is.
_CREATE_TABLE = re.compile(r"^create table (?:if not exists )?(\w+\.\w+)", re.MULTILINE | re.IGNORECASE)
_NO_E2E = "the files of group e2e are not here: an installed package has none"


@dataclass(frozen=True, slots=True)
class MigrationConfig:
    """What to migrate, and which tables are wanted.

    Attributes:
        target: where the database is; see `Target`.
        tables: names of groups ("core", "e2e") or of tables ("command", "e2e.config"); empty for all there are.
            A migration makes all of its tables, so whoever asks for one gets its group. The core is always made.
        directories: where the migration files are; by default the library's own.
    """

    target: Target
    tables: Sequence[str] = ()
    directories: Path | str | Iterable[Path | str] | None = None


def apply_core_migrations(target: Target, output: Output | None = None) -> MigrateResult:
    """Make the schema ``commandbus``: all that senders and workers need. Arguments and errors as `apply_migrations`."""
    return apply_migrations(MigrationConfig(target, (CORE,)), output)


def apply_all_migrations(target: Target, output: Output | None = None) -> MigrateResult:
    """Make every table there is a file for: without the e2e tables where these have no file, which *output* is told.

    Arguments and errors as `apply_migrations`.
    """
    return apply_migrations(MigrationConfig(target), output)


def apply_migrations(config: MigrationConfig, output: Output | None = None) -> MigrateResult:
    """Apply what is pending, and make sure that the wanted tables are there. Any number of callers may do so at once.

    Args:
        config: where, and which tables.
        output: a text stream that is told the progress, line by line.

    Returns:
        What was applied, and what was there already.

    Raises:
        InvalidArgumentError: there is no such target, table or group, or *output* is no text stream.
        MissingTablesError: a migration was applied once, but its tables are gone; the text names them.
        MigrationError: a migration failed, or does not fit what was applied before.
        DatabaseUnavailableError: the database cannot be reached.
        EmbeddedServerError, ClusterError: as `reach`.
    """
    say = teller(output)
    files = discover(config.directories)
    wanted = _wanted(files, config.tables)
    if not config.tables and not any(migration.is_e2e for migration in files):
        say(_NO_E2E)
    with reach(config.target, output) as url, connected(url) as connection:
        say(f'migrating database "{connection.info.dbname}"')
        result = migrate(
            connection,
            directories=config.directories,
            with_e2e=any(migration.is_e2e for migration in wanted),
            on_progress=lambda migration, seconds: say(f"{migration.script}: applied in {seconds:.2f} s"),
        )
        if result.installed_pgmq is not None:
            say(f"PGMQ {result.installed_pgmq}: installed")
        for migration in result.skipped:
            say(f"{migration.script}: was there already")
        _verify(connection, wanted, say)
    return result


def verify_migrations(
    target: Target,
    *,
    tables: Sequence[str] = (CORE,),
    directories: Path | str | Iterable[Path | str] | None = None,
    output: Output | None = None,
) -> tuple[str, ...]:
    """Return the names of the tables that must be there and are, such as "commandbus.command". Changes nothing.

    Args:
        target: where the database is; see `Target`.
        tables: groups or tables, as in `MigrationConfig`; empty for all there are.
        directories: where the migration files are; by default the library's own.
        output: a text stream that is told the progress, line by line.

    Raises:
        MissingTablesError: some are not there; the text and its ``tables`` name them.
        MigrationError: the tables are there, but the history does not fit the files.
        InvalidArgumentError, DatabaseUnavailableError, EmbeddedServerError, ClusterError: as `apply_migrations`.
    """
    wanted = _wanted(discover(directories), tables)
    with reach(target, output) as url, connected(url) as connection:
        found = _verify(connection, wanted, teller(output))
        validate(connection, directories=directories, with_e2e=any(migration.is_e2e for migration in wanted))
    return found


def _verify(connection: Connection, wanted: Sequence[Migration], say: Callable[[str], None]) -> tuple[str, ...]:
    names = [name for migration in wanted for name in _tables_of(migration)]
    statement = (
        "select name from pg_catalog.unnest(%s::text[]) with ordinality as wanted (name, place)"
        " where pg_catalog.to_regclass(name) is null order by place"
    )
    missing = [str(name) for (name,) in select(connection, statement, (names,))]
    if missing:
        raise MissingTablesError(
            f'database "{connection.info.dbname}" lacks {len(missing)} of {len(names)} tables: {", ".join(missing)}',
            missing,
        )
    say(f"{len(names)} tables verified: {', '.join(names)}")
    return tuple(names)


def _wanted(files: Sequence[Migration], tables: Sequence[str]) -> list[Migration]:
    """Return the migrations that make the tables, and the core's, in order."""
    if isinstance(tables, str):
        raise InvalidArgumentError("tables", "must be a list of names, not one text")
    groups = {CORE} | {_group_of(files, name) for name in tables}
    if not tables:
        groups |= {_group(migration) for migration in files}
    return [migration for migration in files if _group(migration) in groups]


def _group_of(files: Sequence[Migration], wanted: str) -> str:
    """Return the group that a group's or table's name asks for."""
    groups: dict[str, str] = {}
    for migration in files:
        group = groups[_group(migration)] = _group(migration)
        for name in _tables_of(migration):
            groups[name] = groups[name.partition(".")[2]] = group
    if wanted in groups:
        return groups[wanted]
    known = ", ".join(name for name in groups if "." in name or name in (CORE, E2E))
    reason = _NO_E2E if wanted == E2E else f"there is no table or group {wanted!r}"
    raise InvalidArgumentError("tables", f"{reason}; known are: {known}")


def _group(migration: Migration) -> str:
    return E2E if migration.is_e2e else CORE


def _tables_of(migration: Migration) -> list[str]:
    return [name.lower() for name in _CREATE_TABLE.findall(migration.text)]
