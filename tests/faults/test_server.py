"""A server that is stopped dead under load: no acknowledged command is lost, and workers go on by themselves."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from commandbus.migrate import migrate
from tests.cli_process import wait_for
from tests.faults.shop import Shop
from tests.support import Server, batch_counters_off, embedded_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server that may be crashed: nobody else is on it."""
    with embedded_server() as server:
        yield server


def crash(server: Server) -> None:
    """Stop a server in "immediate" mode, as if the power had failed, and wait until it is gone."""
    assert server.embedded is not None
    pid = server.embedded.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGQUIT)
    wait_for(lambda: server.embedded is not None and not server.embedded.status().running)


def has_sent(shop: Shop, count: int) -> bool:
    """Return whether so many commands were acknowledged."""
    return len(shop.ledger.acknowledged) >= count


@pytest.mark.parametrize("crashes", [3])
def test_a_crashed_server_loses_nothing_that_was_acknowledged(own_server: Server, tmp_path: Path, crashes: int) -> None:
    assert own_server.embedded is not None
    with own_server.database() as url:
        migrate(url)
        shop = Shop(url, tmp_path / "log")
        stop = threading.Event()

        def send_on() -> None:
            while not stop.is_set():
                shop.try_to_send("effect", data={"seconds": 0.005}, max_attempts=50)

        sender = threading.Thread(target=send_on)
        with shop.worker(visibility_timeout=2) as first, shop.worker(visibility_timeout=2) as second:
            # One that finds no server when it starts says so and ends: that is not what is tried here.
            wait_for(lambda: shop.log.read_text().count("worker started") == 2)
            sender.start()
            try:
                for _ in range(crashes):
                    wait_for(partial(has_sent, shop, len(shop.ledger.acknowledged) + 60))
                    shop.wait_for_effects(1)
                    crash(own_server)
                    own_server.embedded.start()
                    shop.wait_for_effects(1)
            finally:
                stop.set()
                sender.join()
            shop.drain()
            assert (first.poll(), second.poll()) == (None, None), shop.log.read_text()
            shop.stop(first, second)
        shop.pool.close()
        assert shop.rows("select count(*) from commandbus.command where status <> 'COMPLETED'") == [(0,)]
        assert len(shop.ledger.acknowledged) >= crashes * 60
        assert batch_counters_off(url) == []
        shop.check()
