"""Repeatable migrations, placeholders, plans, baselines and repairs, without Flyway; tests/flyway has both."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from commandbus.embedded import psql_path
from commandbus.errors import InvalidArgumentError, MigrationError
from commandbus.migrate import MigrationState, baseline, info, migrate, packaged_directory, plan, repair, validate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Server

HISTORY = (
    "select installed_rank, version, description, type, script, checksum, installed_by, success"
    " from public.flyway_schema_history order by installed_rank"
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A table, and a repeatable view on it."""
    (tmp_path / "V1__first.sql").write_text("create table public.first (id int)")
    (tmp_path / "R__view.sql").write_text("create or replace view public.v as select 1 as one -- the end")
    return tmp_path


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a statement, none when it returns none."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def psql(url: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a person would."""
    command = (str(psql_path()), "--no-psqlrc", "--quiet", "--dbname", url)
    return subprocess.run(command, input=script, capture_output=True, text=True, check=False)


def applied(url: str, directory: Path, **options: Any) -> list[str]:
    """Migrate; return the scripts that were applied."""
    return [migration.script for migration in migrate(url, directories=directory, **options).applied]


def test_a_repeatable_migration_is_applied_again_when_it_has_changed(empty_database_url: str, files: Path) -> None:
    assert applied(empty_database_url, files) == ["V1__first.sql", "R__view.sql"]
    assert applied(empty_database_url, files) == []
    (files / "R__view.sql").write_text("create or replace view public.v as select 2 as one")
    assert info(empty_database_url, directories=files)[-1].state is MigrationState.OUTDATED
    assert applied(empty_database_url, files) == ["R__view.sql"]
    assert query(empty_database_url, "table public.v") == [(2,)]
    validate(empty_database_url, directories=files)


def test_a_repeatable_migration_depends_on_the_values_of_its_placeholders(empty_database_url: str, files: Path) -> None:
    (files / "R__view.sql").write_text("create or replace view public.v as select ${n} as one")
    assert applied(empty_database_url, files, placeholders={"n": "1"}) == ["V1__first.sql", "R__view.sql"]
    assert applied(empty_database_url, files, placeholders={"N": "1"}) == []
    assert applied(empty_database_url, files, placeholders={"n": "2"}) == ["R__view.sql"]
    assert query(empty_database_url, "table public.v") == [(2,)]


def test_an_unknown_placeholder_is_named_with_file_and_line_before_anything_runs(
    empty_database_url: str, files: Path
) -> None:
    (files / "V2__later.sql").write_text("select 1;\n\n-- ${owner} is nobody\n")
    with pytest.raises(MigrationError, match=r"^V2__later\.sql line 3: the placeholder \$\{owner\} has no value"):
        migrate(empty_database_url, directories=files)
    assert query(empty_database_url, "select to_regclass('public.flyway_schema_history')") == [(None,)]


@pytest.mark.parametrize("name", ["", "a}b"])
def test_a_malformed_name_of_a_placeholder_is_refused(empty_database_url: str, files: Path, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is not the name of a placeholder"):
        migrate(empty_database_url, directories=files, placeholders={name: "x"})


def test_a_plan_says_what_migrate_does_and_changes_nothing(empty_database_url: str) -> None:
    planned = plan(empty_database_url, with_e2e=True)
    assert query(empty_database_url, "select count(*) from pg_namespace where nspname in ('pgmq', 'e2e')") == [(0,)]
    result = migrate(empty_database_url, with_e2e=True)
    assert (planned.migrations, planned.installs_pgmq) == (result.applied, result.installed_pgmq)
    again = plan(empty_database_url, with_e2e=True)
    assert (again.migrations, again.installs_pgmq) == ((), None)
    assert "Nothing is." in again.sql


def test_a_plans_script_run_by_psql_leaves_what_migrate_leaves(server: Server, empty_database_url: str) -> None:
    script = plan(empty_database_url, with_e2e=True).sql
    done = psql(empty_database_url, script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "print it again" in psql(empty_database_url, script).stderr
    validate(empty_database_url, with_e2e=True)
    with server.database() as url:
        migrate(url, with_e2e=True)
        assert query(empty_database_url, HISTORY) == query(url, HISTORY)


def test_a_plans_script_goes_on_where_the_history_ends(empty_database_url: str, files: Path) -> None:
    migrate(empty_database_url, directories=files)
    (files / "R__view.sql").write_text("create or replace view public.v as select ${n} as one -- no semicolon")
    script = plan(empty_database_url, directories=files, placeholders={"n": "7"}).sql
    assert psql(empty_database_url, script).returncode == 0
    assert query(empty_database_url, "table public.v") == [(7,)]
    validate(empty_database_url, directories=files, placeholders={"n": "7"})


def test_a_plans_script_that_comes_too_late_changes_nothing(empty_database_url: str, files: Path) -> None:
    migrate(empty_database_url, directories=files)
    (files / "R__view.sql").write_text("create or replace view public.v as select 2 as one")
    script = plan(empty_database_url, directories=files).sql
    migrate(empty_database_url, directories=files)
    before = query(empty_database_url, HISTORY)
    done = psql(empty_database_url, script)
    assert done.returncode == 3
    assert "the history is not as it was when this script was printed: print it again" in done.stderr
    done = psql(empty_database_url, f"\\set ON_ERROR_STOP on\n{script.partition('end $check$;')[2]}")
    assert done.returncode == 3
    assert "flyway_schema_history_pk" in done.stderr  # had somebody migrated after the check
    assert query(empty_database_url, HISTORY) == before


@pytest.mark.parametrize(
    "text",
    [
        "select 1; \\! echo taken",
        "select 1\n\\! echo taken\n;",
        "select '\\'; \\! echo taken\n--'",
        "set standard_conforming_strings = off;\nselect 'it\\'s'; \\! echo taken\n--'",
        "/* /* */ select 1; */ \\! echo taken",
        "select 1 as e$a$; \\! echo taken\n-- $a$",
        "select 1 as a$$; \\! echo taken\n-- $$",
        "select 1 as \"e\"'' \\! echo taken",
        "select 1 as nameE'\\'; \\! echo taken\n--'",
        "select 1 -- a comment\r\\! echo taken",
    ],
)
def test_a_plans_script_holds_no_command_of_psqls(empty_database_url: str, files: Path, text: str) -> None:
    assert "taken" not in text or psql(empty_database_url, f"{text}\n").stdout.count("taken") == 1
    (files / "V2__odd.sql").write_text(f"select 1;\n{text}")
    reason = "a quote after a backslash ends" if "\\'" in text else "a backslash outside of quotes is no SQL"
    with pytest.raises(MigrationError, match=rf"V2__odd\.sql line [2-4]: {reason}"):
        plan(empty_database_url, directories=files)


def test_what_looks_like_psqls_own_arrives_as_it_is(server: Server, empty_database_url: str, files: Path) -> None:
    (files / "V2__odd.sql").write_text(
        "create table public.seen as select '\\! echo taken'::text as a, E'it\\'s \\\\! echo taken' as b,\n"
        "$$\n\\! echo taken\n:'USER' :USER$$ as c, $a_1$ \\q $$ :USER $a_1$ as d, ':USER' as e, ' ''\\x'' ' as f,"
        " (array[1, 2, 3])[1:case when n is null then 3 else n end] as g, (array[1, 2, 3])[1:version] as h,"
        ' 1 as "\\q :USER"\n'
        "from (select null::int as n, 2 as version) x -- \\! echo taken :USER\n"
        "/* \\q\n/* \\q */\n\\! echo taken :USER */;\n"
        "create function public.f(a int default 1) returns int language sql as 'select a::int';\n"
        "insert into public.seen (a) values (public.f(a := 2)::text);"
    )
    below = files / "new\n\\! echo taken\nline"
    below.mkdir()
    (below / "V3__below.sql").write_text("create table public.below ()")
    script = plan(empty_database_url, directories=files).sql
    done = psql(empty_database_url, f"\\set version 1\n\\set n 1\n{script}")
    assert (done.returncode, done.stderr, "taken" in done.stdout) == (0, "", False)
    validate(empty_database_url, directories=files)
    with server.database() as url:
        migrate(url, directories=files)
        seen = query(url, "select * from public.seen")
        assert seen == query(empty_database_url, "select * from public.seen")
        assert seen[0][:2] == ("\\! echo taken", "it's \\! echo taken")
        assert seen[0][6:8] == ([1, 2, 3], [1, 2])


def test_a_baseline_stands_for_everything_up_to_its_version(empty_database_url: str, files: Path) -> None:
    assert baseline(empty_database_url, version="1", description="made by hand", directories=files)
    assert not baseline(empty_database_url, version="001", description="made by hand", directories=files)
    assert [row.state for row in info(empty_database_url, directories=files)] == ["baseline", "pending"]
    assert applied(empty_database_url, files) == ["R__view.sql"]


@pytest.mark.parametrize("version", ["", "x", "1..2", "-1", "1" * 51])
def test_a_baseline_of_no_version_is_refused(empty_database_url: str, version: str) -> None:
    with pytest.raises(InvalidArgumentError, match="version: "):
        baseline(empty_database_url, version=version)
    assert query(empty_database_url, "select to_regclass('public.flyway_schema_history')") == [(None,)]


def test_a_baseline_of_the_library_needs_its_schema(empty_database_url: str) -> None:
    with pytest.raises(MigrationError, match=r'no schema commandbus, so version 1 cannot .* run "commandbus migrate"'):
        baseline(empty_database_url)
    assert query(empty_database_url, "select to_regclass('public.flyway_schema_history')") == [(None,)]
    assert baseline(empty_database_url, version="0")
    migrate(empty_database_url, with_e2e=True)
    query(empty_database_url, "drop table public.flyway_schema_history")
    assert baseline(empty_database_url, version="2")
    validate(empty_database_url, with_e2e=True)


def test_versions_of_another_project_are_called_so(empty_database_url: str, files: Path) -> None:
    migrate(empty_database_url, directories=files)
    with pytest.raises(MigrationError) as caught:
        migrate(empty_database_url)
    assert caught.value.problems[0] == (
        "V001__commandbus_schema.sql has the version of V1__first.sql, which the history has: where that is another"
        " project's, give one of the two a history table of its own"
    )


def test_a_repair_without_a_history_does_nothing(empty_database_url: str, files: Path) -> None:
    result = repair(empty_database_url, directories=files)
    assert (result.removed, result.deleted, result.realigned) == ((), (), ())


def test_a_repair_leaves_migrations_for_tests_in_the_history(empty_database_url: str, files: Path) -> None:
    e2e = files / "V0.5__e2e_tables.sql"
    e2e.write_text("create table public.for_tests ()")
    migrate(empty_database_url, directories=files, with_e2e=True)
    e2e.unlink()
    assert repair(empty_database_url, directories=files).deleted == ()


def test_a_repair_leaves_baselines_and_what_is_newer_than_all_files(empty_database_url: str, files: Path) -> None:
    baseline(empty_database_url, version="0.9", directories=files)
    (files / "V2__second.sql").write_text("select 1")
    migrate(empty_database_url, directories=files)
    (files / "V2__second.sql").unlink()
    assert repair(empty_database_url, directories=files).deleted == ()


def test_a_version_is_not_late_because_of_files_for_tests(empty_database_url: str, files: Path) -> None:
    (files / "V5__e2e_tables.sql").write_text("select 1")
    migrate(empty_database_url, directories=files, with_e2e=True)
    (files / "V4__fourth.sql").write_text("select 1")
    assert applied(empty_database_url, files) == ["V4__fourth.sql"]


def test_a_file_with_another_name_was_changed(empty_database_url: str, files: Path) -> None:
    migrate(empty_database_url, directories=files)
    (files / "V1__first.sql").rename(files / "V1__renamed.sql")
    with pytest.raises(MigrationError, match='its description is "renamed", the history has "first"'):
        migrate(empty_database_url, directories=files)


def test_every_problem_is_named_at_once(empty_database_url: str, files: Path) -> None:
    migrate(empty_database_url, directories=files)
    (files / "V1__first.sql").write_text("select 1")
    (files / "R__view.sql").unlink()
    (files / "V0.1__late.sql").write_text("select 1")
    (files / "V2__new.sql").write_text("select 1")
    with pytest.raises(MigrationError) as caught:
        validate(empty_database_url, directories=files)
    assert [problem.split(" ")[0] for problem in caught.value.problems if problem.startswith("V")] == [
        "V1__first.sql",
        "V0.1__late.sql",
        "V2__new.sql",
    ]
    assert any(
        problem.startswith("the database has R__view.sql, which has no file") for problem in caught.value.problems
    )
    assert "\n" not in str(caught.value)


def test_the_packaged_files_need_no_placeholders(empty_database_url: str) -> None:
    with_values = plan(empty_database_url, with_e2e=True, directories=packaged_directory())
    without = plan(empty_database_url, with_e2e=True, directories=packaged_directory(), placeholders=None)
    assert with_values.sql == without.sql
