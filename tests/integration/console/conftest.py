"""Fixtures of the console's tests."""

from __future__ import annotations

import time
from contextlib import ExitStack
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from commandbus.console import ConsoleSettings, create_app
from tests.integration.console.browser import OPERATOR_TOKEN, TOKENS, VIEWER_TOKEN, Browser, World, make_world

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask

    from commandbus.sync import CommandBusPool
    from tests.support import Server


YOUNG = 60.0  # seconds; after five minutes messages count as old


class MakeApp(Protocol):
    """Makes a console on the test's database."""

    def __call__(self, **settings: Any) -> Flask: ...


@pytest.fixture
def make_app(sync_pool: CommandBusPool) -> MakeApp:
    """Consoles with settings of the test's choice."""

    def make(**settings: Any) -> Flask:
        app = create_app(sync_pool, settings=ConsoleSettings.load(**settings))
        app.config["PROPAGATE_EXCEPTIONS"] = False
        return app

    return make


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """A console that asks for tokens."""
    return make_app(**TOKENS)


@pytest.fixture(scope="session")
def young_world(server: Server, template_database: str) -> Iterator[Callable[[], tuple[World, str]]]:
    """Something of everything, made for several tests, and the name of the database that it is in."""
    made: tuple[World, str] | None = None
    made_at = 0.0

    def get() -> tuple[World, str]:
        nonlocal made, made_at
        if made is None or time.monotonic() - made_at > YOUNG:
            url = databases.enter_context(server.database(template_database))
            made, made_at = (make_world(url), server.database_name(url)), time.monotonic()
        return made

    with ExitStack() as databases:
        yield get


@pytest.fixture
def made_world(young_world: Callable[[], tuple[World, str]]) -> tuple[World, str]:
    """The world of this test, and the database to copy it from."""
    return young_world()


@pytest.fixture
def template_of_test(template_database: str, request: pytest.FixtureRequest) -> str:
    """For tests with a world, the database that has it."""
    if "world" not in request.fixturenames:
        return template_database
    _, name = request.getfixturevalue("made_world")
    return str(name)


@pytest.fixture
def world(made_world: tuple[World, str]) -> World:
    """Something of everything, in the test's database."""
    return deepcopy(made_world[0])


@pytest.fixture
def operator(app: Flask, world: World) -> Browser:
    """An operator at the console, and the world behind it."""
    assert world.parked
    return Browser(app, OPERATOR_TOKEN)


@pytest.fixture
def viewer(app: Flask) -> Browser:
    """A viewer at the same console."""
    return Browser(app, VIEWER_TOKEN, "grace")
