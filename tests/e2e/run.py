"""The demo application on port 5001: ``python tests/e2e/run.py``. Ctrl-c ends all of it."""

from __future__ import annotations

import os
import signal

if __name__ == "__main__":  # ctrl-c while the rest is imported, which takes a second
    signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(130))

import argparse
import logging
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

try:
    import psycopg

    from commandbus import CommandBusError, CommandBusSettings, InvalidArgumentError
    from commandbus.console import ConsoleSettings, check_address, serve_app, url_of
    from commandbus.demo.stage import interruptible
    from commandbus.embedded import EmbeddedServer, default_data_directory
    from commandbus.migrate import migrate
    from commandbus.sync import CommandBus, CommandBusPool
    from tests.e2e.app import close_app, create_app
    from tests.e2e.app.config import DATABASE, DOMAIN, PORT
except ModuleNotFoundError as error:
    sys.exit(f"the demo needs {error.name}: pip install -r tests/e2e/requirements.txt")

if TYPE_CHECKING:
    from collections.abc import Iterator

_URL = "COMMANDBUS_DATABASE_URL"
_PATIENCE = 15.0  # seconds for the worker to end


def main() -> int:
    """Run the demo until it is interrupted; return the exit code."""
    asked = _arguments()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        settings = ConsoleSettings.load(port=asked.port)
        check_address(settings)
        with interruptible(), ExitStack() as stack:
            url = os.environ.get(_URL) or stack.enter_context(_embedded())
            migrate(url, with_e2e=True)
            if not asked.no_worker:
                stack.enter_context(_worker(url))
            _serve(url, settings)
    except CommandBusError as error:
        _say(f"error: {error}")
        return 2 if isinstance(error, InvalidArgumentError) else 1
    except KeyboardInterrupt:
        pass  # before there were pages; the server of the pages takes it for itself
    _say("ended")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Serve the demo application, with a worker beside it.",
        epilog=f"The database is {_URL}; without it, {DATABASE} of the embedded server in .commandbus/postgres.",
    )
    parser.add_argument("--port", type=_port, default=PORT, metavar="N", help=f"port, by default {PORT}")
    parser.add_argument("--no-worker", action="store_true", help="serve the pages only")
    return parser.parse_args()


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError("must be an integer from 1 to 65,535")
    return int(text)


@contextmanager
def _embedded() -> Iterator[str]:
    """Give the demo's database on the embedded server, which stops afterwards unless it ran before."""
    with EmbeddedServer(default_data_directory()) as server:
        with psycopg.connect(server.url()) as connection:
            found = connection.execute("select from pg_database where datname = %s", (DATABASE,)).rowcount
        yield server.url(DATABASE) if found else server.create_database(DATABASE)


@contextmanager
def _worker(url: str) -> Iterator[None]:
    """Run the worker in a process of its own, in this process group."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.app.worker"],
        cwd=ROOT,
        env={**os.environ, _URL: url},
        stdin=subprocess.PIPE,  # its end tells the worker that this process is gone, however it ended
        preexec_fn=_ignore_ctrl_c,  # no thread runs yet
    )
    try:
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _ignore_ctrl_c() -> None:
    """Let the worker, until it can end in order, leave ctrl-c to its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _serve(url: str, settings: ConsoleSettings) -> None:
    with CommandBusPool(CommandBusSettings.load(database_url=url)) as pool:
        CommandBus(pool).create_domain(DOMAIN)
        app = create_app(pool, settings=settings)
        try:
            serve_app(app, settings, lambda: _say(f"the demo is on {url_of(settings)}; ctrl-c ends it"))
        finally:
            close_app(app)


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
