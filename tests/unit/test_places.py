"""Where a handler's error came from: in the user's code, never in the libraries below it."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from commandbus.errors import InvalidArgumentError, PermanentCommandError
from commandbus.models import Command
from commandbus.payload import encode
from commandbus.retry import recast
from commandbus.worker.places import place_of

if TYPE_CHECKING:
    from collections.abc import Callable


def in_the_library(*_: object) -> None:
    encode(None)  # line of commandbus


def in_python(*_: object) -> None:
    json.loads("{")  # line of python


def in_a_helper(*_: object) -> None:
    in_python()


class Handlers:
    """Handlers that are no plain functions."""

    def method(self, *_: object) -> None:
        """Raise in Python's own code."""
        json.loads("{")  # line of method

    def __call__(self, *_: object) -> None:
        json.loads("{")  # line of call


def line_of(text: str) -> str:
    """Return the place of the only line of this file that ends with *text*."""
    with open(__file__, encoding="utf-8") as file:  # noqa: PTH123  (as frames name it)
        (number,) = [number for number, line in enumerate(file, 1) if line.endswith(text + "\n")]
    return f"{__file__}:{number}"


@pytest.mark.parametrize(
    ("handler", "line"),
    [
        (in_the_library, "# line of commandbus"),
        (in_python, "# line of python"),
        (in_a_helper, "# line of python"),
        (Handlers().method, "# line of method"),
        (Handlers(), "# line of call"),
        (partial(in_python, None), "# line of python"),
    ],
)
def test_the_innermost_line_of_the_users_code_is_named(handler: Callable[..., Any], line: str) -> None:
    with pytest.raises((InvalidArgumentError, json.JSONDecodeError)) as caught:
        handler(None, None)
    assert place_of(caught.value, handler) == line_of(line)


@pytest.mark.parametrize(
    ("handler", "line"),
    [
        (in_python, "def in_python(*_: object) -> None:"),
        (Handlers().method, "    def method(self, *_: object) -> None:"),
        (Handlers(), "    def __call__(self, *_: object) -> None:"),
        (partial(in_python, None), "def in_python(*_: object) -> None:"),
    ],
)
def test_an_error_from_elsewhere_is_where_the_handler_is(handler: Callable[..., Any], line: str) -> None:
    assert place_of(ValueError("never raised"), handler) == line_of(line)


def test_an_error_from_elsewhere_is_where_its_cause_was() -> None:
    with pytest.raises(json.JSONDecodeError) as caught:
        in_python()
    timeout = TimeoutError()
    timeout.__cause__, caught.value.__context__ = caught.value, timeout  # in a circle, which must not be gone round
    assert place_of(timeout, in_a_helper) == line_of("# line of python")
    caught.value.__traceback__ = None
    assert place_of(timeout) is None


class FalsyError(Exception):
    """A user's error that has a length: none."""

    def __len__(self) -> int:
        return 0


def test_a_cause_is_followed_whatever_it_is_worth() -> None:
    with pytest.raises(FalsyError) as caught:
        raise FalsyError  # line of falsy
    timeout = TimeoutError()
    timeout.__cause__ = caught.value
    assert place_of(timeout) == line_of("# line of falsy")
    assert place_of(recast(timeout, PermanentCommandError)) == line_of("# line of falsy")


async def test_of_a_group_of_errors_the_first_one_tells() -> None:
    async def handler() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    async def fail() -> None:
        raise ValueError  # line of fail

    with pytest.raises(ExceptionGroup) as caught:
        await handler()
    assert place_of(caught.value, handler) == line_of("# line of fail")


def test_a_handler_of_an_installed_package_is_the_users_code() -> None:
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{")
    place = place_of(caught.value, json.JSONDecoder().raw_decode)
    assert place is not None
    assert place.startswith(json.JSONDecoder.raw_decode.__code__.co_filename)


def test_a_handler_without_python_code_has_no_place() -> None:
    assert place_of(ValueError("never raised"), len) is None
    assert place_of(ValueError("never raised"), Command) is None
