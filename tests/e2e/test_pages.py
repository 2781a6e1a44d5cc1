"""The demo's pages as forms: what they send, and what they refuse without changing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from commandbus.console import NAVIGATION
from tests.e2e.app import ENTRIES

if TYPE_CHECKING:
    from tests.e2e.demo import Visitor

PAGES = ("/test-commands", "/test-commands/new", "/test-commands/bulk", "/settings")

NEW = {"type": "success"}
BULK = {"count": "10", "success": "100"}
WORKER = {"visibility_timeout": "5", "concurrency": "5", "poll_interval": "0.5", "batch_size": "5"}
RETRY = {"max_attempts": "5", "base_delay_ms": "5", "max_delay_ms": "50", "backoff_multiplier": "1.5"}

BAD = [
    ("/test-commands", NEW | {"type": "dance"}, "must be"),
    ("/test-commands", {"type": ""}, "is missing"),
    ("/test-commands", NEW | {"execution_time_ms": "-1"}, "must be greater than or equal to 0"),
    ("/test-commands", NEW | {"execution_time_ms": "soon"}, "must be an integer"),
    ("/test-commands", NEW | {"transient_failures": "0"}, "must be greater than or equal to 1"),
    ("/test-commands", NEW | {"max_attempts": "1001"}, "must be less than or equal to 1000"),
    ("/test-commands", NEW | {"error_code": "x" * 101}, "at most 100 characters"),
    ("/test-commands", NEW | {"error_message": "a\0b"}, "has characters that cannot be stored"),
    ("/test-commands", NEW | {"payload": "[]"}, "must be a JSON object"),
    ("/test-commands", NEW | {"payload": '{"a": "\\u0000"}'}, "payload-wrong"),
    ("/test-commands/bulk", {"success": "100"}, "is missing"),
    ("/test-commands/bulk", BULK | {"count": "0"}, "must be greater than or equal to 1"),
    ("/test-commands/bulk", BULK | {"count": "100001"}, "must be less than or equal to 100000"),
    ("/test-commands/bulk", BULK | {"timeout": "1"}, "must add up to 100 percent, not 101"),
    ("/test-commands/bulk", BULK | {"success": "-5"}, "must be greater than or equal to 0"),
    ("/test-commands/bulk", BULK | {"execution_time_ms": "1.5"}, "must be an integer"),
    ("/settings/worker", WORKER | {"visibility_timeout": "0"}, "must be greater than or equal to 1"),
    ("/settings/worker", WORKER | {"concurrency": "501"}, "must be less than or equal to 500"),
    ("/settings/worker", WORKER | {"poll_interval": "nan"}, "must be a finite number"),
    ("/settings/worker", WORKER | {"batch_size": "many"}, "must be an integer"),
    ("/settings/retry", RETRY | {"max_attempts": "0"}, "must be greater than or equal to 1"),
    ("/settings/retry", RETRY | {"base_delay_ms": "-1"}, "must be greater than or equal to 0"),
    ("/settings/retry", RETRY | {"max_delay_ms": "x"}, "must be an integer"),
    ("/settings/retry", RETRY | {"backoff_multiplier": "0.5"}, "must be greater than or equal to 1"),
]


def state(visitor: Visitor) -> list[Any]:
    """Return all that a form could change."""
    return [visitor.api("GET", path) for path in ("/test-commands", "/runs", "/config/worker", "/config/retry")]


def test_every_page_has_the_console_s_sidebar_with_the_demo_s_entries(visitor: Visitor) -> None:
    for path in ("/", *PAGES):
        answer = visitor.get(path)
        assert answer.status_code == 200, path
        for entry in (*NAVIGATION, *ENTRIES):
            assert f'<span class="grow">{entry.label}</span>' in answer.text, path


def test_a_test_command_is_sent_from_its_form(visitor: Visitor) -> None:
    fields = {"type": "fail_permanent", "error_code": "CLOSED", "max_attempts": "2", "payload": '{"a": 1}'}
    answer = visitor.post("/test-commands", fields)
    assert answer.status_code == 302
    (found,) = visitor.api("GET", "/test-commands")["test_commands"]
    assert answer.location == f"/test-commands/{found['command_id']}"
    assert found["behavior"]["error_code"] == "CLOSED"
    assert (found["payload"], found["max_attempts"], found["status"]) == ({"a": 1}, 2, "PENDING")
    page = visitor.get(answer.location).text
    assert "CLOSED" in page
    assert f"/commands/test/{found['command_id']}" in page
    assert visitor.get(f"/commands/test/{found['command_id']}").status_code == 200


def test_bad_input_is_refused_beside_its_field_and_changes_nothing(visitor: Visitor) -> None:
    before = state(visitor)
    for path, fields, message in BAD:
        answer = visitor.post(path, fields)
        assert answer.status_code == 422, (path, fields)
        assert 'class="wrong"' in answer.text, (path, fields)
        assert message in answer.text, (path, fields)
        assert state(visitor) == before, (path, fields)


def test_a_filter_that_cannot_be_read_is_refused(visitor: Visitor) -> None:
    for query in ("behavior=dance", "status=LOST", "before=x", "limit=0", "before=99999999999"):
        answer = visitor.get(f"/test-commands?{query}")
        assert answer.status_code == 400, query
        assert "wrong" in answer.text, query


def test_a_form_without_its_token_is_refused(visitor: Visitor) -> None:
    before = state(visitor)
    for path in ("/test-commands", "/test-commands/bulk", "/settings/worker", "/settings/retry"):
        assert visitor.post_raw(path, NEW | BULK | WORKER | RETRY).status_code == 403, path
        assert state(visitor) == before, path


def test_settings_are_stored_and_an_empty_field_gets_its_default(visitor: Visitor) -> None:
    assert visitor.post("/settings/worker", WORKER | {"batch_size": ""}).status_code == 302
    assert visitor.post("/settings/retry", RETRY).status_code == 302
    stored = {"visibility_timeout": 5, "concurrency": 5, "poll_interval": 0.5, "batch_size": 10}
    assert visitor.api("GET", "/config/worker") == stored
    assert visitor.api("GET", "/config/retry")["backoff_multiplier"] == 1.5
    assert 'value="0.5"' in visitor.get("/settings").text


def test_test_commands_are_filtered_by_behaviour_and_status_and_paged(visitor: Visitor) -> None:
    for kind in ("success", "timeout", "success"):
        visitor.post("/test-commands", {"type": kind})
    assert visitor.get("/test-commands?behavior=success").text.count("data-open") == 2
    assert visitor.get("/test-commands?status=COMPLETED").text.count("data-open") == 0
    page = visitor.get("/test-commands?limit=2").text
    assert page.count("data-open") == 2
    assert 'rel="next"' in page
    before = visitor.api("GET", "/test-commands?limit=2")["next_before"]
    assert visitor.get(f"/test-commands?limit=2&before={before}").text.count("data-open") == 1


def test_hostile_texts_are_shown_as_texts(visitor: Visitor) -> None:
    text = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    visitor.post("/test-commands", {"type": "fail_permanent", "error_message": text, "error_code": text[:80]})
    (found,) = visitor.api("GET", "/test-commands")["test_commands"]
    for path in ("/test-commands", f"/test-commands/{found['command_id']}", f"/test-commands?behavior={text}"):
        page = visitor.get(path).text
        assert "<script>alert" not in page
        assert "<img" not in page
