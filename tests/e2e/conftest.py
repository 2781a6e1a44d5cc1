"""Fixtures of the browser tests.

Tests with a browser are plain functions: Playwright's loop occupies the thread while the module's browser is there.
Coroutines run by `tests.e2e.browser.in_thread`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.e2e.browser import Windows, check_accessibility, chromium, served, take_screenshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from playwright.sync_api import Browser, Page


class Serve(Protocol):
    """Serves an app until the test ends."""

    def __call__(self, app: Flask) -> str: ...


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve any app on a free port: ``url = serve(create_app(sync_pool))``."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(served(app))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for the tests of one module."""
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
