"""The command line as a process of its own, as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import commandbus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCE = Path(commandbus.__file__).parents[1]
COMMAND = (sys.executable, "-m", "commandbus")
WAYS = ("COMMANDBUS_PGBOUNCER", "COMMANDBUS_LISTEN_DATABASE_URL")


def environment(url: str | None) -> dict[str, str]:
    """Return this process's environment with *url*, the way to it, and no other setting of ours or libpq's."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("COMMANDBUS_", "PG")) or name in WAYS
    }
    ours = {} if url is None else {"COMMANDBUS_DATABASE_URL": url}
    return kept | ours | {"PYTHONPATH": str(SOURCE)}


class Cli:
    """Runs commands in one directory, with one database URL in the environment.

    Args:
        directory: the current directory of all commands.
        url: the database, or None for none.
    """

    def __init__(self, directory: Path, url: str | None) -> None:
        self.directory = directory
        self.url = url

    def __call__(self, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=self.directory,
            env=environment(self.url),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def text(self, *arguments: object, stdin: str = "") -> str:
        """Run a command that must succeed; return what it printed."""
        done = self(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: object, code: int = 0, stdin: str = "") -> Any:
        """Run a command with ``--json``; return its one document."""
        done = self(*arguments, "--json", stdin=stdin)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def refusal(self, *arguments: object, code: int, stdin: str = "") -> str:
        """Run a command that must fail without a traceback or a result; return what it said."""
        done = self(*arguments, stdin=stdin)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr

    @contextmanager
    def started(self, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
        """Give a running command, killed at the end if it still runs; its stderr goes to the file ``log``."""
        command = [*COMMAND, *map(str, arguments)]
        with (
            (self.directory / "log").open("wb") as log,
            subprocess.Popen(command, cwd=self.directory, env=environment(self.url), stderr=log) as process,
        ):
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def log(self) -> list[dict[str, Any]]:
        """Return the JSON lines of the command that `started` gave."""
        lines = (self.directory / "log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return once *condition* holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
