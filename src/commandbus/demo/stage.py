"""What the demo needs around it, and takes away afterwards: a server, worker processes, signals."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from commandbus.demo.plan import DOMAIN
from commandbus.embedded import EmbeddedServer
from commandbus.errors import CommandBusError

HANDLERS = "commandbus.demo.handlers:registry"
_GRACE = 5
_PATIENCE = 30.0
_STARTED = "worker started"  # what each process logs when it begins to work


class DemoError(CommandBusError):
    """The demo cannot go on."""


class Crew:
    """The worker processes, under one parent.

    Args:
        process: the parent.
        log_path: where all of them log.
    """

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self._process = process
        self._log_path = log_path

    def wait_until_started(self, processes: int) -> None:
        """Return when all worker processes look for commands.

        Raises:
            DemoError: they ended, or do not come up.
        """
        deadline = time.monotonic() + _PATIENCE
        while self._log().count(_STARTED) < processes:
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"the workers did not start within {_PATIENCE:g} seconds")
            time.sleep(0.05)

    def check(self) -> None:
        """Make sure that it still works.

        Raises:
            DemoError: it ended.
        """
        code = self._process.poll()
        if code is not None:
            raise DemoError(f"the workers ended with exit code {code}, and said:\n{self._log()[-2_000:]}")

    def _log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def stop(self) -> int:
        """Stop the processes as an operator would; return the parent's exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its children notice, and end too
            return self._process.wait()


@contextmanager
def workers(
    url: str,
    processes: int,
    log_path: Path,
    *,
    domain: str = DOMAIN,
    handlers: str = HANDLERS,
    options: Sequence[str] = ("--concurrency", "50", "--retry-delays", "0.2,1"),
) -> Iterator[Crew]:
    """Give running worker processes, stopped afterwards."""
    command = [sys.executable, "-m", "commandbus", "worker", handlers, "--domain", domain]
    command += ["--processes", str(processes), *options]
    command += ["--grace", str(_GRACE), "--stop-at-end-of-input"]
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("COMMANDBUS_", "PG"))}
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # its end tells them that the demo is gone, however it ended
            stdout=log,
            stderr=log,
            env=ours | {"COMMANDBUS_DATABASE_URL": url},
            start_new_session=True,  # ctrl-c is for the demo, which stops them in order
        )
    with process:
        crew = Crew(process, log_path)
        try:
            yield crew
        finally:
            crew.stop()


@contextmanager
def scratch_directory(keep: bool) -> Iterator[Path]:
    """Give an empty directory that the server's user may enter, removed afterwards unless it is kept."""
    path = Path(tempfile.mkdtemp(prefix="commandbus-demo-"))
    path.chmod(0o755)
    is_done = False
    try:
        yield path
        is_done = True
    finally:
        if not (keep and is_done):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def scratch_server(directory: Path, keep: bool) -> Iterator[EmbeddedServer]:
    """Give a running server with its data in *directory*, destroyed afterwards unless it is kept."""
    server = EmbeddedServer(directory / "postgres")
    is_done = False
    try:
        yield server.start()
        is_done = True
    finally:
        if not (keep and is_done):
            server.destroy()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first SIGINT or SIGTERM raise KeyboardInterrupt; further ones do not disturb the cleaning up."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def interrupt(_: int, __: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
