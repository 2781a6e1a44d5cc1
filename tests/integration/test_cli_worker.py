"""`commandbus worker` as processes with real signals: clean stops, replaced children, handlers that do not end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from commandbus import CommandBus, CommandBusPool, InvalidArgumentError, SendRequest
from commandbus.cli.load import load_registry
from tests.cli_process import Cli, wait_for

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

DOMAIN = "payments"
HANDLERS = """
import asyncio, gc, sys, time
from commandbus import HandlerRegistry, PermanentCommandError

registry = HandlerRegistry()

@registry.handler("payments", "Work")
async def work(command, context):
    await asyncio.sleep(0.01)
    return command.data

@registry.handler("payments", "Hang")
def hang(command, context):
    time.sleep(60)

@registry.handler("payments", "Block")
async def block(command, context):
    time.sleep(60)

@registry.handler("payments", "Collect")
async def collect(command, context):
    looked_at = {id(one) for one in gc.get_objects()}
    if id(vars(sys.modules["pydantic"])) in looked_at:
        raise PermanentCommandError("COLLECTED", "modules are looked through again and again")

def make():
    return registry

nothing = 5
"""
ENDS = """
    select c.status, count(a.audit_id) from commandbus.command c
    left join commandbus.audit a on a.command_id = c.command_id and a.event_type = 'COMPLETED'
    group by c.command_id, c.status
"""


@pytest.fixture
def cli(tmp_path: Path, database_url: str) -> Cli:
    """The command line in a directory with handlers."""
    (tmp_path / "shop.py").write_text(HANDLERS)
    return Cli(tmp_path, database_url)


def send(url: str, count: int, command_type: str = "Work") -> list[UUID]:
    """Send commands."""

    async def run() -> list[UUID]:
        async with CommandBusPool(database_url=url) as pool:
            bus = CommandBus(pool)
            await bus.create_domain(DOMAIN)
            requests = [SendRequest(DOMAIN, command_type, uuid4(), {"n": n}) for n in range(count)]
            return [result.command_id for result in (await bus.send_batch(requests)).results]

    return asyncio.run(run())


def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def count(url: str, status: str) -> int:
    """Return how many commands have a status."""
    return int(ask(url, f"select count(*) from commandbus.command where status = '{status}'")[0][0])


def arguments(*more: object, target: str = "shop:registry") -> tuple[object, ...]:
    """Return a worker's command line."""
    return ("worker", target, "--domain", DOMAIN, "--log-format", "json", *more)


def started(cli: Cli) -> set[int]:
    """Return the processes that have begun to work."""
    return {line["pid"] for line in cli.log() if line["message"] == "worker started"}


def stop(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    """Send a signal; return the exit code. It must come in half a minute: handlers that hang take longer."""
    process.send_signal(number)
    return process.wait(30)


@pytest.mark.parametrize(("processes", "number"), [(1, signal.SIGTERM), (2, signal.SIGINT)])
def test_a_worker_stopped_under_load_loses_nothing(cli: Cli, processes: int, number: int) -> None:
    url = str(cli.url)
    send(url, 800)
    options = ("--concurrency", 20, "--processes", processes, "--grace", 60)
    with cli.started(*arguments(*options, target="shop:make")) as process:
        wait_for(lambda: count(url, "COMPLETED") >= 100)
        assert stop(process, number) == 0
    pending = count(url, "PENDING")
    assert pending > 0
    assert {status for status, _ in ask(url, ENDS)} == {"COMPLETED", "PENDING"}
    assert ask(url, f"select count(*) from pgmq.q_{DOMAIN}__commands where vt <= now()") == [(pending,)]
    with cli.started(*arguments("--concurrency", 100)) as process:
        wait_for(lambda: count(url, "COMPLETED") == 800)
        assert stop(process) == 0
    assert set(ask(url, ENDS)) == {("COMPLETED", 1)}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_spares_the_collector_what_it_has_loaded(cli: Cli, processes: int) -> None:
    url = str(cli.url)
    ids = send(url, 5, "Collect")
    with cli.started(*arguments("--processes", processes)) as process:
        wait_for(lambda: len(started(cli)) == processes and count(url, "COMPLETED") == len(ids))
        assert stop(process) == 0


def test_a_process_that_dies_is_replaced_and_reported(cli: Cli) -> None:
    url = str(cli.url)
    with cli.started(*arguments("--processes", 2, "--visibility-timeout", 2, "--no-notify")) as process:
        wait_for(lambda: len(started(cli)) == 2)
        victim = min(started(cli))
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len(started(cli)) == 3)
        ids = send(url, 50)
        wait_for(lambda: count(url, "COMPLETED") == len(ids))
        assert stop(process) == 0
    (report,) = [line for line in cli.log() if line["message"].startswith("worker process ended unexpectedly")]
    assert (report["child"], report["exit_code"]) == (victim, -signal.SIGKILL)


def test_children_stop_when_their_parent_is_killed(cli: Cli) -> None:
    with cli.started(*arguments("--processes", 2)) as process:
        wait_for(lambda: len(started(cli)) == 2)
        process.kill()
        process.wait(10)
        wait_for(lambda: sum(line["message"] == "worker stopped" for line in cli.log()) == 2)


def test_threads_that_do_not_end_are_left_behind(cli: Cli) -> None:
    url = str(cli.url)
    send(url, 1, "Hang")
    with cli.started(*arguments("--grace", 0.5)) as process:
        wait_for(lambda: count(url, "IN_PROGRESS") == 1)
        assert stop(process) == 3
    assert cli.log()[-1]["message"] == "handlers did not end in time, leaving them behind"
    assert ask(url, "select last_error_code from commandbus.command") == [("WORKER_STOPPED",)]


def test_a_second_signal_ends_even_a_blocked_process_at_once(cli: Cli) -> None:
    url = str(cli.url)
    send(url, 1, "Block")
    with cli.started(*arguments()) as process:
        wait_for(lambda: count(url, "IN_PROGRESS") == 1)
        process.send_signal(signal.SIGTERM)
        # Another one, for two equal signals in the same instant would be one; which of them is seen first is not said.
        assert stop(process, signal.SIGINT) in {128 + signal.SIGTERM, 128 + signal.SIGINT}


@pytest.mark.parametrize(
    ("target", "domain", "said"),
    [
        ("shop:absent", DOMAIN, 'module "shop" has no "absent"'),
        ("shop:nothing", DOMAIN, "no HandlerRegistry"),
        ("shop", DOMAIN, "must be MODULE:NAME"),
        ("json:loads", DOMAIN, "without arguments"),
        ("shop:make", "orders", 'no handler for "orders"'),
    ],
)
def test_what_is_no_registry_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, domain: str, said: str
) -> None:
    (tmp_path / "shop.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    with pytest.raises(InvalidArgumentError, match=said):
        load_registry(target, domain)


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("nowhere:registry", ("--processes", 2), 'there is no module "nowhere"'),
        ("shop:registry", ("--retry-delays", "soon"), "--retry-delays: "),
        ("shop:registry", ("--concurrency", 0), "concurrency: "),
    ],
)
def test_a_worker_that_cannot_work_does_not_start(
    cli: Cli, target: str, options: tuple[object, ...], said: str
) -> None:
    assert said in cli.refusal(*arguments("--log-level", "error", *options, target=target), code=2)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--concurrency", 0),
        ("--concurrency", 10_001),
        ("--poll-interval", 0),
        ("--visibility-timeout", 0),
        ("--grace", -1),
        ("--processes", 0),
        ("--retry-delays", "-1"),
        ("--domain", "X"),
    ],
)
def test_a_bad_option_is_refused_before_anything_is_done(cli: Cli, option: str, value: object) -> None:
    cli.url = "postgresql://127.0.0.1:1/nowhere"
    said = cli.refusal(*arguments(option, value, target="nowhere:registry"), code=2)
    assert said.startswith(f"commandbus: {option}: ")
    assert said.count("\n") == 1


def test_a_worker_without_a_database_says_so_and_ends(cli: Cli) -> None:
    cli.url = "postgresql://app:sesam-open@127.0.0.1:1/app"
    said = cli.refusal(*arguments("--processes", 2), code=1)
    assert "cannot be reached" in said
    assert "sesam" not in said
