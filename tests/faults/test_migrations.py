"""Migrating under fire: many processes at once, and a process killed at every statement of the packaged files.

COMMANDBUS_MIGRATION_ROUNDS sets how often 32 processes meet (50 for a night), and COMMANDBUS_MIGRATION_STEP at every
how manieth statement a process is killed (1 for a night).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from commandbus import _postmaster as postmaster
from commandbus.migrate import migrate, validate
from commandbus.migrate.connection import connected, locked_transaction
from commandbus.migrate.history import create
from commandbus.migrate.pgmq_install import ensure_pgmq
from tests.cli_process import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import Server

PROCESSES = 32
ROUNDS = int(os.environ.get("COMMANDBUS_MIGRATION_ROUNDS", "3"))
STEP = int(os.environ.get("COMMANDBUS_MIGRATION_STEP", "15"))

# Forks processes that have loaded everything and wait for the end of a pipe, so that they begin at the same moment.
MANY = """
import os, sys
from commandbus.migrate import migrate
url, many = sys.argv[1], int(sys.argv[2])
wait, go = os.pipe()
children = []
for _ in range(many):
    pid = os.fork()
    if pid == 0:
        os.close(go)
        os.read(wait, 1)
        code = 99
        try:
            code = len(migrate(url, with_e2e=True).applied)
        finally:
            os._exit(code)
    children.append(pid)
os.close(go)
print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))
"""
ONE = "import sys; from commandbus.migrate import migrate; migrate(sys.argv[1], with_e2e=True)"

# Counts the statements that define something, in a sequence, which no rollback turns back; stops at one of them.
GATE = """
create schema gate;
create sequence gate.passed;
create table gate.closed (at bigint);
create function gate.pass() returns event_trigger language plpgsql as $$
begin
    if nextval('gate.passed') = (select at from gate.closed) then
        perform pg_advisory_xact_lock(4711);
    end if;
end $$;
create event trigger gate on ddl_command_start execute function gate.pass();
"""


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a statement, none when it returns none."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def history(url: str) -> list[tuple[Any, ...]]:
    """Return the history without its times."""
    return rows(url, "select installed_rank, version, checksum, success from public.flyway_schema_history order by 1")


@pytest.mark.timeout(120 + 10 * ROUNDS)
def test_of_many_processes_at_once_one_applies_each_file_and_none_fails(server: Server) -> None:
    for _ in range(ROUNDS):
        with server.database() as url:
            command = (sys.executable, "-c", MANY, url, str(PROCESSES))
            done = subprocess.run(command, env=environment(None), capture_output=True, text=True, check=False)
            applied = [int(code) for code in done.stdout.split()]
            assert len(applied) == PROCESSES, done.stderr
            assert sum(applied) == 2, done.stderr
            assert [row[1] for row in history(url)] == ["001", "002"]
            validate(url, with_e2e=True)


@contextmanager
def stopped_at(url: str, statement: int) -> Iterator[subprocess.Popen[bytes]]:
    """Give a migrating process that waits before its n-th statement, and let the server go on afterwards."""
    with psycopg.connect(url, autocommit=True) as keeper:
        keeper.execute("select pg_advisory_lock(4711)")
        keeper.execute("delete from gate.closed")
        keeper.execute("insert into gate.closed values (%s)", (statement,))
        keeper.execute("select setval('gate.passed', 1, false)")
        with subprocess.Popen((sys.executable, "-c", ONE, url), env=environment(None)) as process:
            while not rows(url, "select 1 from pg_locks where locktype = 'advisory' and objid = 4711 and not granted"):
                assert process.poll() is None
            yield process
        keeper.execute("select pg_advisory_unlock(4711)")


def wait_until_alone(url: str) -> None:
    """Return when the server has noticed that the other side of a session was killed."""
    others = "select 1 from pg_stat_activity where application_name = 'commandbus migrate'"
    while rows(url, others):
        pass


def dump(url: str) -> str:
    """Return the schema as pg_dump prints it."""
    command = (str(postmaster.binaries() / "pg_dump"), "--schema-only", "--exclude-schema=gate", "--dbname", url)
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # A random word that pg_dump makes for each dump.
    return "".join(line for line in text.splitlines(keepends=True) if "restrict " not in line)


def stage(url: str) -> int | None:
    """Return how many files the history says were applied; None while there is no history."""
    if rows(url, "select to_regclass('public.flyway_schema_history')") == [(None,)]:
        return None
    return len(history(url))


@contextmanager
def gated_database(server: Server) -> Iterator[str]:
    """Give the URL of a database that has a gate, and nothing else."""
    with server.database() as url:
        rows(url, GATE)
        yield url


@pytest.fixture
def stages(server: Server) -> dict[int | None, str]:
    """What a database looks like before anything, with PGMQ, after one file, and after both."""
    found: dict[int | None, str] = {}
    with gated_database(server) as url:
        found[stage(url)] = dump(url)
        with connected(url) as connection, locked_transaction(connection):
            create(connection)
            ensure_pgmq(connection)
        found[stage(url)] = dump(url)
        migrate(url)
        found[stage(url)] = dump(url)
        migrate(url, with_e2e=True)
        found[stage(url)] = dump(url)
    assert list(found) == [None, 0, 1, 2]
    return found


@pytest.fixture
def statements(server: Server) -> int:
    """How many statements of a whole migration pass the gate."""
    with gated_database(server) as url:
        migrate(url, with_e2e=True)
        return int(rows(url, "select last_value from gate.passed")[0][0])


@pytest.mark.timeout(1800)
def test_a_process_killed_at_any_statement_leaves_whole_files_only_and_the_next_one_finishes(
    server: Server, stages: dict[int | None, str], statements: int
) -> None:
    reached = set()
    for statement in sorted({*range(1, statements, STEP), statements}):
        with gated_database(server) as url:
            with stopped_at(url, statement) as process:
                os.kill(process.pid, signal.SIGKILL)
            wait_until_alone(url)
            assert dump(url) == stages[stage(url)], f"killed at statement {statement}"
            reached.add(stage(url))
            migrate(url, with_e2e=True)
            validate(url, with_e2e=True)
            assert (stage(url), dump(url)) == (2, stages[2]), f"killed at statement {statement}"
    assert reached == {None, 0, 1}
