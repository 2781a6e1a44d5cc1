"""Requests as they should not be: text that is no UTF-8, methods and names that a page does not know, foreign hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from commandbus.sync import CommandBus
from tests.integration.console.browser import DOMAIN, TOKENS, Browser, routes

if TYPE_CHECKING:
    from flask import Flask

    from commandbus.sync import CommandBusPool
    from tests.integration.console.browser import World
    from tests.integration.console.conftest import MakeApp

FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def state(sync_pool: CommandBusPool) -> Any:
    """A function that returns all commands and events."""
    bus = CommandBus(sync_pool)
    return lambda: (bus.query_commands(limit=1000), bus.query_audit(limit=1000))


@pytest.mark.parametrize("broken", ["%FF", "a%C3", "%ED%A0%80", "%C0%AF"])
def test_a_form_that_is_not_utf_8_is_refused_and_names_its_field(
    operator: Browser, world: World, state: Any, broken: str
) -> None:
    before, token = state(), operator.csrf_token()
    one = f"command={DOMAIN}/{world.parked[0]}"
    for path, field, rest in (
        ("/troubleshooting/retry", "reason", one),
        ("/api/troubleshooting/cancel", "reason", one),
        ("/send", "type", f"domain={DOMAIN}&data={{}}"),
        ("/redrives", "reason", f"domain={DOMAIN}&rate=1"),
    ):
        body = f"csrf_token={token}&{rest}&{field}={broken}"
        answer = operator.post_raw(path, data=body, content_type=FORM)  # type: ignore[arg-type]  # a body, not a form
        assert answer.status_code == 400, path
        assert "not valid UTF-8" in answer.text
        assert field in answer.text.lower()
        if "/api/" in path:
            assert answer.get_json()["errors"] == {field: "is not valid UTF-8"}
    assert state() == before


def test_bytes_and_parts_that_are_not_utf_8_are_refused(operator: Browser, world: World, state: Any) -> None:
    before, token = state(), operator.csrf_token()
    parts = {"csrf_token": token, "command": f"{DOMAIN}/{world.parked[0]}", "reason": "caf"}
    multipart = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in parts.items()
    ).encode() + b"--x--\r\n"  # fmt: skip
    raw = f"csrf_token={token}&command={DOMAIN}/{world.parked[0]}&reason=caf".encode()
    for kind, body in (
        ("multipart/form-data; boundary=x", multipart.replace(b"caf", b"caf\xe9")),
        (FORM, raw + b"\xe9"),
        (FORM, raw + b"&%FF=1"),
    ):
        answer = operator.open("/troubleshooting/retry", method="POST", data=body, content_type=kind)
        assert answer.status_code == 400, body
        assert "UTF-8" in answer.text
    headers = {"X-CSRF-Token": token}
    name = f"{DOMAIN}/{world.parked[0]}".encode()
    for body, said in (
        (b'{"command": ["%s"], "reason": "caf\xe9"}' % name, "is not valid UTF-8"),
        (
            b'{"command": ["%s"], "reason": "a", "reason": "b"}' % name,
            'has the key "reason" more than once in an object',
        ),
    ):
        answer = operator.open(
            "/api/troubleshooting/retry", method="POST", data=body, content_type="application/json", headers=headers
        )
        assert (answer.status_code, answer.get_json()["errors"]) == (400, {"body": said})
    assert state() == before
    assert operator.open(
        "/troubleshooting/retry",
        method="POST",
        data=multipart.replace(b"caf", "café ✓".encode()),
        content_type="multipart/form-data; boundary=x",
    ).status_code == 302  # fmt: skip
    assert state() != before


def test_a_query_that_is_not_utf_8_is_refused_on_every_page(app: Flask, world: World, operator: Browser) -> None:
    for _, path, endpoint in routes(app, world, "GET"):
        if endpoint == "console.static":
            continue
        answer = operator.get(f"{path}?domain=p%FFy")
        assert answer.status_code == 400, path
        assert "omain: is not valid UTF-8" in answer.text, path
        assert operator.get(f"{path}?%FF=1").status_code == 400, path


def test_a_method_that_an_address_does_not_take_is_405_with_those_that_it_does(operator: Browser, state: Any) -> None:
    before = state()
    for path, allowed in (("/commands", {"GET", "HEAD", "OPTIONS"}), ("/troubleshooting/retry", {"POST", "OPTIONS"})):
        for method in ("PUT", "DELETE", "PATCH", "TRACE", "BREW"):
            answer = operator.open(path, method=method)
            assert answer.status_code == 405, (method, path)
            assert set(answer.headers["Allow"].split(", ")) == allowed
            assert "That does not work here" in answer.text
    assert operator.open("/api/commands", method="POST").get_json()["status"] == 405
    assert operator.open("/nowhere", method="POST").status_code == 404
    assert state() == before


def test_a_wrong_host_learns_nothing_and_a_stranger_sees_no_numbers(make_app: MakeApp, world: World) -> None:
    app = make_app(**TOKENS)
    for path in ("/", "/login", "/api/commands", "/static/console/icon.svg", "/nowhere"):
        answer = Browser(app).get(path, headers={"Host": "evil.example"})
        assert answer.status_code == 400, path
        assert answer.mimetype == "text/plain"
        assert len(answer.text.splitlines()) == 1
        assert "Set-Cookie" not in answer.headers
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert len(world.parked) == 2
    operator = Browser(app, TOKENS["operator_token"])
    assert 'data-number="troubleshooting"' in operator.get("/troubleshooting").text
    for path in ("/login", "/nowhere"):
        text = Browser(app).get(path).text
        assert "data-number" not in text, path
        assert 'aria-label="Pages' not in text, path


def test_programs_are_told_which_parameter_is_unknown_and_pages_do_not_mind(
    app: Flask, world: World, operator: Browser
) -> None:
    for _, path, endpoint in routes(app, world, "GET"):
        if endpoint in {"console.static", "console.live.events", "console.commands.go", "console.login"}:
            continue
        answer = operator.get(f"{path}?utm_source=mail&Status=FAILED")
        if "/api/" not in path:
            assert answer.status_code == 200, path
            continue
        assert answer.status_code == 400, path
        found = answer.get_json()["errors"]
        assert set(found) == {"utm_source", "Status"}, path
        assert found["Status"].startswith("is unknown here; known: "), path
    known = operator.get("/api/commands?statsu=FAILED").get_json()["errors"]["statsu"]
    names = "after, batch, before, correlation, domain, group, limit, start, status, text, trail, type"
    assert known == f"is unknown here; known: {names}"


def test_programs_are_told_which_field_is_unknown_and_forms_do_not_mind(
    operator: Browser, world: World, state: Any
) -> None:
    before, headers = state(), {"X-CSRF-Token": operator.csrf_token()}
    chosen = {"command": [f"{DOMAIN}/{world.parked[0]}"], "reason": "why"}
    edit, redrive = f"commands/{DOMAIN}/{world.parked[0]}/edit", f"redrives/{world.redrives[0]}/pause"
    for path, body, known in (
        ("troubleshooting/retry", chosen, "command, group, reason"),
        ("troubleshooting/cancel", chosen, "command, group, reason"),
        ("troubleshooting/complete", chosen, "command, group, reason, result"),
        ("redrives", chosen | {"rate": 1}, "command, domain, form_id, group, rate, reason, stop_after"),
        (redrive, {"reason": "why"}, "reason"),
        (edit, {"data": {}, "reason": "why"}, "data, reason"),
    ):
        for slip in ({"raeson": "why"}, {"commands": None}, {"only_command": chosen["command"][0]}):
            answer = operator.open(f"/api/{path}", method="POST", json=body | slip, headers=headers)
            found = answer.get_json()["errors"]
            assert (answer.status_code, found) == (422, dict.fromkeys(slip, f"is unknown here; known: {known}")), path
    assert state() == before
    assert operator.post("/troubleshooting/retry", chosen | {"raeson": "why"}).status_code == 302
    assert state() != before


def test_parameters_that_lists_give_for_their_next_page_are_known(operator: Browser, world: World) -> None:
    assert len(world.parked) == 2
    found = operator.get("/api/commands?limit=2").get_json()
    for _ in range(3):
        answer = operator.get("/api/commands", query_string={"limit": "2", **found["older"]})
        assert answer.status_code == 200
        found = answer.get_json()
    assert operator.get("/api/troubleshooting/commands", query_string=found["older"]).status_code == 200
    assert operator.get("/api/batches?offset=1").status_code == 200


@pytest.mark.parametrize("name", ["<script>", "'; drop", "7", "_x", "a" * 101, "A\u202eB", "A\u200bB", "A\tB"])
def test_an_event_that_cannot_be_is_refused_beside_its_field(operator: Browser, name: str) -> None:
    answer = operator.get("/audit", query_string={"event": name})
    assert answer.status_code == 400
    assert 'id="event-wrong"' in answer.text
    assert list(operator.get("/api/audit", query_string={"event": name}).get_json()["errors"]) == ["event"]


@pytest.mark.parametrize("name", ["ACCOUNT_CLOSED", "Überprüft", "orders.paid/2", "Paid by hand", "SENT"])
def test_events_of_applications_are_found_or_not(operator: Browser, name: str) -> None:
    answer = operator.get("/api/audit", query_string={"event": name})
    assert answer.status_code == 200
    assert bool(answer.get_json()["events"]) == (name in {"ACCOUNT_CLOSED", "SENT"})
