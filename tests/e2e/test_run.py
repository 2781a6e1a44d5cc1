"""Flask application starts (S017): ``python tests/e2e/run.py`` as people run it, and its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

import psycopg
import pytest

from commandbus.embedded import EmbeddedServer
from commandbus.sync import CommandBusPool, Operations
from tests.cli_process import environment
from tests.e2e.app.config import DATABASE, PORT
from tests.e2e.demo import ROOT, until
from tests.integration.test_cli_interrupts import INTERRUPTER, interrupted
from tests.support import missing, scratch_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = (sys.executable, "tests/e2e/run.py")
TABLES = ("commandbus.command", "commandbus.audit", "pgmq.q_test__commands", "e2e.test_command", "e2e.config")


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_taken(port: int) -> bool:
    """Return whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def home(port: int) -> str | None:
    """Return the home page, or None while nobody answers."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            return str(answer.read().decode())
    except URLError:
        return None


@contextmanager
def started(
    url: str | None, directory: Path, *options: str, path: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the demo, the first of a process group of its own as in a terminal; *path* has modules for its start."""
    variables = environment(url) | {"COMMANDBUS_EMBEDDED_DIRECTORY": str(directory / "postgres")}
    if path is not None:
        variables["PYTHONPATH"] = os.pathsep.join([str(path), variables["PYTHONPATH"]])
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*RUN, *options],
            cwd=ROOT,
            env=variables,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def members(group: int) -> list[str]:
    """Return the processes of a group."""
    listed = subprocess.run(("/bin/ps", "-A", "-o", "pgid=,pid=,stat="), capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if line.split()[0] == str(group) and "Z" not in line]


def run(*options: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the demo, which must end by itself."""
    return subprocess.run(
        [*RUN, *options], cwd=ROOT, env=environment(url), capture_output=True, text=True, timeout=30, check=False
    )


def test_it_starts_on_port_5001_and_the_home_page_loads_with_a_sidebar(database_url: str, tmp_path: Path) -> None:
    assert PORT == 5001
    if is_taken(PORT):
        missing("port 5001 is taken by another program")
    with started(database_url, tmp_path) as process:
        page = until(lambda: process.poll() is not None or home(PORT), 30)
        assert isinstance(page, str), (tmp_path / "log").read_text()
        assert 'aria-label="Pages"' in page
        assert '<span class="grow">Test commands</span>' in page


def test_without_a_database_it_makes_its_own_and_ctrl_c_ends_all_of_it() -> None:
    port = free_port()
    with scratch_directory() as directory, started(None, directory, "--port", str(port)) as process:
        server = EmbeddedServer(directory / "postgres")
        assert until(lambda: home(port) or process.poll() is not None, 60), (directory / "log").read_text()
        with psycopg.connect(server.url(DATABASE)) as connection:
            found = [connection.execute("select to_regclass(%s)", (name,)).fetchone() for name in TABLES]
        assert (None,) not in found
        with CommandBusPool(database_url=server.url(DATABASE)) as pool:
            (worker,) = until(lambda: Operations(pool).list_workers())
        assert worker.domain == "test"
        assert len(members(process.pid)) == 2, "the worker is in the same process group"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
        assert members(process.pid) == []
        assert not server.status().running
        log = (directory / "log").read_text()
        assert "Traceback" not in log
        assert log.splitlines()[-1] == "ended"


def test_a_worker_ends_when_its_application_is_killed(database_url: str, tmp_path: Path) -> None:
    port = free_port()
    with started(database_url, tmp_path, "--port", str(port)) as process:
        until(lambda: home(port), 30)
        process.kill()
        process.wait()
        until(lambda: members(process.pid) == [], 30)


def test_without_worker_commands_stay(database_url: str, tmp_path: Path) -> None:
    port = free_port()
    with started(database_url, tmp_path, "--port", str(port), "--no-worker") as process:
        until(lambda: home(port), 30)
        assert len(members(process.pid)) == 1


def test_a_port_that_is_taken_is_refused_in_a_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run("--port", str(port))
    assert done.returncode == 2, "as of commandbus console"
    sentence = f"cannot listen on http://127.0.0.1:{port}/: Address already in use"
    assert done.stderr == f"error: port: {sentence}\n"


@pytest.mark.parametrize("module", ["argparse", "psycopg", "flask", "waitress.server", "tests.e2e.app"])
def test_ctrl_c_while_it_starts_says_nothing(tmp_path: Path, module: str) -> None:
    done = interrupted(tmp_path, module, sys.executable, str(ROOT / RUN[1]))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_while_the_worker_starts_is_its_parents_business(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTER.format(module="tests.e2e.app.worker"))
    with (
        started(database_url, tmp_path, "--port", str(free_port()), path=tmp_path) as process,
        CommandBusPool(database_url=database_url) as pool,
    ):
        until(lambda: Operations(pool).list_workers())
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_the_address_is_told_when_it_is_listened_on(database_url: str, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    with started(database_url, tmp_path, "--port", str(port), "--no-worker"):
        until(lambda: f"the demo is on http://127.0.0.1:{port}/" in log.read_text(), 30)
        assert is_taken(port)


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "²"])
def test_an_impossible_port_is_bad_input(port: str) -> None:
    done = run(f"--port={port}")
    assert done.returncode == 2
    assert "must be an integer from 1 to 65,535" in done.stderr


def test_a_database_that_is_not_there_is_told_in_a_sentence() -> None:
    done = run("--port", str(free_port()), url="postgresql://127.0.0.1:1/nowhere")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")


def test_help_names_the_options() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("--port", "--no-worker", "5001", "COMMANDBUS_DATABASE_URL"):
        assert word in done.stdout
