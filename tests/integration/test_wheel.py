"""The wheel: what is inside, and that it works where nothing else is installed."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import missing

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
PUBLIC_NAMES = "CommandBus, CommandBusPool, HandlerRegistry, TroubleshootingQueue, Worker"

# Two virtual environments' worth of packages may come over a slow line.
pytestmark = pytest.mark.timeout(300)


def run(*command: str | Path, cwd: Path) -> str:
    """Return what a program prints; a failure shows all of it."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel that was built from that sdist."""
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, ROOT, cwd=directory)
    return directory


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    """The wheel."""
    (found,) = distributions.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a virtual environment that holds the wheel and what it asks for, and nothing else."""
    directory = tmp_path_factory.mktemp("venv")
    venv.create(directory, with_pip=True)
    programs = directory / "bin"
    pip = (programs / "python", "-m", "pip", "--disable-pip-version-check")
    if not packages_can_be_had(pip, directory):
        missing("pip cannot get packages here")
    run(*pip, "install", "--quiet", "--constraint", CONSTRAINTS, wheel, cwd=directory)
    return programs


def packages_can_be_had(pip: Sequence[str | Path], directory: Path) -> bool:
    """Return whether pip can get one small package that the wheel needs."""
    options = ("--quiet", "--no-deps", "--constraint", str(CONSTRAINTS), "--dest", str(directory / "probe"))
    command = [*map(str, pip), "download", *options, "typing-inspection"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_wheel_holds_the_schema_but_not_the_test_tables(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    migrations = [Path(name).name for name in names if name.endswith(".sql")]
    assert migrations == ["V001__commandbus_schema.sql"]


def test_the_wheel_says_that_it_is_typed(wheel: Path) -> None:
    assert "commandbus/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_the_wheel_holds_nothing_beside_the_package(wheel: Path) -> None:
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert top == {"commandbus", "pytest_commandbus.py", "commandbus_pg-0.1.0.dist-info"}


def test_the_sdist_can_be_worked_on(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "Makefile",
        "constraints.txt",
        "migrations/V001__commandbus_schema.sql",
        "migrations/V002__e2e_schema.sql",
        "tests/conftest.py",
        "tools/async_to_sync.py",
    } <= names
    assert not {name for name in names if name.startswith((".venv", ".commandbus", "dist"))}


def test_an_installed_wheel_finds_its_own_schema(installed: Path, tmp_path: Path) -> None:
    code = "from commandbus.migrate import discover, packaged_directory as d; print(d(), discover([d()])[0].script)"
    directory, script = run(installed / "python", "-I", "-c", code, cwd=tmp_path).split()
    assert Path(directory).is_relative_to(installed.parent)
    assert script == "V001__commandbus_schema.sql"


def test_an_installed_wheel_gives_the_public_names(installed: Path, tmp_path: Path) -> None:
    run(installed / "python", "-I", "-W", "error", "-c", f"from commandbus import {PUBLIC_NAMES}", cwd=tmp_path)


def test_an_installed_wheel_migrates_for_other_suites_and_says_what_it_has_not(
    installed: Path, tmp_path: Path, empty_database_url: str
) -> None:
    code = f"import sys; from commandbus.testing import *; apply_all_migrations({empty_database_url!r}, sys.stdout)"
    said = run(installed / "python", "-I", "-W", "error", "-c", code, cwd=tmp_path)
    assert "the files of group e2e are not here" in said
    assert "V001__commandbus_schema.sql: applied" in said


def test_an_installed_wheel_brings_a_plugin_for_pytest(installed: Path, tmp_path: Path) -> None:
    code = "from importlib.metadata import entry_points as e; print(*[p.value for p in e(group='pytest11')])"
    assert run(installed / "python", "-I", "-c", code, cwd=tmp_path).split() == ["pytest_commandbus"]


def test_an_installed_wheel_gives_the_command(installed: Path, tmp_path: Path) -> None:
    assert "migrate" in run(installed / "commandbus", "--help", cwd=tmp_path)
