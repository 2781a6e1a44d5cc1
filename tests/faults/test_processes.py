"""Worker processes that are frozen, killed and stopped: nothing is lost, nothing counts twice."""

from __future__ import annotations

import os
import random
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.cli_process import wait_for
from tests.faults.handlers import DOMAIN
from tests.faults.shop import Shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def shop(database_url: str, tmp_path: Path) -> Iterator[Shop]:
    """A database with handlers' tables, and a sender."""
    made = Shop(database_url, tmp_path / "log")
    yield made
    made.pool.close()


@pytest.mark.parametrize("kind", ["wait", "wait_with_effect"])
def test_a_worker_frozen_past_its_lease_ends_nothing(shop: Shop, kind: str) -> None:
    command_id = shop.send(kind)
    with shop.worker() as frozen:
        assert shop.wait_for_mark(command_id, 1) == frozen.pid
        frozen.send_signal(signal.SIGSTOP)
        with shop.worker() as other:
            assert shop.wait_for_mark(command_id, 2) == other.pid
            shop.wait_for_status(command_id, "COMPLETED")
            shop.rows("insert into public.gate values (true)")
            frozen.send_signal(signal.SIGCONT)
            wait_for(lambda: "STALE_SETTLE" in shop.events(command_id))
            shop.stop(frozen, other)
    assert shop.events(command_id) == ["SENT", "RECEIVED", "RECEIVED", "COMPLETED", "STALE_SETTLE"]
    reply = shop.rows("select message -> 'result' from pgmq.q_pay__replies")
    assert reply == [(2,)]
    shop.check()


@pytest.mark.parametrize("kind", ["hang", "crash"])
def test_a_command_whose_worker_dies_every_time_ends_with_an_operator(shop: Shop, kind: str) -> None:
    command_id = shop.send(kind, max_attempts=2)
    for attempt in (1, 2):
        with shop.worker() as doomed:
            assert shop.wait_for_mark(command_id, attempt) == doomed.pid
            if kind == "hang":
                doomed.kill()
            assert doomed.wait(10) == (-signal.SIGKILL if kind == "hang" else 9)
    innocent = shop.send("effect")
    with shop.worker() as last:
        shop.wait_for_status(command_id, "IN_TROUBLESHOOTING_QUEUE")
        shop.wait_for_status(innocent, "COMPLETED")
        shop.stop(last)
    command = shop.bus.get_command(DOMAIN, command_id)
    assert command is not None
    assert (command.attempts, command.last_error_code) == (2, "CRASHED")
    assert shop.events(command_id) == ["SENT", "RECEIVED", "RECEIVED", "RETRY_EXHAUSTED", "MOVED_TO_TSQ"]
    assert shop.rows("select count(*) from public.mark") == [(2,)]
    shop.check()


def test_workers_killed_under_load_lose_nothing(shop: Shop) -> None:
    seed = int(os.environ.get("COMMANDBUS_TEST_SEED", random.randrange(10**6)))
    chance = random.Random(seed)
    print(f"COMMANDBUS_TEST_SEED={seed}")  # noqa: T201  (shown when the test fails)
    batch = shop.create_batch("effect", max_attempts=20)
    for n in range(300):
        shop.send("effect", {"seconds": 0.01}, max_attempts=20, batch_id=batch if n % 2 else None)
    with ExitStack() as stack:
        survivor = stack.enter_context(shop.worker(concurrency=2))
        for _ in range(3):
            victim = stack.enter_context(shop.worker(concurrency=4))
            shop.wait_for_effects(chance.randint(5, 40))
            victim.kill()
        shop.drain()
        shop.stop(survivor)
    assert shop.rows("select count(*) from commandbus.command where status <> 'COMPLETED'") == [(0,)]
    shop.check()


def test_a_worker_told_to_stop_under_load_ends_what_runs_and_gives_back_the_rest(shop: Shop) -> None:
    ids = [shop.send("effect", {"seconds": 0.2}, max_attempts=1) for _ in range(60)]
    with shop.worker(concurrency=10) as first:
        shop.wait_for_effects(10)
        shop.stop(first)
    in_progress = shop.rows("select count(*) from commandbus.command where status = 'IN_PROGRESS'")
    assert in_progress == [(0,)]
    with shop.worker(concurrency=30) as second:
        shop.drain()
        shop.stop(second)
    # With one attempt each, anything that was not given back, or ran twice, would show.
    for command_id in ids:
        shop.wait_for_status(command_id, "COMPLETED")
    shop.check()
