"""`commandbus console` as a process: it answers, streams, refuses open doors, and ends when it is told to."""

from __future__ import annotations

import signal
import socket
import time
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from commandbus.console import __file__ as package
from tests.cli_process import Cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPResponse

OPEN_DOOR = "host must be a loopback address while nobody has to log in"


@pytest.fixture
def cli(tmp_path: Path, database_url: str) -> Cli:
    """The command line on a migrated database."""
    return Cli(tmp_path, database_url)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def get(port: int, path: str) -> Iterator[HTTPResponse]:
    """Give the answer to a request, which waits until the server listens."""
    deadline = time.monotonic() + 20
    while True:
        with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            try:
                connection.request("GET", path)
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "the console does not listen"
                time.sleep(0.05)
                continue
            with connection.getresponse() as answer:
                yield answer
            return


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_it_serves_and_streams_until_it_is_told_to_stop(cli: Cli, how: signal.Signals) -> None:
    port = free_port()
    with cli.started("console", "--port", port) as process:
        with get(port, "/") as page:
            assert page.status == 200
            assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
            assert b"Overview" in page.read()
        with get(port, "/live/events") as stream:
            assert stream.headers["Content-Type"].startswith("text/event-stream")
            assert stream.readline().startswith(b'data: {"version":')
            process.send_signal(how)
            assert process.wait(20) == 0
    assert "Traceback" not in (cli.directory / "log").read_text()


def test_an_open_door_is_refused_in_one_sentence(cli: Cli) -> None:
    assert OPEN_DOOR in cli.refusal("console", "--host", "0.0.0.0", code=2)  # noqa: S104
    assert OPEN_DOOR in cli.refusal("console", "--host", "192.0.2.7", code=2)


def test_a_port_in_use_is_refused_in_one_sentence(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot listen on" in cli.refusal("console", "--port", taken.getsockname()[1], code=2)


def test_every_file_that_pages_name_is_there() -> None:
    static = Path(package).parent / "static"
    for name in ("dist/console.css", "icon.svg", "js/theme.js", "js/main.js"):
        assert (static / name).stat().st_size > 0
    for module in (static / "js").glob("*.js"):
        text = module.read_text()
        assert "innerHTML" not in text
        assert "eval(" not in text
