"""A migration as a script for psql, which leaves a database and its history as the runner would."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from commandbus.migrate.connection import LOCK_KEY, OPENING
from commandbus.migrate.history import CREATE
from commandbus.migrate.psql_text import as_psql_reads_it

if TYPE_CHECKING:
    from collections.abc import Sequence

    from commandbus.migrate.files import Migration
    from commandbus.migrate.pgmq_install import PgmqSql

_LOCK = f"do 'begin perform pg_catalog.pg_advisory_xact_lock({LOCK_KEY}); end'"  # select would print a row
_BEGIN = "".join(f"{statement};\n" for statement in ("begin", *OPENING, _LOCK))
# For people who run a script late, or twice.
_CHECK = """\
do $check$
declare
    v_rank int;  -- of the last row; null where there is no history
begin
    if pg_catalog.to_regclass('public.flyway_schema_history') is not null then
        select coalesce(max(installed_rank), 0) into v_rank from public.flyway_schema_history;
    end if;
    if v_rank is distinct from {rank} then
        raise exception 'the history is not as it was when this script was printed: print it again';
    end if;
end $check$;
"""
# Written first, and with its rank: where somebody migrated meanwhile, the file is refused before it begins.
_RECORD = sql.SQL(
    "insert into public.flyway_schema_history\n"
    "    (installed_rank, version, description, type, script, checksum, installed_by, execution_time, success)\n"
    "    values ({}, {}, {}, 'SQL', {}, {}, current_user, 0, true);\n"
)
_TIME = (
    "update public.flyway_schema_history set execution_time ="
    " extract(epoch from clock_timestamp() - transaction_timestamp()) * 1000 where installed_rank = {};\n"
)
# A file may end in a comment, or without a semicolon.
_END_OF_FILE = "\n;\n"


def psql_script(
    database: str, pgmq: PgmqSql | None, migrations: Sequence[tuple[Migration, str]], *, last_rank: int | None
) -> str:
    """Return the script.

    Args:
        database: its name, for the comment.
        pgmq: what to install before.
        migrations: what to apply, each with the SQL to run.
        last_rank: of the history's rows; None when there is no history.

    Raises:
        MigrationError: psql would take a part of a file for a command of its own.
    """
    head = f"-- commandbus: what is pending in database {database!r}.\n"
    if not migrations:
        return f"{head}-- Nothing is.\n"
    check = _CHECK.format(rank="null" if last_rank is None else last_rank)
    parts = [f"{head}\\set ON_ERROR_STOP on\n{check}"]
    if last_rank is None or pgmq is not None:
        parts.append(_preparation(pgmq))
    parts += [_one_file(*each, rank) for rank, each in enumerate(migrations, (last_rank or 0) + 1)]
    return "\n".join(parts)


def _preparation(pgmq: PgmqSql | None) -> str:
    text = f"-- The history, as Flyway makes it.\n{_BEGIN}{CREATE};\n"
    if pgmq is not None:
        path = "set local search_path = pg_catalog, pg_temp;\n"
        text += f"\n-- PGMQ {pgmq.version}\n{path}{pgmq.text}{_END_OF_FILE}{pgmq.note};\n"
    return f"{text}commit;\n"


def _one_file(migration: Migration, text: str, rank: int) -> str:
    names = (migration.version, migration.description, migration.script, migration.checksum)
    record = _RECORD.format(rank, *names).as_string(None)
    name = " ".join(migration.script.splitlines())  # whatever a directory is called
    text = as_psql_reads_it(migration, text)
    return f"-- {name}\n{_BEGIN}{record}{text}{_END_OF_FILE}{_TIME.format(rank)}reset search_path;\ncommit;\n"
