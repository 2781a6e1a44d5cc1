"""Flyway itself, fetched by Maven: its command line, and the newest engine; and a way for JDBC to the tests' servers.

`python -m tests.flyway.tool` fetches both, once, into the user's cache; Maven verifies the published checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg.conninfo import conninfo_to_dict

from tests.support import missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).parent
POM = HERE / "pom.xml"
SILENT = {"FLYWAY_SKIP_CHECK_FOR_UPDATE": "true", "REDGATE_DISABLE_TELEMETRY": "true"}


def directory() -> Path:
    """Return where the Flyways of this pom.xml are, or would be."""
    caches = os.environ.get("XDG_CACHE_HOME")
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    return (Path(caches) if caches else Path.home() / ".cache") / "commandbus" / f"flyway-{digest}"


def fetch() -> None:
    """Fetch both Flyways unless they are there; a fetch that was interrupted is begun anew."""
    place, maven = directory(), shutil.which("mvn")
    if place.is_dir():
        return
    if maven is None:
        sys.exit("mvn not found: install Maven and a JDK")
    fresh = place.with_name(f"{place.name}.{os.getpid()}")
    fresh.mkdir(parents=True)
    options = ("--quiet", "--batch-mode", "--strict-checksums", "--file", str(POM), f"-Doutput={fresh}")
    try:
        subprocess.run((maven, *options, "package"), check=True)
        with suppress(OSError):  # another fetch was faster
            fresh.rename(place)
        assert place.is_dir()
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def installed() -> tuple[str, Path]:
    """Return the path of java and the directory of both Flyways, or call the test's part missing."""
    java = shutil.which("java")
    if java is None or shutil.which("javac") is None:
        missing("no JDK")
    if not directory().is_dir():
        missing("Flyway was not fetched: make test-flyway")
    return java, directory()


@dataclass(frozen=True)
class Answer:
    """What Flyway said.

    Attributes:
        ok: it did what it was told.
        text: its complaint, else empty.
        rows: of `info`: version, description, type, state.
    """

    ok: bool
    text: str = ""
    rows: tuple[tuple[str, str, str, str], ...] = ()

    @property
    def states(self) -> dict[str, str]:
        """The state by version, or by description for repeatable migrations; the last one of each."""
        return {version or description: state for version, description, _, state in self.rows}


class Flyway(ABC):
    """One of the Flyways, on one address.

    Args:
        server: the server's URL, for the user and the password.
        address: its host and port.
    """

    def __init__(self, server: str, address: tuple[str, int]) -> None:
        self._server = conninfo_to_dict(server)
        self._address = address

    def __call__(self, verb: str, database: str, files: Path, settings: Mapping[str, str] | None = None) -> Answer:
        """Run a verb on a database of that name with the files below a directory."""
        return self._run(verb, self._settings(database, files) | dict(settings or {}))

    def _settings(self, database: str, files: Path) -> dict[str, str]:
        host, port = self._address
        return {
            "url": f"jdbc:postgresql://{host}:{port}/{database}",
            "user": str(self._server["user"]),
            "password": str(self._server.get("password") or "none"),
            "locations": f"filesystem:{files}",
        }

    @abstractmethod
    def _run(self, verb: str, settings: Mapping[str, str]) -> Answer: ...


class CommandLine(Flyway):
    """Flyway as people run it: one process for each verb, three seconds each."""

    def command(self, verb: str, database: str, files: Path) -> list[str]:
        """Return a command to run with `SILENT` in the environment."""
        return self._command(verb, self._settings(database, files))

    def _command(self, verb: str, settings: Mapping[str, str]) -> list[str]:
        (program,) = installed()[1].glob("flyway-*/flyway")
        return ["bash", str(program), "-outputType=json", *(f"-{key}={value}" for key, value in settings.items()), verb]

    def _run(self, verb: str, settings: Mapping[str, str]) -> Answer:
        done = subprocess.run(
            self._command(verb, settings), env=os.environ | SILENT, capture_output=True, text=True, check=False
        )
        said: dict[str, Any] = json.loads(done.stdout)
        if error := said.get("error"):
            return Answer(False, error["message"])
        if said.get("validationSuccessful") is False:
            return Answer(False, json.dumps([each["errorDetails"] for each in said["invalidMigrations"]]))
        rows = said.get("migrations", []) if verb == "info" else []
        return Answer(
            True,
            rows=tuple((row["rawVersion"], row["description"], row["type"], row["state"]) for row in rows),
        )


class Engine(Flyway):
    """Flyway's newest engine in a process that stays, driven by Engine.java; milliseconds for each verb."""

    def __init__(self, server: str, address: tuple[str, int]) -> None:
        super().__init__(server, address)
        java, place = installed()
        self._process = subprocess.Popen(
            (java, "-cp", f"{place}/engine/*", str(HERE / "Engine.java")),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _run(self, verb: str, settings: Mapping[str, str]) -> Answer:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = [verb, *(f"{key}={value}" for key, value in settings.items())]
        assert not any("\t" in part or "\n" in part for part in request)
        self._process.stdin.write("\t".join(request) + "\n")
        self._process.stdin.flush()
        rows: list[tuple[str, str, str, str]] = []
        for line in self._process.stdout:
            kind, *parts = line.rstrip("\n").split("\t")
            if kind != "row":
                return Answer(kind == "ok", parts[0].replace("\\n", "\n"), tuple(rows))
            version, description, of_type, state = parts
            rows.append((version, description, of_type, state))
        raise AssertionError("the engine ended")

    def close(self) -> None:
        """End the process."""
        with self._process as process:
            process.terminate()


@contextmanager
def tcp_address(url: str) -> Iterator[tuple[str, int]]:
    """Give a TCP address of a server, which may listen on a Unix socket only: JDBC knows no other way."""
    parts = conninfo_to_dict(url)
    host, port = str(parts["host"]), int(parts.get("port") or 5432)
    if not host.startswith("/"):
        yield host, port
        return
    with _Forwarder(f"{host}/.s.PGSQL.{port}") as forwarder:
        threading.Thread(target=forwarder.serve_forever, daemon=True).start()
        try:
            yield "127.0.0.1", forwarder.server_address[1]
        finally:
            forwarder.shutdown()


class _Forwarder(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        super().__init__(("127.0.0.1", 0), _Connection)


class _Connection(socketserver.BaseRequestHandler):
    server: _Forwarder

    def handle(self) -> None:
        """Carry bytes both ways until both sides have ended."""
        with socket.socket(socket.AF_UNIX) as postgres:
            postgres.connect(self.server.socket_path)
            back = threading.Thread(target=_carry, args=(postgres, self.request), daemon=True)
            back.start()
            _carry(self.request, postgres)
            back.join()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):  # either side may be killed in a test
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    fetch()
