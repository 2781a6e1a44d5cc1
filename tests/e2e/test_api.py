"""The JSON API does what its OpenAPI document says, and the document says all of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from commandbus.console import ConsoleSettings
from tests.e2e.app import close_app, create_app
from tests.e2e.app.api import PREFIX
from tests.e2e.demo import Visitor, until
from tests.integration.console.browser import CANARY, TOKENS, VIEWER_TOKEN

if TYPE_CHECKING:
    from flask import Flask

    from commandbus.sync import CommandBusPool

SUCCESS = {"behavior": {"type": "success"}}


def test_the_document_is_valid_openapi(visitor: Visitor) -> None:
    document = visitor.get("/api/openapi.json").get_json()
    assert document["openapi"] == "3.1.0"
    validate(document)


def test_the_document_and_the_routes_are_the_same(visitor: Visitor, demo: Flask) -> None:
    paths = visitor.get("/api/openapi.json").get_json()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    routes = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in demo.url_map.iter_rules()
        if rule.rule.startswith(PREFIX)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert described == routes


def test_every_operation_answers_what_the_document_says(visitor: Visitor) -> None:
    document = visitor.get("/api/openapi.json").get_json()
    one = visitor.api("POST", "/test-commands", SUCCESS, code=201)["command_id"]
    run = visitor.api("POST", "/runs", {"count": 3, "mix": {"success": 100}}, code=202)["run_id"]
    until(lambda: visitor.api("GET", f"/runs/{run}")["generated"] == 3)
    bodies = {
        "postTestCommands": SUCCESS,
        "patchTestCommandsCommandId": {"behavior": {"type": "timeout"}},
        "postRuns": {"count": 1, "mix": {"timeout": 100}},
        "putConfigWorker": {"concurrency": 2},
        "putConfigRetry": {"max_attempts": 2},
    }
    seen = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            place = path.replace("{command_id}", one).replace("{run_id}", run).removeprefix(PREFIX)
            name = operation["operationId"]
            answer = visitor.call(method.upper(), place, json=bodies.get(name))
            response = operation["responses"][str(answer.status_code)]
            schema = response["content"]["application/json"]["schema"] | {"components": document["components"]}
            Draft202012Validator(schema).validate(answer.get_json())
            seen.append((name, answer.status_code))
    assert [status for name, status in seen if name != "deleteTestCommandsCommandId" and status >= 300] == []
    assert ("deleteTestCommandsCommandId", 409) in seen, "its command has not ended"


def test_a_test_command_is_made_read_changed_and_deleted(visitor: Visitor) -> None:
    made = visitor.api("POST", "/test-commands", SUCCESS | {"payload": {"a": [1]}, "max_attempts": 9}, code=201)
    path = f"/test-commands/{made['command_id']}"
    assert visitor.api("GET", path) == made
    assert (made["payload"], made["max_attempts"], made["attempts"]) == ({"a": [1]}, 9, 0)
    changed = visitor.api("PATCH", path, {"behavior": {"type": "timeout", "execution_time_ms": 5}})
    assert changed["behavior"]["execution_time_ms"] == 5
    assert "has not ended" in visitor.api("DELETE", path, code=409)["detail"]
    assert visitor.api("GET", "/test-commands?status=PENDING")["test_commands"] == [changed]


@pytest.mark.usefixtures("demo_worker")
def test_what_has_ended_is_deleted_and_what_has_not_stays(visitor: Visitor) -> None:
    done = visitor.api("POST", "/test-commands", SUCCESS, code=201)["command_id"]
    parked = visitor.api("POST", "/test-commands", {"behavior": {"type": "fail_permanent"}}, code=201)["command_id"]
    other = visitor.api("POST", "/test-commands", SUCCESS, code=201)["command_id"]
    visitor.ended(done, "COMPLETED")
    visitor.ended(other, "COMPLETED")
    visitor.ended(parked, "IN_TROUBLESHOOTING_QUEUE")
    ended = visitor.api("PATCH", f"/test-commands/{done}", {"behavior": {"type": "timeout"}}, code=409)
    assert "has ended" in ended["detail"]
    visitor.api("DELETE", f"/test-commands/{done}", code=204)
    visitor.api("GET", f"/test-commands/{done}", code=404)
    assert visitor.api("DELETE", "/test-commands") == {"deleted": 1}
    assert [one["command_id"] for one in visitor.api("GET", "/test-commands")["test_commands"]] == [parked]


BAD: tuple[tuple[str, str, Any, str], ...] = (
    ("POST", "/test-commands", {}, "behavior"),
    ("POST", "/test-commands", {"behavior": {"type": "success", "color": "red"}}, "behavior.color"),
    ("POST", "/test-commands", {"behavior": {"type": "timeout", "error_code": 5}}, "behavior.error_code"),
    ("POST", "/test-commands", SUCCESS | {"payload": {"a": "\0"}}, "payload"),
    ("POST", "/runs", {"count": True, "mix": {"success": 100}}, "count"),
    ("POST", "/runs", {"count": 5, "mix": {"success": 99}}, "mix"),
    ("PUT", "/config/worker", {"concurrency": 0}, "concurrency"),
    ("PUT", "/config/retry", [], ""),
    ("GET", "/test-commands?limit=0", None, "limit"),
    ("GET", "/test-commands?color=red", None, "color"),
)


def test_bad_input_is_refused_by_field(visitor: Visitor) -> None:
    for method, path, body, field in BAD:
        assert list(visitor.api(method, path, body, code=422)["errors"]) == [field], (method, path, body)


def test_what_is_no_json_is_refused(visitor: Visitor) -> None:
    answer = visitor.call("PUT", "/config/worker", data=b"{")
    assert (answer.status_code, answer.get_json()) == (422, {"errors": {"": "must be JSON"}})


def test_a_test_command_that_is_not_there_is_404(visitor: Visitor) -> None:
    for method in ("GET", "PATCH", "DELETE"):
        assert visitor.api(method, f"/test-commands/{uuid4()}", {"behavior": {"type": "success"}}, code=404)["detail"]


def test_nothing_changes_without_the_token(visitor: Visitor) -> None:
    for method, path in (("POST", "/test-commands"), ("POST", "/runs"), ("PUT", "/config/worker"), ("DELETE", "")):
        answer = visitor.open(f"/api/e2e{path or '/test-commands'}", method=method, json=SUCCESS)
        assert answer.status_code == 403
    assert visitor.api("GET", "/test-commands")["test_commands"] == []


def test_viewers_see_no_payloads_and_change_nothing(sync_pool: CommandBusPool, visitor: Visitor) -> None:
    made = visitor.api("POST", "/test-commands", SUCCESS | {"payload": {"secret": CANARY}}, code=201)
    assert made["payload"] == {"secret": CANARY}
    app = create_app(sync_pool, settings=ConsoleSettings.load(**TOKENS))
    viewer = Visitor(app, VIEWER_TOKEN, "grace")
    assert CANARY not in viewer.call("GET", "/test-commands").text
    assert CANARY not in viewer.call("GET", f"/test-commands/{made['command_id']}").text
    assert "Only operators" in viewer.api("POST", "/test-commands", SUCCESS, code=403)["detail"]
    assert viewer.post("/settings/worker", {"concurrency": "9"}, form="/settings").status_code == 403
    assert Visitor(app).get("/test-commands").location.startswith("/login")
    assert Visitor(app).get("/api/e2e/test-commands").status_code == 401
    close_app(app)
