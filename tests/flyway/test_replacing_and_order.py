"""Placeholders, repeatable migrations, files for tests that come late, and both tools at once."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from commandbus.errors import MigrationError
from commandbus.migrate import MigrationState, info, repair, validate
from tests.flyway.tool import SILENT

if TYPE_CHECKING:
    from tests.flyway.conftest import Base
    from tests.flyway.tool import CommandLine

LATE = {"outOfOrder": "true"}
GATE = 4711


def test_repeatable_migrations_are_applied_alike_whoever_comes_first(bases: tuple[Base, Base]) -> None:
    one, other = bases
    one.write("R__views.sql", "create or replace view public.v as select 1 as one;")
    one.write("R__a_first.sql", "select 1;")
    one.write("V4__fourth.sql", "select 1;")
    one.ours(target="1")
    other.theirs("migrate", {"target": "1"})
    assert one.rows() == other.rows()
    one.theirs("migrate")
    other.ours()
    assert one.rows() == other.rows()
    one.write("R__views.sql", "create or replace view public.v as select 2 as one;")
    assert one.theirs("info").rows[-1][1:] == ("views", "SQL", "Pending")
    assert info(one.url, directories=one.files)[-1].state is MigrationState.OUTDATED
    with pytest.raises(MigrationError, match=r"R__views\.sql was changed and is not applied again"):
        validate(one.url, directories=one.files)
    assert "outdated resolved repeatable migration" in one.try_theirs("validate").text
    assert one.ours() == ["R__views.sql"]
    other.theirs("migrate")
    assert one.rows() == other.rows()
    assert one.query("table public.v") == other.query("table public.v") == [(2,)]
    one.theirs("validate")
    validate(other.url, directories=other.files)


def test_placeholders_are_replaced_alike_in_odd_places_too(bases: tuple[Base, Base]) -> None:
    values = {"foo": "X$Y", "Empty": "", "nested": "${foo}", "my-name.x": "z"}
    one, other = bases
    one.write(
        "V4__odd.sql",
        "create table public.t (n int, v text);\n-- ${FOO} in a comment /* ${empty} */\n"
        "insert into public.t values (1, '$${foo}'), (2, '$$${foo}'), (3, 'a${Foo}$'), (4, $$${foo}$$),"
        " (5, $a$ ${foo} $a$), (6, '$'), (7, '${foo}${foo}${empty}'), (8, '{${foo}}'), (9, '$1${foo}'),"
        " (10, '$}${foo}'), (11, $q$${foo}$q$), (12, '${nested}'), (13, '${my-name.x}'), (14, 'ä${foo}€');\n",
    )
    one.write("R__odd.sql", "insert into public.t values (20, '${foo}${flyway:user}');")
    one.ours(placeholders=values)
    other.theirs("migrate", {f"placeholders.{name}": value for name, value in values.items()})
    assert one.query("table public.t") == other.query("table public.t")
    assert one.rows() == other.rows()


def test_flyways_own_placeholders_have_the_same_values(bases: tuple[Base, Base]) -> None:
    names = ("defaultSchema", "user", "database", "filename", "table", "environment", "workingDirectory")
    one, other = bases
    rows = ", ".join(f"('{name}', '${{flyway:{name}}}')" for name in names)
    one.write("below/V4__own.sql", f"create table public.t (k text, v text); insert into public.t values {rows};")
    one.write("V5__time.sql", "insert into public.t select 't', timestamp '${flyway:timestamp}' - localtimestamp;")
    one.ours()
    other.theirs("migrate")
    unlike = "select k, v from public.t where k not in ('database', 't')"
    assert one.query(unlike) == other.query(unlike)
    for base in bases:
        assert base.query("select v = current_database() from public.t where k = 'database'") == [(True,)]


@pytest.mark.parametrize("text", ["select '${nobody}';", "-- ${nobody}", "select '${flyway:nobody}';", "select '${no"])
def test_an_unknown_placeholder_is_refused_by_both_and_nothing_is_applied(base: Base, text: str) -> None:
    base.write("V3__third.sql", f"select 1;\n{text}")
    base.theirs("migrate", {"target": "2"})
    assert not base.try_theirs("migrate").ok
    with pytest.raises(MigrationError, match=r"V3__third\.sql line 2: the placeholder \$\{(flyway:)?no"):
        base.ours()
    assert len(base.rows()) == 2


def test_without_replacement_the_text_stays_in_both(bases: tuple[Base, Base]) -> None:
    one, other = bases
    one.write("R__text.sql", "comment on table public.first is '${name}';")
    one.ours(placeholders=None)
    other.theirs("migrate", {"placeholderReplacement": "false"})
    assert one.rows() == other.rows()
    assert one.query("select obj_description('public.first'::regclass)") == [("${name}",)]


def test_what_was_applied_without_replacement_is_refused_with_it_until_a_repair(bases: tuple[Base, Base]) -> None:
    one, other = bases
    one.write("R__text.sql", "comment on table public.first is '${name}';")
    for base in bases:
        base.ours(placeholders=None)
    values, settings = {"name": "x"}, {"placeholders.name": "x"}
    with pytest.raises(MigrationError, match=r"R__text\.sql was applied without its placeholders replaced"):
        one.ours(placeholders=values)
    assert "checksum mismatch for migration R__text.sql" in one.try_theirs("migrate", settings).text
    assert repair(one.url, directories=one.files, placeholders=values).realigned == ("R__text.sql",)
    other.theirs("repair", settings)
    assert one.rows() == other.rows()
    one.theirs("migrate", settings)
    assert other.ours(placeholders=values) == []


def test_what_was_applied_without_replacement_is_applied_again_once_its_file_has_changed(
    bases: tuple[Base, Base],
) -> None:
    one, other = bases
    one.write("R__text.sql", "comment on table public.first is '${name}';")
    for base in bases:
        base.ours(placeholders=None)
    one.write("R__text.sql", "comment on table public.first is '${name}'; -- again")
    assert one.ours(placeholders={"name": "x"}) == ["R__text.sql"]
    other.theirs("migrate", {"placeholders.name": "x"})
    assert one.rows() == other.rows()
    for base in bases:
        assert base.query("select obj_description('public.first'::regclass)") == [("x",)]


@pytest.mark.parametrize("whose", ["ours", "theirs"])
@pytest.mark.parametrize("newer", ["before", "after"])
def test_files_for_tests_can_come_late_and_both_agree(base: Base, whose: str, newer: str) -> None:
    (base.files / "V2__second.sql").rename(base.files / "V2__e2e_second.sql")
    third = base.files / "V3__third.sql"
    text = third.read_text()
    if newer == "after":
        third.unlink()
    base.ours()
    assert base.query("select to_regclass('public.second')") == [(None,)]
    if whose == "ours":
        assert base.ours(with_e2e=True) == ["V2__e2e_second.sql"]
    else:
        base.theirs("migrate", LATE)
    third.write_text(text)
    if newer == "after":
        base.theirs("migrate")
    assert base.ours(with_e2e=True) == []
    base.theirs("migrate")
    base.theirs("validate")
    validate(base.url, directories=base.files, with_e2e=True)
    late = newer == "before"
    assert [row[1] for row in base.rows()] == (["1", "3", "2"] if late else ["1", "2", "3"])
    ours = {row.version: row.state for row in info(base.url, directories=base.files)}
    assert ours["2"] is (MigrationState.OUT_OF_ORDER if late else MigrationState.APPLIED)
    assert base.theirs("info").states["2"] == ("Out of Order" if late else "Success")


def test_while_files_for_tests_are_left_out_flyway_must_be_told(base: Base) -> None:
    (base.files / "V2__second.sql").rename(base.files / "V2__e2e_second.sql")
    base.ours()
    assert info(base.url, directories=base.files)[1].state is MigrationState.OPTIONAL
    assert "not applied to database: 2" in base.try_theirs("migrate").text
    base.theirs("migrate", {"ignoreMigrationPatterns": "*:ignored"})
    (base.files / "V2__e2e_second.sql").unlink()  # as in an installed package
    base.theirs("migrate")
    assert base.ours() == []


def test_an_installation_without_the_files_for_tests_accepts_a_database_with_them(base: Base) -> None:
    (base.files / "V2__second.sql").rename(base.files / "V2__e2e_second.sql")
    base.theirs("migrate")
    (base.files / "V2__e2e_second.sql").unlink()
    assert base.ours() == []
    assert "not resolved locally: 2" in base.try_theirs("migrate").text
    base.theirs("migrate", {"ignoreMigrationPatterns": "*:missing"})


def waiting(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    """Return how many wait for an advisory lock."""
    found = connection.execute("select count(*) from pg_locks where locktype = 'advisory' and not granted").fetchone()
    assert found is not None
    return int(str(found[0]))


def test_the_runner_waits_for_flyway_and_finds_its_work_done(base: Base, command_line: CommandLine) -> None:
    base.write("V2__second.sql", f"select pg_advisory_xact_lock({GATE}); create table public.second ();")
    name = base.query("select current_database()")[0][0]
    with psycopg.connect(base.url, autocommit=True) as connection, ThreadPoolExecutor(1) as threads:
        connection.execute("select pg_advisory_lock(%s)", (GATE,))
        command = command_line.command("migrate", name, base.files)
        with subprocess.Popen(command, env=os.environ | SILENT, stdout=subprocess.DEVNULL) as flyway:
            while waiting(connection) < 1:
                assert flyway.poll() is None
            ours = threads.submit(base.ours)
            while waiting(connection) < 2:
                assert not ours.done()
            connection.execute("select pg_advisory_unlock(%s)", (GATE,))
            assert ours.result(60) in ([], ["V3__third.sql"])  # either may be first to the next file
            assert flyway.wait(60) == 0
    assert [row[1] for row in base.rows()] == ["1", "2", "3"]


def test_flyway_waits_for_the_runner_and_finds_its_work_done(base: Base, command_line: CommandLine) -> None:
    base.write("V2__second.sql", f"select pg_advisory_xact_lock({GATE}); create table public.second ();")
    name = base.query("select current_database()")[0][0]
    with psycopg.connect(base.url, autocommit=True) as connection, ThreadPoolExecutor(1) as threads:
        connection.execute("select pg_advisory_lock(%s)", (GATE,))
        ours = threads.submit(base.ours)
        while waiting(connection) < 1:
            assert not ours.done()
        command = command_line.command("migrate", name, base.files)
        with subprocess.Popen(command, env=os.environ | SILENT, stdout=subprocess.DEVNULL) as flyway:
            # Flyway asks for the lock again and again, and sleeps in between.
            while not flyways_attempts(connection):
                assert flyway.poll() is None
            connection.execute("select pg_advisory_unlock(%s)", (GATE,))
            assert set(ours.result(60)) <= {"V1__first.sql", "V2__second.sql", "V3__third.sql"}
            assert flyway.wait(60) == 0
    assert [row[1] for row in base.rows()] == ["1", "2", "3"]


def flyways_attempts(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    """Say whether some session's last statement asked for Flyway's lock without waiting."""
    asked = "select from pg_stat_activity where query ilike 'select pg_try_advisory%' and pid <> pg_backend_pid()"
    return connection.execute(asked.encode()).fetchone() is not None
