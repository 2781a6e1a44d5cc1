"""What becomes of an attempt: one `match` from a handler's result or exception to a `Settlement`."""

import random
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from pydantic import ValidationError

from commandbus.errors import (
    MAX_CODE_LENGTH,
    BusinessRuleException,
    HandlerError,
    InvalidArgumentError,
    InvalidPayloadError,
    PermanentCommandError,
)
from commandbus.models import ErrorType, TsqReason
from commandbus.payload import (
    MAX_PAYLOAD_BYTES,
    check_count,
    check_timeout,
    clean_text,
    describe_validation_error,
    encode_value,
)

MAX_ATTEMPTS = 1_000
MAX_DELAY = 31_536_000
MAX_DETAILS_BYTES = 8_192
_MAX_PLACE_LENGTH = 500

E = TypeVar("E", bound=HandlerError)


class Outcome(StrEnum):
    """How an attempt ends."""

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    RETRY = "RETRY"
    TROUBLESHOOT = "TROUBLESHOOT"
    RELEASE = "RELEASE"  # given back unstarted


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a failed command is tried again.

    Args:
        max_attempts: for commands sent without their own, 1 to 1,000.
        backoff_schedule: seconds to wait after the first, second, … failed attempt, each 0 to 31,536,000; the
            last entry repeats.
        jitter: fraction by which a delay varies either way, 0 to 1.
        random: source of numbers in [0, 1).

    Raises:
        InvalidArgumentError: a value is out of its range, or the schedule is empty.
    """

    max_attempts: int = 3
    backoff_schedule: Sequence[float] = (10, 60, 300)
    jitter: float = 0.1
    random: Callable[[], float] = field(default=random.random, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_count(self.max_attempts, "max_attempts", 1, MAX_ATTEMPTS)
        if isinstance(self.backoff_schedule, str) or not isinstance(self.backoff_schedule, Sequence):
            raise InvalidArgumentError("backoff_schedule", "must be a list of seconds")
        if not self.backoff_schedule:
            raise InvalidArgumentError("backoff_schedule", "must have at least one entry")
        for seconds in self.backoff_schedule:
            check_timeout(seconds, "backoff_schedule", 0, MAX_DELAY)
        if isinstance(self.jitter, bool) or not isinstance(self.jitter, int | float) or not 0 <= self.jitter <= 1:
            raise InvalidArgumentError("jitter", "must be a fraction from 0 to 1")
        object.__setattr__(self, "backoff_schedule", tuple(self.backoff_schedule))

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after failed attempt number *attempt*, which counts from 1."""
        check_count(attempt, "attempt", 1, MAX_ATTEMPTS)
        seconds = self.backoff_schedule[min(attempt, len(self.backoff_schedule)) - 1]
        return min(seconds * (1 + self.jitter * (2 * self.random() - 1)), MAX_DELAY)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What to store about an attempt that ended.

    Attributes:
        outcome: see `Outcome`.
        result: JSON text of the handler's result, or None for none; only with COMPLETED.
        error_type: None with COMPLETED and RELEASE, as all below.
        error_code: 1 to 100 characters.
        error_msg: up to 2,000 characters, storable.
        details: JSON text of an object, or None.
        reason: why it waits for an operator; only with TROUBLESHOOT.
        delay: seconds to the next attempt; only with RETRY.
        error_place: ``file:line`` of the user's code that failed, up to 500 characters, or None where nobody knows.
    """

    outcome: Outcome
    result: str | None = field(default=None, repr=False)
    error_type: ErrorType | None = None
    error_code: str | None = None
    error_msg: str | None = field(default=None, repr=False)
    details: str | None = field(default=None, repr=False)
    reason: TsqReason | None = None
    delay: float | None = None
    error_place: str | None = None


def settle_result(result: object, *, max_bytes: int = MAX_PAYLOAD_BYTES) -> Settlement:
    """Return COMPLETED with the result.

    Args:
        result: None or any JSON value, see `commandbus.payload.encode_value`.
        max_bytes: largest JSON text of the result.

    Raises:
        InvalidArgumentError: the result has no JSON form within the limits.
    """
    if result is None:
        return _COMPLETED
    return Settlement(Outcome.COMPLETED, result=encode_value(result, "result", max_bytes))


def settle_success(result: object, *, max_bytes: int = MAX_PAYLOAD_BYTES) -> Settlement:
    """Return COMPLETED with a handler's result, or TROUBLESHOOT when the result has no JSON form.

    The handler did its work, so a result that cannot be stored must not run it again. Arguments as in
    `settle_result`.
    """
    try:
        return settle_result(result, max_bytes=max_bytes)
    except InvalidArgumentError as error:
        return Settlement(
            Outcome.TROUBLESHOOT,
            error_type=ErrorType.PERMANENT,
            error_code="INVALID_RESULT",
            error_msg=str(error),
            reason=TsqReason.PERMANENT,
        )


def settle_error(
    error: BaseException, *, attempt: int, max_attempts: int, policy: RetryPolicy, place: str | None = None
) -> Settlement:
    """Return what a handler's exception means for its command.

    Args:
        error: what the handler raised.
        attempt: number of the failed attempt, from 1.
        max_attempts: the command's own limit; it wins over the policy's.
        policy: gives the delay of a retry.
        place: ``file:line`` where it failed, or None.
    """
    outcome, reason, delay = Outcome.TROUBLESHOOT, None, None
    match error:
        case BusinessRuleException():
            outcome, kind = Outcome.FAILED, ErrorType.BUSINESS_RULE
        case PermanentCommandError():
            kind, reason = ErrorType.PERMANENT, TsqReason.PERMANENT
        case InvalidPayloadError():
            kind, reason = ErrorType.PERMANENT, TsqReason.INVALID_PAYLOAD
        case _ if attempt < max_attempts:
            outcome, kind, delay = Outcome.RETRY, ErrorType.TRANSIENT, policy.delay(attempt)
        case _:
            kind, reason = ErrorType.TRANSIENT, TsqReason.EXHAUSTED
    code, message, details = _describe(error)
    place = None if place is None else clean_text(place[-_MAX_PLACE_LENGTH:])  # its end says most
    return Settlement(outcome, None, kind, code, message, details, reason, delay, place)


def recast(error: Exception, kind: type[E]) -> E:
    """Return an error as one that says *kind*, with the code, text and details that would be stored of it."""
    if isinstance(error, kind):
        return error
    if isinstance(error, HandlerError):
        code, message, details = error.code, error.error_message, error.details
    else:
        (code, message, _), details = _describe(error), None
    found = kind(code, message, details)
    found.__cause__ = error  # which knows where it was raised
    return found


RELEASE = Settlement(Outcome.RELEASE)
_COMPLETED = Settlement(Outcome.COMPLETED)

# How psycopg's own sentences about SQL begin: they name placeholders and types, never values. Others quote connection
# strings, or values that it cannot convert.
_PSYCOPG_ON_SQL = (
    "the query has ",
    "query parameter missing: ",
    "cannot adapt type ",
    "only '%s', '%b', '%t' are allowed as placeholders",
    "incomplete placeholder: '%';",
    "positional and named placeholders cannot be mixed",
    "the last operation didn't produce records",
    "the cursor is closed",
    "the connection is closed",
)
_PSYCOPG_ON_DATA = "psycopg's sentence may quote data or a password and is not kept; see the log at DEBUG"


def _describe(error: BaseException) -> tuple[str, str, str | None]:
    """Return code, text and details (JSON text) of an exception, as they can be stored."""
    details = None
    match error:
        case HandlerError():
            code, message, details = error.code, str(error.error_message), _encode_details(error.details)
        case InvalidPayloadError():
            code, message = error.code, str(error)
        case ValidationError():
            code, message = type(error).__name__, describe_validation_error(error)
        case _ if hasattr(error, "sqlstate") and hasattr(error, "diag") and hasattr(error.diag, "message_primary"):
            code, message = type(error).__name__, _text_of_database_error(error)
        case _:
            code, message = type(error).__name__, _text_of(error)
    return clean_text(code, MAX_CODE_LENGTH), clean_text(message), details


def _text_of_database_error(error: Any) -> str:  # noqa: ANN401  (one of psycopg's, which is not known on this floor)
    """Return what is wrong, without the data that the whole text of the error can quote."""
    state, primary = error.sqlstate, error.diag.message_primary
    if not primary:
        text = str(error)
        return text if text.startswith(_PSYCOPG_ON_SQL) else f"{state or 'no SQLSTATE'}: {_PSYCOPG_ON_DATA}"
    if (state or "").startswith("22"):  # a data exception
        return f"{state}: the server's sentence quotes the value and is not kept"
    position = getattr(error.diag, "statement_position", None)
    return f"{state or 'no SQLSTATE'}: {primary}" + (f", at character {position} of the SQL" if position else "")


def _text_of(error: BaseException) -> str:
    """Return str(error), also where __str__ itself fails: the traceback module survives that."""
    printed = traceback.TracebackException(type(error), error, None, lookup_lines=False, compact=True)
    return "".join(printed.format_exception_only()).strip().partition(": ")[2]


def _encode_details(details: dict[str, object] | None) -> str | None:
    """Return the JSON text of details, or of a note that they could not be stored."""
    if details is None:
        return None
    try:
        return encode_value(details, "details", MAX_DETAILS_BYTES)
    except InvalidArgumentError as error:
        return encode_value({"not_stored": str(error)})
