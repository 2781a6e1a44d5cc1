"""The door for names, numbers and JSON: what breaks a limit is refused here, before any SQL.

No error of this module repeats the value that it refuses.
"""

import json
import re
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from functools import lru_cache
from typing import Any, NoReturn, TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError

from commandbus.errors import InvalidArgumentError, InvalidPayloadError

MAX_PAYLOAD_BYTES = 262_144
MAX_DEPTH = 64
MAX_DIGITS = 4_000
MAX_COMMAND_TYPE_LENGTH = 200
MAX_ERROR_LENGTH = 2_000
_SAFE_LENGTH = 300

_DOMAIN = re.compile(r"[a-z][a-z0-9_]{0,36}")
_REPLY_QUEUE = re.compile(r"[a-z][a-z0-9_]{0,36}__replies")
_QUEUE = re.compile(r"[a-z][a-z0-9_]{0,46}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_BRACKET = re.compile(r"[\[\]{}]")
# The look-behind keeps the search linear: a run of digits is tried from its first one only.
_LONG_NUMBER = re.compile(rf"(?<![0-9])[0-9]{{{MAX_DIGITS + 1}}}")
S = TypeVar("S", bound=StrEnum)
T = TypeVar("T")

_CONTAINERS = (dict, list, tuple)
_Container = dict[Any, Any] | list[Any] | tuple[Any, ...]


@lru_cache(256)
def _is_domain(name: str) -> bool:
    return _DOMAIN.fullmatch(name) is not None


@lru_cache(1024)
def _is_command_type(name: str) -> bool:
    return 0 < len(name) <= MAX_COMMAND_TYPE_LENGTH and _CONTROL.search(name) is None


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
    """Return *value* when it is a command type: 1 to 200 characters, none of them a control character.

    Raises:
        InvalidArgumentError: it is not.
    """
    if isinstance(value, str) and _is_command_type(value):
        return value
    raise InvalidArgumentError(
        field, f"must be a string of 1 to {MAX_COMMAND_TYPE_LENGTH} characters without control characters"
    )


def check_text(value: object, field: str, max_length: int) -> str:
    """Return *value* when it is a string of 1 to *max_length* characters that PostgreSQL can store.

    Raises:
        InvalidArgumentError: it is not, or it contains NUL or a lone surrogate.
    """
    if isinstance(value, str) and 0 < len(value) <= max_length and not _UNSTORABLE.search(value):
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
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise InvalidArgumentError(field, f"must be a number of seconds from {low:,} to {high:,}")


def check_aware(value: object, field: str) -> datetime:
    """Return *value* when it is a datetime with a time zone.

    Raises:
        InvalidArgumentError: it is not.
    """
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return value
    raise InvalidArgumentError(field, "must be a datetime with a time zone")


def clean_text(text: str, max_length: int = MAX_ERROR_LENGTH) -> str:
    """Return *text* as PostgreSQL can store it: no NUL or lone surrogate, at most *max_length* characters."""
    if len(text) > max_length:
        text = text[: max_length - 1] + "…"
    return _UNSTORABLE.sub("\ufffd", text)


def describe_validation_error(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Return where and how data does not fit a model, and none of it: ``amount: missing``.

    Below a field of *model* only places in lists are named: keys of objects come from the data.
    """
    known = {name for n, f in (model.model_fields if model else {}).items() for name in (n, f.alias)}
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{_place(p['loc'], known)}: {p['type']}" for p in problems)


def _place(location: tuple[int | str, ...], known: set[str | None]) -> str:
    """Return the location of a problem without the names that only the data knows."""
    first, *rest = [str(part) if isinstance(part, int) or part in known else "[key]" for part in location] or ["data"]
    below = ["." + (part if part.isdigit() else "[key]") for part in rest]
    return first + "".join(below)


def encode(data: object, field: str = "data", max_bytes: int = MAX_PAYLOAD_BYTES, max_depth: int = MAX_DEPTH) -> str:
    """Return the JSON text of a command's data.

    Args:
        data: a dict with string keys, or a pydantic model. Besides JSON's own types, values may be tuples
            (arrays), pydantic models (objects), enums (their values), UUIDs and Decimals (their text), dates
            and aware datetimes (ISO 8601).
        field: the argument's name for errors.
        max_bytes: largest text, in UTF-8.
        max_depth: deepest nesting; a flat object has depth 1.

    Raises:
        InvalidArgumentError: *data* is no object; a key is no string; a value has another type, is NaN or
            infinite, is a number of more than 4,000 digits, or contains itself; a string holds NUL or a lone
            surrogate; or a limit is exceeded.
    """
    if not isinstance(data, dict):
        if not isinstance(data, BaseModel):
            raise InvalidArgumentError(field, "must be a dict or a pydantic model")
        data = _dump_model(data, field)
    return encode_value(data, field, max_bytes, max_depth)


def encode_value(
    value: object, field: str = "result", max_bytes: int = MAX_PAYLOAD_BYTES, max_depth: int = MAX_DEPTH
) -> str:
    """Return the JSON text of any value, otherwise as `encode`.

    Raises:
        InvalidArgumentError: as `encode`.
    """
    try:
        text = _ENCODER.encode(value)
    except _NotJsonError as error:
        raise InvalidArgumentError(field, str(error)) from None
    except RecursionError:
        _refuse_depth(field, max_depth)
    except TypeError:
        _refuse_keys(field)
    except ValueError:
        _refuse_value(field)
    if isinstance(value, _CONTAINERS):
        _check_keys(value, field)
    _check_text(text, field, max_bytes, max_depth)
    return text


def parse_json(text: str | bytes, field: str) -> Any:  # noqa: ANN401  (JSON can be anything)
    """Return the value of a JSON text that somebody typed, in UTF-8 where it is bytes.

    Raises:
        InvalidArgumentError: it is not JSON; the text says where, and quotes nothing.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise InvalidArgumentError(field, f"is not valid JSON: {error.msg} at {where}") from None
    except UnicodeDecodeError:
        raise InvalidArgumentError(field, "is not valid UTF-8") from None
    except RecursionError:
        raise InvalidArgumentError(field, "is nested too deeply") from None
    except ValueError:
        raise InvalidArgumentError(field, "has NaN, Infinity or a number of too many digits") from None


def decode(text: str) -> Any:  # noqa: ANN401  (JSON can be anything)
    """Return the value of a JSON text as the server stores it.

    Raises:
        InvalidPayloadError: it is not JSON, is nested too deeply, or holds a number that has more digits than
            Python reads or is beyond the range of floats.
    """
    try:
        # A number needs more than 300 digits to be beyond the range of floats: the server writes no exponents.
        return _PLAIN_DECODER.decode(text) if len(text) < _SAFE_LENGTH else _DECODER.decode(text)
    except RecursionError:
        raise InvalidPayloadError("the stored JSON is nested too deeply") from None
    except ValueError:
        raise InvalidPayloadError("the stored JSON is broken, or holds a number that is too large") from None


def decode_leniently(text: str | None) -> Any:  # noqa: ANN401  (JSON can be anything)
    """Return the value of a JSON text, the text itself where it cannot be decoded, or None for None.

    For lists, where one bad row must not hide the others.
    """
    if text is None:
        return None
    try:
        return decode(text)
    except InvalidPayloadError:
        return text


class _NotJsonError(Exception):
    """Carries a sentence about a value without JSON form out of the encoder."""


def _to_json(value: object) -> object:
    """Return a JSON form for a value that has none of its own; the encoder calls this."""
    match value:
        case UUID():
            return str(value)
        case datetime() if value.utcoffset() is None:
            raise _NotJsonError("a datetime in it has no time zone")
        case date():
            return value.isoformat()
        case Decimal() if value.is_finite():
            return str(value)
        case Enum():
            return value.value
        case BaseModel():
            return value.model_dump(mode="json")
    raise _NotJsonError(f"a value of type {type(value).__name__} has no JSON form")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError
    return number


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError


# Text as the server shows it (spaces, no escapes), so that both sides measure the same size.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_to_json)
_PLAIN_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)


def _dump_model(model: BaseModel, field: str) -> object:
    try:
        return model.model_dump(mode="json")
    except ValueError:
        _refuse_value(field)


def _check_keys(value: _Container, field: str) -> None:
    """Refuse keys that json would turn into strings, perhaps two into the same one."""
    waiting: list[_Container] = [value]
    while waiting:
        container = waiting.pop()
        if isinstance(container, dict):
            for key, item in container.items():
                if not isinstance(key, str):
                    _refuse_keys(field)
                if isinstance(item, _CONTAINERS):
                    waiting.append(item)
        else:
            waiting.extend(item for item in container if isinstance(item, _CONTAINERS))


def _check_text(text: str, field: str, max_bytes: int, max_depth: int) -> None:
    """Refuse JSON that cannot be stored or read back; one scan in C per test when nothing is suspicious."""
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError(field, "contains a lone surrogate, which cannot be stored") from None
    if size > max_bytes:
        raise InvalidArgumentError(field, f"has {size:,} bytes as JSON; the limit is {max_bytes:,}")
    if "\\u0000" in text and _NUL_ESCAPE.search(text):
        raise InvalidArgumentError(field, "contains a NUL character, which cannot be stored")
    if text.count("{") + text.count("[") > max_depth and _depth(text) > max_depth:
        _refuse_depth(field, max_depth)
    if size > MAX_DIGITS and _LONG_NUMBER.search(text) and _LONG_NUMBER.search(_STRING.sub("", text)):
        _refuse_value(field)


def _depth(text: str) -> int:
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "{[" else -1
        deepest = max(deepest, depth)
    return deepest


def _refuse_depth(field: str, max_depth: int) -> NoReturn:
    raise InvalidArgumentError(field, f"is nested deeper than {max_depth} levels") from None


def _refuse_keys(field: str) -> NoReturn:
    raise InvalidArgumentError(field, "has a key that is not a string") from None


def _refuse_value(field: str) -> NoReturn:
    raise InvalidArgumentError(
        field, f"must not contain NaN, Infinity, a number of more than {MAX_DIGITS:,} digits, or itself"
    ) from None
