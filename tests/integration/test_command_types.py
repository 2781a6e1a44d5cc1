"""Command types: what Python's door refuses, no sender written in SQL can store either."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from commandbus.errors import InvalidArgumentError
from commandbus.payload import check_command_type, is_hidden
from tests.command_types import BAD_TYPES, GOOD_TYPES
from tests.integration.sql_helpers import DOMAIN, Bus, new_ids, open_bus, refusal, send_one, send_own, send_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SENTENCE = r"^command_type: must be a string of 1 to 200 characters without control or invisible characters"
EACH = pytest.mark.parametrize("send", [send_one, send_own, send_set])


@pytest.fixture
def bus(database_url: str) -> Iterator[Bus]:
    """Give a database with one domain."""
    with open_bus(database_url) as found:
        found.create_domain()
        yield found


@EACH
def test_every_door_takes_the_same_types(bus: Bus, send: Callable[..., int]) -> None:
    for kind in GOOD_TYPES:
        command_id = uuid4()
        send(bus, command_id=command_id, command_type=kind)
        assert bus.command(command_id)["command_type"] == check_command_type(kind) == kind


@EACH
def test_every_door_refuses_the_same_types_and_says_why(bus: Bus, send: Callable[..., int]) -> None:
    before = bus.everything()
    for kind in BAD_TYPES:
        with pytest.raises(InvalidArgumentError, match=SENTENCE):
            check_command_type(kind)
        with refusal("CB007", SENTENCE):
            send(bus, command_type=kind)
    assert bus.everything() == before


def test_one_bad_type_refuses_the_whole_set(bus: Bus) -> None:
    before = bus.everything()
    with refusal("CB007", SENTENCE):
        bus.call(
            "sp_send_commands",
            domain=DOMAIN,
            command_ids=new_ids(3),
            command_types=["charge", "char\u200bge", "charge"],
            data=[Jsonb({})] * 3,
        )
    assert bus.everything() == before


def test_both_doors_hide_the_same_characters(bus: Bus) -> None:
    found = bus.rows(
        "select i from pg_catalog.generate_series(1, 1114111) as i"
        " where i not between 55296 and 57343 and pg_catalog.chr(i) operator(pg_catalog.~) commandbus._hidden()"
    )
    ours = {i for i in range(1, 0x110000) if not 0xD800 <= i <= 0xDFFF and is_hidden(chr(i))}
    assert {row["i"] for row in found} == ours


def test_what_this_version_of_unicode_hides_is_hidden() -> None:
    for i in range(0x110000):
        category = unicodedata.category(chr(i))
        if category != "Cn":  # a later version may say more of it
            assert is_hidden(chr(i)) is (category in {"Cc", "Cf", "Zl", "Zp"}), hex(i)


def is_taken(door: Callable[[], object]) -> bool:
    """Return whether a door takes a type; what it refuses, it calls a bad argument."""
    try:
        door()
    except InvalidArgumentError:
        return False
    except psycopg.Error as error:
        if error.sqlstate != "CB007":
            raise
        return False
    return True


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=210)
ODD = st.text(st.sampled_from("aé💶 \n\x7f\u00ad\u200b\u200a\u202e\ufeff\U000e0041"), max_size=5)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=TEXT | ODD)
def test_both_doors_agree_on_any_text(bus: Bus, kind: str) -> None:
    expected = is_taken(lambda: check_command_type(kind))
    assert is_taken(lambda: send_own(bus, command_type=kind)) is expected
    assert is_taken(lambda: send_set(bus, command_type=kind)) is expected
