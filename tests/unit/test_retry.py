"""Delays, and what a result or an exception means for its command."""

import json
from types import SimpleNamespace

import pytest
from pydantic import BaseModel, ValidationError

from commandbus import errors
from commandbus.models import ErrorType, TsqReason
from commandbus.retry import Outcome, RetryPolicy, Settlement, recast, settle_error, settle_success

STEADY = RetryPolicy(jitter=0)


def settle(error: BaseException, attempt: int = 1, max_attempts: int = 3) -> Settlement:
    return settle_error(error, attempt=attempt, max_attempts=max_attempts, policy=STEADY)


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 10), (2, 60), (3, 300), (4, 300), (1000, 300)])
def test_the_last_delay_repeats(attempt: int, seconds: float) -> None:
    assert STEADY.delay(attempt) == seconds


@pytest.mark.parametrize(("number", "seconds"), [(0.0, 80), (0.5, 100), (1.0, 120)])
def test_jitter_goes_either_way(number: float, seconds: float) -> None:
    policy = RetryPolicy(backoff_schedule=[100], jitter=0.2, random=lambda: number)

    assert policy.delay(1) == pytest.approx(seconds)


def test_jitter_stays_within_the_longest_delay() -> None:
    policy = RetryPolicy(backoff_schedule=[31_536_000], jitter=1, random=lambda: 0.9)

    assert policy.delay(1) == 31_536_000


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 1001}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"max_attempts": 3.0}, "max_attempts"),
        ({"backoff_schedule": []}, "backoff_schedule"),
        ({"backoff_schedule": [1, -1]}, "backoff_schedule"),
        ({"backoff_schedule": [float("nan")]}, "backoff_schedule"),
        ({"backoff_schedule": [float("inf")]}, "backoff_schedule"),
        ({"backoff_schedule": [31_536_001]}, "backoff_schedule"),
        ({"backoff_schedule": ["1"]}, "backoff_schedule"),
        ({"backoff_schedule": "10"}, "backoff_schedule"),
        ({"backoff_schedule": 10}, "backoff_schedule"),
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": 1.1}, "jitter"),
        ({"jitter": float("nan")}, "jitter"),
        ({"jitter": "much"}, "jitter"),
    ],
)
def test_policy_refuses(arguments: dict[str, object], field: str) -> None:
    with pytest.raises(errors.InvalidArgumentError) as caught:
        RetryPolicy(**arguments)  # type: ignore[arg-type]  # wrong on purpose

    assert caught.value.field == field


@pytest.mark.parametrize("attempt", [0, -1, True, 1.5])
def test_delay_refuses_a_bad_attempt(attempt: int) -> None:
    with pytest.raises(errors.InvalidArgumentError, match="attempt"):
        STEADY.delay(attempt)


def test_policy_is_a_value() -> None:
    schedule = [1.0]
    policy = RetryPolicy(backoff_schedule=schedule)
    schedule.append(2.0)

    assert policy == RetryPolicy(backoff_schedule=(1.0,))
    assert len({policy, RetryPolicy(backoff_schedule=[1.0])}) == 1


def test_no_result_completes() -> None:
    assert settle_success(None) == Settlement(Outcome.COMPLETED)


@pytest.mark.parametrize("result", [{"a": 1}, [], "text", 0, False, ""])
def test_result_completes_as_json_text(result: object) -> None:
    settlement = settle_success(result)

    assert settlement.outcome is Outcome.COMPLETED
    assert json.loads(settlement.result or "") == result


@pytest.mark.parametrize("result", [{"a": "\0"}, "\ud800", {1, 2}, float("nan"), "x" * 300_000])
def test_result_that_cannot_be_stored_is_not_run_again(result: object) -> None:
    settlement = settle_success(result)

    assert (settlement.outcome, settlement.reason) == (Outcome.TROUBLESHOOT, TsqReason.PERMANENT)
    assert (settlement.error_type, settlement.error_code) == (ErrorType.PERMANENT, "INVALID_RESULT")
    assert (settlement.error_msg or "").startswith("result: ")


def test_business_rule_fails_without_an_operator() -> None:
    settlement = settle(errors.BusinessRuleException("LIMIT", "too much", {"limit": 5}))

    assert settlement == Settlement(
        Outcome.FAILED,
        error_type=ErrorType.BUSINESS_RULE,
        error_code="LIMIT",
        error_msg="too much",
        details='{"limit": 5}',
    )


def test_permanent_waits_for_an_operator_at_once() -> None:
    settlement = settle(errors.PermanentCommandError("GONE", "never"))

    assert settlement == Settlement(
        Outcome.TROUBLESHOOT,
        error_type=ErrorType.PERMANENT,
        error_code="GONE",
        error_msg="never",
        reason=TsqReason.PERMANENT,
    )


def test_invalid_payload_waits_for_an_operator_at_once() -> None:
    settlement = settle(errors.InvalidPayloadError("amount: missing"))

    assert settlement == Settlement(
        Outcome.TROUBLESHOOT,
        error_type=ErrorType.PERMANENT,
        error_code="INVALID_PAYLOAD",
        error_msg="amount: missing",
        reason=TsqReason.INVALID_PAYLOAD,
    )


def test_transient_is_retried() -> None:
    settlement = settle(errors.TransientCommandError("DOWN", "later"), attempt=2)

    assert settlement == Settlement(
        Outcome.RETRY, error_type=ErrorType.TRANSIENT, error_code="DOWN", error_msg="later", delay=60
    )


def test_unknown_exception_is_retried_under_its_name() -> None:
    settlement = settle(KeyError("sku"))

    assert settlement == Settlement(
        Outcome.RETRY, error_type=ErrorType.TRANSIENT, error_code="KeyError", error_msg="'sku'", delay=10
    )


@pytest.mark.parametrize("error", [errors.TransientCommandError("DOWN", "later"), OSError("down")])
def test_last_attempt_waits_for_an_operator(error: Exception) -> None:
    settlement = settle(error, attempt=3)

    assert (settlement.outcome, settlement.reason) == (Outcome.TROUBLESHOOT, TsqReason.EXHAUSTED)
    assert (settlement.error_type, settlement.delay) == (ErrorType.TRANSIENT, None)


def test_the_commands_own_limit_wins() -> None:
    assert settle(OSError("down"), attempt=3, max_attempts=5).outcome is Outcome.RETRY
    assert settle(OSError("down"), attempt=1, max_attempts=1).outcome is Outcome.TROUBLESHOOT


def test_error_text_is_made_storable() -> None:
    settlement = settle(errors.TransientCommandError("A\0", "x\0\ud800" + "y" * 3_000))

    assert settlement.error_code == "A\ufffd"
    assert (settlement.error_msg or "")[:3] == "x\ufffd\ufffd"
    assert len(settlement.error_msg or "") == 2_000


def test_database_error_stores_only_what_the_server_says_first() -> None:
    class UniqueViolation(Exception):  # noqa: N818  (as in psycopg)
        sqlstate = "23505"
        diag = SimpleNamespace(message_primary="duplicate key")

    settlement = settle(UniqueViolation("DETAIL: Key (iban)=(canary) exists"))

    assert (settlement.error_code, settlement.error_msg) == ("UniqueViolation", "23505: duplicate key")


def test_data_exception_stores_no_sentence_of_the_server() -> None:
    class InvalidTextRepresentation(Exception):  # noqa: N818  (as in psycopg)
        sqlstate = "22P02"
        diag = SimpleNamespace(message_primary='invalid input syntax for type integer: "canary"')

    settlement = settle(InvalidTextRepresentation())

    assert (settlement.error_msg or "").startswith("22P02: ")
    assert "canary" not in (settlement.error_msg or "")


def test_code_of_a_long_name_is_cut() -> None:
    error = type("E" * 150, (Exception,), {})("text")

    assert len(settle(error).error_code or "") == 100


def test_validation_error_stores_no_input() -> None:
    class Order(BaseModel):
        amount: int

    with pytest.raises(ValidationError) as caught:
        Order.model_validate({"amount": "canary"})

    assert settle(caught.value).error_msg == "[key]: int_parsing"


def test_exception_that_cannot_be_printed() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    settlement = settle(BrokenError())

    assert settlement.error_code == "BrokenError"
    assert "failed" in (settlement.error_msg or "")


@pytest.mark.parametrize("text", ["", "a: b: c", "two\nlines"])
def test_exception_text_is_kept(text: str) -> None:
    assert settle(ValueError(text)).error_msg == text


@pytest.mark.parametrize("details", [{"a": object()}, {"a": "x" * 9_000}, {1: 2}, {"a": "\0"}])
def test_details_that_cannot_be_stored_leave_a_note(details: dict[str, object]) -> None:
    settlement = settle(errors.PermanentCommandError("GONE", "never", details))

    assert list(json.loads(settlement.details or "")) == ["not_stored"]


@pytest.mark.parametrize("kind", [errors.TransientCommandError, errors.PermanentCommandError])
def test_a_handlers_error_of_another_kind_keeps_all_that_it_says(kind: type[errors.HandlerError]) -> None:
    found = recast(errors.BusinessRuleException("SOLD_OUT", "none left", {"left": 0}), kind)

    assert type(found) is kind
    assert (found.code, found.error_message, found.details) == ("SOLD_OUT", "none left", {"left": 0})


def test_of_a_long_place_the_end_is_kept() -> None:
    found = settle_error(ValueError(), attempt=1, max_attempts=1, policy=STEADY, place="/\udc80" * 400 + "/pay.py:7")
    assert found.error_place is not None
    assert (len(found.error_place), found.error_place[-10:]) == (500, "\ufffd/pay.py:7")


def test_settlement_shows_no_business_data() -> None:
    shown = repr(settle(errors.PermanentCommandError("GONE", "canary", {"a": "canary"})))
    shown += repr(settle_success("canary"))

    assert "canary" not in shown
