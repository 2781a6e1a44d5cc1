"""Files that change, fail, vanish or come late: the runner and Flyway say the same and leave the same history."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from commandbus.errors import MigrationError
from commandbus.migrate import MigrationState, baseline, info, migrate, repair, validate
from tests.flyway.conftest import Base

if TYPE_CHECKING:
    from pathlib import Path

    from tests.flyway.tool import Engine
    from tests.support import Server


def refused_by_both(base: Base, ours: str, theirs: str) -> None:
    """Both must refuse to migrate and to validate, with these words, and change nothing."""
    before = base.rows()
    with pytest.raises(MigrationError, match=ours):
        base.ours()
    with pytest.raises(MigrationError, match=ours):
        validate(base.url, directories=base.files)
    for verb in ("migrate", "validate"):
        answer = base.try_theirs(verb)
        assert not answer.ok
        assert theirs in answer.text
    assert base.rows() == before


def test_checksums_agree_on_every_kind_of_text(bases: tuple[Base, Base]) -> None:
    texts = {
        "V4__crlf.sql": "select 1;\r\nselect 2;\r\n",
        "V5__cr.sql": "select 1;\rselect 2;\r",
        "V6__mark.sql": "\ufeffselect 1;\n",
        "V7__no_end.sql": "select 1",
        "V8__separators.sql": "select 'a\u2028b\u2029c\x85d\x0be\x0cf\x1cg', 'äöü€\U0001f600';\n",
        "V9__empty.sql": "",
        "V10__blank.sql": "\n\n",
        "V11_1__two_parts__and_more_.sql": "select 1;",
        "deep/er/V12__below.sql": "select 1;",
        "R__again.sql": "select 1;\r\n",
    }
    one, other = bases
    for name, text in texts.items():
        one.write(name, text)
    one.ours()
    other.theirs("migrate")
    assert len(one.rows()) == 3 + len(texts)
    assert one.rows() == other.rows()
    one.theirs("validate")
    validate(other.url, directories=other.files)


def test_a_changed_file_is_refused_by_both(base: Base) -> None:
    base.ours(target="2")
    base.write("V1__first.sql", "select 1;")
    refused_by_both(
        base, r"V1__first\.sql was changed after it was applied", "checksum mismatch for migration version 1"
    )


def test_a_renamed_file_is_refused_by_both(base: Base) -> None:
    base.theirs("migrate")
    (base.files / "V1__first.sql").rename(base.files / "V1__one.sql")
    refused_by_both(base, "its description is", "description mismatch for migration version 1")


def test_a_missing_file_is_refused_by_both(base: Base) -> None:
    base.ours()
    (base.files / "V2__second.sql").unlink()
    refused_by_both(base, r"V2__second\.sql\), which has no file", "not resolved locally: 2")


def test_a_late_file_is_refused_by_both(base: Base) -> None:
    base.ours()
    base.write("V1.5__late.sql", "select 1;")
    refused_by_both(base, r"V1\.5__late\.sql is older than", "not applied to database: 1.5")


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_a_file_that_fails_leaves_nothing_and_either_goes_on_when_it_is_mended(base: Base, whose: str) -> None:
    base.write("V2__second.sql", "create table public.second ();\ninsrt;\n")
    if whose == "ours":
        with pytest.raises(MigrationError, match=r"V2__second\.sql line 2: syntax error"):
            base.ours()
    else:
        assert "syntax error" in base.try_theirs("migrate").text
    assert [row[1] for row in base.rows()] == ["1"]
    assert base.query("select to_regclass('public.second')") == [(None,)]
    base.write("V2__second.sql", "create table public.second ();\n")
    if whose == "ours":
        base.theirs("migrate")
    else:
        base.ours()
    assert [row[1] for row in base.rows()] == ["1", "2", "3"]


def test_flyway_keeps_what_a_failed_file_committed_and_the_runner_refuses_such_a_file(bases: tuple[Base, Base]) -> None:
    one, other = bases
    one.write("V2__second.sql", "create table public.second ();\ncommit;\ninsrt;\n")
    with pytest.raises(MigrationError, match=r'V2__second\.sql line 2: "commit" would end the transaction'):
        one.ours()
    assert one.rows() == []
    assert "syntax error" in other.try_theirs("migrate").text
    assert [row[1] for row in other.rows()] == ["1"]
    assert other.query("select to_regclass('public.second')") == [("second",)]


def test_flyway_copies_the_rows_of_a_file_and_the_runner_refuses_it(bases: tuple[Base, Base]) -> None:
    one, other = bases
    one.write("V2__second.sql", "create table public.second (id int);\ncopy public.second from stdin;\n7\n\\.\n")
    with pytest.raises(MigrationError, match=r"V2__second\.sql line 2: this COPY needs a client"):
        one.ours()
    other.theirs("migrate")
    assert other.query("table public.second") == [(7,)]
    one.write("V2__second.sql", "copy public.first to stdout;\n")
    assert "COPY" in one.try_theirs("migrate").text


def test_both_apply_bodies_with_a_begin_and_an_end(bases: tuple[Base, Base]) -> None:
    one, other = bases
    one.write(
        "V2__second.sql",
        "create function public.f() returns int begin atomic select 1; select case when true then 2 end; end;\n"
        "create procedure public.p() language plpgsql as $$ begin commit; end $$;\n",
    )
    one.ours()
    other.theirs("migrate")
    assert one.rows() == other.rows()
    assert one.query("select public.f()") == other.query("select public.f()") == [(2,)]


def test_a_recorded_failure_is_refused_and_repaired_alike(bases: tuple[Base, Base]) -> None:
    # Older Flyways wrote such a row when a migration without a transaction failed half-way.
    failure = (
        "insert into public.flyway_schema_history"
        " select 3, '3', 'third', 'SQL', 'V3__third.sql', checksum, installed_by, now(), 5, false"
        " from public.flyway_schema_history where version = '2'"
    )
    for base in bases:
        base.ours(target="2")
        base.query(failure)
        refused_by_both(base, r"V3__third\.sql failed when it was applied", "Detected failed migration to version 3")
        assert base.theirs("info").states["3"] == "Failed"
        assert info(base.url, directories=base.files)[-1].state is MigrationState.FAILED
    one, other = bases
    assert repair(one.url, directories=one.files).removed == ("V3__third.sql",)
    other.theirs("repair")
    assert one.rows() == other.rows()
    one.theirs("migrate")
    other.ours()
    assert one.rows() == other.rows()


def test_either_repairs_changed_missing_and_unrecorded_checksums_alike(bases: tuple[Base, Base]) -> None:
    one, other = bases
    one.write("R__again.sql", "select 1;")
    one.write("R__gone.sql", "select 1;")
    one.ours()
    other.theirs("migrate")
    for base in bases:
        base.query("update public.flyway_schema_history set checksum = null where version = '3'")
    one.write("V1__one.sql", "select 2;")
    for name in ("V1__first.sql", "V2__second.sql", "R__gone.sql"):
        (one.files / name).unlink()
    one.write("R__again.sql", "select 2;")
    result = repair(one.url, directories=one.files)
    other.theirs("repair")
    assert one.rows() == other.rows()
    assert sorted(result.deleted) == ["R__gone.sql", "V2__second.sql"]
    assert result.realigned == ("V1__first.sql", "V3__third.sql")
    assert other.ours() == ["R__again.sql"]
    one.theirs("migrate")
    assert one.rows() == other.rows()


def test_neither_repairs_away_what_is_newer_than_all_files(bases: tuple[Base, Base]) -> None:
    one, other = bases
    one.ours()
    other.theirs("migrate")
    (one.files / "V3__third.sql").unlink()
    assert repair(one.url, directories=one.files).deleted == ()
    other.theirs("repair")
    assert len(one.rows()) == 3
    assert one.rows() == other.rows()


def test_a_newer_database_is_refused_by_the_runner_and_passed_by_flyway(base: Base) -> None:
    base.theirs("migrate")
    (base.files / "V3__third.sql").unlink()
    with pytest.raises(MigrationError, match="newer than this installation: it has version 3, versions 1 to 2"):
        base.ours()
    base.theirs("migrate")


@pytest.mark.parametrize("version", ["2", "002", "1.5", "0"])
def test_either_begins_the_history_alike(bases: tuple[Base, Base], version: str) -> None:
    one, other = bases
    assert baseline(one.url, version=version, directories=one.files)
    other.theirs("baseline", {"baselineVersion": version})
    assert one.rows() == other.rows()
    assert not baseline(other.url, version=version, directories=other.files)
    one.theirs("baseline", {"baselineVersion": version})
    with pytest.raises(MigrationError, match="has a baseline already"):
        baseline(other.url, version="9", directories=other.files)
    assert "already been baselined" in one.try_theirs("baseline", {"baselineVersion": "9"}).text
    one.theirs("migrate")
    other.ours()
    assert one.rows() == other.rows()
    assert one.catalog("--exclude-schema=pgmq") == other.catalog("--exclude-schema=pgmq")


def test_the_runner_goes_on_after_a_baseline_migration_of_flyway(base: Base) -> None:
    base.write("B2__all_of_it.sql", "create table public.first (id int); create table public.second (id int);")
    base.theirs("migrate", {"target": "2"})
    (base.files / "B2__all_of_it.sql").unlink()
    assert base.ours() == ["V3__third.sql"]
    assert [(row[1], row[3]) for row in base.rows()] == [("2", "SQL_BASELINE"), ("3", "SQL")]


def test_a_team_keeps_its_own_versions_in_a_table_of_its_own(server: Server, engine: Engine, tmp_path: Path) -> None:
    own = {"table": "shop_schema_history", "baselineOnMigrate": "true", "baselineVersion": "0"}
    with server.database() as url:
        shop = Base(url, engine, tmp_path)
        shop.write("V1__shop.sql", "create table public.shop_order (id int);")
        shop.theirs("migrate")  # at first in the table that is everybody's
        with pytest.raises(MigrationError, match=r"V001__commandbus_schema\.sql has the version of V1__shop\.sql"):
            migrate(url)
        shop.query("alter table public.flyway_schema_history rename to shop_schema_history")
        shop.query("alter index public.flyway_schema_history_pk rename to shop_schema_history_pk")
        shop.query("alter index public.flyway_schema_history_s_idx rename to shop_schema_history_s_idx")
        migrate(url, with_e2e=True)
        shop.write("V2__more.sql", "alter table public.shop_order add n int;")
        shop.theirs("migrate", own)
        shop.theirs("validate", own)
        validate(url, with_e2e=True)
        assert shop.query("select version from public.shop_schema_history order by 1") == [("1",), ("2",)]
    with server.database() as url:  # the other way round
        shop = Base(url, engine, tmp_path)
        migrate(url)
        shop.theirs("migrate", own)
        shop.theirs("validate", own)
        validate(url)
        assert migrate(url).applied == ()


def test_neither_begins_a_history_that_has_migrations(base: Base) -> None:
    base.ours()
    with pytest.raises(MigrationError, match="has migrations already"):
        baseline(base.url, version="2", directories=base.files)
    assert "already contains migrations" in base.try_theirs("baseline", {"baselineVersion": "2"}).text


def test_a_schema_with_other_tables_needs_a_baseline_in_flyway_only(bases: tuple[Base, Base]) -> None:
    for base in bases:
        base.query("create table public.app ()")
    one, other = bases
    assert "non-empty schema" in one.try_theirs("migrate").text
    one.theirs("migrate", {"baselineOnMigrate": "true", "baselineVersion": "0"})
    assert one.ours() == []
    other.ours()
    other.theirs("validate")
    assert one.rows()[1:] == [(row[0] + 1, *row[1:]) for row in other.rows()]
