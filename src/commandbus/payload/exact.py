"""JSON numbers with all their digits: PostgreSQL's jsonb keeps them, Python's floats do not."""

import json
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Self

from commandbus.errors import InvalidArgumentError

MAX_DIGITS = 4_000  # of an integer that every Python reads
_MOST_BEFORE, _MOST_AFTER = 131_072, 16_383
_MOST_ZEROS = 16_777_216  # that the exponents of one text stand for: a few bytes of it could be gigabytes
_MOST_INDENTED = 100
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")

NUMBER_LIMITS = f"at most {_MOST_BEFORE:,} digits before the point, {_MOST_AFTER:,} after it, {_MOST_ZEROS:,} in all"


class JsonNumber(Decimal):
    """A number that is written into JSON with its digits; a Decimal is written as text, and a float forgets some.

    What reads with ``exact=True`` gives it for numbers that a float would change, be it by a zero at their end. What
    comes of calculating with it is a Decimal.

    Args:
        digits: a number as JSON has it, such as "0.1000000000000000055", "1.50" or "1e400".

    Raises:
        InvalidArgumentError: it is none, or PostgreSQL would not keep it: it has more than 131,072 digits before the
            point or 16,383 after it.
    """

    __slots__ = ()

    def __new__(cls, digits: str | int | Decimal) -> Self:
        text = str(digits)
        if _NUMBER.fullmatch(text):
            try:
                found = super().__new__(cls, text)
            except InvalidOperation:  # the exponent itself has 19 digits
                found = None
            if found is not None and _is_kept(found):
                return found
        raise InvalidArgumentError(
            "digits",
            f"must be a JSON number of at most {_MOST_BEFORE:,} digits before the point, {_MOST_AFTER:,} after",
        )

    @property
    def digits(self) -> str:
        """The number as the server writes it: all digits, no exponent."""
        return format(self, "f")


def _is_kept(number: Decimal) -> bool:
    exponent = number.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -_MOST_AFTER and (not number or number.adjusted() < _MOST_BEFORE)


def read_integer(digits: str) -> int | JsonNumber:
    """Return a JSON number without point and exponent.

    Raises:
        InvalidArgumentError: as `JsonNumber`.
    """
    return int(digits) if len(digits) <= MAX_DIGITS else JsonNumber(digits)


def read_number(digits: str) -> int | float | JsonNumber:
    """Return another JSON number: as a handler gets it, where that changes no digit.

    Raises:
        InvalidArgumentError: as `JsonNumber`.
    """
    value = float(digits)
    if repr(value) == digits and "+" not in digits:  # the server writes 1e+22 as an integer
        return value
    number = JsonNumber(digits)
    written = number.digits
    if "." not in written:
        return read_integer(written)
    return value if repr(value) == written else number


def number_reader() -> Callable[[str], int | float | JsonNumber]:
    """Return `read_number` for the numbers of one text that somebody typed."""
    left = _MOST_ZEROS

    def read(digits: str) -> int | float | JsonNumber:
        nonlocal left
        found = read_number(digits)
        if not isinstance(found, float):
            left -= abs(JsonNumber(digits).adjusted())
            if left < 0:
                raise InvalidArgumentError("digits", f"must be {NUMBER_LIMITS}")
        return found

    return read


class _Ready(str):
    """A piece of a JSON text."""

    __slots__ = ()


def write_json(value: object, encoder: json.JSONEncoder, indent: int = 0, deepest: int = 20_000) -> str:
    """Return the JSON text of a value as *encoder* would write it, but each `JsonNumber` as a number.

    Args:
        value: what the encoder takes.
        encoder: without an indent of its own.
        indent: spaces for each of the first 100 levels; 0 for one line.
        deepest: most levels; a flat object has one.

    Raises:
        RecursionError: it has more, as what contains itself has.
    """
    pieces: list[str] = []
    rest: list[tuple[object, int]] = [(value, 0)]
    while rest:
        one, depth = rest.pop()
        if isinstance(one, _Ready):
            pieces.append(one)
        elif isinstance(one, JsonNumber):
            pieces.append(one.digits)
        elif one is None or isinstance(one, str | int | float):
            pieces.append(encoder.encode(one))
        elif isinstance(one, dict | list | tuple) and depth == deepest:
            raise RecursionError
        elif isinstance(one, dict):
            items = [(encoder.encode(str(key)) + ": ", item) for key, item in one.items()]
            rest += reversed(_steps("{}", items, depth, indent))
        elif isinstance(one, list | tuple):
            rest += reversed(_steps("[]", [("", item) for item in one], depth, indent))
        else:
            rest.append((encoder.default(one), depth))
    return "".join(pieces)


def _steps(brackets: str, items: list[tuple[str, Any]], depth: int, indent: int) -> list[tuple[object, int]]:
    """Return what an array or an object consists of, in its order."""
    margin, inner = (
        "\n" + " " * (indent * min(level, _MOST_INDENTED)) if indent else "" for level in (depth, depth + 1)
    )
    steps: list[tuple[object, int]] = []
    before = brackets[0] + inner
    for key, item in items:
        steps += [(_Ready(before + key), 0), (item, depth + 1)]
        before = "," + (inner or " ")
    return [*steps, (_Ready(margin + brackets[1]), 0)] if items else [(_Ready(brackets), 0)]
