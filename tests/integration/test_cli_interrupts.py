"""Ctrl-c, whenever it comes: exit code 130 and not a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_process import COMMAND, environment
from tests.support import missing

NOBODY = "postgresql://app@127.0.0.1:1/app"
SCRIPT = Path(sys.executable).parent / "commandbus"

# Python imports this file at its start: it sends SIGINT to its own process when a module is first looked for.
INTERRUPTER = """
import os, signal, sys

class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupter())
"""

# An event loop asks for a pair of sockets while it is made.
MEDDLER = """
import os, signal, socket, threading, time
from commandbus import HandlerRegistry

threading.Thread(target=time.sleep, args=[60], daemon=True).start()  # signals may come to any thread

registry, pair = HandlerRegistry(), socket.socketpair
registry.register("pay", "Debit", lambda command, context: None)

def interrupted_pair(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    return pair(*arguments)

socket.socketpair = interrupted_pair
"""


@pytest.mark.parametrize("way", ["module", "script"])
@pytest.mark.parametrize(
    "module", ["psycopg", "pydantic", "commandbus.cli.app", "rich.progress", "commandbus.sync.pool"]
)
def test_an_interrupt_while_the_program_loads_is_quiet(tmp_path: Path, way: str, module: str) -> None:
    if way == "script" and not SCRIPT.exists():
        missing("the script commandbus is not installed")
    command = COMMAND if way == "module" else (str(SCRIPT),)
    done = interrupted(tmp_path, module, *command, "queue", "list")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_interrupt_while_the_event_loop_is_made_is_quiet(tmp_path: Path, processes: str) -> None:
    (tmp_path / "app.py").write_text(MEDDLER)
    worker = ("worker", "app:registry", "--domain", "pay", "--database-url", NOBODY, "--processes", processes)
    done = interrupted(tmp_path, "none", *COMMAND, *worker)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_interrupt_while_it_works_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)")
    done = interrupted(
        tmp_path, "none", *COMMAND, "worker", "app:registry", "--domain", "pay", "--database-url", NOBODY
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_program_that_uses_the_library_keeps_its_own_interrupts(tmp_path: Path) -> None:
    code = "try:\n    import commandbus\nexcept KeyboardInterrupt:\n    print('its own')"
    done = interrupted(tmp_path, "psycopg", sys.executable, "-c", code)
    assert (done.returncode, done.stdout) == (0, "its own\n")
    code = "import commandbus, signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert interrupted(tmp_path, "none", sys.executable, "-c", code).stdout == "True\n"


def interrupted(directory: Path, module: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program that is interrupted when it first looks for *module*."""
    (directory / "sitecustomize.py").write_text(INTERRUPTER.format(module=module))
    variables = environment(None)
    variables["PYTHONPATH"] = os.pathsep.join([str(directory), variables["PYTHONPATH"]])
    return subprocess.run(
        command, cwd=directory, env=variables, capture_output=True, text=True, timeout=60, check=False
    )
