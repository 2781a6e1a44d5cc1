"""The directories of an embedded server: its data, made by initdb and configured, and where its socket is."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from commandbus import _postmaster as postmaster
from commandbus.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_SOCKET_PATH = 103  # bytes; macOS allows 103, Linux 107
INCLUDED_FILE = "commandbus.conf"


def create_data(data: Path) -> None:
    """Run initdb beside the final place and move its result there: no half of it ever counts as data.

    Nothing happens when there are data.

    Raises:
        EmbeddedServerError: the directory cannot be used, or has data of another version.
    """
    version = postmaster.data_version(data)
    if version not in (None, postmaster.MAJOR_VERSION):
        raise EmbeddedServerError(f"{data} has data of PostgreSQL {version}, not {postmaster.MAJOR_VERSION}")
    account = postmaster.account_for(data)
    if account is not None:
        postmaster.check_reachable(account, data, postmaster.binaries() / "postgres")
    if version is not None:
        return
    if data.exists() and any(data.iterdir()):
        raise EmbeddedServerError(f"{data} is not empty and holds no PostgreSQL data")
    fresh = data.with_name(f"{data.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    postmaster.make_private(fresh, account)
    # One locale on every machine: byte order, UTF-8 case rules, English messages.
    locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8")
    options = ("--username=postgres", "--auth=trust", *locale, "--no-instructions", "-D", str(fresh))
    run_program(data, "initdb", *options, failure="initdb failed for")
    with (fresh / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.write(f"\ninclude_if_exists = '{INCLUDED_FILE}'\n")
    fresh.rename(data)


def run_program(data: Path, program: str, *options: str, failure: str) -> None:
    """Run one of PostgreSQL's programs as the user whom the data belong to.

    Raises:
        EmbeddedServerError: it failed; the text begins with *failure*.
    """
    postmaster.run_program(
        (str(postmaster.binaries() / program), *options),
        postmaster.account_for(data),
        log=log_path(data),
        failure=f"{failure} the server in {data}",
    )


def log_path(data: Path) -> Path:
    """Return where the server writes its log."""
    return data / "server.log"


def write_settings(data: Path, settings: Mapping[str, str], socket_directory: Path) -> None:
    """Write the server's settings, and that it listens on its socket only."""
    ours = {
        "port": str(postmaster.PORT),
        "listen_addresses": "",
        "unix_socket_directories": f'"{socket_directory}"',  # quoted: a comma would separate two
    }
    path = data / INCLUDED_FILE
    path.write_text("".join(f"{name} = {_quoted(value)}\n" for name, value in {**settings, **ours}.items()))
    path.chmod(0o644)  # written by root perhaps, read by the server's user


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def socket_directory(data: Path) -> Path:
    """Return the data directory, or a short private one, made when missing, where a socket's path would be too long.

    Raises:
        EmbeddedServerError: somebody else has a directory of this name.
    """
    if len(os.fsencode(data / f".s.PGSQL.{postmaster.PORT}")) <= LONGEST_SOCKET_PATH:
        return data
    directory = runtime_directory(data)
    account = postmaster.account_for(data)
    with contextlib.suppress(FileExistsError):
        postmaster.make_private(directory, account)
    owner = os.geteuid() if account is None else account.pw_uid
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or stat.S_IMODE(found.st_mode) != 0o700:
        raise EmbeddedServerError(f"{directory} is no private directory of the server's user: remove it")
    return directory


def runtime_directory(data: Path) -> Path:
    """Return the short one's name, whether it is there or not."""
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"commandbus-{digest}"


def server_url(socket_directory: Path, database: str) -> str:
    """Return the address of *database* on the server whose socket is there."""
    place = f"host={quote(str(socket_directory))}&port={postmaster.PORT}"
    return f"postgresql://postgres@/{quote(database, safe='')}?{place}"
