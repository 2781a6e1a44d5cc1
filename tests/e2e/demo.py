"""The demo in tests: the app, somebody at it, and its worker as a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tests.cli_process import environment
from tests.e2e.app.worker import STARTED
from tests.integration.console.browser import Browser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from werkzeug.test import TestResponse

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
_META = re.compile(r'name="csrf-token" content="([^"]+)"')


@dataclass
class Visitor(Browser):
    """Somebody at the demo, with forms as in the console, and scripts that call the API."""

    def api(self, method: str, path: str, body: Any = None, *, code: int = 200) -> Any:
        """Call the API as api.js does; return what it answers."""
        answer = self.call(method, path, json=body)
        assert answer.status_code == code, answer.text
        return answer.get_json() if answer.data else None

    def call(self, method: str, path: str, **options: Any) -> TestResponse:
        """Send any request with the page's token."""
        found = _META.search(self.get("/settings").text)
        assert found, "the page has no token"
        return self.open(f"/api/e2e{path}", method=method, headers={"X-CSRF-Token": found[1]}, **options)

    def ended(self, command_id: str, status: str, seconds: float = 15.0) -> dict[str, Any]:
        """Return a test command once it has this status."""

        def look() -> dict[str, Any] | None:
            found: dict[str, Any] = self.api("GET", f"/test-commands/{command_id}")
            return found if found["status"] == status else None

        return until(look, seconds)


def until(condition: Callable[[], T | None], seconds: float = 15.0) -> T:
    """Return the first true result of *condition*; fail when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.02)
    return found


@contextmanager
def worker_process(url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the demo's worker for the block; it must end cleanly."""
    command = [sys.executable, "-m", "tests.e2e.app.worker"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(url), stdin=subprocess.PIPE, stderr=file)
    try:
        until(lambda: STARTED in log.read_text() or process.poll() is not None, 30)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        process.wait(30)
        if process.stdin is not None:  # only now: its end is a second signal, for which no handler may be left
            process.stdin.close()
    assert process.returncode == 0, log.read_text()


def quick(visitor: Visitor, **worker: Any) -> None:
    """Let the worker be quick, and retry at once."""
    asked = {"visibility_timeout": 30, "concurrency": 10, "poll_interval": 0.1, "batch_size": 10, **worker}
    visitor.api("PUT", "/config/worker", asked)
    delays = {"max_attempts": 3, "base_delay_ms": 50, "max_delay_ms": 100, "backoff_multiplier": 2}
    visitor.api("PUT", "/config/retry", delays)
