"""Names, numbers and texts that users pass: what breaks a limit is refused."""

import re
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import TypeVar
from uuid import UUID

from commandbus.errors import InvalidArgumentError
from commandbus.payload.texts import HIDDEN, UNSTORABLE

MAX_COMMAND_TYPE_LENGTH = 200
MAX_PAGE = 1_000
MAX_REDRIVE = 100_000  # commands
_MAX_OFFSET = 2**31 - 1
_MAX_OPERATOR_LENGTH = 200
_MAX_REASON_LENGTH = 2_000

_DOMAIN = re.compile(r"[a-z][a-z0-9_]{0,36}")
_REPLY_QUEUE = re.compile(r"[a-z][a-z0-9_]{0,36}__replies")
_QUEUE = re.compile(r"[a-z][a-z0-9_]{0,46}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
S = TypeVar("S", bound=StrEnum)
T = TypeVar("T")


@lru_cache(256)
def _is_domain(name: str) -> bool:
    return _DOMAIN.fullmatch(name) is not None


@lru_cache(1024)
def _is_command_type(name: str) -> bool:
    return 0 < len(name) <= MAX_COMMAND_TYPE_LENGTH and not UNSTORABLE.search(name) and not HIDDEN.search(name)


def check_domain(value: object, field: str = "domain") -> str:
    """Return *value* when it is a domain name: ``^[a-z][a-z0-9_]{0,36}$``.

    Raises:
        InvalidArgumentError: it is not.
    """
    if isinstance(value, str) and _is_domain(value):
        return value
    raise InvalidArgumentError(field, "must be 1 to 37 of a-z, 0-9 and _, and begin with a letter")


def check_reply_queue(value: object, field: str = "reply_to") -> str:
    """Return *value* when it is the name of a reply queue: a domain name and ``__replies``.

    Raises:
        InvalidArgumentError: it is not.
    """
    if isinstance(value, str) and _REPLY_QUEUE.fullmatch(value):
        return value
    raise InvalidArgumentError(field, "must be a domain name followed by __replies")


def check_queue(value: object, field: str = "queue") -> str:
    """Return *value* when it is the name of any queue: ``^[a-z][a-z0-9_]{0,46}$``.

    Raises:
        InvalidArgumentError: it is not.
    """
    if isinstance(value, str) and _QUEUE.fullmatch(value):
        return value
    raise InvalidArgumentError(field, "must be 1 to 47 of a-z, 0-9 and _, and begin with a letter")


def check_command_type(value: object, field: str = "command_type") -> str:
    """Return *value* when it is a command type: 1 to 200 characters, all of which can be seen.

    Control characters cannot, nor zero-width ones and those that turn the direction of others: with them one type
    could look like another.

    Raises:
        InvalidArgumentError: it is not.
    """
    if isinstance(value, str) and _is_command_type(value):
        return value
    raise InvalidArgumentError(
        field, f"must be a string of 1 to {MAX_COMMAND_TYPE_LENGTH} characters without control or invisible characters"
    )


def check_text(value: object, field: str, max_length: int) -> str:
    """Return *value* when it is a string of 1 to *max_length* characters that PostgreSQL can store.

    Raises:
        InvalidArgumentError: it is not, or it contains NUL or a lone surrogate.
    """
    if isinstance(value, str) and 0 < len(value) <= max_length and not UNSTORABLE.search(value):
        return value
    raise InvalidArgumentError(
        field, f"must be a string of 1 to {max_length:,} characters without NUL or lone surrogates"
    )


def check_uuid(value: object, field: str) -> UUID:
    """Return *value* as UUID.

    Args:
        value: a UUID, or its text of 32 hexadecimal digits in five groups.
        field: the argument's name.

    Raises:
        InvalidArgumentError: it is neither.
    """
    if isinstance(value, UUID):
        return value
    if isinstance(value, str) and _UUID.fullmatch(value):
        return UUID(value)
    raise InvalidArgumentError(field, "must be a UUID, or its text with hyphens")


def check_count(value: object, field: str, low: int, high: int) -> int:
    """Return *value* when it is an integer from *low* to *high*; a bool is none.

    Raises:
        InvalidArgumentError: it is not.
    """
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise InvalidArgumentError(field, f"must be an integer from {low:,} to {high:,}")


def check_limit(value: object) -> int:
    """Return *value* when it is how much a list may return at once: 1 to 1,000.

    Raises:
        InvalidArgumentError: it is not.
    """
    return check_count(value, "limit", 1, MAX_PAGE)


def check_offset(value: object) -> int:
    """Return *value* when it is how much a list may skip: 0 to 2,147,483,647.

    Raises:
        InvalidArgumentError: it is not.
    """
    return check_count(value, "offset", 0, _MAX_OFFSET)


def check_items(value: object, field: str, kind: type[T], most: int | None = None) -> Sequence[T]:
    """Return *value* when it is a list (or another sequence, but no text) of one or more, up to *most*, *kind*.

    Raises:
        InvalidArgumentError: it is not.
    """
    limit = "1 or more" if most is None else f"1 to {most:,}"
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not 0 < len(value) <= (most or len(value)):
        raise InvalidArgumentError(field, f"must be a list of {limit}")
    if not all(isinstance(item, kind) for item in value):
        raise InvalidArgumentError(field, f"must be a list of {limit} {kind.__name__}")
    return value


def check_one_of(value: object, field: str, kind: type[S]) -> S:
    """Return *value* as a member of *kind*; its text will do.

    Raises:
        InvalidArgumentError: it is none.
    """
    if isinstance(value, str) and value in kind.__members__:
        return kind[value]
    raise InvalidArgumentError(field, f"must be one of {', '.join(kind.__members__)}")


def check_timeout(value: object, field: str = "timeout", low: float = 0, high: float = 86_400) -> float:
    """Return *value* when it is a number of seconds from *low* to *high*; a bool or NaN is none.

    Raises:
        InvalidArgumentError: it is not.
    """
    return _check_number(value, field, "seconds", low, high)


def check_rate(value: object, field: str = "rate", low: float = 0.001, high: float = 10_000) -> float:
    """Return *value* when it is a number of commands per second from *low* to *high*; a bool or NaN is none.

    Raises:
        InvalidArgumentError: it is not.
    """
    return _check_number(value, field, "commands per second", low, high)


def _check_number(value: object, field: str, unit: str, low: float, high: float) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise InvalidArgumentError(field, f"must be a number of {unit} from {low:,} to {high:,}")


def check_aware(value: object, field: str) -> datetime:
    """Return *value* when it is a datetime with a time zone.

    Raises:
        InvalidArgumentError: it is not.
    """
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return value
    raise InvalidArgumentError(field, "must be a datetime with a time zone")


def check_operator(operator: object) -> str | None:
    """Return who decides: None, or 1 to 200 characters.

    Raises:
        InvalidArgumentError: anything else.
    """
    return None if operator is None else check_text(operator, "operator", _MAX_OPERATOR_LENGTH)


def check_reason(reason: object) -> str | None:
    """Return why somebody decides: None, or 1 to 2,000 characters.

    Raises:
        InvalidArgumentError: anything else.
    """
    return None if reason is None else check_some_reason(reason)


def check_some_reason(reason: object) -> str:
    """Return why somebody decides, where that must be said: 1 to 2,000 characters.

    Raises:
        InvalidArgumentError: anything else.
    """
    return check_text(reason, "reason", _MAX_REASON_LENGTH)
