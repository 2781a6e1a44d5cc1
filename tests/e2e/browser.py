"""A browser and a server for its tests: Debian's Chromium, a Flask app on a free port, axe, screenshots."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.support import missing

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from flask import Flask
    from playwright.sync_api import Browser, ConsoleMessage, Page

T = TypeVar("T")

DESKTOP, PHONE = (1280, 800), (390, 844)
_GRAVE = frozenset({"serious", "critical"})
_ALIKE = "[data-rows] > tr:nth-child(n + 16)"  # later rows of a table are made as those before
_PATIENCE = 30_000  # milliseconds that Playwright waits for anything: as much as a machine may be busy


class _Quiet(WSGIRequestHandler):
    """Logs no requests."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


def _files_at_once(app: Flask) -> WSGIApplication:
    """Return an app that leaves no file open when a browser goes away while it is sent."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        found = app(environ, start_response)
        if "/static/" not in environ["PATH_INFO"]:
            return found
        try:
            return [b"".join(found)]
        finally:
            if hasattr(found, "close"):
                found.close()

    return answer


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """Give the address of an app on a free port, without a slash at its end."""
    server = make_server("127.0.0.1", 0, _files_at_once(app), threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, name="live-server", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Give Debian's Chromium. While it is there, no event loop can run in this thread: see `in_thread`."""
    path = shutil.which("chromium")
    if path is None:
        missing("chromium is not installed: apt-get install chromium")
    expect.set_options(timeout=_PATIENCE)
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Windows:
    """Opens pages, each with cookies of its own, and notes what went wrong in them.

    Attributes:
        faults: exceptions of scripts, and messages that browsers show in red, such as breaches of the CSP.
    """

    browser: Browser
    base_url: str = ""
    faults: list[str] = field(default_factory=list)

    def __call__(
        self, size: tuple[int, int] = DESKTOP, *, dark: bool = False, scripts: bool = True, **options: Any
    ) -> Page:
        """Open a page.

        Args:
            size: width and height.
            dark: whether the system prefers dark colours.
            scripts: whether JavaScript runs.
            options: further ones of Playwright's ``new_context``.
        """
        context = self.browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            java_script_enabled=scripts,
            reduced_motion="reduce",
            **{"base_url": self.base_url or None, **options},
        )
        context.set_default_timeout(_PATIENCE)
        page = context.new_page()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._note)
        return page

    def close(self) -> None:
        """Close all pages."""
        for context in self.browser.contexts:
            context.close()

    def _note(self, message: ConsoleMessage) -> None:
        # A page that answers 4xx on purpose is no fault; tests look at the status where it matters.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.faults.append(message.text)


def check_accessibility(page: Page) -> None:
    """Fail when axe finds something serious or critical on a page; of long tables, in their first rows."""
    found = Axe().run(page, {"exclude": [[_ALIKE]]}, {"resultTypes": ["violations"]}).response["violations"]
    grave = [
        f"{one['id']}: {one['help']}: {' | '.join(node['html'] for node in one['nodes'][:3])}"
        for one in found
        if one["impact"] in _GRAVE
    ]
    assert not grave, "\n".join(grave)


def take_screenshot(page: Page, name: str) -> None:
    """Keep a picture of the whole page as *name*.png below COMMANDBUS_SCREENSHOTS, where that is set."""
    directory = os.environ.get("COMMANDBUS_SCREENSHOTS")
    if directory:
        Path(directory).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(directory) / f"{name}.png", full_page=True)


def in_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread of its own: this one's loop is Playwright's while a browser is there."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
