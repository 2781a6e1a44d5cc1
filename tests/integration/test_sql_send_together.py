"""Sends in transactions, at once, and those who wait for them."""

from __future__ import annotations

from collections.abc import Callable
from threading import Barrier
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.integration.sql_helpers import (
    Bus,
    in_parallel,
    in_thread,
    new_ids,
    open_bus,
    refusal,
    send_one,
    send_set,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bus(database_url: str) -> Iterator[Bus]:
    """Give a database with one domain."""
    with open_bus(database_url) as found:
        found.create_domain()
        yield found


def check_each_was_sent_once(bus: Bus, command_ids: list[UUID]) -> None:
    """Check rows, messages and audit of commands that nobody has received."""
    assert sorted(UUID(row["message"]["command_id"]) for row in bus.queue()) == sorted(command_ids)
    assert bus.value("select count(*) from commandbus.command") == len(command_ids)
    assert bus.value("select count(*) from commandbus.audit") == len(command_ids)
    assert bus.value(
        "select count(*) from pgmq.q_pay__commands q join commandbus.command c using (msg_id)"
        " where c.command_id::text = q.message ->> 'command_id'"
    ) == len(command_ids)


Send = Callable[..., int]
BOTH = pytest.mark.parametrize("send", [send_one, send_set])


@pytest.mark.direct("it listens on a session of its own")
@BOTH
def test_a_send_wakes_the_listeners_of_the_queue_unless_told_not_to(bus: Bus, send: Send) -> None:
    bus.run('listen "commandbus:pay__commands"')
    send(bus, notify=False)
    assert list(bus.connection.notifies(timeout=0)) == []
    send(bus)
    (notify,) = bus.connection.notifies(timeout=10, stop_after=1)
    assert (notify.channel, notify.payload) == ("commandbus:pay__commands", "")


@pytest.mark.direct("it listens on a session of its own")
def test_a_set_wakes_the_listeners_once(bus: Bus) -> None:
    bus.run('listen "commandbus:pay__commands"')
    with bus.connection.transaction():
        bus.send_new(100)
        bus.send_new(100)
    assert len(list(bus.connection.notifies(timeout=0.2))) == 1


@pytest.mark.direct("it listens on a session of its own")
@BOTH
def test_a_send_rolled_back_by_its_caller_leaves_nothing(bus: Bus, send: Send) -> None:
    batch_id = bus.create_batch()
    bus.run('listen "commandbus:pay__commands"')
    before = bus.everything()
    with bus.connection.transaction(force_rollback=True):
        send(bus)
        bus.send_new(3, batch_id=batch_id)
    assert bus.everything() == before
    assert list(bus.connection.notifies(timeout=0)) == []


def test_a_refused_send_leaves_the_callers_savepoint_usable(bus: Bus) -> None:
    (known,) = bus.send_new()
    with bus.connection.transaction():
        with refusal("CB001"), bus.connection.transaction():
            bus.send(known)
        bus.send_new()
    assert len(bus.queue()) == 2


def test_an_uncommitted_duplicate_is_waited_for(bus: Bus) -> None:
    command_id = uuid4()
    with open_bus(bus.url) as watcher, open_bus(bus.url) as second:
        bus.run("begin")
        bus.send(command_id)
        with in_thread(lambda: second.send(command_id)) as waiting:
            watcher.wait_until_blocked()
            bus.run("rollback")
            assert list(waiting.result()) == [command_id]
    assert len(bus.queue()) == 1
    assert bus.events(command_id) == ["SENT"]


def test_sixteen_senders_of_the_same_500_ids_send_each_once(bus: Bus) -> None:
    command_ids = new_ids(500)
    together = Barrier(16)

    def send_all(own: Bus, number: int) -> int:
        together.wait()
        refused = 0
        for command_id in command_ids[number:] + command_ids[:number]:
            try:
                own.send(command_id)
            except psycopg.Error as error:
                assert error.sqlstate == "CB001"  # noqa: PT017  (counted, not expected)
                refused += 1
        return refused

    assert sum(in_parallel(bus.url, send_all, 16)) == 15 * 500
    check_each_was_sent_once(bus, command_ids)


def test_sixteen_idempotent_sends_of_the_same_500_ids_agree_on_one_msg_id_each(bus: Bus) -> None:
    command_ids = new_ids(500)
    together = Barrier(16)

    def send_all(own: Bus, number: int) -> dict[UUID, int]:
        together.wait()
        return own.send(*(command_ids[number * 7 :] + command_ids[: number * 7]), idempotent=True)

    answers = in_parallel(bus.url, send_all, 16)
    assert all(answer == answers[0] for answer in answers)
    check_each_was_sent_once(bus, command_ids)
