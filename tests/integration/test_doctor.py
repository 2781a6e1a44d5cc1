"""`commandbus doctor`: what is healthy is called so, and what is not comes with what to run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from commandbus.migrate import grant
from tests.cli_process import Cli, environment
from tests.integration.granted import login
from tests.integration.growth import month
from tests.integration.sql_helpers import DOMAIN, Bus, errors, open_bus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from uuid import UUID

    from commandbus.migrate import RoleNames
    from tests.support import Server

pytestmark = pytest.mark.direct("looks at sessions and LISTEN, which a pooler hides; test_pgbouncer has the doctor too")


@pytest.fixture
def bus(database_url: str) -> Iterator[Bus]:
    """A connection to a database with one domain."""
    with open_bus(database_url) as found:
        found.create_domain()
        yield found


@pytest.fixture
def cli(tmp_path: Path, bus: Bus) -> Cli:
    """The command line on that database."""
    return Cli(tmp_path, bus.url)


def checks(cli: Cli, *options: object, code: int = 0) -> dict[str, dict[str, Any]]:
    """Return the checks by name."""
    report = cli.json("doctor", *options, code=code)
    assert report["ok"] is (code == 0)
    return {check["name"]: check for check in report["checks"]}


def test_a_healthy_database_is_found_healthy(cli: Cli) -> None:
    found = checks(cli, "--processes", 1)
    assert {name: check["status"] for name, check in found.items()} == dict.fromkeys(found, "ok")
    assert {check["run"] for check in found.values()} == {None}
    assert ", primary, " in found["server"]["found"]
    assert found["LISTEN"]["found"].startswith("delivered")
    assert found[f"domain {DOMAIN}"]["facts"]["in_troubleshooting"] == 0
    lines = cli.text("doctor").splitlines()
    assert lines[-1].startswith("ok  ")
    assert lines == [line.rstrip() for line in lines]


def test_drift_is_a_problem_and_rights_alone_a_warning(cli: Cli, bus: Bus) -> None:
    bus.run("grant select on commandbus.batch to pg_monitor")
    found = checks(cli)["schema"]
    assert "; to do: commandbus verify, then commandbus grant\n" in cli.text("doctor")
    assert found["status"] == "warning"
    assert found["found"].startswith("1 right to be mended: ")
    bus.run("drop index commandbus.batch_created_idx")
    found = checks(cli, code=1)["schema"]
    assert (found["status"], found["run"]) == ("problem", "commandbus verify")
    assert found["found"].startswith("2 differences from the migrations: ")
    assert "missing index commandbus.batch.batch_created_idx" in found["found"]


def test_strings_that_pgmq_cannot_read_are_a_warning(cli: Cli, bus: Bus) -> None:
    if bus.value("select current_setting('server_version_num')::int") >= 190_000:
        pytest.skip("this server knows no other strings")
    name = bus.value("select current_database()")
    bus.run(f"alter database {name} set standard_conforming_strings = off")
    found = checks(cli)["strings"]
    assert (found["status"], found["run"]) == (
        "warning",
        "alter role or alter database ... set standard_conforming_strings = on",
    )


def test_more_workers_than_connections_are_a_problem(cli: Cli) -> None:
    found = checks(cli, "--processes", 500, "--concurrency", 3, code=1)["connection budget"]
    assert found["facts"]["connections_each"] == 7  # handlers 3, the worker's own 3, LISTEN 1
    assert (
        "1 process with up to 7 connections each need 7, and others leave them"
        in (checks(cli, "--processes", 1, "--concurrency", 3)["connection budget"]["found"])
    )
    assert "3 processes with up to 7" in checks(cli, "--processes", 3, "--concurrency", 3)["connection budget"]["found"]


def test_connections_are_counted_by_name(cli: Cli, bus: Bus) -> None:
    with psycopg.connect(bus.url, application_name="commandbus"):
        assert checks(cli)["connections"]["facts"]["of_commandbus"] == 2


def test_a_wrong_address_to_listen_at_is_one_problem_of_many_checks(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"COMMANDBUS_LISTEN_DATABASE_URL": "postgresql://app:canary@127.0.0.1:1/nowhere"}
    monkeypatch.setattr("tests.cli_process.environment", lambda url: environment(url) | wrong)
    found = checks(cli, code=1)
    assert {name for name, check in found.items() if check["status"] == "problem"} == {"LISTEN"}
    assert found["LISTEN"]["found"].startswith("COMMANDBUS_LISTEN_DATABASE_URL: the database cannot be reached")
    assert "canary" not in str(found)
    assert found["stuck commands"]["status"] == "ok"


def test_a_lost_history_is_told_with_what_begins_it_again(cli: Cli, bus: Bus) -> None:
    bus.run("drop table public.flyway_schema_history")
    found = checks(cli)["history"]
    assert (found["status"], found["run"]) == ("warning", "commandbus migrate baseline --version 001")
    said = cli.refusal("migrate", code=1)
    assert 'public.flyway_schema_history, is not: run "commandbus migrate baseline --version 001"' in said
    cli.text("migrate", "baseline", "--version", "001")
    assert "history" not in checks(cli)
    assert cli.text("migrate") == "nothing to apply\n"


def test_through_a_pooler_workers_poll(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.cli_process.environment", lambda url: environment(url) | {"COMMANDBUS_PGBOUNCER": "1"})
    found = checks(cli, "--processes", 1)
    assert "workers poll" in found["LISTEN"]["found"]
    assert "PgBouncer" in found["connection budget"]["found"]


def test_another_default_isolation_is_told(cli: Cli, server: Server, bus: Bus) -> None:
    name = server.database_name(bus.url)
    bus.run(f"alter database \"{name}\" set default_transaction_isolation = 'serializable'")
    found = checks(cli)["isolation"]
    assert found["status"] == "warning"
    assert "the default is serializable" in found["found"]


def test_who_holds_back_vacuum_is_named(cli: Cli, bus: Bus) -> None:
    with psycopg.connect(bus.url, application_name="nightly report") as reader:
        reader.execute("select pg_current_xact_id()")
        found = checks(cli)["oldest transaction"]
        assert found["facts"]["who"] == f"pid {reader.info.backend_pid}"
        assert "nightly report" in found["found"]


def test_what_it_says_to_run_gives_queues_their_settings_back(cli: Cli, bus: Bus) -> None:
    bus.run("alter table pgmq.q_pay__commands set (autovacuum_vacuum_scale_factor = 0.2)")
    bus.run("alter table pgmq.q_pay__replies reset (fillfactor)")
    found = checks(cli)["autovacuum"]
    assert found["status"] == "warning"
    for statement in found["facts"]["statements"]:
        bus.run(statement)
    assert checks(cli)["autovacuum"]["status"] == "ok"


def test_a_missing_partition_is_told_and_what_it_says_to_run_makes_it(cli: Cli, bus: Bus) -> None:
    assert "audit_default is empty" in checks(cli)["audit partitions"]["found"]
    bus.run(f"drop table commandbus.{month(1)}")
    found = checks(cli)["audit partitions"]
    assert (found["status"], found["facts"]["next_month"]) == ("warning", False)
    assert month(1) in found["found"]
    program, *arguments = found["run"].partition(",")[0].split()
    assert program == "commandbus"
    cli.text(*arguments)
    assert checks(cli)["audit partitions"]["status"] == "ok"


def test_rows_in_the_default_partition_are_told_and_what_it_says_to_run_removes_them(cli: Cli, bus: Bus) -> None:
    bus.run(
        "insert into commandbus.audit (ts, domain, command_id, event_type)"
        " values (now() - interval '5 months', 'pay', gen_random_uuid(), 'SENT')"
    )
    found = checks(cli)["audit partitions"]
    assert (found["status"], found["facts"]["rows_in_default"]) == ("warning", True)
    program, *arguments = found["run"].replace("DAYS", "100").split()
    assert program == "commandbus"
    cli.text(*arguments)
    assert checks(cli)["audit partitions"]["status"] == "ok"


def test_a_login_without_rights_is_told_what_it_cannot_see(names: RoleNames, cli: Cli, bus: Bus) -> None:
    grant(bus.url, **asdict(names))
    cli.url = login(bus.url, names.app)
    found = checks(cli)
    unknown = {name for name, check in found.items() if check["status"] == "warning"}
    assert unknown == {"oldest transaction", "stuck commands"}
    assert found["roles"]["facts"]["owner"] == names.owner


def make_stuck(bus: Bus) -> list[UUID]:
    """Leave commands of every state, of which three can never run; return these."""
    parked = bus.park()[0]
    assert bus.status(parked) == "IN_TROUBLESHOOTING_QUEUE"
    done, retried, lost_retry, leased, lost_lease = bus.send_new(5)
    received = {row["command_id"]: row for row in bus.receive()}
    bus.settle([received[done]], "COMPLETED")
    bus.settle([received[retried], received[lost_retry]], "RETRY", **errors(2, "TRANSIENT", delay=3600))
    _, lost = bus.send_new(2)
    bus.run("delete from commandbus.scheduled where command_id = %s", lost_retry)
    for command_id in (lost_lease, lost):
        bus.run("delete from pgmq.q_pay__commands where message ->> 'command_id' = %s", str(command_id))
    assert bus.status(leased) == "IN_PROGRESS"
    bus.run(
        "update commandbus.command set created_at = created_at - interval '2 minutes',"
        " updated_at = updated_at - interval '2 minutes'"
    )
    return [lost_retry, lost_lease, lost]


def test_commands_that_will_never_run_are_found(cli: Cli, bus: Bus) -> None:
    assert checks(cli)["stuck commands"]["status"] == "ok"
    stuck = make_stuck(bus)
    found = checks(cli, code=1)["stuck commands"]
    assert found["facts"]["at_least"] == 3
    assert {command_id for _, command_id in found["facts"]["examples"]} == set(map(str, stuck))
    assert "at least 3" in found["found"]


def test_what_it_says_to_run_hands_them_to_an_operator(cli: Cli, bus: Bus) -> None:
    stuck = make_stuck(bus)
    program, *arguments = checks(cli, code=1)["stuck commands"]["run"].split()
    assert program == "commandbus"
    assert set(cli.json(*arguments)) == set(map(str, stuck))
    assert checks(cli)["stuck commands"]["status"] == "ok"
    ended = bus.call("sp_operator_cancel", domain=DOMAIN, command_ids=stuck, reason="its message was lost")
    assert [row["refusal"] for row in ended] == [None] * 3
