"""A migration's statements: which are refused because the file could not be undone, and which only look so."""

from __future__ import annotations

from pathlib import Path

import pytest

from commandbus.errors import MigrationError
from commandbus.migrate import discover, packaged_directory
from commandbus.migrate.files import Migration
from commandbus.migrate.statements import check_statements, tokens

BODY = "create or replace function f() returns int language sql begin atomic"


def check(text: str) -> None:
    """Check a migration of that text."""
    check_statements(Migration("3", "x", "V3__x.sql", Path("V3__x.sql"), 0, text), text)


@pytest.mark.parametrize(
    "statement",
    [
        "commit",
        "COMMIT and chain",
        "rollback",
        "rollback work",
        "rollback prepared 'to'",
        "end",
        "end transaction",
        "abort",
        "begin",
        "Begin isolation level serializable",
        "start transaction",
        "prepare transaction 'x'",
        "/* a /* comment */ ; */ -- ;\ncommit",
    ],
)
def test_what_begins_or_ends_a_transaction_is_refused_by_its_line(statement: str) -> None:
    line = 3 + statement.count("\n")
    for after in ("", ";", ";\ncreate table bb ();"):
        with pytest.raises(MigrationError, match=rf'^V3__x\.sql line {line}: "\w+" would (begin|end) (a|the) trans'):
            check(f"create table aa ();\n\n{statement}{after}")


@pytest.mark.parametrize(
    "before",
    [
        f"{BODY} select case when true then 1 end; select 2; end",
        f"{BODY} select (case 1 when 1 then 2 end) as end; select t.case from t; end",
        "create procedure p() begin /* ; */ atomic insert into t values (1); end",
        "create function begin(atomic int) returns int language sql return 1",
        "create table begin (atomic int)",
        "create rule r as on insert to t do also (select 1; select 2)",
        "create table t (x text default ')', y text default e'\\'(', z text default $a$($a$)",
        'create table "(" ()',
        "select 'C:\\'",
        "select U&'\\'",
    ],
)
def test_a_commit_after_an_odd_statement_is_seen_and_the_statement_is_not_refused(before: str) -> None:
    check(f"{before};\nselect 1;")
    with pytest.raises(MigrationError, match="line 2"):
        check(f"{before};\ncommit;")


@pytest.mark.parametrize(
    "text",
    [
        "savepoint a; rollback to a; rollback work to savepoint a; rollback transaction to a; release savepoint a",
        "do $$ begin commit; end $$; do $_$ begin end $_$",
        "create procedure p() language plpgsql as 'begin commit; end'",
        "create table t (x text default ';commit;', \"; commit;\" int) -- ; commit;\n/* ; commit; */",
        "select e'\\'; commit; --'",
        "set transaction read write; prepare commit as select 1; execute commit",
        "alter table t rename commit to begin; ; ;",
        "",
    ],
)
def test_what_only_looks_like_transaction_control_is_not_refused(text: str) -> None:
    check(text)


@pytest.mark.parametrize(
    "statement",
    [
        "copy t from stdin;\n1\n\\.\n",
        "COPY t (a, b) FROM STDIN with (format csv)",
        "copy (select 1) to stdout",
        'copy "t" to stdin',
    ],
)
def test_a_copy_of_a_clients_rows_is_refused(statement: str) -> None:
    with pytest.raises(
        MigrationError, match=r"^V3__x\.sql line 2: this COPY needs a client .* write insert, or run psql"
    ):
        check(f"select 1;\n{statement}")


def test_a_copy_of_the_servers_files_is_not_refused() -> None:
    check("copy stdin from '/stdin'; copy stdout (stdin) to program 'cat'; copy (select 'to stdout') to '/x'")


def test_the_packaged_files_are_not_refused_and_their_pieces_are_the_text() -> None:
    for migration in discover(packaged_directory()):
        check_statements(migration, migration.text)
        assert "".join(token.text for token in tokens(migration.text)) == migration.text
