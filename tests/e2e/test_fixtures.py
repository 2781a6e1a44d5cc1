"""The fixtures of the browser tests see what they are there to see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from flask import Flask

from tests.e2e.browser import PHONE, check_accessibility, in_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.e2e.browser import Windows
    from tests.e2e.conftest import Serve


def app_with(html: str) -> Flask:
    """Return an app of one page."""
    app = Flask(__name__)
    app.add_url_rule("/", view_func=lambda: (html, {"Content-Security-Policy": "default-src 'self'"}))
    return app


def test_axe_finds_what_is_wrong_with_a_page(serve: Serve, page: Page) -> None:
    page.goto(serve(app_with("<!doctype html><html lang=en><title>t</title><main><h1>t</h1><input></main>")))
    with pytest.raises(AssertionError, match="label"):
        check_accessibility(page)


def test_a_breach_of_the_csp_is_a_fault(serve: Serve, open_page: Windows) -> None:
    page = open_page(PHONE, dark=True)
    page.goto(serve(app_with("<!doctype html><script>document.title = 'ran'</script>")))
    assert page.evaluate("[innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]") == [390, True]
    assert page.title() == ""
    assert "Content Security Policy" in open_page.faults.pop()


def test_screenshots_are_kept_where_a_directory_is_named(
    serve: Serve, page: Page, screenshot: Callable[[Page, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.goto(serve(app_with("<!doctype html><p>here")))
    monkeypatch.setenv("COMMANDBUS_SCREENSHOTS", str(tmp_path / "pictures"))
    screenshot(page, "one")
    assert (tmp_path / "pictures" / "one.png").read_bytes().startswith(b"\x89PNG")


def test_coroutines_run_beside_a_browser(page: Page) -> None:
    async def seven() -> int:
        return 7

    assert page.url == "about:blank"
    assert in_thread(seven()) == 7
