"""Names, numbers and JSON at the door: what is taken, and what is refused without repeating it."""

import json
from contextlib import nullcontext
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from commandbus import payload
from commandbus.errors import InvalidArgumentError, InvalidPayloadError
from tests.command_types import BAD_TYPES, GOOD_TYPES

ID = UUID("9d4c0c1e-54a5-4e39-9a0b-7f7c3f7f1c11")


class Colour(Enum):
    RED = "red"


class Size(StrEnum):
    BIG = "big"


class Level(IntEnum):
    HIGH = 3


class Order(BaseModel):
    order_id: UUID
    amount: Decimal


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def circular() -> dict[str, Any]:
    value: dict[str, Any] = {"canary": 1}
    value["self"] = [value]
    return value


BAD_DOMAINS = [
    "", "A", "orDers", "1orders", "_orders", "orders-eu", "orders eu", "orders\n", "ordérs", "a" * 38,
    "orders;drop", "orders'", 'orders"', "orders\0", "\ud800", None, 7, b"orders", ["orders"],
]  # fmt: skip


@pytest.mark.parametrize("name", ["a", "orders", "o_2", "a" * 37])
def test_domain_is_taken(name: str) -> None:
    assert payload.check_domain(name) == name
    assert payload.check_reply_queue(f"{name}__replies") == f"{name}__replies"


@pytest.mark.parametrize("name", BAD_DOMAINS, ids=repr)
def test_domain_is_refused(name: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^domain: must be 1 to 37 of"):
        payload.check_domain(name)
    with pytest.raises(InvalidArgumentError, match=r"^reply_to: must be a domain name followed by __replies$"):
        payload.check_reply_queue(f"{name}__replies" if isinstance(name, str) else name)


@pytest.mark.parametrize("name", ["orders__commands", "orders", "__replies", "orders__replies\n", "q_a__replies;"])
def test_only_reply_queues_take_replies(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^reply_to"):
        payload.check_reply_queue(name)


@pytest.mark.parametrize("name", GOOD_TYPES)
def test_command_type_is_taken(name: str) -> None:
    assert payload.check_command_type(name) == name


@pytest.mark.parametrize("name", [*BAD_TYPES, "a\0", "\ud800", None, 7, b"x"], ids=repr)
def test_command_type_is_refused(name: object) -> None:
    sentence = r"^command_type: must be a string of 1 to 200 characters without control or invisible characters$"
    with pytest.raises(InvalidArgumentError, match=sentence):
        payload.check_command_type(name)


@pytest.mark.parametrize("text", ["a", "line\nline", "x" * 5])
def test_text_is_taken(text: str) -> None:
    assert payload.check_text(text, "reason", 9) == text


@pytest.mark.parametrize("text", ["", "x" * 10, "a\0", "\udfff", None, 1])
def test_text_is_refused(text: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^reason: must be a string of 1 to 9 characters"):
        payload.check_text(text, "reason", 9)


@pytest.mark.parametrize("value", [ID, str(ID), str(ID).upper()])
def test_uuid_is_taken(value: object) -> None:
    assert payload.check_uuid(value, "batch_id") == ID


@pytest.mark.parametrize("value", [ID.hex, f"{{{ID}}}", f"urn:uuid:{ID}", f"{ID}\n", "", "x", None, 1, ID.bytes])
def test_uuid_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^batch_id: must be a UUID"):
        payload.check_uuid(value, "batch_id")


@pytest.mark.parametrize("value", [1, 1000])
def test_count_is_taken(value: int) -> None:
    assert payload.check_count(value, "limit", 1, 1000) == value


@pytest.mark.parametrize("value", [0, 1001, -1, True, 1.0, "1", None, 10**400])
def test_count_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^limit: must be an integer from 1 to 1,000$"):
        payload.check_count(value, "limit", 1, 1000)


@pytest.mark.parametrize("value", [0, 0.5, 86_400])
def test_timeout_is_taken(value: float) -> None:
    assert payload.check_timeout(value) == value


@pytest.mark.parametrize("value", [-1, 86_401, float("nan"), float("inf"), True, "1", None, 10**400])
def test_timeout_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^timeout: must be a number of seconds from 0 to 86,400$"):
        payload.check_timeout(value)


def test_aware_datetime_is_taken() -> None:
    now = datetime.now(UTC)

    assert payload.check_aware(now, "created_after") == now


@pytest.mark.parametrize("value", [datetime(2026, 1, 1), date(2026, 1, 1), "2026-01-01", None])  # noqa: DTZ001  (without a zone on purpose)
def test_naive_datetime_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^created_after: must be a datetime with a time zone$"):
        payload.check_aware(value, "created_after")


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ((1, 2), [1, 2]),
        (ID, str(ID)),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00+00:00"),
        (date(2026, 1, 1), "2026-01-01"),
        (Decimal("1.10"), "1.10"),
        (Colour.RED, "red"),
        (Size.BIG, "big"),
        (Level.HIGH, 3),
        (Order(order_id=ID, amount=Decimal("1.10")), {"order_id": str(ID), "amount": "1.10"}),
        ({"\\u0000": r"\u0000 \\u0000"}, {"\\u0000": r"\u0000 \\u0000"}),
        ("é\n\t\"'😀", "é\n\t\"'😀"),
        (10**3999, 10**3999),
        ("9" * 5_000, "9" * 5_000),
        ([[[]]] * 100, [[[]]] * 100),
        ("[" * 100, "[" * 100),
    ],
    ids=lambda v: repr(v)[:30],
)
def test_value_is_stored_in_its_documented_form(value: object, stored: object) -> None:
    assert json.loads(payload.encode({"a": value})) == {"a": stored}
    assert json.loads(payload.encode_value(value)) == stored


def test_pydantic_model_is_an_object() -> None:
    text = payload.encode(Order(order_id=ID, amount=Decimal(5)))

    assert json.loads(text) == {"order_id": str(ID), "amount": "5"}


@pytest.mark.parametrize(
    "data", [None, [], "text", 7, True, (), {1}, b"{}", object()], ids=lambda value: type(value).__name__
)
def test_command_data_must_be_an_object(data: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^data: must be a dict or a pydantic model$"):
        payload.encode(data)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("canary\0", "NUL"),
        ("canary\\\0", "NUL"),
        ({"canary\0": 1}, "NUL"),
        ("canary\ud800", "lone surrogate"),
        ({"canary\udfff": 1}, "lone surrogate"),
        (float("nan"), "NaN"),
        (float("inf"), "NaN, Infinity"),
        (-float("inf"), "NaN, Infinity"),
        ({1: "canary"}, "a key that is not a string"),
        ({None: "canary"}, "a key that is not a string"),
        ({True: "canary"}, "a key that is not a string"),
        ({("a",): "canary"}, "a key that is not a string"),
        ([{"a": ({2: "canary"},)}], "a key that is not a string"),
        ({"canary"}, "type set has no JSON form"),
        (b"canary", "type bytes has no JSON form"),
        (object(), "type object has no JSON form"),
        (1j, "type complex has no JSON form"),
        (Decimal("NaN"), "type Decimal has no JSON form"),
        (datetime(2026, 1, 1), "no time zone"),  # noqa: DTZ001  (without a zone on purpose)
        (10**4000, "more than 4,000 digits"),
        (-(10**4400), "more than 4,000 digits"),
        (circular(), "itself"),
        ("canary" * 50_000, r"300,\d{3} bytes as JSON; the limit is 262,144"),
        (nested(64), "deeper than 64 levels"),
        ([[[]]] * 100 + [nested(63)], "deeper than 64 levels"),
        (nested(100_000), "deeper than 64 levels"),
    ],
    ids=lambda v: repr(v)[:30] if isinstance(v, str) else type(v).__name__,
)
def test_value_is_refused_without_repeating_it(value: object, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=reason) as caught:
        payload.encode({"a": value})

    assert caught.value.field == "data"
    assert "canary" not in str(caught.value)


def test_limits_are_inclusive() -> None:
    assert len(payload.encode({"a": "x" * 100}, max_bytes=109)) == 109
    assert payload.encode(nested(64)).count("{") == 64
    with pytest.raises(InvalidArgumentError, match="110 bytes as JSON; the limit is 109"):
        payload.encode({"a": "x" * 101}, max_bytes=109)


def test_size_is_measured_in_bytes() -> None:
    with pytest.raises(InvalidArgumentError, match="209 bytes"):
        payload.encode({"a": "é" * 100}, max_bytes=208)


def test_long_numbers_are_found_in_linear_time() -> None:
    numbers = [10**3999 for _ in range(60)]

    assert json.loads(payload.encode({"a": numbers})) == {"a": numbers}


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(st.dictionaries(TEXT, JSON_VALUES))
def test_what_is_encoded_is_decoded(data: dict[str, Any]) -> None:
    assert payload.decode(payload.encode(data)) == data


@given(st.dictionaries(st.text(), st.text(), min_size=1))
def test_text_is_refused_if_and_only_if_it_holds_nul(data: dict[str, str]) -> None:
    holds_nul = any("\0" in key + value for key, value in data.items())

    with pytest.raises(InvalidArgumentError, match="NUL") if holds_nul else nullcontext():
        payload.encode(data)


@pytest.mark.parametrize(
    "text",
    [
        "1" + "0" * 5_000,
        "-1" + "0" * 400 + ".5",
        "1" + "0" * 400 + ".5",
        "NaN",
        "Infinity",
        '{"a": [1, -Infinity]}',
        "[" * 100_000 + "]" * 100_000,
        '{"a": ' * 100_000 + "1" + "}" * 100_000,
        "",
        "{",
        '{"canary": }',
        "{} {}",
    ],
    ids=lambda t: t[:20],
)
def test_stored_json_that_python_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(InvalidPayloadError, match=r"^the stored JSON ") as caught:
        payload.decode(text)

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"), [("null", None), ("1e3", 1000.0), ('"1e5000"', "1e5000"), ("[1.5]", [1.5]), ("5", 5)]
)
def test_stored_json_is_decoded(text: str, value: object) -> None:
    assert payload.decode(text) == value


@pytest.mark.parametrize(
    ("text", "clean"),
    [("ok\n", "ok\n"), ("a\0b", "a\ufffdb"), ("\ud800", "\ufffd"), ("x" * 11, "x" * 9 + "…")],
)
def test_clean_text(text: str, clean: str) -> None:
    assert payload.clean_text(text, 10) == clean


def test_validation_error_is_described_without_input() -> None:
    with pytest.raises(ValidationError) as caught:
        Order.model_validate({"order_id": "canary"})

    assert payload.describe_validation_error(caught.value, Order) == "order_id: uuid_parsing; amount: missing"


def test_validation_error_is_described_without_keys_of_the_data() -> None:
    class Book(BaseModel):
        pages: dict[str, list[int]]

    with pytest.raises(ValidationError) as caught:
        Book.model_validate({"pages": {"canary": [1, "x"]}})

    assert payload.describe_validation_error(caught.value, Book) == "pages.[key].1: int_parsing"
    assert "canary" not in payload.describe_validation_error(caught.value)
