"""The command line for operators of the running system: find, overview, workers, groups, edits, redrives, pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

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
    assert cli.json("tsq", "edit", DOMAIN, command_id, "-", "--reason", "typo", stdin='{"n": 1}')["msg_id"] > 0
    assert "does not wait" in cli.refusal("tsq", "edit", DOMAIN, command_id, '{"n": 1}', code=1)


def test_a_redrive_is_started_shown_and_stopped(cli: Cli, database_url: str) -> None:
    assert "nothing" in cli.refusal("redrive", "start", DOMAIN, "--rate", 5, code=1)
    park(database_url, 3)
    said = cli.refusal("redrive", "start", DOMAIN, "--rate", 0, code=2)
    assert said == "commandbus: rate: must be a number of commands per second from 0.001 to 10,000\n"
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


def test_a_reason_that_is_too_long_is_refused_before_anything_else(cli: Cli) -> None:
    long = "x" * 2_001
    nowhere = ("--database-url", "postgresql://127.0.0.1:1/nowhere", "--reason", long)
    for command in (
        ("tsq", "retry", DOMAIN, uuid4()),
        ("tsq", "cancel", DOMAIN, uuid4()),
        ("tsq", "edit", DOMAIN, uuid4(), "{"),
        ("queue", "resume", DOMAIN),
        ("redrive", "stop", uuid4()),
    ):
        assert "reason: must be a string of 1 to 2,000 characters" in cli.refusal(*command, *nowhere, code=2)
