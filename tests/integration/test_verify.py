"""Drift: whatever somebody changes by hand is named, and nothing is named where nobody did."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from commandbus.errors import NotMigratedError
from commandbus.migrate import Difference, Finding, verify
from tests.cli_process import Cli
from tests.integration.growth import month
from tests.integration.sql_helpers import DOMAIN, open_bus

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
SENDER = "commandbus.send_to_pay(uuid, text, jsonb, uuid, text, integer, boolean, integer)"
LABELS = "PENDING, IN_PROGRESS, IN_TROUBLESHOOTING_QUEUE, FAILED, CANCELED, COMPLETED"
READER = "commandbus._read_from_pay(integer, integer)"


def load_tool() -> ModuleType:
    """Return the program that writes the snapshot."""
    spec = importlib.util.spec_from_file_location("snapshot", ROOT / "tools" / "snapshot.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def url(database_url: str) -> str:
    """A migrated database with one domain."""
    with open_bus(database_url) as bus:
        bus.create_domain()
    return database_url


def run(url: str, *statements: str) -> None:
    """Execute statements as the superuser."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def lines(url: str, **options: Any) -> list[str]:
    """Return what verify says."""
    return list(map(str, verify(url, **options)))


def test_the_snapshot_is_what_the_migrations_make_on_this_server(empty_database_url: str) -> None:
    tool = load_tool()
    made = tool.as_text(tool.make(empty_database_url))
    assert made.splitlines() == tool.SNAPSHOT.read_text("utf-8").splitlines(), "run `make fix`"


def test_a_migrated_database_has_no_difference(url: str) -> None:
    assert lines(url, with_e2e=True) == []


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ("drop index commandbus.command_created_idx", "missing index commandbus.command.command_created_idx"),
        (
            "create index extra on commandbus.batch (name)",
            "unexpected index commandbus.batch.extra",
        ),
        (
            "alter table commandbus.batch alter column status set default 'IN_PROGRESS'",
            "changed column commandbus.batch.status: default is 'IN_PROGRESS'::text, should be 'PENDING'::text",
        ),
        (
            "alter table commandbus.command alter column correlation_id set not null",
            "changed column commandbus.command.correlation_id: not null is yes, should be none",
        ),
        (
            "alter table commandbus.batch alter column name type varchar(9)",
            "changed column commandbus.batch.name: type is character varying(9), should be text",
        ),
        ("alter table commandbus.batch add note text", "unexpected column commandbus.batch.note"),
        ("drop table commandbus.scheduled", "missing table commandbus.scheduled"),
        ("create table commandbus.mine (x int primary key)", "unexpected table commandbus.mine"),
        (
            "alter table commandbus.batch drop constraint batch_counts_ck",
            "missing constraint commandbus.batch.batch_counts_ck",
        ),
        (
            "alter table commandbus.command set (fillfactor = 90)",
            "changed table commandbus.command: options is fillfactor=90, should be fillfactor=50",
        ),
        (
            "alter sequence commandbus.undelivered_reply_reply_id_seq increment 2",
            "changed sequence commandbus.undelivered_reply_reply_id_seq: increment is 2, should be 1",
        ),
        (
            "alter type commandbus.command_status add value 'LOST'",
            f"changed type commandbus.command_status: labels is {LABELS}, LOST, should be {LABELS}",
        ),
        (
            (
                "create or replace function commandbus.schema_version() returns int language sql immutable"
                " set search_path = pg_catalog, pg_temp as $$ select 7 $$"
            ),
            "changed function commandbus.schema_version(): body differs",
        ),
        (
            "alter function commandbus.schema_version() reset search_path",
            "changed function commandbus.schema_version(): settings is none, should be search_path=pg_catalog, pg_temp",
        ),
        (
            "alter function commandbus.list_domains() security definer",
            "changed security of function commandbus.list_domains(): is definer, should be invoker",
        ),
        ("drop function commandbus.list_domains()", "missing function commandbus.list_domains()"),
        (
            (
                "create function commandbus.mine() returns int language sql as 'select 1';"
                " revoke execute on function commandbus.mine() from public"
            ),
            "unexpected function commandbus.mine()",
        ),
        (
            (
                "create trigger mine before update on commandbus.batch for each row"
                " execute function suppress_redundant_updates_trigger()"
            ),
            "unexpected trigger commandbus.batch.mine",
        ),
        (
            "grant execute on function commandbus.list_domains() to public",
            "unexpected grant on function commandbus.list_domains(): EXECUTE to PUBLIC",
        ),
        (
            "grant select on commandbus.audit to pg_monitor",
            "unexpected grant on table commandbus.audit: SELECT to pg_monitor",
        ),
        (
            "grant update (status) on commandbus.batch to pg_monitor",
            "unexpected grant on table commandbus.batch column status: UPDATE to pg_monitor",
        ),
        ("grant usage on schema commandbus to public", "unexpected grant on schema commandbus: USAGE to PUBLIC"),
        (f"drop function {SENDER}", f"missing function {SENDER}"),
        (f"drop function {READER}", f"missing function {READER}"),
        ("drop table pgmq.q_pay__commands", "missing queue pgmq.q_pay__commands"),
        ("select pgmq.drop_queue('pay__commands')", "missing queue pgmq.q_pay__commands"),
        ("drop table pgmq.q_pay__replies", "missing queue pgmq.q_pay__replies"),
        ("drop table pgmq.a_pay__replies", "missing archive pgmq.a_pay__replies"),
        (f"drop function {SENDER}, {READER}", f"missing function {SENDER}"),
        (
            "alter table commandbus.command disable trigger all",
            "changed constraint commandbus.command.command_batch_fk: disabled is yes, should be none",
        ),
        (
            (
                "create trigger mine before update on commandbus.batch for each row"
                " execute function suppress_redundant_updates_trigger();"
                " alter table commandbus.batch disable trigger mine"
            ),
            "unexpected trigger commandbus.batch.mine",
        ),
        (
            (
                "do $$ begin execute replace(pg_get_functiondef('commandbus._read_from_pay'::regproc), 'pay__commands',"
                " 'other__commands'); end $$"
            ),
            f"changed function {READER}: body differs",
        ),
        (
            "drop type pgmq.message_record cascade",
            "missing extension pgmq",
        ),
        ("drop table e2e.config", "missing table e2e.config"),
        (
            'alter table commandbus.batch alter column name type text collate "C"',
            'changed column commandbus.batch.name: collation is "C", should be none',
        ),
        (
            "alter table commandbus.audit_default set unlogged",
            "changed partition commandbus.audit_default: unlogged is yes, should be none",
        ),
        (
            f"alter table commandbus.{month()} set unlogged",
            f"changed partition commandbus.{month()}: unlogged is yes, should be none",
        ),
        (
            f"alter table commandbus.{month()} add constraint no_more check (false) not valid",
            (f"changed partition commandbus.{month()}: constraint no_more is CHECK (false) NOT VALID, should be none"),
        ),
        (
            "drop index pgmq.q_pay__replies_cmd_idx",
            "missing index pgmq.q_pay__replies.q_pay__replies_cmd_idx",
        ),
        (
            "create index mine on pgmq.q_pay__commands (vt)",
            "unexpected index pgmq.q_pay__commands.mine",
        ),
        (
            (
                "create trigger mine before update on pgmq.q_pay__commands for each row"
                " execute function suppress_redundant_updates_trigger()"
            ),
            "unexpected trigger pgmq.q_pay__commands.mine",
        ),
        (
            "alter table pgmq.q_pay__commands set unlogged",
            "changed queue pgmq.q_pay__commands: unlogged is yes, should be none",
        ),
        (
            "alter table pgmq.a_pay__commands set unlogged",
            "changed archive pgmq.a_pay__commands: unlogged is yes, should be none",
        ),
    ],
)
def test_a_change_by_hand_is_one_line(url: str, statement: str, line: str) -> None:
    run(url, statement)
    found = lines(url)
    assert line in found
    assert len(found) == len(set(found)) <= 2


def test_a_domain_named_like_our_own_words_is_no_difference(url: str) -> None:
    with open_bus(url) as bus:
        for domain in ("command", "commandbus", "send_to_x", "p_domain", "a" * 37):
            bus.create_domain(domain)
    assert lines(url) == []


def test_a_domain_made_where_all_identifiers_are_quoted_is_no_difference(url: str) -> None:
    with open_bus(url) as bus:
        bus.run("set quote_all_identifiers = on")
        bus.create_domain("quoted")
    assert lines(url) == []


def test_a_queue_of_somebody_elses_that_is_called_like_a_domains_is_no_difference(url: str) -> None:
    run(url, "select pgmq.create('billing__commands')", "select pgmq.create('crm__replies')")
    run(url, "grant select on pgmq.q_billing__commands, pgmq.q_crm__replies to public")
    assert lines(url) == []


def test_partitions_are_compared_with_their_parent_and_not_listed(url: str) -> None:
    run(
        url,
        "create table commandbus.log (ts timestamptz not null default now(), n int) partition by range (ts)",
        "create index log_idx on commandbus.log (n)",
        "create table commandbus.log_y2026m11 partition of commandbus.log for values from ('2026-11-01') to"
        " ('2026-12-01')",
        "create table commandbus.log_y2026m12 partition of commandbus.log for values from ('2026-12-01') to"
        " ('2027-01-01')",
    )
    assert lines(url) == ["unexpected table commandbus.log"]
    run(
        url,
        "create index by_hand on commandbus.log_y2026m12 (ts)",
        "alter table commandbus.log_y2026m12 alter column n set default 3",
    )
    assert lines(url)[1:] == [
        (
            "changed partition commandbus.log_y2026m12: column n is integer default 3, should be integer;"
            " index by_hand is by_hand, should be none"
        )
    ]


def test_of_a_table_that_is_there_every_change_is_named_and_of_one_that_is_not_the_table(url: str) -> None:
    run(
        url,
        "alter table commandbus.command set (fillfactor = 90)",
        "drop index commandbus.command_created_idx",
        "drop table commandbus.scheduled",
    )
    assert [line.split(":")[0] for line in lines(url)] == [
        "changed table commandbus.command",
        "missing index commandbus.command.command_created_idx",
        "missing table commandbus.scheduled",
    ]


def test_a_long_value_is_cut(url: str) -> None:
    run(url, f"alter table commandbus.batch alter column name set default '{'x' * 301}'")
    (line,) = lines(url)
    assert f"default is '{'x' * 299}..., should be none" in line


def test_an_old_pgmq_is_named(url: str) -> None:
    run(url, "alter type pgmq.message_record drop attribute last_read_at cascade")
    assert "changed extension pgmq: is older than 1.10" in lines(url)


def test_the_optional_schema_is_compared_only_where_it_is_or_when_asked_for(url: str) -> None:
    run(url, "drop schema e2e cascade")
    assert lines(url) == []
    assert "missing table e2e.test_command" in lines(url, with_e2e=True)


def test_any_role_may_verify_beside_writers(url: str) -> None:
    with psycopg.connect(url) as busy, psycopg.connect(url, autocommit=True) as connection:
        busy.execute("lock table commandbus.command, commandbus.audit in exclusive mode")
        connection.execute("set role pg_checkpoint")
        connection.execute("set default_transaction_read_only = on")
        assert verify(connection) == []


def test_an_empty_database_is_not_migrated(empty_database_url: str) -> None:
    with pytest.raises(NotMigratedError, match="run `commandbus migrate`"):
        verify(empty_database_url)


def test_a_difference_can_be_told_by_a_program(url: str) -> None:
    run(url, "drop index commandbus.command_created_idx")
    assert verify(url) == [Difference(Finding.MISSING, "index", "commandbus.command.command_created_idx")]


def test_the_command_line_prints_one_line_each_and_ends_with_1(url: str, tmp_path: Path) -> None:
    cli = Cli(tmp_path, url)
    assert cli.text("verify") == "the database is as the migrations make it\n"
    assert cli.json("verify") == {"ok": True, "differences": []}
    run(url, "drop index commandbus.command_created_idx", f"drop function {READER}")
    done = cli("verify")
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 2)
    assert cli.json("verify", code=1)["differences"][0] == {
        "finding": "missing",
        "kind": "function",
        "name": READER,
        "detail": "",
    }
    assert json.loads(cli("verify", "--json", "--database-url", "postgresql://127.0.0.1:1/x").stderr)["error"]


def test_the_example_domain_of_the_snapshot_is_no_word_of_the_migrations() -> None:
    tool = load_tool()
    assert DOMAIN not in tool.EXAMPLE
    assert all(tool.EXAMPLE not in path.read_text() for path in (ROOT / "migrations").glob("*.sql"))
