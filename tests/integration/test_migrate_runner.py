"""The migration runner: alone among many, all or nothing, in step with Flyway, clear about what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from commandbus.cli.problem import describe
from commandbus.errors import (
    CommandBusError,
    DatabaseUnavailableError,
    InvalidArgumentError,
    MigrationError,
    PgmqTooOldError,
    ReadOnlyServerError,
)
from commandbus.migrate import (
    MigrationState,
    discover,
    grant,
    info,
    migrate,
    packaged_directory,
    plan,
    validate,
    verify,
)
from commandbus.migrate.connection import LOCK_KEY
from commandbus.testing import apply_core_migrations
from tests.integration.sql_helpers import open_bus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


AnyError = TypeVar("AnyError", bound=CommandBusError)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three small migrations, the last for tests."""
    (tmp_path / "V1__first.sql").write_text("create table public.first (id int);\n")
    (tmp_path / "V2__second_one.sql").write_text("create table public.second (id int);\n")
    (tmp_path / "V3__e2e_extra.sql").write_text("create table public.extra (id int);\n")
    return tmp_path


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a statement, none when it returns none."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def public_tables(url: str) -> set[str]:
    """Return the tables in schema public."""
    return {row[0] for row in query(url, "select tablename from pg_tables where schemaname = 'public'")}


def script(directory: Path, name: str, text: str) -> None:
    """Write one migration."""
    (directory / name).write_text(text)


@contextmanager
def refused(kind: type[AnyError], pattern: str) -> Iterator[pytest.ExceptionInfo[AnyError]]:
    """Expect an error whose text is one line and matches."""
    with pytest.raises(kind, match=pattern) as caught:
        yield caught
    assert "\n" not in str(caught.value)


def test_files_are_applied_once_and_in_order(empty_database_url: str, files: Path) -> None:
    progress: list[str] = []
    result = migrate(
        empty_database_url,
        directories=files,
        on_progress=lambda migration, seconds: progress.append(f"{migration.version} {seconds >= 0}"),
    )
    assert progress == ["1 True", "2 True"]
    assert [migration.version for migration in result.applied] == ["1", "2"]
    assert public_tables(empty_database_url) == {"first", "second", "flyway_schema_history"}
    again = migrate(empty_database_url, directories=files)
    assert (again.applied, again.skipped) == ((), result.applied)


def test_the_history_is_what_flyway_would_have_written(empty_database_url: str, files: Path) -> None:
    migrate(empty_database_url, directories=files)
    first, second, _ = discover(files)
    rows = query(
        empty_database_url,
        "select installed_rank, version, description, type, script, checksum, installed_by = current_user,"
        " installed_on <= localtimestamp, execution_time >= 0, success from public.flyway_schema_history",
    )
    assert rows == [
        (1, "1", "first", "SQL", "V1__first.sql", first.checksum, True, True, True, True),
        (2, "2", "second one", "SQL", "V2__second_one.sql", second.checksum, True, True, True, True),
    ]
    assert query(
        empty_database_url,
        "select indexrelid::regclass::text from pg_index where indrelid = 'flyway_schema_history'::regclass",
    ) == [("flyway_schema_history_pk",), ("flyway_schema_history_s_idx",)]


def test_files_for_tests_are_applied_only_on_request(empty_database_url: str, files: Path) -> None:
    migrate(empty_database_url, directories=files)
    assert [row.state for row in info(empty_database_url, directories=files)] == [
        MigrationState.APPLIED,
        MigrationState.APPLIED,
        MigrationState.OPTIONAL,
    ]
    result = migrate(empty_database_url, directories=files, with_e2e=True)
    assert [migration.version for migration in result.applied] == ["3"]
    (files / "V3__e2e_extra.sql").unlink()
    validate(empty_database_url, directories=files)  # an installation without the test files accepts them
    with refused(InvalidArgumentError, "with_e2e"):
        migrate(empty_database_url, directories=files, with_e2e=True)


def test_a_target_stops_there(empty_database_url: str, files: Path) -> None:
    result = migrate(empty_database_url, directories=files, target="001")
    assert [migration.version for migration in result.applied] == ["1"]
    for unknown in ("9", "x", ""):
        with refused(InvalidArgumentError, "target: no migration has version"):
            migrate(empty_database_url, directories=files, target=unknown)
    with refused(MigrationError, r'V2__second_one\.sql is not applied: run "commandbus migrate"'):
        validate(empty_database_url, directories=files)


def test_many_at_once_apply_everything_once_and_none_fails(empty_database_url: str) -> None:
    together = Barrier(16)

    def run(_: int) -> int:
        together.wait()
        return len(migrate(empty_database_url, with_e2e=True).applied)

    with ThreadPoolExecutor(16) as threads:
        applied = list(threads.map(run, range(16)))
    assert sum(applied) == 2
    assert query(empty_database_url, "select installed_rank, version from flyway_schema_history") == [
        (1, "001"),
        (2, "002"),
    ]


@pytest.mark.direct("the lock of Flyway is a session's")
def test_the_runner_waits_while_flyway_holds_its_lock(empty_database_url: str, files: Path) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as flyway, ThreadPoolExecutor(1) as threads:
        flyway.execute("select pg_advisory_lock(%s)", (LOCK_KEY,))
        running = threads.submit(migrate, empty_database_url, directories=files)
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        while flyway.execute(waiting).fetchone() == (0,):
            assert not running.done()
        assert public_tables(empty_database_url) == set()
        flyway.execute("select pg_advisory_unlock(%s)", (LOCK_KEY,))
        assert len(running.result(30).applied) == 2


def test_a_file_changed_after_it_was_applied_is_refused(empty_database_url: str, files: Path) -> None:
    migrate(empty_database_url, directories=files, target="1")
    script(files, "V1__first.sql", "create table public.other (id int);\n")
    for action in (migrate, validate):
        with refused(MigrationError, r"V1__first\.sql was changed after it was applied"):
            action(empty_database_url, directories=files)
    assert "second" not in public_tables(empty_database_url)
    assert info(empty_database_url, directories=files)[0].state is MigrationState.CHANGED


def test_line_ends_and_a_byte_order_mark_are_no_change(empty_database_url: str, files: Path) -> None:
    migrate(empty_database_url, directories=files)
    text = "\ufeff" + (files / "V1__first.sql").read_text().replace("\n", "\r\n")
    (files / "V1__first.sql").write_bytes(text.encode())
    validate(empty_database_url, directories=files)


def test_a_byte_order_mark_is_not_sent_to_the_server(empty_database_url: str, files: Path) -> None:
    (files / "V1__first.sql").write_bytes("\ufeffcreate table public.first (id int);".encode())
    assert len(migrate(empty_database_url, directories=files).applied) == 2


def test_a_syntax_error_names_file_and_line_and_changes_nothing(empty_database_url: str, files: Path) -> None:
    script(files, "V2__second_one.sql", "create table public.é (id int);\n\n  insrt into nowhere;\n")
    with refused(MigrationError, r'V2__second_one\.sql line 3: syntax error at or near "insrt" \(42601\)'):
        migrate(empty_database_url, directories=files)
    assert public_tables(empty_database_url) == {"first", "flyway_schema_history"}
    script(files, "V2__second_one.sql", "create table public.second (id int);\n")
    assert len(migrate(empty_database_url, directories=files).applied) == 1


def test_an_error_while_running_undoes_the_file_and_quotes_no_data(empty_database_url: str, files: Path) -> None:
    bad = "create table public.second (id int primary key);\ninsert into public.second values (4711), (4711);\n"
    script(files, "V2__second_one.sql", bad)
    with pytest.raises(MigrationError, match="duplicate key value") as caught:
        migrate(empty_database_url, directories=files)
    assert "4711" not in "".join(traceback.format_exception(caught.value))
    assert "second" not in public_tables(empty_database_url)


def test_a_file_that_ends_its_own_transaction_is_refused_before_any_is_run(
    empty_database_url: str, files: Path
) -> None:
    script(files, "V2__second_one.sql", "create table public.aa ();\ncommit;\ncreate table public.bb ();\n")
    for action in (migrate, plan):
        with refused(MigrationError, r'V2__second_one\.sql line 2: "commit" would end the transaction'):
            action(empty_database_url, directories=files)
    assert public_tables(empty_database_url) == set()


def test_bodies_with_a_begin_and_an_end_are_applied(empty_database_url: str, files: Path) -> None:
    atomic = "create function public.f() returns int begin atomic select 1; select case when true then 2 end; end;\n"
    script(files, "V2__second_one.sql", f"{atomic}do $$ begin end $$;\nsavepoint a;\nrollback to a;\n")
    assert len(migrate(empty_database_url, directories=files).applied) == 2
    assert query(empty_database_url, "select public.f()") == [(2,)]


@pytest.mark.direct("options of the session")
def test_a_backslash_before_a_quote_ends_no_string_early_whatever_the_session_is_set_to(
    empty_database_url: str, files: Path
) -> None:
    script(files, "V2__second_one.sql", "create table public.t as select 'it\\'';\ncommit;\n-- ' as text\n")
    url = make_conninfo(empty_database_url, options="-c standard_conforming_strings=off")
    assert len(migrate(url, directories=files).applied) == 2
    assert query(empty_database_url, "select text from public.t") == [("it\\';\ncommit;\n-- ",)]


@pytest.mark.parametrize("statement", ["copy public.first to stdout", "copy public.first from stdin;\n1\n\\."])
def test_a_copy_that_needs_a_client_is_refused(
    empty_database_url: str, files: Path, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    script(files, "V2__second_one.sql", f"{statement};\n")
    with refused(MigrationError, r"V2__second_one\.sql line 1: this COPY needs a client"):
        migrate(empty_database_url, directories=files)
    assert caplog.messages == []


def test_advice_about_rights_follows_the_servers_code_and_not_its_words(empty_database_url: str, files: Path) -> None:
    script(files, "V2__second_one.sql", "select '(42501)'::int;\n")
    with refused(MigrationError, r"\(42501\)") as caught:
        migrate(empty_database_url, directories=files)
    assert caught.value.sqlstate == "22P02"
    assert describe(caught.value)["message"] == str(caught.value)


def test_a_nul_character_in_a_placeholders_value_is_refused(empty_database_url: str, files: Path) -> None:
    with refused(InvalidArgumentError, "placeholders: the value of 'x' holds a NUL character"):
        migrate(empty_database_url, directories=files, placeholders={"x": "a\0b"})


def test_a_runner_killed_in_a_file_leaves_nothing_of_it(empty_database_url: str, files: Path) -> None:
    slow = "create table public.second (id int);\nselect pg_sleep(60);\n"
    script(files, "V2__second_one.sql", slow)
    code = "import sys; from commandbus.migrate import migrate; migrate(sys.argv[1], directories=sys.argv[2])"
    with subprocess.Popen((sys.executable, "-c", code, empty_database_url, str(files))) as runner:
        asleep = "select pid from pg_stat_activity where wait_event = 'PgSleep'"
        while not (found := query(empty_database_url, asleep)):
            assert runner.poll() is None
        os.kill(runner.pid, signal.SIGKILL)
    query(empty_database_url, f"select pg_terminate_backend({found[0][0]}, 5000)")  # it notices only later
    assert public_tables(empty_database_url) == {"first", "flyway_schema_history"}
    script(files, "V2__second_one.sql", "create table public.second (id int);\n")
    assert len(migrate(empty_database_url, directories=files).applied) == 1


def test_a_connection_lost_in_a_file_is_reported_as_such(empty_database_url: str, files: Path) -> None:
    script(files, "V2__second_one.sql", "select pg_terminate_backend(pg_backend_pid());\n")
    with refused(DatabaseUnavailableError, r"V2__second_one\.sql: the connection was lost"):
        migrate(empty_database_url, directories=files)


def test_a_database_newer_than_the_files_is_refused(empty_database_url: str, files: Path) -> None:
    script(files, "V4__newer.sql", "select 1;")
    migrate(empty_database_url, directories=files)
    (files / "V4__newer.sql").unlink()
    with refused(MigrationError, "newer than this installation: it has version 4, .*: update commandbus, or put"):
        migrate(empty_database_url, directories=files)
    assert info(empty_database_url, directories=files)[-1].state is MigrationState.UNKNOWN


def test_an_applied_version_without_a_file_is_refused(empty_database_url: str, files: Path) -> None:
    migrate(empty_database_url, directories=files)
    (files / "V1__first.sql").unlink()
    with refused(MigrationError, r"has version 1 \(V1__first\.sql\), which has no file, .* migrate repair"):
        migrate(empty_database_url, directories=files)


def test_a_version_below_what_is_applied_is_refused(empty_database_url: str, files: Path) -> None:
    migrate(empty_database_url, directories=files)
    script(files, "V1.5__late.sql", "select 1;")
    with refused(MigrationError, r"V1\.5__late\.sql is older than what the database has, but was never applied"):
        migrate(empty_database_url, directories=files)


def test_a_failure_recorded_by_flyway_is_refused(empty_database_url: str, files: Path) -> None:
    migrate(empty_database_url, directories=files)
    query(empty_database_url, "update flyway_schema_history set success = false where version = '2'")
    with refused(MigrationError, r"V2__second_one\.sql failed when it was applied"):
        migrate(empty_database_url, directories=files)


def test_flyways_baseline_and_repeatable_rows_are_understood(empty_database_url: str, files: Path) -> None:
    migrate(empty_database_url, directories=files, target="1")
    query(
        empty_database_url,
        "drop table public.first; delete from flyway_schema_history;"
        " insert into flyway_schema_history values"
        " (1, '1', '<< Flyway Baseline >>', 'BASELINE', '<< Flyway Baseline >>', null, 'me', now(), 0, true),"
        " (2, null, 'view', 'SQL', 'R__view.sql', 5, 'me', now(), 0, true)",
    )
    script(files, "R__view.sql", "create or replace view public.view as select 1 as one;\n")
    result = migrate(empty_database_url, directories=files)
    assert [migration.script for migration in result.applied] == ["V2__second_one.sql", "R__view.sql"]
    assert query(empty_database_url, "select max(installed_rank) from flyway_schema_history") == [(4,)]


def test_pgmq_is_installed_where_the_server_does_not_offer_it(empty_database_url: str) -> None:
    if query(empty_database_url, "select from pg_available_extensions where name = 'pgmq'"):
        pytest.skip("this server offers the extension")
    assert migrate(empty_database_url).installed_pgmq == "1.13.0"
    assert query(empty_database_url, "select pgmq.create('q'), pgmq.send('q', '{}'::jsonb)")[0][1] == 1


def test_a_pgmq_that_is_there_is_left_alone(database_url: str) -> None:
    query(database_url, "delete from public.flyway_schema_history; drop schema commandbus cascade")
    assert migrate(database_url).installed_pgmq is None


def test_an_old_pgmq_is_refused_before_anything_is_applied(empty_database_url: str) -> None:
    query(empty_database_url, "create schema pgmq; create type pgmq.message_record as (msg_id bigint)")
    with refused(PgmqTooOldError, r"older than 1\.10"):
        migrate(empty_database_url)
    assert public_tables(empty_database_url) == set()


@pytest.mark.direct("it sets up its session")
def test_the_callers_connection_keeps_its_settings(empty_database_url: str, files: Path) -> None:
    script(files, "V2__second_one.sql", "set search_path = pg_catalog; create table public.second ();\n")
    with psycopg.connect(empty_database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("set default_transaction_isolation = 'serializable'")
        connection.execute("set intervalstyle = 'iso_8601'")
        connection.execute("set client_encoding = 'LATIN1'")
        connection.execute("set lock_timeout = '1s'")
        settings = (
            "select name, setting, source from pg_settings"
            " where source in ('client', 'session') and name not like 'transaction%'"
        )
        before = connection.execute(settings).fetchall()
        assert len(migrate(connection, directories=files).applied) == 2
        changed = [row for row in connection.execute(settings).fetchall() if row not in before]
    assert changed == [{"name": "search_path", "setting": '"$user", public', "source": "session"}]


@pytest.mark.direct("PgBouncer answers for a database's settings with those of before")
def test_a_database_that_is_set_to_read_only_is_not_changed(empty_database_url: str) -> None:
    migrate(empty_database_url)
    ((name,),) = query(empty_database_url, "select current_database()")
    query(empty_database_url, f"alter database {name} set default_transaction_read_only = on")
    sentence = "transactions of role .* are read-only: default_transaction_read_only must be off"
    with refused(ReadOnlyServerError, sentence):
        migrate(empty_database_url, with_e2e=True)
    with refused(ReadOnlyServerError, sentence):
        grant(empty_database_url)
    assert grant(empty_database_url, dry_run=True).statements
    assert plan(empty_database_url).migrations == ()
    assert validate(empty_database_url) == info(empty_database_url)


def test_an_empty_url_or_directory_is_not_the_default_one(empty_database_url: str) -> None:
    for url in ("", " "):
        with refused(InvalidArgumentError, "database_url: is empty"):
            apply_core_migrations(url)
    for directories in ("", ["", "elsewhere"]):
        with refused(InvalidArgumentError, "directory: is empty"):
            migrate(empty_database_url, directories=directories)


def test_a_connection_in_a_transaction_is_refused(empty_database_url: str, files: Path) -> None:
    with psycopg.connect(empty_database_url) as connection, refused(InvalidArgumentError, "autocommit"):
        migrate(connection, directories=files)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:qzx@wv/jk?5%zz@127.0.0.1:1/db",
        "postgresql://user:qzx%zzwvjk@127.0.0.1/db",
        "postgresql://user:qzx wvjk@127.0.0.1/db",
        "postgresql://user:qzx@wvjk@127.0.0.1/db",
        "postgresql://user:qzx/wvjk@127.0.0.1/db",
        "postgresql://user:12/wvjk@127.0.0.1/db",
        "postgresql://user:qzx?wvjk@127.0.0.1/db",
        "postgresql://user:qzx#wvjk@127.0.0.1:1/db",
        "postgresql://user:qzxwvjk@127.0.0.1:port/db",
        "postgresql://user:qzxwvjk@127.0.0.1:99999/db",
        "postgresql://user:qzxwvjk@[::1/db",
        "postgresql://user:qzxwvjk@127.0.0.1:1/db",
        "postgresql://user:qzxwvjk@nowhere.invalid:1/db",
        "host=127.0.0.1 password=qzx wvjk",
        "host=127.0.0.1 password='qzxwvjk",
        "host=127.0.0.1 port=1 password=qzxwvjk",
        "mysql://user:qzxwvjk@127.0.0.1/db",
    ],
)
def test_no_error_shows_a_password(url: str, files: Path) -> None:
    with pytest.raises((InvalidArgumentError, DatabaseUnavailableError)) as caught:
        migrate(url, directories=files)
    shown = "".join(traceback.format_exception(caught.value))
    assert [part for part in ("qzx", "wv", "jk") if part in shown] == []


@pytest.mark.direct("PgBouncer answers for a database's settings with those of before")
def test_a_database_with_odd_settings_is_migrated_and_has_no_difference(empty_database_url: str) -> None:
    ((name, version),) = query(
        empty_database_url, "select current_database(), current_setting('server_version_num')::int"
    )
    odd = {
        "bytea_output": "escape",
        "datestyle": "SQL, DMY",
        "extra_float_digits": "-3",
        "intervalstyle": "iso_8601",
        "quote_all_identifiers": "on",
        "timezone": "'Asia/Kathmandu'",
    }
    if version < 190_000:  # which knows no other strings
        odd["standard_conforming_strings"] = "off"
    for setting, value in odd.items():
        query(empty_database_url, f"alter database {name} set {setting} = {value}")
    migrate(empty_database_url, with_e2e=True)
    with open_bus(empty_database_url) as bus:
        bus.run("set standard_conforming_strings = on")  # PGMQ's own functions need it
        bus.run("set quote_all_identifiers = off")  # they write a domain's functions as told
        bus.create_domain()
    assert verify(empty_database_url, with_e2e=True) == []
    first = info(empty_database_url)[0].installed_on
    assert first is not None
    assert abs(datetime.now(UTC) - first) < timedelta(minutes=10)
    assert first.tzinfo is UTC


def test_the_packaged_migrations_apply_to_a_database_in_another_encoding(empty_database_url: str) -> None:
    query(
        empty_database_url,
        "create database latin template template0 encoding 'LATIN1' locale 'C' locale_provider libc",
    )
    latin = empty_database_url.replace(query(empty_database_url, "select current_database()")[0][0], "latin")
    try:
        migrate(latin, directories=packaged_directory(), with_e2e=True)
    finally:
        query(empty_database_url, "drop database latin with (force)")
