"""The command line for operators of the running system: find, overview, workers, groups, edits, redrives, pauses."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.integration.sql_helpers import open_bus
from tests.integration.test_cli import CANARY, DOMAIN, cli, park

if TYPE_CHECKING:
    from tests.cli_process import Cli

__all__ = ["cli"]  # a fixture


def test_commands_are_found(cli: Cli, database_url: str) -> None:
    (command_id, _) = park(database_url, 2)
    found = cli.json("find", DOMAIN, "--text", "broken", "--status", "IN_TROUBLESHOOTING_QUEUE", "--type", "Debit")
    assert {one["command_type"] for one in found} == {"Debit"}
    assert [one["command_id"] for one in cli.json("find", "--text", command_id)] == [str(command_id)]
    assert cli.json("find", "--before", "2020-01-01T00:00:00") == []
    assert cli.json("find", "--before", "2h") == []
    assert len(cli.json("find", "--after", "2h", "--before", "2999-12-31")) == 2
    assert "after: must be earlier than" in cli.refusal("find", "--after", "1h", "--before", "2h", code=2)
    assert "such as 15m, 2h or 7d" in cli.refusal("find", "--after", "yesterday", code=2)
    assert str(command_id) in cli.text("find")
    assert CANARY not in cli.text("find")
    assert "there is no domain" in cli.refusal("find", "nobody", code=1)
    assert "limit" in cli.refusal("find", "--limit", 0, code=2)


def test_a_search_goes_on_where_it_ended(cli: Cli, database_url: str) -> None:
    park(database_url, 5)  # of one set, which has one time
    every = [one["command_id"] for one in cli.json("find", DOMAIN)]
    first = cli("find", DOMAIN, "--limit", 2)
    said = re.fullmatch("the first 2: there may be more, go on with --start (.+)\n", first.stderr)
    assert said, first.stderr
    rest = cli.json("find", DOMAIN, "--limit", 2, "--start", said[1])
    assert [one["command_id"] for one in rest] == every[2:4]
    rest = cli("find", DOMAIN, "--limit", 2, "--start", f"{rest[-1]['created_at']}_{rest[-1]['command_id']}")
    assert every[4] in rest.stdout
    assert rest.stderr == ""
    for wrong in ("x", f"2030-01-31T12:00_{every[0]}", "2030-01-31T12:00:00Z_x", f"{every[0]}"):
        assert "--start: must be " in cli.refusal("find", "--start", wrong, code=2)
    assert "goes with no other filter" in cli.refusal("find", "--id", every[0], "--start", said[1], code=2)


def test_a_list_that_may_go_on_says_so(cli: Cli, database_url: str) -> None:
    park(database_url, 2)
    park(database_url, 1, "Credit")
    with open_bus(database_url) as bus:
        batches = [bus.create_batch(domain=DOMAIN) for _ in range(2)]
        bus.send_new(2, domain=DOMAIN, batch_id=batches[0])
    for _ in range(2):
        cli.text("redrive", "start", DOMAIN, "--rate", 0.001)
    for command in (
        ("find", "--text", "Debit"),
        ("tsq", "list"),
        ("tsq", "groups"),
        ("audit",),
        ("batch", "list"),
        ("batch", "commands", DOMAIN, batches[0]),
        ("redrive", "list"),
    ):
        assert "there may be more" in cli(*command, "--limit", 1).stderr, command
        assert "more" not in cli(*command, "--limit", 100).stderr, command


def test_a_command_is_found_by_the_beginning_of_its_id_in_every_domain(cli: Cli, database_url: str) -> None:
    (command_id, _) = park(database_url, 2)
    for beginning in (str(command_id)[:8], str(command_id)[:13], str(command_id)):
        assert [one["command_id"] for one in cli.json("find", "--id", beginning)] == [str(command_id)]
    assert str(command_id) in cli.text("find", "--id", command_id)
    assert cli.json("find", "--id", uuid4()) == []
    assert "8 to 32 hexadecimal digits" in cli.refusal("find", "--id", str(command_id)[:7], code=2)
    for other in ((DOMAIN,), ("--status", "FAILED"), ("--text", "x"), ("--after", "2h")):
        assert "--id goes with no other filter" in cli.refusal("find", *other, "--id", command_id, code=2)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("find", "--id", "abc"), "--id"),
        (("find", "--type", ""), "--type"),
        (("find", "--limit", 0), "--limit"),
        (("tsq", "list", "--type", ""), "--type"),
        (("tsq", "count", "--type", ""), "--type"),
        (("tsq", "retry", DOMAIN, "--all", "--type", "", "--yes"), "--type"),
        (("tsq", "edit", DOMAIN, UUID(int=7), "{}", "--handlers", "nowhere"), "--handlers"),
        (("tsq", "complete", DOMAIN, UUID(int=7), "--result", '"\\u0000"'), "--result"),
        (("tsq", "complete", DOMAIN, UUID(int=7), "--result", "{"), "--result"),
        (("tsq", "cancel", DOMAIN, UUID(int=7), "--reason", ""), "--reason"),
        (("tsq", "park-lost", DOMAIN, "--older-than", "nan"), "--older-than"),
        (("redrive", "start", DOMAIN, "--rate", 1, "--id", "x"), "--id"),
        (("redrive", "start", DOMAIN, "--rate", 1, "--stop-after", 0), "--stop-after"),
        (("send", DOMAIN, "Debit", "{}", "--max-attempts", 0), "--max-attempts"),
        (("send", DOMAIN, "--file", "-", "--max-attempts", 0), "--max-attempts"),
        (("send", DOMAIN, "Debit", "{}", "--reply-to", "x"), "--reply-to"),
        (("call", DOMAIN, "Debit", "--timeout", -1), "--timeout"),
        (("console", "--registry", "nowhere"), "--registry"),
        (("console", "--port", 0), "--port"),
        (("audit", "--event", ""), "--event"),
        (("audit", "--domain", "X"), "--domain"),
        (("worker", "tests.command_types:none", "--domain", "X"), "--domain"),
        (("worker", "app:registry", "--domain", DOMAIN, "--retry-delays", "x"), "--retry-delays"),
        (("worker", "app:registry", "--domain", DOMAIN, "--retry-delays", "-1"), "--retry-delays"),
        (("queue", "list", "--database-url", "postgresql://h:x/"), "--database-url"),
        (("migrate", "--placeholder", "x"), "--placeholder"),
        (("migrate", "info", "--placeholder", "x"), "--placeholder"),
        (("maintain", "--keep-audit", 0), "--keep-audit"),
        (("queue", "create", "X"), "domain"),
        (("send", DOMAIN, "", "{}"), "command_type"),
    ],
)
def test_an_error_names_the_option_that_was_typed(cli: Cli, arguments: tuple[object, ...], option: str) -> None:
    said = cli.refusal(*arguments, code=2)
    assert re.match(rf"commandbus: {option}: (must |is not valid |contains )", said), said


def test_an_error_names_the_variable_that_was_set(cli: Cli) -> None:
    cli.url = "postgresql://h:x/"
    assert cli.refusal("queue", "list", code=2).startswith("commandbus: COMMANDBUS_DATABASE_URL: must ")
    cli.url = ""
    assert cli.refusal("queue", "list", code=2).startswith("commandbus: COMMANDBUS_DATABASE_URL: is empty")
    cli.url = None
    assert cli.refusal("queue", "list", code=2).startswith("commandbus: --database-url: is not given")
    assert json.loads(cli.refusal("find", "--limit", 0, "--json", code=2))["error"]["field"] == "--database-url"


def test_an_overview_shows_what_waits_and_who_works(cli: Cli, database_url: str) -> None:
    park(database_url, 2)
    (domain,) = cli.json("overview")
    assert (domain["domain"], domain["in_troubleshooting"], domain["workers"]) == (DOMAIN, 2, 0)
    assert DOMAIN in cli.text("overview", DOMAIN)
    assert cli.json("workers", DOMAIN) == []


def test_a_domain_is_paused_and_resumed(cli: Cli) -> None:
    assert cli.json("queue", "pause", DOMAIN, "--reason", "bank away", "--operator", "ann")["paused"] is True
    (domain,) = cli.json("overview")
    assert (domain["paused_by"], domain["pause_reason"]) == ("ann", "bank away")
    assert cli.json("queue", "stats", DOMAIN)[0]["paused_by"] == "ann"
    assert "paused_at" in cli.text("queue", "stats")
    assert "paused already" in cli.text("queue", "pause", DOMAIN)
    assert "resumed" in cli.text("queue", "resume", DOMAIN)
    assert cli.json("queue", "resume", DOMAIN)["resumed"] is False
    assert "nobody" in cli.refusal("queue", "pause", "nobody", code=1)


def test_a_group_is_listed_and_decided_as_one(cli: Cli, database_url: str) -> None:
    park(database_url, 3)
    park(database_url, 1, "Refund")
    large, small = cli.json("tsq", "groups")
    assert (large["waiting"], small["command_type"]) == (3, "Refund")
    assert "BROKEN" in cli.text("tsq", "groups", DOMAIN)
    assert "--yes" in cli.refusal("tsq", "retry", DOMAIN, "--group", large["failure_key"], code=2)
    unknown = uuid4()
    said = cli.refusal("tsq", "retry", DOMAIN, "--group", unknown, "--yes", code=1)
    assert said == f"commandbus: no commands of group {unknown} wait in {DOMAIN}\n"
    assert "say which commands" in cli.refusal("tsq", "retry", DOMAIN, "--all", "--group", uuid4(), code=2)
    assert "--type" in cli.refusal("tsq", "retry", DOMAIN, "--type", "X", "--group", uuid4(), code=2)
    retried = cli.json(
        "tsq", "retry", DOMAIN, "--group", large["failure_key"], "--yes", "--reason", "fixed", "--operator", "ann"
    )
    assert len(retried["retried"]) == 3
    trail = cli.json("audit", retried["retried"][0])
    assert trail[-1]["details"] == {"operator": "ann", "reason": "fixed"}
    assert len(cli.json("tsq", "groups")) == 1


def test_a_command_is_edited(cli: Cli, database_url: str) -> None:
    (command_id,) = park(database_url, 1)
    assert "JSON" in cli.refusal("tsq", "edit", DOMAIN, command_id, "{", code=2)
    assert "object" in cli.refusal("tsq", "edit", DOMAIN, command_id, "[1]", code=2)
    assert "data: is empty" in cli.refusal("tsq", "edit", DOMAIN, command_id, "-", code=2)
    assert 'has the key "n" more than once' in cli.refusal(
        "tsq", "edit", DOMAIN, command_id, '{"n": 1, "n": 2}', code=2
    )
    assert cli.json("tsq", "edit", DOMAIN, command_id, "-", "--reason", "typo", stdin='{"n": 1}')["msg_id"] > 0
    assert "does not wait" in cli.refusal("tsq", "edit", DOMAIN, command_id, '{"n": 1}', code=1)


def test_digits_are_shown_and_stored_as_they_are(cli: Cli, database_url: str, direct_url: str) -> None:
    (command_id, other) = park(database_url, 2)
    data = '{"kept": 1.000000000000000000001, "price": 0.1000000000000000055}'
    assert cli.json("tsq", "edit", DOMAIN, command_id, data.replace("0.1000000000000000055", "1e131071"))["msg_id"] > 0
    with open_bus(direct_url) as bus:
        assert bus.value("select message #>> '{data,price}' from pgmq.q_payments__commands") == "1" + "0" * 131_071
        bus.run(
            "update commandbus.payload_archive set message = pg_catalog.jsonb_set(message, '{data}', %s::jsonb)", data
        )
    assert data in cli.text("tsq", "show", DOMAIN, other)
    for words in (("tsq", "show", DOMAIN, other), ("message", DOMAIN, other), ("tsq", "list", "--payload")):
        told = cli(*words, "--json").stdout
        assert '"price": 0.1000000000000000055' in told
        assert '"kept": 1.000000000000000000001' in told
    assert cli.json("tsq", "edit", DOMAIN, other, "-", stdin=data.replace("0.1", "0.2"))["msg_id"] > 0
    with open_bus(direct_url) as bus:
        stored = "select (message -> 'data')::text from pgmq.q_payments__commands order by msg_id desc limit 1"
        assert bus.value(stored) == data.replace("0.1", "0.2")
    assert f'"before": {data}' in cli.text("audit", other)
    assert '"price": 0.2000000000000000055' in cli("audit", "--domain", DOMAIN, "--json").stdout


def test_a_number_that_cannot_be_stored_is_refused(cli: Cli, database_url: str) -> None:
    (command_id,) = park(database_url, 1)
    said = cli.refusal("tsq", "edit", DOMAIN, command_id, '{"price": 1e131072}', code=2)
    assert said.startswith("commandbus: data: has numbers of too many digits: at most 131,072 digits before the point")
    assert cli.json("tsq", "count")["waiting"] == 1


def test_a_result_is_stored_as_it_is_typed(cli: Cli, database_url: str) -> None:
    (command_id,) = park(database_url, 1)
    cli.text("tsq", "complete", DOMAIN, command_id, "--result", '{"paid": 0.1000000000000000055}')
    assert '{"paid": 0.1000000000000000055}' in cli.text("audit", command_id)


def test_a_redrive_is_started_shown_and_stopped(cli: Cli, database_url: str) -> None:
    assert "nothing" in cli.refusal("redrive", "start", DOMAIN, "--rate", 5, code=1)
    park(database_url, 3)
    said = cli.refusal("redrive", "start", DOMAIN, "--rate", 0, code=2)
    assert said == "commandbus: --rate: must be a number of commands per second from 0.001 to 10,000\n"
    redrive_id = cli.json("redrive", "start", DOMAIN, "--rate", 5, "--operator", "ann", "--reason", "fixed")[
        "redrive_id"
    ]
    assert [one["redrive_id"] for one in cli.json("redrive", "list")] == [redrive_id]
    park(database_url, 1)
    second = cli("redrive", "start", DOMAIN, "--rate", 5)
    assert f"redrive {redrive_id} of {DOMAIN} is RUNNING too" in second.stderr
    cli.text("redrive", "stop", second.stdout.strip())
    assert cli.json("redrive", "show", redrive_id)["total_count"] == 3
    assert "PAUSED" in cli.text("redrive", "pause", redrive_id)
    assert "RUNNING" in cli.text("redrive", "resume", redrive_id)
    assert cli.json("redrive", "stop", redrive_id)["status"] == "STOPPED"
    assert "STOPPED" in cli.refusal("redrive", "pause", redrive_id, code=1)
    assert "not found" in cli.refusal("redrive", "show", uuid4(), code=1)
    assert redrive_id in cli.text("redrive", "list", DOMAIN)


def test_a_redrive_of_an_id_is_started_once_however_often_it_is_asked_for(cli: Cli, database_url: str) -> None:
    redrive_id = uuid4()
    start = ("redrive", "start", DOMAIN, "--rate", 5, "--redrive-id", redrive_id)
    assert "nothing" in cli.refusal(*start, code=1)
    park(database_url, 2)
    assert cli.json(*start) == {"redrive_id": str(redrive_id), "started": True, "differs": []}
    park(database_url, 1)
    again = cli(*start)
    assert (again.returncode, again.stdout) == (0, f"{redrive_id}\n")
    assert again.stderr == f"redrive {redrive_id} was started before\n"
    cli.text("redrive", "stop", redrive_id)
    assert cli.json(*start) == {"redrive_id": str(redrive_id), "started": False, "differs": []}
    assert [(one["redrive_id"], one["total_count"]) for one in cli.json("redrive", "list")] == [(str(redrive_id), 2)]
    cli.text("queue", "create", "other")
    said = cli.refusal(*start[:2], "other", *start[3:], code=1)
    assert said == f"commandbus: redrive {redrive_id} belongs to domain {DOMAIN}\n"


def test_a_redrive_that_was_started_otherwise_says_what_differs(cli: Cli, database_url: str) -> None:
    first, *_ = park(database_url, 3)
    redrive_id = uuid4()
    start = ("redrive", "start", DOMAIN, "--redrive-id", redrive_id)
    cli.text(*start, "--rate", 5, "--stop-after", 2)
    stays = f"redrive {redrive_id} was started before and stays as it is: "
    for options, said in (
        (("--rate", 7.5, "--stop-after", 2), "--rate is 5, not 7.5"),
        (("--rate", 5), "--stop-after is 2, not none"),
        (("--rate", 5, "--stop-after", 2, "--limit", 2), "it has 3 commands, more than --limit gives"),
        (("--rate", 5, "--stop-after", 2, "--id", first), "it has 3 commands, more than --id gives"),
    ):
        again = cli(*start, *options)
        assert (again.returncode, again.stdout, again.stderr) == (0, f"{redrive_id}\n", f"{stays}{said}\n")
    assert cli.json(*start, "--rate", 7, "--limit", 1)["differs"] == ["--rate", "--stop-after", "--limit"]
    assert cli.json("redrive", "show", redrive_id)["rate"] == 5


def test_a_redrive_of_chosen_commands_is_started(cli: Cli, database_url: str) -> None:
    first, second, third, fourth = park(database_url, 4)
    begin = ("redrive", "start", DOMAIN, "--rate", 0.01)
    one = cli.json(*begin, "--id", first)["redrive_id"]
    assert cli.json("redrive", "show", one)["total_count"] == 1
    some = cli(*begin, "--id", "-", "--id", second, stdin=f"{second}\n\n {third} \n{uuid4()}")
    assert "1 of the ids do not wait" in some.stderr
    assert cli.json("redrive", "show", some.stdout.strip())["total_count"] == 2
    assert len(cli.json("redrive", "list")) == 2
    for options, said in (
        (("--id", "x"), "id: must be a UUID"),
        (("--id", "-"), "id: stdin is empty"),
        (("--id", fourth, "--group", uuid4()), "exclude each other"),
    ):
        assert said in cli.refusal(*begin, *options, code=2)
    assert "id: must be a UUID" in cli.refusal(*begin, "--id", "-", stdin="ids: none", code=2)
    assert "nothing" in cli.refusal(*begin, "--id", uuid4(), code=1)
    assert len(cli.json("redrive", "list")) == 2


def test_the_audit_of_all_is_searched(cli: Cli, database_url: str) -> None:
    command_id, _ = park(database_url, 2)
    newest = cli.json("audit", "--limit", 3)
    assert [event["audit_id"] for event in newest] == sorted((event["audit_id"] for event in newest), reverse=True)
    assert len(newest) == 3
    sent = cli.json("audit", "--domain", DOMAIN, "--event", "SENT", "--after", "1h", "--before", "2999-01-01")
    assert {event["event_type"] for event in sent} == {"SENT"}
    assert str(command_id) in {event["command_id"] for event in sent}
    assert cli.json("audit", "--before", "1h") == []
    assert str(command_id) in cli.text("audit", "--event", "SENT")
    assert "there may be more" in cli("audit", "--limit", 1).stderr
    assert CANARY not in cli.text("audit")
    for options, said in (
        (("--after", "1h", "--before", "2h"), "after: must be earlier"),
        (("--after", "yesterday"), "such as 15m"),
        (("--limit", 0), "limit"),
        (("--event", ""), "event: must be"),
        ((command_id, "--event", "SENT"), "one story"),
        ((command_id, "--correlation-id", uuid4()), "either"),
        (("--correlation-id", "x"), "--correlation-id"),
    ):
        assert said in cli.refusal("audit", *options, code=2)
    assert "there is no domain" in cli.refusal("audit", "--domain", "nobody", code=1)


def test_the_audit_goes_on_where_it_ended(cli: Cli, database_url: str) -> None:
    with open_bus(database_url) as bus:
        bus.send_new(5, domain=DOMAIN)  # of one set, which has one time
    every = cli.json("audit")
    assert len({event["timestamp"] for event in every}) < len(every)
    first = cli("audit", "--limit", 2)
    said = re.fullmatch("the first 2: there may be more, go on with --start (.+)\n", first.stderr)
    assert said, first.stderr
    rest = cli.json("audit", "--limit", 2, "--start", said[1])
    assert rest == every[2:4]
    key = f"{rest[-1]['timestamp']}_{rest[-1]['audit_id']}"
    assert cli.json("audit", "--start", key) == every[4:]
    assert cli.json("audit", "--start", key, "--before", "2999-01-01") == every[4:]
    assert cli.json("audit", "--start", key, "--before", every[-1]["timestamp"]) == []
    command_id = every[0]["command_id"]
    assert "one story" in cli.refusal("audit", command_id, "--start", key, code=2)
    for wrong in ("x", "2030-01-31T12:00_7", "2030-01-31T12:00:00Z_x", "2030-01-31T12:00:00Z_0", key.split("_")[0]):
        assert "--start: must be " in cli.refusal("audit", "--start", wrong, code=2)


def test_the_story_of_a_conversation_is_told_in_order(cli: Cli) -> None:
    correlation_id = uuid4()
    data = ("{}", "--correlation-id", correlation_id)
    sent = [cli.json("send", DOMAIN, "Debit", *data)["command_id"] for _ in range(2)]
    cli.text("send", DOMAIN, "Debit", "{}")
    story = cli.json("audit", "--correlation-id", correlation_id)
    assert [(event["command_id"], event["event_type"]) for event in story] == [(one, "SENT") for one in sent]
    assert "nothing is known" in cli.refusal("audit", "--correlation-id", uuid4(), code=1)


def test_the_message_of_any_command_is_shown(cli: Cli, database_url: str) -> None:
    (parked,) = park(database_url, 1)
    assert cli.json("message", DOMAIN, parked) == {"place": "TSQ", "data": {"secret": CANARY}}
    waiting = cli.json("send", DOMAIN, "Debit", '{"n": 1}')["command_id"]
    assert cli.json("message", DOMAIN, waiting) == {"place": "QUEUE", "data": {"n": 1}}
    assert '{"n": 1}' in cli.text("message", DOMAIN, waiting)
    assert "not found" in cli.refusal("message", DOMAIN, uuid4(), code=1)
    cli.text("tsq", "cancel", DOMAIN, parked, "--reason", "sold")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("delete from commandbus.payload_archive")
        connection.execute(f"delete from pgmq.a_{DOMAIN}__commands")
    assert "not kept any more" in cli.refusal("message", DOMAIN, parked, code=1)
    assert "COMMAND_ID" in cli.refusal("message", DOMAIN, "x", code=2)


def test_leases_and_throughput_are_shown(cli: Cli, database_url: str) -> None:
    assert cli.json("leases", DOMAIN) == []
    command_id = cli.json("send", DOMAIN, "Debit", "{}")["command_id"]
    with open_bus(database_url) as bus:
        bus.receive(domain=DOMAIN)
        said = {"host": "here", "pid": 7, "concurrency": 4, "in_flight": 1, "waits": [1], "runs": [1]}
        bus.call("sp_worker_beat", worker_id=uuid4(), domain=DOMAIN, counts=[7, 0, 0, 0], **said)
    (lease,) = cli.json("leases", DOMAIN)
    assert (lease["command_id"], lease["attempts"]) == (command_id, 1)
    assert command_id in cli.text("leases", DOMAIN)
    assert "there may be more" in cli("leases", DOMAIN, "--limit", 1).stderr
    for options in ((), (DOMAIN,), ("--seconds", 604_800), ("--step", 20, "--seconds", 60)):
        assert [piece["completed"] for piece in cli.json("throughput", *options)] == [7], options
    assert "completed" in cli.text("throughput")
    for arguments, code, said_of in (
        (("throughput", "--seconds", 9), 2, "seconds"),
        (("throughput", "--step", 9), 2, "step"),
        (("throughput", "--seconds", 604_800, "--step", 60), 2, "multiple of 3,600"),
        (("throughput", "nobody"), 1, "there is no domain"),
        (("leases", "nobody"), 1, "nobody"),
        (("leases", DOMAIN, "--limit", 0), 2, "limit"),
    ):
        assert said_of in cli.refusal(*arguments, code=code)


def test_a_reason_that_is_too_long_is_refused_before_anything_else(cli: Cli) -> None:
    long = "x" * 2_001
    nowhere = ("--database-url", "postgresql://127.0.0.1:1/nowhere", "--reason", long)
    for command in (
        ("tsq", "retry", DOMAIN, uuid4()),
        ("tsq", "cancel", DOMAIN, uuid4()),
        ("tsq", "edit", DOMAIN, UUID(int=7), "{"),
        ("queue", "resume", DOMAIN),
        ("redrive", "stop", uuid4()),
    ):
        assert "reason: must be a string of 1 to 2,000 characters" in cli.refusal(*command, *nowhere, code=2)
