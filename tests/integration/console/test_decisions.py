"""Decisions on one command, a selection, or whole groups: their effect, their audit, and who was first."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from commandbus.console import decisions
from commandbus.sync import CommandBus, TroubleshootingQueue
from tests.integration.console.browser import CANARY, DOMAIN, OPERATOR_TOKEN, Browser
from tests.integration.sql_helpers import errors, in_thread, open_bus

if TYPE_CHECKING:
    from flask import Flask

    from commandbus.models import FailureGroup
    from commandbus.sync import CommandBusPool
    from tests.integration.console.browser import World
    from tests.integration.sql_helpers import Bus

_JSON_BLOCK = re.compile(r"<pre[^>]*>(.*?)</pre>", re.DOTALL)
GIVEN = {"retry": "PENDING", "cancel": "CANCELED", "complete": "COMPLETED"}


def park(bus: Bus, count: int, *, kind: str = "Ship", code: str = "NO_STOCK") -> list[UUID]:
    """Let commands wait that fail alike."""
    ids = [uuid4() for _ in range(count)]
    bus.send(*ids, kind=kind)
    received = [row for row in bus.receive(limit=count + 10) if row["command_id"] in ids]
    facts = errors(len(received), "PERMANENT") | {"error_codes": [code] * len(received)}
    bus.settle(received, "TROUBLESHOOT", **facts)
    return ids


def group_of(pool: CommandBusPool, code: str) -> FailureGroup:
    """Return the group of failures with this code."""
    (found,) = [group for group in TroubleshootingQueue(pool).list_failure_groups() if group.error_code == code]
    return found


def last_event(pool: CommandBusPool, command_id: UUID) -> tuple[str, dict[str, Any]]:
    """Return the newest decision in a command's audit."""
    events = [e for e in CommandBus(pool).get_audit_trail(command_id, DOMAIN) if e.event_type.startswith("OPERATOR")]
    return events[-1].event_type, events[-1].details


def status_of(pool: CommandBusPool, command_id: UUID) -> str:
    """Return a command's status."""
    found = CommandBus(pool).get_command(DOMAIN, command_id)
    assert found is not None
    return found.status


def test_groups_are_those_of_the_library(operator: Browser, database_url: str, sync_pool: CommandBusPool) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain("ship")
        park(bus, 3)
    found = operator.get("/api/troubleshooting").get_json()
    assert found["total"] == 5
    assert [(g["command_type"], g["error_code"], g["waiting"]) for g in found["groups"]] == [
        ("Ship", "NO_STOCK", 3),
        ("DebitAccount", "ACCOUNT_CLOSED", 2),
    ]
    text = operator.get("/troubleshooting").text
    for part in ("5 commands wait", "NO_STOCK", "ACCOUNT_CLOSED", "the account was closed", "Retry all"):
        assert part in text
    assert operator.get("/api/troubleshooting?domain=ship").get_json() == {"groups": [], "total": 0}
    group = group_of(sync_pool, "NO_STOCK")
    inside = operator.get(f"/troubleshooting/commands?domain={DOMAIN}&group={group.failure_key}").text
    assert inside.count("Choose Ship") == 3
    assert "Choose DebitAccount" not in inside


@pytest.mark.parametrize("action", GIVEN)
def test_a_decision_on_a_selection_stands_in_the_database_and_the_audit(
    operator: Browser, world: World, sync_pool: CommandBusPool, action: str
) -> None:
    form = {"command": [f"{DOMAIN}/{i}" for i in world.parked], "reason": "by hand", "result": '{"paid": 7}'}
    answer = operator.post(f"/troubleshooting/{action}?domain={DOMAIN}", {**form, "from": "commands"})
    assert answer.headers["Location"] == f"/troubleshooting/commands?domain={DOMAIN}"
    for command_id in world.parked:
        assert status_of(sync_pool, command_id) == GIVEN[action]
        event, details = last_event(sync_pool, command_id)
        assert event == f"OPERATOR_{action.upper()}"
        assert (details["operator"], details["reason"]) == ("ada", "by hand")
    assert "2 commands." in operator.get("/troubleshooting").text


@pytest.mark.parametrize("action", GIVEN)
def test_a_whole_group_is_decided_about_with_those_that_joined_it_since(
    operator: Browser, world: World, database_url: str, sync_pool: CommandBusPool, action: str
) -> None:
    with open_bus(database_url) as bus:
        ids = park(bus, 3)
        group = group_of(sync_pool, "NO_STOCK")
        operator.get(f"/troubleshooting/commands?domain={DOMAIN}&group={group.failure_key}")
        ids += park(bus, 2)
    form = {"group": f"{DOMAIN}/{group.failure_key}", "reason": "all of them"}
    operator.post(f"/troubleshooting/{action}", form)
    assert "5 commands." in operator.get("/troubleshooting").text
    assert {status_of(sync_pool, one) for one in ids} == {GIVEN[action]}
    assert {status_of(sync_pool, one) for one in world.parked} == {"IN_TROUBLESHOOTING_QUEUE"}


def test_a_large_group_is_decided_about_in_steps_and_summed_up(
    operator: Browser, database_url: str, sync_pool: CommandBusPool
) -> None:
    with open_bus(database_url) as bus:
        for _ in range(3):
            park(bus, 900)
        bus.run("delete from commandbus.payload_archive where command_id in"
                " (select command_id from commandbus.command where last_error_code = 'NO_STOCK' limit 5)")  # fmt: skip
    group = group_of(sync_pool, "NO_STOCK")
    answer = operator.post("/api/troubleshooting/retry", {"group": f"{DOMAIN}/{group.failure_key}"})
    assert answer.get_json() == {"accepted": 2_695, "refused": {"NO_PAYLOAD": 5}, "broke_off": None}
    operator.post("/troubleshooting/retry", {"group": f"{DOMAIN}/{group.failure_key}"})
    text = operator.get("/troubleshooting").text
    assert "Retried 0 commands; refused 5: cannot be retried, for what was sent is lost." in text


def test_groups_are_decided_about_up_to_so_many_commands_together_and_the_rest_is_told(
    operator: Browser, database_url: str, sync_pool: CommandBusPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "MAX_MEMBERS", 3)
    with open_bus(database_url) as bus:
        ids = park(bus, 2) + park(bus, 2, kind="Print", code="OUT_OF_PAPER")
    keys = [group_of(sync_pool, code).failure_key for code in ("NO_STOCK", "OUT_OF_PAPER")]
    form = {"group": [f"{DOMAIN}/{key}" for key in keys]}
    found = operator.post("/api/troubleshooting/retry", form).get_json()
    assert found["accepted"] == 3
    assert found["broke_off"].startswith("3 commands of groups are the most at once; decide again")
    assert sorted(status_of(sync_pool, one) for one in ids) == ["IN_TROUBLESHOOTING_QUEUE"] + ["PENDING"] * 3
    found = operator.post("/api/troubleshooting/retry", form).get_json()
    assert found == {"accepted": 1, "refused": {}, "broke_off": None}


def test_a_command_that_is_chosen_with_its_group_is_decided_about_once(
    operator: Browser, world: World, sync_pool: CommandBusPool, database_url: str
) -> None:
    with open_bus(database_url) as bus:
        bus.run("delete from commandbus.payload_archive where command_id = %s", world.parked[0])
    group = group_of(sync_pool, "ACCOUNT_CLOSED")
    form = {"command": f"{DOMAIN}/{world.parked[0]}", "group": [f"{DOMAIN}/{group.failure_key}"] * 2}
    found = operator.post("/api/troubleshooting/retry", form).get_json()
    assert (found["accepted"], found["refused"]) == (1, {"NO_PAYLOAD": 1})


def test_what_somebody_else_decided_meanwhile_is_told_and_stays(
    app: Flask, operator: Browser, world: World, sync_pool: CommandBusPool
) -> None:
    other = Browser(app, OPERATOR_TOKEN, "grace")
    operator.get("/troubleshooting/commands")
    other.post("/troubleshooting/cancel", {"command": f"{DOMAIN}/{world.parked[0]}", "reason": "mine"})
    operator.post("/troubleshooting/retry", {"command": [f"{DOMAIN}/{i}" for i in world.parked]})
    assert "Retried 1 command; refused 1: already canceled." in operator.get("/troubleshooting").text
    assert last_event(sync_pool, world.parked[0])[1]["operator"] == "grace"


def test_a_member_that_is_decided_about_while_its_group_is_is_refused(
    operator: Browser, world: World, database_url: str, sync_pool: CommandBusPool
) -> None:
    group = group_of(sync_pool, "ACCOUNT_CLOSED")
    form = {"group": f"{DOMAIN}/{group.failure_key}", "csrf_token": operator.csrf_token()}
    with open_bus(database_url) as bus:
        with bus.connection.transaction():
            bus.call("sp_operator_cancel", domain=DOMAIN, command_ids=world.parked[:1], reason="mine", operator="grace")
            with in_thread(lambda: operator.post_raw("/api/troubleshooting/retry", form)) as answer:
                with open_bus(database_url) as watcher:
                    watcher.wait_until_blocked()
                bus.connection.execute("commit")
                bus.connection.execute("begin")
        assert answer.result().get_json() == {"accepted": 1, "refused": {"CANCELED": 1}, "broke_off": None}


def test_retries_of_two_operators_queue_each_command_once(
    app: Flask, operator: Browser, world: World, database_url: str
) -> None:
    form = {"command": [f"{DOMAIN}/{i}" for i in world.parked]}
    operator.post("/troubleshooting/retry", form)
    Browser(app, OPERATOR_TOKEN, "grace").post("/troubleshooting/retry", form)
    with open_bus(database_url) as bus:
        queued = bus.value(
            "select count(*) from pgmq.q_pay__commands where message ->> 'command_id' = any(%s)",
            [str(i) for i in world.parked],
        )
    assert queued == 2


def test_programs_get_verdicts_and_problems_as_json(operator: Browser, world: World) -> None:
    headers = {"X-CSRF-Token": operator.csrf_token()}
    chosen = {"command": [f"{DOMAIN}/{world.parked[0]}"]}
    good = chosen | {"reason": "by a program", "result": {"paid": True}}
    wrong = operator.open("/api/troubleshooting/cancel", method="POST", json=chosen | {"reason": ""}, headers=headers)
    assert (wrong.status_code, wrong.mimetype) == (422, "application/problem+json")
    assert wrong.get_json()["errors"] == {"reason": "is missing"}
    for body in ("[]", "{", "7"):
        answer = operator.open(
            "/api/troubleshooting/retry", method="POST", data=body, content_type="application/json", headers=headers
        )
        assert (answer.status_code, answer.mimetype) == (400, "application/problem+json")
    right = operator.open("/api/troubleshooting/complete", method="POST", json=good, headers=headers)
    assert right.get_json() == {"accepted": 1, "refused": {}, "broke_off": None}


def test_wrong_groups_are_refused_and_change_nothing(
    operator: Browser, world: World, sync_pool: CommandBusPool
) -> None:
    wrong: list[Any] = ["", "x", f"Pay/{uuid4()}", f"{DOMAIN}/7", [f"{DOMAIN}/{uuid4()}" for _ in range(201)]]
    for group in wrong:
        for action in GIVEN:
            answer = operator.post(f"/troubleshooting/{action}", {"group": group, "reason": "because"})
            assert answer.status_code == 422, (action, group)
            assert 'role="alert"' in answer.text
    assert {status_of(sync_pool, one) for one in world.parked} == {"IN_TROUBLESHOOTING_QUEUE"}
    operator.post("/troubleshooting/retry", {"group": f"{DOMAIN}/{uuid4()}"})
    assert "Retried 0 commands." in operator.get("/troubleshooting").text


def test_a_row_s_own_button_decides_about_that_row_alone_and_for_the_reason_typed(
    operator: Browser, world: World, database_url: str, sync_pool: CommandBusPool
) -> None:
    with open_bus(database_url) as bus:
        ids = park(bus, 3)
    name = f"{DOMAIN}/{group_of(sync_pool, 'NO_STOCK').failure_key}"
    assert f'name="only_group" value="{name}"' in operator.get("/troubleshooting").text
    others = f"{DOMAIN}/{group_of(sync_pool, 'ACCOUNT_CLOSED').failure_key}"
    operator.post("/troubleshooting/retry", {"only_group": name, "group": others, "reason": "the stock came"})
    assert "Retried 3 commands." in operator.get("/troubleshooting").text
    assert [last_event(sync_pool, one)[1]["reason"] for one in ids] == ["the stock came"] * 3
    one, other = (f"{DOMAIN}/{command_id}" for command_id in world.parked)
    assert f'name="only_command" value="{one}"' in operator.get("/troubleshooting/commands").text
    form = {"only_command": one, "command": other, "reason": "opened again", "from": "commands"}
    operator.post("/troubleshooting/retry", form)
    assert last_event(sync_pool, world.parked[0])[1]["reason"] == "opened again"
    assert status_of(sync_pool, world.parked[1]) == "IN_TROUBLESHOOTING_QUEUE"


@pytest.mark.parametrize("given", ['{"paid": "canary-4711"}', '["canary-4711"]', '"canary-4711"', "false", "0"])
def test_the_result_of_a_completion_by_hand_is_shown_and_to_viewers_masked(
    operator: Browser, viewer: Browser, world: World, given: str
) -> None:
    path = f"/commands/{DOMAIN}/{world.parked[0]}"
    operator.post("/troubleshooting/complete", {"command": path.removeprefix("/commands/"), "result": given})
    assert operator.get(f"/api{path}").get_json()["result"] == json.loads(given)
    reply = operator.get(path).text.partition('id="reply"')[2]
    assert "Result, given by ada" in reply
    assert json.loads(unescape(_JSON_BLOCK.findall(reply)[0])) == json.loads(given)
    for page in (path, f"/api{path}", "/audit?event=OPERATOR_COMPLETE", "/api/audit?event=OPERATOR_COMPLETE"):
        assert CANARY not in viewer.get(page).text, page
    assert "••••" in viewer.get(path).text.partition('id="reply"')[2]


def test_a_completion_without_a_result_says_nothing_of_one(operator: Browser, world: World) -> None:
    path = f"/commands/{DOMAIN}/{world.parked[0]}"
    operator.post("/troubleshooting/complete", {"command": path.removeprefix("/commands/"), "result": ""})
    assert "Result" not in operator.get(path).text.partition('id="reply"')[2]


def test_a_refused_decision_about_what_does_not_wait_any_more_says_so(operator: Browser, world: World) -> None:
    one = f"{DOMAIN}/{world.parked[0]}"
    operator.post("/troubleshooting/cancel", {"command": one, "reason": "gone", "from": "command"})
    for action, wrong in (("cancel", {}), ("complete", {"result": "{not json"})):
        answer = operator.post(f"/troubleshooting/{action}", {"command": one, "from": "command", **wrong})
        assert answer.status_code == 422
        assert "It does not wait for a decision any more: nothing was done." in answer.text


def test_a_refused_decision_stays_on_the_page_it_came_from(operator: Browser, world: World) -> None:
    name = f"{DOMAIN}/{world.parked[0]}"
    for origin, title in (("groups", "By failure"), ("commands", "longest first"), ("command", "It waits for your")):
        answer = operator.post("/troubleshooting/cancel", {"command": name, "from": origin, "result": "kept"})
        assert answer.status_code == 422
        assert title in answer.text
        assert 'id="reason-wrong">is missing' in answer.text
        assert "kept</textarea>" in answer.text


def test_pages_of_what_waits_lead_to_every_command_and_back(operator: Browser, database_url: str) -> None:
    with open_bus(database_url) as bus:
        park(bus, 120)
        waiting = [
            str(row["command_id"])
            for row in bus.rows(
                "select command_id from commandbus.command where failure_key is not null order by attention_at, 1"
            )
        ]
    seen: list[str] = []
    query = ""
    while True:
        found = operator.get(f"/api/troubleshooting/commands?{query}").get_json()
        seen += [row["command_id"] for row in found["commands"]]
        if found["older"] is None:
            break
        query = urlencode(found["older"])
    assert seen == waiting
    last = operator.get(f"/troubleshooting/commands?{query}").text
    assert "Shorter waiting" not in last
    (back,) = re.findall(r'href="([^"]*)" rel="prev"', last)
    assert waiting[50] in operator.get(f"/troubleshooting/commands{unescape(back)}").text
    form = {"command": f"{DOMAIN}/{waiting[-1]}", "from": "commands"}
    assert "start=" not in operator.post(f"/troubleshooting/retry?{query}", form).headers["Location"]


def test_large_payloads_are_shown_in_part_in_lists(operator: Browser, database_url: str) -> None:
    with open_bus(database_url) as bus:
        park(bus, 1)
        bus.run(
            "update commandbus.payload_archive set message = jsonb_set(message, '{data}', %s)",
            Jsonb({"text": "x" * 100_000, "secret": CANARY}),
        )
    assert len(operator.get("/troubleshooting/commands").text) < 50_000
