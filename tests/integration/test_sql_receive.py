"""sp_receive_commands and sp_receive_command: who gets which command, when, and how often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from tests.integration.sql_helpers import (
    DOMAIN,
    Bus,
    errors,
    ids_of,
    in_parallel,
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


def exhaust(bus: Bus, count: int = 1, **options: Any) -> list[UUID]:
    """Send commands with one attempt each and lose their only worker."""
    command_ids = bus.send_new(count, max_attempts=[1] * count, **options)
    assert ids_of(bus.receive()) == command_ids
    bus.expire_leases()
    return command_ids


def test_an_empty_queue_gives_nothing(bus: Bus) -> None:
    assert bus.receive() == []


def test_a_receive_begins_an_attempt_and_says_what_was_sent(bus: Bus) -> None:
    batch_id, correlation_id = bus.create_batch(), uuid4()
    (command_id,) = bus.send_new(
        batch_id=batch_id, correlation_ids=[correlation_id], reply_queues=["pay__replies"], max_attempts=[4]
    )
    (received,) = bus.receive(timeout=600)

    row = bus.command(command_id)
    (message,) = bus.queue()
    assert 0 <= received.pop("waited") < (row["updated_at"] - row["created_at"]).total_seconds() + 0.001
    assert received == {
        "command_id": command_id,
        "command_type": "charge",
        "data": '{"n": 0}',
        "correlation_id": correlation_id,
        "reply_queue": "pay__replies",
        "attempts": 1,
        "max_attempts": 4,
        "msg_id": row["msg_id"],
        "read_ct": 1,
        "batch_id": batch_id,
        "created_at": row["created_at"],
        "fault": None,
    }
    assert (row["status"], row["attempts"], row["read_ct"]) == ("IN_PROGRESS", 1, 1)
    assert message["read_ct"] == 1
    assert abs((message["vt"] - row["lease_expires_at"]).total_seconds()) < 1
    assert 590 < (row["lease_expires_at"] - row["updated_at"]).total_seconds() <= 601


def test_a_receive_is_audited_with_its_attempt(bus: Bus) -> None:
    (command_id,) = bus.send_new()
    for _ in range(2):
        bus.receive()
        bus.expire_leases()
    events = [(row["event_type"], row["attempt"], row["msg_id"]) for row in bus.trail(command_id)]
    msg_id = bus.command(command_id)["msg_id"]
    assert events == [("SENT", None, msg_id), ("RECEIVED", 1, msg_id), ("RECEIVED", 2, msg_id)]


def test_commands_come_in_queue_order_up_to_the_limit(bus: Bus) -> None:
    command_ids = bus.send_new(25)
    assert [ids_of(bus.receive(limit=10)) for _ in range(4)] == [
        command_ids[:10],
        command_ids[10:20],
        command_ids[20:],
        [],
    ]


def test_a_leased_command_is_nobody_elses(bus: Bus) -> None:
    bus.send_new()
    bus.receive()
    assert bus.receive() == []


def test_commands_of_another_domain_are_left_alone(bus: Bus) -> None:
    bus.create_domain("ship")
    (command_id,) = bus.send_new(domain="ship")
    assert bus.receive() == []
    assert ids_of(bus.receive(domain="ship")) == [command_id]


def test_a_command_comes_again_when_its_lease_has_run_out(bus: Bus) -> None:
    (command_id,) = bus.send_new()
    (first,) = bus.receive()
    bus.expire_leases()
    (second,) = bus.receive()
    assert (second["command_id"], second["msg_id"]) == (command_id, first["msg_id"])
    assert (first["attempts"], first["read_ct"]) == (1, 1)
    assert (second["attempts"], second["read_ct"]) == (2, 2)


def test_a_batch_starts_once_with_its_first_command(bus: Bus) -> None:
    batch_id, other = bus.create_batch(), bus.create_batch()
    bus.send_new(3, batch_id=batch_id)
    bus.send_new(1, batch_id=other)
    assert bus.batch(batch_id)["status"] == "PENDING"
    bus.receive(limit=2)
    started = bus.batch(batch_id)
    assert started["status"] == "IN_PROGRESS"
    assert started["started_at"] is not None
    bus.receive()
    bus.expire_leases()
    bus.receive()
    assert bus.events(batch_id) == ["BATCH_STARTED"]
    assert bus.events(other) == ["BATCH_STARTED"]
    assert bus.batch(batch_id) == started


@pytest.mark.direct("it sets up its session")
def test_two_receives_at_once_start_a_batch_once(bus: Bus) -> None:
    batch_id = bus.create_batch()
    bus.send_new(2, batch_id=batch_id)
    with open_bus(bus.url) as second:
        bus.run("begin")
        bus.receive(limit=1)
        second.run("set lock_timeout = 100")
        assert len(second.receive(limit=1)) == 1
        bus.run("commit")
    assert bus.events(batch_id) == ["BATCH_STARTED"]


@pytest.mark.direct("it sets up its session")
def test_a_sender_that_still_adds_to_a_batch_stops_no_receive(bus: Bus) -> None:
    held, free = bus.create_batch(), bus.create_batch()
    for batch_id in (held, free):
        bus.send_new(2, batch_id=batch_id)
    with open_bus(bus.url) as sender, open_bus(bus.url) as reader:
        sender.run("begin")
        sender.send_new(batch_id=held)
        reader.run("set lock_timeout = 100")
        received = reader.receive()
        assert len(received) == 4
        assert [bus.events(batch_id) for batch_id in (held, free)] == [[], ["BATCH_STARTED"]]
        sender.run("commit")
        reader.settle(received[:1], "COMPLETED")
    assert bus.events(held) == ["BATCH_STARTED"]
    assert bus.counts(held)[0] == 3


@pytest.mark.direct("it sets up its session")
def test_a_receive_does_not_wait_for_a_batch_that_has_started(bus: Bus) -> None:
    batch_id = bus.create_batch()
    bus.send_new(2, batch_id=batch_id)
    first = bus.receive(limit=1)
    with open_bus(bus.url) as second:
        bus.run("begin")
        bus.settle(first, "COMPLETED")
        second.run("set lock_timeout = 100")
        assert len(second.receive()) == 1
        bus.run("commit")


def test_a_command_whose_attempts_are_used_up_goes_to_the_tsq_as_crashed(bus: Bus) -> None:
    batch_id = bus.create_batch()
    (command_id,) = exhaust(bus, batch_id=batch_id, reply_queues=["pay__replies"])
    (sent,) = bus.queue()
    (found,) = bus.receive()

    row = bus.command(command_id)
    (payload,) = bus.payload(command_id)
    assert (found["command_id"], found["fault"], found["data"]) == (command_id, "CRASHED", None)
    assert (row["status"], row["attempts"], row["lease_expires_at"]) == ("IN_TROUBLESHOOTING_QUEUE", 1, None)
    assert (row["last_error_type"], row["last_error_code"]) == ("TRANSIENT", "CRASHED")
    assert row["attention_at"] is not None
    assert row["finished_at"] is None
    assert (payload["message"], payload["msg_id"]) == (sent["message"], sent["msg_id"])
    assert bus.queue() == []
    assert bus.replies() == []
    assert bus.counts(batch_id) == (1, 0, 0, 0, 1)
    assert bus.events(command_id) == ["SENT", "RECEIVED", "RETRY_EXHAUSTED", "MOVED_TO_TSQ"]
    assert bus.trail(command_id)[-1]["details"]["reason"] == "CRASHED"


def test_crashed_commands_do_not_stop_the_others_of_a_receive(bus: Bus) -> None:
    crashed = exhaust(bus, 3)
    healthy = bus.send_new(3)
    received = bus.receive()
    assert [(row["command_id"], row["fault"]) for row in received] == [(c, None) for c in healthy] + [
        (c, "CRASHED") for c in crashed
    ]


def test_a_retry_comes_when_due_under_a_new_msg_id(bus: Bus) -> None:
    (command_id,) = bus.send_new()
    (sent,) = bus.queue()
    (first,) = bus.receive()
    bus.settle([first], "RETRY", **errors(1, "TRANSIENT", delay=3600))
    assert bus.receive() == []
    bus.make_retries_due()
    (second,) = bus.receive()
    assert (second["command_id"], second["attempts"], second["read_ct"]) == (command_id, 2, 1)
    assert second["msg_id"] > first["msg_id"]
    assert second["msg_id"] == bus.command(command_id)["msg_id"]
    assert second["data"] == first["data"]
    assert bus.queue()[0]["message"] == sent["message"]
    assert bus.scheduled(command_id) == []


def test_the_limit_holds_for_retries_that_come_due_together(bus: Bus) -> None:
    command_ids = bus.send_new(10)
    bus.settle(bus.receive(), "RETRY", **errors(10, "TRANSIENT", delay=60))
    bus.make_retries_due()
    received = [ids_of(bus.receive(limit=4)) for _ in range(4)]
    assert [len(batch) for batch in received] == [4, 4, 2, 0]
    assert sorted(sum(received, [])) == sorted(command_ids)  # noqa: RUF017  (four short lists)


def test_retries_come_in_the_order_they_are_due(bus: Bus) -> None:
    command_ids = bus.send_new(3)
    delays = errors(3, "TRANSIENT") | {"delays": [30, 10, 20]}
    bus.settle(bus.receive(), "RETRY", **delays)
    bus.run("update commandbus.scheduled set due_at = due_at - interval '1 hour'")
    assert ids_of(bus.receive()) == [command_ids[1], command_ids[2], command_ids[0]]


def test_retries_of_another_domain_stay_where_they_are(bus: Bus) -> None:
    bus.create_domain("ship")
    (command_id,) = bus.send_new(domain="ship")
    bus.settle(bus.receive(domain="ship"), "RETRY", domain="ship", **errors(1, "TRANSIENT", delay=60))
    bus.make_retries_due()
    assert bus.receive() == []
    assert len(bus.scheduled(command_id)) == 1


def test_two_receives_at_once_enqueue_a_due_retry_once(bus: Bus) -> None:
    bus.send_new(2)
    bus.settle(bus.receive(), "RETRY", **errors(2, "TRANSIENT", delay=60))
    bus.make_retries_due()
    with open_bus(bus.url) as second:
        bus.run("begin")
        first = bus.receive(limit=1)
        late = second.receive()
        bus.run("commit")
    assert len(first) == len(late) == 1
    assert ids_of(first) != ids_of(late)
    assert bus.receive() == []


def test_readers_at_once_never_get_the_same_command(bus: Bus) -> None:
    command_ids = bus.send_new(1000)

    def read_all(own: Bus, _: int) -> list[UUID]:
        found: list[UUID] = []
        while received := own.receive(limit=7):
            found += ids_of(received)
        return found

    found = [command_id for part in in_parallel(bus.url, read_all, 8) for command_id in part]
    assert sorted(found) == sorted(command_ids)
    assert bus.value("select count(*) from commandbus.audit where event_type = 'RECEIVED'") == 1000


def test_a_reader_passes_over_what_another_is_about_to_take(bus: Bus) -> None:
    command_ids = bus.send_new(2)
    with open_bus(bus.url) as second:
        bus.run("begin")
        assert ids_of(bus.receive(limit=1)) == command_ids[:1]
        assert ids_of(second.receive()) == command_ids[1:]
        bus.run("rollback")
        assert ids_of(second.receive()) == command_ids[:1]


def test_a_send_that_commits_between_is_received_whole(bus: Bus) -> None:
    """The message must not be read and hidden while its command cannot be seen yet."""

    def send_or_read(own: Bus, number: int) -> int:
        if number < 2:
            return len([own.send_new() for _ in range(300)])
        started = 0
        for _ in range(400):
            received = own.receive(limit=5)
            assert [row["fault"] for row in received] == [None] * len(received)
            started += len(received)
        return started

    *sent, first, second = in_parallel(bus.url, send_or_read, 4)
    while received := bus.receive():
        first += len(received)
    assert first + second == sum(sent)


def test_the_arguments_have_limits(bus: Bus) -> None:
    for limit in (0, -1, 10_001, None):
        with refusal("CB007", "limit: must be 1 to 10,000"):
            bus.call("sp_receive_commands", domain=DOMAIN, limit=limit, visibility_timeout=30)
    for timeout in (0, -1, 86_401, None):
        with refusal("CB007", "visibility_timeout: must be 1 to 86,400"):
            bus.call("sp_receive_commands", domain=DOMAIN, limit=1, visibility_timeout=timeout)
    with refusal("CB005", "nowhere"):
        bus.receive(domain="nowhere")
    with refusal("CB007", "domain"):
        bus.receive(domain="Pay")


def test_only_a_receive_that_need_not_wait_for_the_disk_changes_how_its_transaction_commits(bus: Bus) -> None:
    bus.send_new(2)
    before = bus.value("show synchronous_commit")
    for waits, during in ((True, before), (False, "off")):
        with bus.connection.transaction():
            bus.call("sp_receive_commands", domain=DOMAIN, limit=1, visibility_timeout=9, wait_for_disk=waits)
            assert bus.value("show synchronous_commit") == during
        assert bus.value("show synchronous_commit") == before
