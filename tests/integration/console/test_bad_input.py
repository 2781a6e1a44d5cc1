"""Bad input on every query parameter and every form field: 4xx, a message beside the field, and nothing changed."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode
from uuid import uuid4

import pytest

from commandbus.sync import CommandBus, TroubleshootingQueue
from tests.integration.console.browser import DOMAIN, Browser

if TYPE_CHECKING:
    from commandbus.sync import CommandBusPool
    from tests.integration.console.browser import World

LONG = "x" * 2_001
NUMBERS = ("x", "-1", "1.5", "1e3", "9" * 30, "٣", "0x10", "\x00")
DOMAINS = ("Pay", "1pay", "pay pay", "p" * 38, "pay'--", "päy", "\x00", "%00")
TIMES = ("yesterday", "2030-13-01", "25:00", "-1h", "2h ago", "999999w", "0001-01-01T00:00+14:00", "\x00")
UUIDS = ("x", "0" * 36, "6f1c0a5", "{6f1c0a52-7f0e-4b1e-9d55-0d8f5f3f6a11}", "\x00")
TEXTS = ("x" * 201, "a\x00b", "a\x1bb", "a\u202eb", "a\u200bb")
ID = "6f1c0a52-7f0e-4b1e-9d55-0d8f5f3f6a11"
KEY = f"2030-01-31T12:00:00+00:00_{ID}"
KEYS = ("x", "first", f"{KEY}_", f"2030-01-31T12:00:00_{ID}", f"0001-01-01T00:00:00+14:00_{ID}", "_", KEY[:-1], "\x00")
QUERIES: dict[str, dict[str, tuple[str, ...]]] = {
    "commands": {
        "status": ("x", "completed", "\x00"),
        "domain": DOMAINS,
        "type": TEXTS,
        "correlation": UUIDS,
        "after": TIMES,
        "before": TIMES,
        "batch": UUIDS,
        "group": UUIDS,
        "text": TEXTS[:2],
        "start": KEYS,
        "trail": (*KEYS[2:], "x", "~".join([KEY] * 21), f"first~x~{KEY}"),
        "limit": (*NUMBERS, "0", "1001"),
    },
    "audit": {
        "domain": DOMAINS,
        "event": ("x" * 101, "a\x00b"),
        "after": TIMES,
        "before": TIMES,
        "before_id": (*NUMBERS, "0", "7"),
    },
    "troubleshooting": {"domain": DOMAINS},
    "troubleshooting/commands": {
        "domain": DOMAINS,
        "type": TEXTS,
        "start": KEYS,
        "trail": (*KEYS[2:], "x", "~".join([KEY] * 21)),
        "group": (*UUIDS, ID),
    },
    "redrives": {"domain": DOMAINS},
    "batches": {"domain": DOMAINS, "status": ("x", "PENDING "[:3]), "offset": NUMBERS},
}


@pytest.mark.parametrize("page", QUERIES)
def test_every_bad_query_parameter_is_400_beside_its_field(operator: Browser, page: str) -> None:
    for name, values in QUERIES[page].items():
        for value in values:
            answer = operator.get(f"/{page}", query_string={name: value})
            assert answer.status_code == 400, (name, value)
            assert 'class="wrong' in answer.text, (name, value)
            twin = operator.get(f"/api/{page}", query_string={name: value})
            assert twin.status_code == 400, (name, value)
            assert list(twin.get_json()["errors"]) == [name], value


@pytest.mark.parametrize("page", QUERIES)
def test_a_parameter_given_twice_is_refused(operator: Browser, page: str) -> None:
    for name in QUERIES[page]:
        answer = operator.get(f"/{page}?{name}=1&{name}=2")
        assert answer.status_code == 400, name
        assert "more than once" in answer.text


def test_bad_filters_of_a_batch_are_400(operator: Browser, world: World) -> None:
    for name, value in (("status", "x"), ("offset", "-1"), ("offset", "x")):
        assert operator.get(f"/batches/{DOMAIN}/{world.batches[0]}?{name}={value}").status_code == 400
        assert operator.get(f"/api/batches/{DOMAIN}/{world.batches[0]}?{name}={value}").status_code == 400


def test_a_bad_id_in_the_search_is_400(operator: Browser) -> None:
    for value in (*UUIDS, f"{ID}0", ""):
        assert operator.get("/go", query_string={"id": value}).status_code == 400, value


def test_what_was_typed_stays_in_its_field(operator: Browser) -> None:
    text = operator.get("/commands?type=Debit&after=yesterday&status=<b>").text
    assert 'value="yesterday"' in text
    assert 'value="Debit"' in text
    assert '<option value="&lt;b&gt;" selected>' in text


@pytest.fixture
def state(sync_pool: CommandBusPool) -> Any:
    """A function that returns all commands and events."""
    bus = CommandBus(sync_pool)
    return lambda: (bus.query_commands(limit=1000), bus.query_audit(limit=1000))


GOOD = {"domain": DOMAIN, "type": "Debit", "data": "{}", "copies": "2"}
FORMS: dict[str, dict[str, tuple[str, ...]]] = {
    "/send": {
        "domain": (*DOMAINS, "", "unknown"),
        "type": (*TEXTS, ""),
        "data": ("", "x", "[]", "7", "null", '{"a": NaN}', '{"a": 1e9999}', '{"a": "\\u0000"}', '{"a": "\\ud800"}',
                 '{"a": 1, "a": 1}', '{"a":' * 70 + "1" + "}" * 70, "[" * 100_000, '{"a": "' + "x" * 262_144 + '"}',
                 '{"a": ' + "9" * 5_000 + "}"),
        "correlation": UUIDS,
        "command_id": UUIDS,
        "reply_to": ("x", "pay", "Pay__replies", "unknown__replies"),
        "max_attempts": (*NUMBERS, "0", "1001"),
    },
    "/send/bulk": {
        "copies": (*NUMBERS, "0", "10001", ""),
        "type": (*TEXTS, ""),
        "data": ("x", "[]", '{"a": 1, "a": 1}'),
        "lines": ('{"data": {"a": 1, "a": 1}}', '{"data": {}, "data": {}}',
                  "x", "[]", "{}", '{"data": 7}', '{"data": {}, "colour": "red"}', '{"data": {}, "command_type": 7}',
                  '{"data": {}, "command_id": "x"}', '{"data": {}, "max_attempts": 0}', '{"data": {}, "reply_to": "x"}',
                  '{"data": {}, "correlation_id": 7}', '{"data": {"a": "\\u0000"}}',
                  '{"data": {}, "command_id": "6f1c0a52-7f0e-4b1e-9d55-0d8f5f3f6a11"}\n' * 2),
    },
}  # fmt: skip


@pytest.mark.parametrize("path", FORMS)
def test_every_bad_field_is_422_with_a_message_and_sends_nothing(operator: Browser, state: Any, path: str) -> None:
    before, token = state(), operator.csrf_token()
    for name, values in FORMS[path].items():
        for value in values:
            fields = GOOD | ({"copies": ""} if name == "lines" else {}) | {name: value, "csrf_token": token}
            answer = operator.post_raw(path, fields)
            assert answer.status_code == 422, (name, value[:50])
            assert 'class="wrong"' in answer.text or 'role="alert"' in answer.text, (name, value[:50])
    assert state() == before


def test_copies_and_lines_at_once_are_refused(operator: Browser, state: Any) -> None:
    before = state()
    answer = operator.post("/send/bulk", {**GOOD, "copies": "3", "lines": '{"data": {}}'})
    assert answer.status_code == 422
    assert "must be empty where lines are sent" in answer.text
    assert state() == before


def test_a_bad_line_is_named_and_none_is_sent(operator: Browser, state: Any) -> None:
    before = state()
    answer = operator.post("/send/bulk", {**GOOD, "copies": "", "lines": '{"data": {}}\n\n{"data": {}\n{"data": {}}'})
    assert answer.status_code == 422
    assert "line 3: " in answer.text
    assert "&#34;data&#34;: {}" in answer.text  # what was pasted is kept
    assert state() == before


def test_an_id_that_exists_is_refused_and_the_text_is_kept(operator: Browser, world: World, state: Any) -> None:
    before = state()
    answer = operator.post("/send", {**GOOD, "data": '{"kept": "yes"}', "command_id": str(world.parked[0])})
    assert answer.status_code == 422
    assert "exists" in answer.text
    assert "kept" in answer.text
    assert state() == before


def test_a_decision_without_or_with_wrong_commands_changes_nothing(operator: Browser, state: Any, world: World) -> None:
    before, good = state(), f"{DOMAIN}/{world.parked[0]}"
    wrong: list[dict[str, Any]] = [
        {}, {"command": ""}, {"command": "x"}, {"command": f"Pay/{uuid4()}"}, {"command": f"{DOMAIN}/7"},
        {"command": [good, "x"]}, {"command": [f"{DOMAIN}/{uuid4()}" for _ in range(1_001)]},
    ]  # fmt: skip
    for action in ("retry", "cancel", "complete"):
        for data in wrong:
            answer = operator.post(f"/troubleshooting/{action}", {"reason": "because", **data})
            assert answer.status_code == 422, (action, data)
            assert 'role="alert"' in answer.text
    for reason in ("", " ", LONG, "a\x00b"):
        answer = operator.post("/troubleshooting/cancel", {"command": good, "reason": reason})
        assert answer.status_code == 422, reason
        assert 'id="reason-wrong"' in answer.text
    for result in ("x", "{", "NaN", "[" * 100_000, '"' + "x" * 262_144 + '"', '"\\u0000"'):
        answer = operator.post("/troubleshooting/complete", {"command": good, "result": result})
        assert answer.status_code == 422, result[:50]
        assert 'id="result-wrong"' in answer.text
    assert state() == before


def test_a_refused_decision_keeps_the_selection_and_the_text(operator: Browser, world: World) -> None:
    data = {"command": f"{DOMAIN}/{world.parked[1]}", "result": "{not json", "from": "commands"}
    text = operator.post("/troubleshooting/complete", data).text
    assert f'value="{DOMAIN}/{world.parked[1]}" aria-label="Choose DebitAccount {world.parked[1]}" checked' in text
    assert "{not json</textarea>" in text
    assert text.count(" checked") == 1


def place_of(page: str) -> str | None:
    """Return where a page says that it can be got again."""
    found = re.search(r'<html lang="en" data-place="([^"]*)"', page)
    return None if found is None else html.unescape(found[1])


def test_the_page_of_a_refused_form_says_where_it_can_be_got_again(operator: Browser, world: World) -> None:
    names = [f"{DOMAIN}/{one}" for one in world.parked]
    command, redrive = f"/commands/{DOMAIN}/{world.parked[0]}", f"/redrives/{world.redrives[0]}"
    chosen = urlencode([("command", name) for name in names])
    for path, data, place in (
        ("/send", {}, "/send"),
        ("/send/bulk", {}, "/send/bulk"),
        (f"{command}/edit", {"data": "{"}, f"{command}/edit"),
        ("/troubleshooting/cancel", {"from": "command", "command": names[0]}, command),
        ("/troubleshooting/cancel?domain=pay", {"from": "groups"}, "/troubleshooting?domain=pay"),
        (f"/troubleshooting/retry?start={KEY}", {"from": "commands"}, f"/troubleshooting/commands?start={quote(KEY)}"),
        ("/redrives", {"domain": DOMAIN, "rate": "x", "reason": "why"}, f"/redrives/new?domain={DOMAIN}"),
        ("/redrives", {"command": names, "rate": "x"}, f"/redrives/new?{chosen}"),
        (f"{redrive}/pause", {"reason": LONG}, redrive),
        (f"/queues/{DOMAIN}/pause", {"reason": LONG}, f"/queues/{DOMAIN}"),
    ):
        answer = operator.post(path, data)
        assert (answer.status_code, unquote(place_of(answer.text) or "")) == (422, unquote(place)), path
        page = operator.get(place)
        assert (page.status_code, place_of(page.text)) == (200, None), place
    many = operator.post("/redrives", {"command": [f"{DOMAIN}/{uuid4()}" for _ in range(1_000)], "rate": "x"})
    assert (many.status_code, place_of(many.text)) == (422, None), "too much for an address"
    refused = operator.post_raw("/send", {})
    assert (refused.status_code, place_of(refused.text)) == (403, None), "a failure is not the page"


def test_decisions_are_those_of_the_library(operator: Browser, world: World, sync_pool: CommandBusPool) -> None:
    bus, tsq = CommandBus(sync_pool), TroubleshootingQueue(sync_pool)
    first, second = world.parked
    answer = operator.post("/troubleshooting/retry?domain=pay", {"command": f"{DOMAIN}/{first}"})
    assert answer.headers["Location"] == "/troubleshooting?domain=pay"
    assert "Retried 1 command." in operator.get("/troubleshooting").text
    form = {"command": [f"{DOMAIN}/{i}" for i in (first, second, uuid4())], "reason": "customer left"}
    operator.post("/troubleshooting/cancel", form)
    text = operator.get("/troubleshooting").text
    assert "Canceled 1 command; refused 1: already pending; refused 1: not found." in text
    assert tsq.count_troubleshooting() == 0
    event = bus.get_audit_trail(second, DOMAIN)[-1]
    assert (event.event_type, event.details) == (
        "OPERATOR_CANCEL",
        event.details | {"operator": "ada", "reason": "customer left"},
    )


def test_one_command_is_completed_from_its_own_page(operator: Browser, world: World, sync_pool: CommandBusPool) -> None:
    form = {"command": f"{DOMAIN}/{world.parked[0]}", "result": '{"paid": true}', "from": "command"}
    answer = operator.post("/troubleshooting/complete", form)
    assert answer.headers["Location"] == f"/commands/{DOMAIN}/{world.parked[0]}"
    found = CommandBus(sync_pool).get_command(DOMAIN, world.parked[0])
    assert found is not None
    assert found.status == "COMPLETED"


def test_commands_are_sent_as_the_forms_say(operator: Browser, sync_pool: CommandBusPool) -> None:
    bus = CommandBus(sync_pool)
    command_id, correlation = uuid4(), uuid4()
    form = {**GOOD, "type": "One", "command_id": str(command_id), "correlation": str(correlation),
            "reply_to": "pay__replies", "max_attempts": "7"}  # fmt: skip
    assert operator.post("/send", form).headers["Location"] == f"/commands/{DOMAIN}/{command_id}"
    found = bus.get_command(DOMAIN, command_id)
    assert found is not None
    assert (found.command_type, found.correlation_id, found.reply_to, found.max_attempts) == (
        "One", correlation, "pay__replies", 7,
    )  # fmt: skip
    assert operator.post("/send/bulk", {**GOOD, "type": "Copy", "copies": "25"}).status_code == 302
    assert len(bus.query_commands(command_type="Copy")) == 25
    lines = '{"data": {"n": 1}}\n{"data": {"n": 2}, "command_type": "Other", "max_attempts": 2}\n'
    operator.post("/send/bulk", {**GOOD, "type": "Line", "copies": "", "lines": lines})
    assert "Sent 2 commands." in operator.get("/commands").text
    assert [row.max_attempts for row in bus.query_commands(command_type="Other")] == [2]
    assert len(bus.query_commands(command_type="Line")) == 1
