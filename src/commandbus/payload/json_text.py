"""JSON: data as text that can be stored and read back, and back again."""

import json
import re
from collections import Counter
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, NoReturn
from uuid import UUID

from pydantic import BaseModel

from commandbus.errors import InvalidArgumentError, InvalidPayloadError
from commandbus.payload.exact import (
    MAX_DIGITS,
    NUMBER_LIMITS,
    JsonNumber,
    number_reader,
    read_integer,
    read_number,
    write_json,
)
from commandbus.payload.texts import HIDDEN, clean_text

MAX_PAYLOAD_BYTES = 262_144
MAX_DEPTH = 64
_SAFE_LENGTH = 300
_SHOWN = 100  # characters of a key

_NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_BRACKET = re.compile(r"[\[\]{}]")
# The look-behind keeps the search linear: a run of digits is tried from its first one only.
_LONG_NUMBER = re.compile(rf"(?<![0-9])[0-9]{{{MAX_DIGITS + 1}}}")

_CONTAINERS = (dict, list, tuple)
_Container = dict[Any, Any] | list[Any] | tuple[Any, ...]


def encode(
    data: object,
    field: str = "data",
    max_bytes: int = MAX_PAYLOAD_BYTES,
    max_depth: int = MAX_DEPTH,
    *,
    any_number: bool = False,
) -> str:
    """Return the JSON text of a command's data.

    Args:
        data: a dict with string keys, or a pydantic model. Besides JSON's own types, values may be tuples
            (arrays), pydantic models (objects), enums (their values), UUIDs and Decimals (their text), `JsonNumber`
            (numbers), dates and aware datetimes (ISO 8601).
        field: the argument's name for errors.
        max_bytes: largest text, in UTF-8.
        max_depth: deepest nesting; a flat object has depth 1.
        any_number: also a `JsonNumber` that no handler in Python could read.

    Raises:
        InvalidArgumentError: *data* is no object; a key is no string; a value has another type, is NaN or
            infinite, is a number of more than 4,000 digits or beyond the range of floats, or contains itself; a
            string holds NUL or a lone surrogate; or a limit is exceeded.
    """
    if not isinstance(data, dict):
        if not isinstance(data, BaseModel):
            raise InvalidArgumentError(field, "must be a dict or a pydantic model")
        data = _dump_model(data, field)
    return encode_value(data, field, max_bytes, max_depth, any_number=any_number)


def encode_value(
    value: object,
    field: str = "result",
    max_bytes: int = MAX_PAYLOAD_BYTES,
    max_depth: int = MAX_DEPTH,
    *,
    any_number: bool = False,
) -> str:
    """Return the JSON text of any value, otherwise as `encode`.

    Raises:
        InvalidArgumentError: as `encode`.
    """
    try:
        try:
            text = _ENCODER.encode(value)
        except _ExactNumberError:
            text = write_json(value, _ENCODER, deepest=max_depth)
            if not any_number:
                decode(text)
    except _NotJsonError as error:
        raise InvalidArgumentError(field, str(error)) from None
    except RecursionError:
        _refuse_depth(field, max_depth)
    except TypeError:
        _refuse_keys(field)
    except (ValueError, InvalidPayloadError):
        _refuse_value(field)
    if isinstance(value, _CONTAINERS):
        _check_keys(value, field)
    _check_text(text, field, max_bytes, max_depth)
    if len(text) > MAX_DIGITS and not any_number:
        _check_numbers(text, field)
    return text


def parse_json(text: str | bytes, field: str) -> Any:  # noqa: ANN401  (JSON can be anything)
    """Return the value of a JSON text that somebody typed, in UTF-8 where it is bytes.

    Numbers are what the server makes of them: 1e3 is an integer, and one that a float would change a `JsonNumber`.

    Raises:
        InvalidArgumentError: it is not JSON, has a number that the server would not keep, or an object with the same
            key twice, of which the server would keep the last one only; the text says where or why, and quotes
            nothing but that key.
    """
    try:
        return json.loads(
            text,
            parse_float=number_reader(),
            parse_int=read_integer,
            parse_constant=_refuse_constant,
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise InvalidArgumentError(field, f"is not valid JSON: {error.msg} at {where}") from None
    except UnicodeDecodeError:
        raise InvalidArgumentError(field, "is not valid UTF-8") from None
    except RecursionError:
        raise InvalidArgumentError(field, "is nested too deeply") from None
    except _RepeatedKeyError as error:
        raise InvalidArgumentError(field, f'has the key "{error}" more than once in an object') from None
    except InvalidArgumentError:
        raise InvalidArgumentError(field, f"has numbers of too many digits: {NUMBER_LIMITS}") from None
    except ValueError:
        raise InvalidArgumentError(field, "has NaN or Infinity") from None


def decode(text: str, *, exact: bool = False) -> Any:  # noqa: ANN401  (JSON can be anything)
    """Return the value of a JSON text as the server stores it.

    Args:
        text: the text.
        exact: a number that a float would change is a `JsonNumber`; none is too large then.

    Raises:
        InvalidPayloadError: it is not JSON, is nested too deeply, or holds a number that has more digits than
            Python reads or is beyond the range of floats.
    """
    # A number needs more than 300 digits to be beyond the range of floats: the server writes no exponents.
    decoder = _EXACT_DECODER if exact else _PLAIN_DECODER if len(text) < _SAFE_LENGTH else _DECODER
    try:
        # The server's text has no space around it: `decode`, which looks for some, would take twice the time.
        value, end = decoder.raw_decode(text)
    except RecursionError:
        raise InvalidPayloadError("the stored JSON is nested too deeply") from None
    except ValueError:
        end = -1
    if end != len(text):
        raise InvalidPayloadError("the stored JSON is broken, or holds a number that is too large")
    return value


def decode_leniently(text: str | None, *, exact: bool = False) -> Any:  # noqa: ANN401  (JSON can be anything)
    """Return the value of a JSON text, the text itself where it cannot be decoded, or None for None.

    For lists, where one bad row must not hide the others. *exact* is as in `decode`.
    """
    if text is None:
        return None
    try:
        return decode(text, exact=exact)
    except InvalidPayloadError:
        return text


class _NotJsonError(Exception):
    """Carries a sentence about a value without JSON form out of the encoder."""


class _ExactNumberError(Exception):
    """Tells that a value holds a number that the encoder in C cannot write."""


class _RepeatedKeyError(Exception):
    """Carries a key out of the decoder."""


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose keys differ; the decoder calls this."""
    found = dict(members)
    if len(found) < len(members):
        names = Counter(name for name, _ in members)
        raise _RepeatedKeyError(HIDDEN.sub("\ufffd", clean_text(names.most_common(1)[0][0], _SHOWN)))
    return found


def _to_json(value: object) -> object:
    """Return a JSON form for a value that has none of its own; the encoder calls this."""
    match value:
        case UUID():
            return str(value)
        case datetime() if value.utcoffset() is None:
            raise _NotJsonError("a datetime in it has no time zone")
        case date():
            return value.isoformat()
        case JsonNumber():
            raise _ExactNumberError
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
_EXACT_DECODER = json.JSONDecoder(parse_float=read_number, parse_int=read_integer, parse_constant=_refuse_constant)


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


def _check_numbers(text: str, field: str) -> None:
    if _LONG_NUMBER.search(text) and _LONG_NUMBER.search(_STRING.sub("", text)):
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
        field,
        f"must not contain NaN, Infinity, a number of more than {MAX_DIGITS:,} digits or beyond the range of floats,"
        " or itself",
    ) from None
