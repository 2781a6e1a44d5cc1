"""The programs of docs/programs.md, run as they are printed there."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from commandbus import BusinessRuleException, HandlerRegistry, PgmqClient, Worker
from commandbus.sync import CommandBus as SyncBus
from commandbus.sync import CommandBusPool as SyncPool
from tests.cli_process import environment
from tests.integration.live import rows, running
from tests.integration.sql_helpers import open_bus

if TYPE_CHECKING:
    from uuid import UUID

    from commandbus import Command, CommandBus, CommandBusPool, HandlerContext

PAGE = Path(__file__).resolve().parents[2] / "docs" / "programs.md"
PROGRAMS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))


def run_program(name: str) -> dict[str, Any]:
    """Run a program of the page in this process; return what it defines."""
    names: dict[str, Any] = {"__name__": name}
    exec(compile(PROGRAMS[name], name, "exec"), names)  # noqa: S102  (our own page)
    return names


def test_the_page_has_no_program_that_is_not_run_here() -> None:
    assert list(PROGRAMS) == ["serve.py", "logs.py", "batches.py", "waiting.py"]
    assert PAGE.read_text("utf-8").count("```python") == len(PROGRAMS)


def test_the_worker_of_the_page_works_and_stops(tmp_path: Path, database_url: str) -> None:
    (tmp_path / "logs.py").write_text(PROGRAMS["logs.py"])
    (tmp_path / "serve.py").write_text("import logs\n" + PROGRAMS["serve.py"])
    with (tmp_path / "log").open("wb") as log, SyncPool(database_url=database_url) as pool:
        bus = SyncBus(pool)
        bus.create_domain("payments")
        variables = environment(database_url)
        with subprocess.Popen([sys.executable, "serve.py"], cwd=tmp_path, env=variables, stderr=log) as process:
            try:
                assert bus.call("payments", "DebitAccount", {"amount": 250}) == {"debited": 250}
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
            finally:
                process.kill()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["message"] for line in lines] == ["command bus pool opened", "worker started", "worker stopped"]
    assert (lines[-1]["done"], lines[-1]["given_back"]) == (1, 0)


async def test_the_end_of_a_batch_reaches_the_reader_of_the_page(bus: CommandBus, pool: CommandBusPool) -> None:
    program = run_program("batches.py")
    told: list[dict[str, Any]] = []
    heard = asyncio.Event()

    async def handle(message: dict[str, Any]) -> None:
        told.append(message)
        heard.set()

    await bus.create_domain("payments")
    batch_id = await program["charge"](bus, ["A-1", "A-2"])
    following = asyncio.create_task(program["follow"](pool, handle))
    try:
        commands = await bus.list_batch_commands("payments", batch_id)
        async with running(Worker(pool, "payments", registry_that_fails(commands[0].command_id))):
            await asyncio.wait_for(heard.wait(), 15)
    finally:
        following.cancel()
    batch = await bus.get_batch("payments", batch_id)
    assert batch is not None
    assert batch.completed_at is not None
    (message,) = told
    assert datetime.fromisoformat(message.pop("completed_at")) == batch.completed_at
    assert message == {
        "event": "BATCH_COMPLETED",
        "domain": "payments",
        "batch_id": str(batch_id),
        "name": "fees of May",
        "status": "COMPLETED_WITH_FAILURES",
        "total_count": 2,
        "completed_count": 1,
        "failed_count": 1,
        "canceled_count": 0,
    }


async def test_the_reader_of_the_page_deletes_what_was_handled(bus: CommandBus, pool: CommandBusPool) -> None:
    program = run_program("batches.py")
    await bus.create_domain("payment_batches")
    await PgmqClient(pool).send_batch(program["ENDED"], [{"n": 1}, {"n": 2}])
    told: list[object] = []

    async def handle(message: object) -> None:
        told.append(message)
        if len(told) == 2:
            raise ConnectionError("not now")

    with pytest.raises(ConnectionError):
        await program["follow"](pool, handle)
    assert told == [{"n": 1}, {"n": 2}]
    left = await rows(pool, "select message from pgmq.q_payment_batches__replies")
    assert left == [({"n": 2},)]


async def test_the_walk_of_the_page_meets_all_that_waits(pool: CommandBusPool, database_url: str) -> None:
    with open_bus(database_url) as sql:
        sql.create_domain()
        parked = sql.park(2_005)  # three pages
    met = [item.command_id async for item in run_program("waiting.py")["each_waiting"](pool, "pay")]
    assert len(met) == len(parked)
    assert set(met) == set(parked)


def registry_that_fails(command_id: UUID) -> HandlerRegistry:
    """Return a registry in which the business refuses one command."""
    registry = HandlerRegistry()

    @registry.handler("payments", "DebitAccount")
    async def debit(command: Command, _: HandlerContext) -> None:
        if command.command_id == command_id:
            raise BusinessRuleException("NO_ACCOUNT", "the account is closed")

    return registry
