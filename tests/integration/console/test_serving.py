"""`commandbus console` as a process: it answers, streams, refuses open doors, and ends when it is told to."""

from __future__ import annotations

import signal
import socket
import time
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from commandbus.console import ConsoleSettings, create_app, serve_app
from commandbus.console import __file__ as package
from commandbus.errors import InvalidArgumentError
from commandbus.sync import CommandBusPool
from tests.cli_process import COMMAND, Cli, wait_for
from tests.integration.test_cli_interrupts import NOBODY, interrupted

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


def test_open_streams_end_with_it_at_once_and_quietly(cli: Cli) -> None:
    port = free_port()
    with cli.started("console", "--port", port) as process, ExitStack() as streams:
        for _ in range(5):
            stream = streams.enter_context(get(port, "/live/events"))
            assert stream.readline().startswith(b"data: ")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    log = (cli.directory / "log").read_text()
    assert "Traceback" not in log
    assert "still running" not in log  # what waitress says of threads for which it has waited in vain


def test_an_open_door_is_refused_in_one_sentence(cli: Cli) -> None:
    assert OPEN_DOOR in cli.refusal("console", "--host", "0.0.0.0", code=2)  # noqa: S104  (refused)
    assert OPEN_DOOR in cli.refusal("console", "--host", "192.0.2.7", code=2)


def test_a_port_in_use_is_refused_in_one_sentence(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot listen on" in cli.refusal("console", "--port", taken.getsockname()[1], code=2)


def test_a_host_that_nobody_knows_is_refused_in_one_sentence() -> None:
    settings = ConsoleSettings.load(host="nowhere.invalid", operator_token="x" * 16)
    with pytest.raises(InvalidArgumentError, match=r"cannot listen on http://nowhere\.invalid:8080/: the host is not"):
        serve_app(create_app(CommandBusPool(database_url=NOBODY), settings=settings), settings)


def test_the_address_is_told_when_it_is_listened_on(cli: Cli) -> None:
    port = free_port()
    with cli.started("console", "--port", port):
        wait_for(lambda: f"console on http://127.0.0.1:{port}/" in (cli.directory / "log").read_text(), 20)
        with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.connect()  # at once, or not at all
        assert "console on" not in cli.refusal("console", "--port", port, code=2)


@pytest.mark.parametrize("module", ["flask", "jinja2", "waitress.server", "commandbus.console.app"])
def test_ctrl_c_while_it_starts_says_nothing(tmp_path: Path, module: str) -> None:
    done = interrupted(tmp_path, module, *COMMAND, "console", "--database-url", NOBODY)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_no_more_streams_than_allowed_are_open_and_pages_are_served_beside_them(cli: Cli) -> None:
    port, most = free_port(), ConsoleSettings().max_streams
    with cli.started("console", "--port", port), ExitStack() as stack:
        streams = [stack.enter_context(get(port, "/live/events")) for _ in range(most)]
        assert [stream.status for stream in streams] == [200] * most
        assert all(stream.readline().startswith(b"data: ") for stream in streams)
        for _ in range(5):
            with get(port, "/live/events") as refused:
                assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        with get(port, "/api/live") as poll, get(port, "/") as page:
            assert (poll.status, page.status) == (200, 200)
        stack.close()

        def is_free() -> bool:
            again = stack.enter_context(get(port, "/live/events"))
            if again.status == 200:
                streams.append(again)
            return len(streams) == most

        streams.clear()
        wait_for(is_free, 20)


BODY = 50 * 1024 * 1024


@pytest.fixture
def port(cli: Cli) -> Iterator[int]:
    """The port of a running console."""
    found = free_port()
    with cli.started("console", "--port", found):
        with get(found, "/") as page:
            assert page.status == 200
        yield found


@pytest.mark.parametrize("way", ["length", "chunks"])
def test_a_body_that_is_too_large_is_answered_by_a_page(port: int, way: str) -> None:
    pieces = (b"x" * 65_536 for _ in range(BODY // 65_536))
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if way == "length":
            headers["Content-Length"] = str(BODY)
        connection.request("POST", "/send", body=pieces, headers=headers, encode_chunked=way == "chunks")
        answer = connection.getresponse()
        text = answer.read().decode()
        assert (answer.status, answer.headers["X-Frame-Options"]) == (413, "DENY")
        assert "at most 8 MiB" in text
        connection.request("GET", "/api/live")  # nothing of the body is taken for a request
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")


def test_who_asks_before_sending_is_told_at_once(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = f"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY}\r\nExpect: 100-continue\r\n"
        form = "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
        connection.sendall((head + form).encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))  # and closes
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"at most 8 MiB" in answer


def test_every_file_that_pages_name_is_there() -> None:
    static = Path(package).parent / "static"
    for name in ("dist/console.css", "icon.svg", "js/theme.js", "js/main.js"):
        assert (static / name).stat().st_size > 0
    for module in (static / "js").glob("*.js"):
        text = module.read_text()
        assert "innerHTML" not in text
        assert "eval(" not in text
