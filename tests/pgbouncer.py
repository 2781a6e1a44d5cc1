"""A PgBouncer of the tests' own in transaction pooling mode, and which tests it is nothing for."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.cli_process import wait_for
from tests.support import Server, missing, scratch_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

PORT = 6432  # names the socket file only: it listens on no network address
# Fewer server sessions than some tests have clients, so that transactions of one client meet different sessions.
CONFIGURATION = """\
[databases]
* = {server}

[pgbouncer]
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
query_wait_timeout = 60
listen_addr =
listen_port = {port}
unix_socket_dir = {directory}
auth_type = trust
auth_file = {directory}/users
logfile = {directory}/log
{more}
"""
DIRECT = "direct(reason): the test is about sessions, which a pooler shares out; it does not run with --pgbouncer"
LISTENS = "listens: with --pgbouncer the library gets a direct way to the server for LISTEN; other tests poll only"

_left_out: Counter[str] = Counter()


@dataclass
class PgBouncer:
    """A running PgBouncer, which leads to every database of one server."""

    directory: Path
    user: str
    server: Server
    start: Callable[[], subprocess.Popen[bytes]]

    def __post_init__(self) -> None:
        self.process = self._begin()

    def _begin(self) -> subprocess.Popen[bytes]:
        process = self.start()
        wait_for(lambda: _answers(self.url(self.server.maintenance_url)) or process.poll() is not None)
        assert process.poll() is None, (self.directory / "log").read_text()
        return process

    def revive(self) -> None:
        """Start another one where it has ended, and tell what it said last.

        Seen once in some ten thousand tests: that says something of PgBouncer, and nothing of who comes next.
        """
        if self.process.poll() is not None:
            words = (self.directory / "log").read_text()[-500:]
            print(f"PgBouncer ended by itself: {words}", file=sys.__stderr__)
            self.process = self._begin()

    def url(self, direct_url: str) -> str:
        """Return the URL of the same database through the pooler."""
        database = quote(Server.database_name(direct_url), safe="")
        return f"postgresql:///{database}?host={quote(str(self.directory))}&port={PORT}&user={quote(self.user)}"


@contextmanager
def pgbouncer(server: Server, more: str = "") -> Iterator[PgBouncer]:
    """Give a PgBouncer in front of *server*.

    Args:
        server: the server.
        more: further lines of its configuration.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        missing("pgbouncer is not installed")
    to = conninfo_to_dict(server.maintenance_url)
    user = str(to.get("user") or pwd.getpwuid(os.geteuid()).pw_name)
    account = _account(str(to.get("host", "")))
    with scratch_directory() as directory:
        # Users that tests make are looked up in the server.
        address = " ".join(f"{name}={to[name]}" for name in ("host", "port") if name in to) + f" auth_user={user}"
        text = CONFIGURATION.format(server=address, port=PORT, directory=directory, more=more)
        (directory / "ini").write_text(text)
        (directory / "users").write_text(f'"{user}" "{to.get("password", "")}"\n')
        identity: dict[str, Any] = {}
        if account is not None:
            os.chown(directory, account.pw_uid, account.pw_gid)
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        command = (program, "--quiet", str(directory / "ini"))
        found = PgBouncer(directory, user, server, lambda: subprocess.Popen(command, cwd="/", **identity))
        try:
            yield found
        finally:
            found.process.terminate()
            found.process.wait()


def _account(host: str) -> pwd.struct_passwd | None:
    """Return whom root must run it as: PgBouncer refuses root, and only its owner may open the server's socket."""
    if os.geteuid() != 0:
        return None
    return pwd.getpwuid(Path(host).stat().st_uid) if host.startswith("/") else pwd.getpwnam("nobody")


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked ``direct`` when the run goes through PgBouncer, and count them by reason."""
    if not config.getoption("--pgbouncer"):
        return
    marked = [(item, item.get_closest_marker("direct")) for item in items]
    _left_out.update(str(marker.args[0]) for _, marker in marked if marker is not None)
    config.hook.pytest_deselected(items=[item for item, marker in marked if marker is not None])
    items[:] = [item for item, marker in marked if marker is None]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were left out, and why."""
    for reason, number in _left_out.most_common():
        terminalreporter.write_line(f"not through PgBouncer: {number} {'test' if number == 1 else 'tests'}, {reason}")
