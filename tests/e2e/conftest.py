"""Fixtures of the browser tests.

All tests are plain functions: Playwright's loop occupies the thread from the first that needs a browser to the last of
the package. Coroutines run by `tests.e2e.browser.in_thread`.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

from commandbus.console import ConsoleSettings
from tests.e2e.app import close_app, create_app
from tests.e2e.browser import Windows, check_accessibility, chromium, in_thread, served, take_screenshot
from tests.e2e.console import console_worker, make_console
from tests.e2e.demo import Visitor, worker_process
from tests.e2e.showroom import make_showroom
from tests.integration.console.browser import World, make_world

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flask import Flask
    from playwright.sync_api import Browser, Page

    from commandbus.sync import CommandBusPool


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Let processes that are done take tests from those that have long ones."""
    from xdist.scheduler import WorkStealingScheduling  # type: ignore[import-untyped]  # xdist has no types

    return WorkStealingScheduling(config, log)


class Serve(Protocol):
    """Serves an app until the test ends."""

    def __call__(self, app: Flask) -> str: ...


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve any app on a free port: ``url = serve(create_app(sync_pool))``."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(served(app))


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium, for all tests of this package that a process runs."""
    with chromium() as found:
        yield found


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Windows]:
    """Open pages of any size, light or dark; scripts that fail, and breaches of the CSP, fail the test."""
    windows = Windows(browser)
    yield windows
    windows.close()
    assert windows.faults == []


@pytest.fixture
def page(open_page: Windows) -> Page:
    """One page, 1280 by 800, light."""
    return open_page()


@pytest.fixture
def axe() -> Callable[[Page], None]:
    """Check a page's accessibility: nothing serious may be found."""
    return check_accessibility


@pytest.fixture
def screenshot() -> Callable[[Page, str], None]:
    """Keep a picture of a page, where COMMANDBUS_SCREENSHOTS names a directory."""
    return take_screenshot


@pytest.fixture
def demo(sync_pool: CommandBusPool) -> Iterator[Flask]:
    """The demo application on the test's own database."""
    app = create_app(sync_pool, settings=ConsoleSettings.load())
    app.config["PROPAGATE_EXCEPTIONS"] = False
    yield app
    close_app(app)


@pytest.fixture
def visitor(demo: Flask) -> Visitor:
    """Somebody at the demo, without a browser."""
    return Visitor(demo)


@pytest.fixture
def demo_worker(database_url: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The demo's worker, as a process of its own."""
    with worker_process(database_url, tmp_path / "worker.log") as process:
        yield process


@pytest.fixture
def demo_url(demo: Flask, serve: Serve, open_page: Windows) -> str:
    """The address of the demo, and of the paths that pages are told to open."""
    open_page.base_url = serve(demo)
    return open_page.base_url


@pytest.fixture
def world(database_url: str) -> World:
    """Something of everything, in the test's database."""
    return in_thread(asyncio.to_thread(make_world, database_url))


@pytest.fixture
def showroom(sync_pool: CommandBusPool, database_url: str) -> World:
    """A working day, in the test's database."""
    return in_thread(asyncio.to_thread(make_showroom, sync_pool, database_url))


@pytest.fixture
def console_url(sync_pool: CommandBusPool, serve: Serve, open_page: Windows) -> str:
    """The address of a console where everybody is an operator, and of the paths that pages are told to open."""
    open_page.base_url = serve(make_console(sync_pool))
    return open_page.base_url


@pytest.fixture
def working(database_url: str, tmp_path: Path) -> Iterator[None]:
    """A real worker of the domain "pay", as a process of its own."""
    with console_worker(database_url, tmp_path / "worker.log"):
        yield
