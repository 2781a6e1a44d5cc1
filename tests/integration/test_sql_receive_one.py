"""sp_receive_command: the attempt of one command whose message the caller has read."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from tests.integration.sql_helpers import (
    DOMAIN,
    Bus,
    Row,
    errors,
    open_bus,
    refusal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bus(database_url: str) -> Iterator[Bus]:
    """Give a database with one domain."""
    with open_bus(database_url) as found:
        found.create_domain()
        yield found


def receive_one(bus: Bus, command_id: UUID, **options: object) -> list[Row]:
    """Begin an attempt by the function for one."""
    return bus.call("sp_receive_command", domain=DOMAIN, command_id=command_id, **options)


def test_receive_one_begins_an_attempt_and_returns_the_row(bus: Bus) -> None:
    batch_id = bus.create_batch()
    command_id, other = bus.send_new(2, batch_id=batch_id)
    (received,) = receive_one(bus, command_id, msg_id=bus.command(command_id)["msg_id"])
    assert received == bus.command(command_id)
    assert (received["status"], received["attempts"]) == ("IN_PROGRESS", 1)
    assert bus.events(command_id) == ["SENT", "RECEIVED"]
    assert bus.batch(batch_id)["status"] == "IN_PROGRESS"
    receive_one(bus, other)
    assert bus.events(batch_id) == ["BATCH_STARTED"]


def test_receive_one_begins_another_attempt_of_a_command_in_progress(bus: Bus) -> None:
    (command_id,) = bus.send_new()
    assert [receive_one(bus, command_id)[0]["attempts"] for _ in range(3)] == [1, 2, 3]
    assert bus.events(command_id) == ["SENT", "RECEIVED", "RECEIVED", "RECEIVED"]


def test_receive_one_gives_nothing_when_the_attempts_are_used_up(bus: Bus) -> None:
    (command_id,) = bus.send_new(max_attempts=[1])
    receive_one(bus, command_id)
    before = bus.everything()
    assert receive_one(bus, command_id) == []
    assert receive_one(bus, command_id, max_attempts=10) == []
    assert bus.everything() == before


def test_receive_one_counts_attempts_against_the_lesser_limit(bus: Bus) -> None:
    (command_id,) = bus.send_new()
    assert len(receive_one(bus, command_id, max_attempts=1)) == 1
    assert receive_one(bus, command_id, max_attempts=1) == []
    assert len(receive_one(bus, command_id, max_attempts=2)) == 1


@pytest.mark.parametrize("outcome", ["COMPLETED", "FAILED", "TROUBLESHOOT"])
def test_receive_one_gives_nothing_for_a_command_that_is_over_or_waits_for_an_operator(bus: Bus, outcome: str) -> None:
    (command_id,) = bus.send_new()
    bus.settle(bus.receive(), outcome, **errors(1, "PERMANENT"))
    before = bus.everything()
    assert receive_one(bus, command_id) == []
    assert bus.everything() == before


def test_receive_one_gives_nothing_for_an_unknown_command_or_another_message(bus: Bus) -> None:
    (command_id,) = bus.send_new()
    before = bus.everything()
    assert receive_one(bus, uuid4()) == []
    assert receive_one(bus, command_id, msg_id=bus.command(command_id)["msg_id"] + 1) == []
    bus.create_domain("ship")
    assert bus.call("sp_receive_command", domain="ship", command_id=command_id) == []
    assert bus.everything() == before


def test_receive_one_refuses_a_bad_domain_and_another_status(bus: Bus) -> None:
    (command_id,) = bus.send_new()
    with refusal("CB007", "domain"):
        bus.call("sp_receive_command", domain="Pay", command_id=command_id)
    for status in ("COMPLETED", "PENDING", "", None):
        with refusal("CB007", "p_new_status"):
            receive_one(bus, command_id, new_status=status)
