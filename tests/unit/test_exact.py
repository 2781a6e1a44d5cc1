"""Numbers of JSON keep their digits: as they are typed, stored, shown, and stored again."""

from __future__ import annotations

import copy
import json
import pickle
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from commandbus import JsonNumber
from commandbus.console.difference import difference
from commandbus.console.looks import pretty
from commandbus.errors import InvalidArgumentError
from commandbus.payload import decode, decode_leniently, encode, encode_value, parse_json, write_json
from tests.json_numbers import LARGEST, ODD_NUMBERS, TOO_LONG

ENCODER = json.JSONEncoder(ensure_ascii=False)


def digits_of(value: object) -> str:
    """Return the JSON text of a number as it would be stored."""
    return encode_value(value, any_number=True)


@pytest.mark.parametrize(("typed", "stored"), ODD_NUMBERS.items(), ids=lambda text: text[:20])
def test_a_number_keeps_its_digits(typed: str, stored: str) -> None:
    assert digits_of(parse_json(typed, "data")) == stored
    assert digits_of(decode_leniently(stored, exact=True)) == stored
    assert encode({"a": [JsonNumber(typed)]}, any_number=True) == f'{{"a": [{stored}]}}'
    assert pretty(decode(stored, exact=True)) == stored


@pytest.mark.parametrize(
    "text", ["0.1", "1.0", "-0.0", "7", "1e3", "1e+22", "1e-07", "123456789012.345", "12345678901234567890"]
)
def test_a_number_that_a_float_or_an_integer_keeps_is_one(text: str) -> None:
    number = parse_json(text, "data")
    assert type(number) in (int, float)
    assert decode(JsonNumber(text).digits) == number


@pytest.mark.parametrize("text", TOO_LONG, ids=lambda text: text[:20])
def test_a_number_that_the_server_would_not_keep_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^data: has numbers of too many digits: at most 131,072 .* 16,383"):
        parse_json(f'{{"a": {text}}}', "data")
    with pytest.raises(InvalidArgumentError, match="at most 131,072 digits before the point, 16,383 after"):
        JsonNumber(text)


@pytest.mark.parametrize("text", ["", "x", "NaN", "Infinity", "+1", "01", ".5", "5.", "1_000", " 1", "1\n", "٣", "1e"])
def test_what_is_no_json_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="must be a JSON number"):
        JsonNumber(text)


def test_a_short_text_cannot_stand_for_gigabytes() -> None:
    with pytest.raises(InvalidArgumentError, match="16,777,216 in all"):
        parse_json("[" + ",".join(["1e131071"] * 29_000) + "]", "data")
    with pytest.raises(InvalidArgumentError, match="16,777,216 in all"):
        parse_json("[" + ",".join(["1e-16383"] * 29_000) + "]", "data")


def test_the_size_of_a_number_is_that_of_its_digits() -> None:
    with pytest.raises(InvalidArgumentError, match="has 655,377 bytes as JSON; the limit is 262,144"):
        encode(parse_json('{"a": [' + ",".join(["1e131071"] * 5) + "]}", "data"), any_number=True)


def test_a_number_that_no_handler_reads_is_sent_only_on_demand() -> None:
    for text in (LARGEST, "9" * 400 + ".5", "1e4000"):
        with pytest.raises(InvalidArgumentError, match="more than 4,000 digits or beyond the range of floats"):
            encode({"a": JsonNumber(text)})
        assert encode({"a": JsonNumber(text)}, any_number=True) == f'{{"a": {JsonNumber(text).digits}}}'


def test_a_decimal_is_text_and_a_number_of_json_is_one() -> None:
    assert encode({"a": Decimal("1.50"), "b": JsonNumber("1.50")}) == '{"a": "1.50", "b": 1.50}'
    assert encode({"a": JsonNumber("1.5") * 2}) == '{"a": "3.0"}'


def test_a_number_can_be_copied_and_pickled() -> None:
    number = JsonNumber("1e400")
    pickled = pickle.loads(pickle.dumps(number))  # noqa: S301  (our own)
    for copied in (copy.copy(number), copy.deepcopy(number), pickled, JsonNumber(number)):
        assert (type(copied), copied.digits) == (JsonNumber, number.digits)


class Price(BaseModel):
    amount: Decimal


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": JsonNumber("1.50"), "m": Price(amount=Decimal("1.50"))}, '{"a": 1.50, "m": {"amount": "1.50"}}'),
        ([JsonNumber("1.50"), (), {}, [[]], (1, 2)], "[1.50, [], {}, [[]], [1, 2]]"),
        ([JsonNumber("1.50"), 'é\n"\\', None, True, 2.5], '[1.50, "é\\n\\"\\\\", null, true, 2.5]'),
    ],
)
def test_exact_numbers_stand_beside_everything_else(value: object, text: str) -> None:
    assert encode_value(value) == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "NaN"),
        ("canary\0", "NUL"),
        ("canary\ud800", "lone surrogate"),
        ({1: "canary"}, "a key that is not a string"),
        ({"canary"}, "type set has no JSON form"),
    ],
    ids=str,
)
def test_what_stands_beside_an_exact_number_is_checked_too(value: object, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=reason) as caught:
        encode({"a": JsonNumber("1.50"), "b": value})
    assert "canary" not in str(caught.value)


def test_an_exact_number_in_a_circle_or_too_deep_is_refused() -> None:
    circle: list[Any] = [JsonNumber("1.50")]
    circle.append(circle)
    deep: Any = JsonNumber("1.50")
    for _ in range(100_000):
        deep = [deep]
    for value in (circle, deep):
        with pytest.raises(InvalidArgumentError, match=r"nested deeper than 64 levels"):
            encode({"a": value})
    with pytest.raises(InvalidArgumentError, match="nested deeper than 2 levels"):
        encode({"a": [[JsonNumber("1.50")]]}, max_depth=2)
    assert encode({"a": [JsonNumber("1.50")]}, max_depth=2) == '{"a": [1.50]}'


def test_a_difference_tells_digits_that_floats_would_not() -> None:
    before, after = (parse_json(f'{{"a": {n}, "b": 1}}', "data") for n in ("0.10", "0.1000000000000000055"))
    assert [line.sign + line.text for line in difference(before, after)] == [
        " {",
        '-  "a": 0.10,',
        '+  "a": 0.1000000000000000055,',
        '   "b": 1',
        " }",
    ]


@pytest.mark.parametrize(
    "text",
    [
        '{"amount": 1, "amount": 1}',
        '{"a": [1, {"b": {}, "amount": 1, "amount": {}}]}',
        '{"amount": 1, "\\u0061mount": 2}',
        b'{"amount": 1, "b": 2, "amount": 3}',
    ],
)
def test_a_key_that_an_object_has_twice_is_refused_by_its_name(text: str | bytes) -> None:
    with pytest.raises(InvalidArgumentError, match=r'^data: has the key "amount" more than once in an object$'):
        parse_json(text, "data")


def test_a_key_may_be_in_several_objects() -> None:
    text = '{"a": {"a": 1}, "b": [{"a": 2}, {"a": 3}]}'
    assert parse_json(text, "data") == json.loads(text)


def test_a_repeated_key_is_named_as_it_can_be_shown() -> None:
    key = "\\ud800\\u202e\\u0000" + "x" * 200
    with pytest.raises(InvalidArgumentError) as caught:
        parse_json(f'{{"{key}": 1, "{key}": 2}}', "data")
    assert str(caught.value) == f'data: has the key "\ufffd\ufffd\ufffd{"x" * 96}…" more than once in an object'


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(VALUES)
def test_other_values_are_written_as_json_writes_them(value: object) -> None:
    assert write_json(value, ENCODER) == json.dumps(value, ensure_ascii=False)
    assert write_json(value, ENCODER, indent=2) == json.dumps(value, ensure_ascii=False, indent=2)


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_every_number_is_read_as_it_is_written(number: Decimal) -> None:
    exact = JsonNumber(number)
    assert exact == number
    assert digits_of(decode_leniently(exact.digits, exact=True)) == exact.digits
    assert digits_of(parse_json(str(number), "data")) == exact.digits
