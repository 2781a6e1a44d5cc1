"""JSON: data as text that can be stored and read back, and back again."""

import json
import re
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, NoReturn
from uuid import UUID

from pydantic import BaseModel

from commandbus.errors import InvalidArgumentError, InvalidPayloadError

MAX_PAYLOAD_BYTES = 262_144
MAX_DEPTH = 64
MAX_DIGITS = 4_000
_SAFE_LENGTH = 300

_NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_BRACKET = re.compile(r"[\[\]{}]")
# The look-behind keeps the search linear: a run of digits is tried from its first one only.
_LONG_NUMBER = re.compile(rf"(?<![0-9])[0-9]{{{MAX_DIGITS + 1}}}")

_CONTAINERS = (dict, list, tuple)
_Container = dict[Any, Any] | list[Any] | tuple[Any, ...]


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
        # The server's text has no space around it: `decode`, which looks for some, would take twice the time.
        value, end = (_PLAIN_DECODER if len(text) < _SAFE_LENGTH else _DECODER).raw_decode(text)
    except RecursionError:
        raise InvalidPayloadError("the stored JSON is nested too deeply") from None
    except ValueError:
        end = -1
    if end != len(text):
        raise InvalidPayloadError("the stored JSON is broken, or holds a number that is too large")
    return value


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
