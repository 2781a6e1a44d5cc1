"""What pages make of events and versions: attempts, differences, and the way back through a list."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from werkzeug.datastructures import MultiDict

from commandbus.console.attempts import attempts
from commandbus.console.decisions import Chosen, decide
from commandbus.console.difference import difference
from commandbus.console.forms import Form
from commandbus.console.looks import told
from commandbus.console.paging import Trail
from commandbus.errors import DatabaseUnavailableError
from commandbus.models import AuditEvent, AuditEventType, PageKey, Verdict
from commandbus.payload import write_key

START = datetime(2030, 1, 31, 12, tzinfo=UTC)
FAILED = ("FAILED", {"error_type": "PERMANENT", "error_code": "E", "error_msg": "no"})


def outcomes(*told: str | tuple[str, dict[str, Any]]) -> list[tuple[int, str, float | None]]:
    """Return number, outcome and duration of the attempts that these events, a second apart, tell of."""
    events = []
    for number, one in enumerate(told):
        kind, details = (one, None) if isinstance(one, str) else one
        at = START + timedelta(seconds=number)
        events.append(AuditEvent(number, "pay", UUID(int=1), AuditEventType(kind), at, details))
    return [(attempt.number, attempt.outcome, attempt.seconds) for attempt in attempts(events)]


def test_an_attempt_ends_with_what_was_made_of_it() -> None:
    assert outcomes("SENT", "RECEIVED", "COMPLETED") == [(1, "COMPLETED", 1)]
    assert outcomes("SENT", "RECEIVED", FAILED, "RETRY_SCHEDULED", "RECEIVED") == [
        (1, "RETRY_SCHEDULED", 1),
        (2, "IN_PROGRESS", None),
    ]
    assert outcomes("RECEIVED", FAILED, "RETRY_EXHAUSTED", "MOVED_TO_TSQ") == [(1, "MOVED_TO_TSQ", 1)]
    assert outcomes("RECEIVED", FAILED, "BUSINESS_RULE_FAILED") == [(1, "BUSINESS_RULE_FAILED", 1)]
    assert outcomes("RECEIVED", "RELEASED", "RECEIVED", "COMPLETED") == [(1, "RELEASED", 1), (2, "COMPLETED", 1)]


def test_an_attempt_that_never_ended_says_so() -> None:
    assert outcomes("RECEIVED", "RECEIVED", "COMPLETED") == [(1, "NO_RETURN", None), (2, "COMPLETED", 1)]
    assert outcomes("RECEIVED", "RETRY_EXHAUSTED", "MOVED_TO_TSQ") == [(1, "NO_RETURN", 1)]


def test_attempts_are_numbered_as_their_events_are_and_anew_after_an_operators_retry() -> None:
    retried = outcomes("RECEIVED", FAILED, "MOVED_TO_TSQ", "OPERATOR_RETRY", "RECEIVED", "COMPLETED")
    assert [number for number, _, _ in retried] == [1, 1]
    first, again = ("RECEIVED", {"attempt": 1}), ("RECEIVED", {"attempt": 2})
    released = outcomes(first, "RELEASED", first, FAILED, "RETRY_SCHEDULED", again, "COMPLETED")
    assert [number for number, _, _ in released] == [1, 1, 2]
    assert [number for number, _, _ in outcomes(again, "COMPLETED")] == [2], "what came before is forgotten"


def test_events_that_begin_in_the_middle_are_no_attempts() -> None:
    assert outcomes("COMPLETED", "MOVED_TO_TSQ", "STALE_SETTLE") == []


def test_a_long_text_of_an_event_does_not_hide_who_decided_and_what_failed() -> None:
    facts = {"reason": "the customer asked for it " * 9, "operator": "ada", "error_code": "E"}
    assert [label for label, _ in told(facts)] == ["operator", "error code", "reason"]


def test_a_difference_shows_what_changed_with_some_lines_around() -> None:
    before = {f"k{number}": number for number in range(20)}
    lines = [line.sign + line.text for line in difference(before, before | {"k10": "new"})]
    assert lines == [
        "…",
        '   "k7": 7,', '   "k8": 8,', '   "k9": 9,',
        '-  "k10": 10,', '+  "k10": "new",',
        '   "k11": 11,', '   "k12": 12,', '   "k13": 13,',
    ]  # fmt: skip
    assert difference(before, dict(before)) == []


def test_a_difference_of_long_texts_is_cut() -> None:
    lines = difference(list(range(5_000)), list(range(1, 5_000)))
    assert len(lines) < 1_000
    assert {line.sign for line in lines} == {"-", "+", "…"}


def test_a_decision_that_takes_too_long_or_fails_on_its_way_tells_what_it_did() -> None:
    chosen = Chosen([("pay", UUID(int=n)) for n in range(2_500)])

    def accept(_: str, ids: list[UUID]) -> list[Verdict]:
        return [Verdict(one, None, None) for one in ids]

    def accept_once(domain: str, ids: list[UUID]) -> list[Verdict]:
        if UUID(int=0) not in ids:
            raise DatabaseUnavailableError("the database does not answer")
        return accept(domain, ids)

    assert decide(chosen, accept).sentence("Retried") == "Retried 2,500 commands."
    late = decide(chosen, accept, seconds=-1)
    assert (late.accepted, late.is_clean) == (1_000, False)
    assert "decide again about the rest" in late.sentence("Retried")
    assert decide(chosen, accept_once).sentence("Retried") == (
        "Retried 1,000 commands; then it broke off: the database does not answer."
    )


def test_the_trail_leads_back_page_by_page() -> None:
    keys = [PageKey(START - timedelta(seconds=n), UUID(int=n)) for n in range(25)]
    form, visited = Form(MultiDict()), [""]
    for key in keys:
        form = Form(MultiDict({k: str(v) for k, v in (Trail(form).older(key) or {}).items()}))
        visited.append(write_key(key))
        assert Trail(form).start == key
    steps = 0
    while (newer := Trail(form).newer()) is not None:
        form = Form(MultiDict({k: str(v) for k, v in newer.items() if v is not None}))
        steps += 1
        assert form.errors == {}
        assert steps > 20 or form.raw("start") == visited[-1 - steps]
    assert form.raw("start") == ""
    assert steps == 21  # as far back as it remembers, then the newest
