"""Batches: counters, start, completion, and what an operator's verdict does to them."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from tests.integration.sql_helpers import (
    DOMAIN,
    QUEUE,
    REPLIES,
    Bus,
    errors,
    in_parallel,
    in_thread,
    new_ids,
    open_bus,
    refusal,
)
from tests.support import batch_counters_off

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bus(database_url: str) -> Iterator[Bus]:
    """Give a database with one domain."""
    with open_bus(database_url) as found:
        found.create_domain()
        yield found


def count(bus: Bus, batch_id: UUID, update_type: str | None) -> bool:
    """Count one transition."""
    return bool(bus.result("sp_update_batch_counters", domain=DOMAIN, batch_id=batch_id, update_type=update_type))


def completions(bus: Bus) -> list[dict[str, object]]:
    """Return the completion messages in the reply queue."""
    return [reply for reply in bus.replies() if reply.get("event") == "BATCH_COMPLETED"]


def test_create_batch_makes_an_empty_one(bus: Bus) -> None:
    batch_id = bus.create_batch(name="night run", custom_data=Jsonb({"by": "cron"}), completion_queue=REPLIES)
    row = bus.batch(batch_id)
    assert (row["status"], row["name"], row["custom_data"]) == ("PENDING", "night run", {"by": "cron"})
    assert (row["started_at"], row["completed_at"], row["completion_queue"]) == (None, None, REPLIES)
    assert bus.counts(batch_id) == (0, 0, 0, 0, 0)


def test_create_batch_refuses_what_it_cannot_make(bus: Bus) -> None:
    batch_id = bus.create_batch()
    with refusal("CB006", "exists"):
        bus.call("sp_create_batch", domain=DOMAIN, batch_id=batch_id)
    with refusal("CB007", "domain"):
        bus.create_batch("Pay")
    for queue in ("ship__replies", QUEUE, ""):
        with refusal("CB005", "reply_to"):
            bus.create_batch(completion_queue=queue)


@pytest.mark.counters_off
def test_each_update_type_moves_its_own_counters(bus: Bus) -> None:
    batch_id = bus.create_batch()
    bus.send_new(10, batch_id=batch_id)
    steps = {
        "complete": (10, 1, 0, 0, 0),
        "fail": (10, 1, 1, 0, 0),
        "tsq_move": (10, 1, 1, 0, 1),
        "tsq_complete": (10, 2, 1, 0, 0),
    }
    for update_type, counts in steps.items():
        assert count(bus, batch_id, update_type) is False
        assert bus.counts(batch_id) == counts
    count(bus, batch_id, "tsq_move")
    assert count(bus, batch_id, "tsq_cancel") is False
    assert bus.counts(batch_id) == (10, 2, 1, 1, 0)
    count(bus, batch_id, "tsq_move")
    assert count(bus, batch_id, "tsq_retry") is False
    assert bus.counts(batch_id) == (10, 2, 1, 1, 0)
    for unknown in ("", "COMPLETE", "retry", None):
        with refusal("CB007", "p_update_type"):
            count(bus, batch_id, unknown)


@pytest.mark.counters_off
def test_the_three_tsq_functions_count_an_operators_verdict(bus: Bus) -> None:
    batch_id = bus.create_batch()
    bus.send_new(3, batch_id=batch_id)
    for _ in range(3):
        count(bus, batch_id, "tsq_move")
    assert bus.result("sp_tsq_retry", domain=DOMAIN, batch_id=batch_id) == ""  # void
    assert bus.counts(batch_id) == (3, 0, 0, 0, 2)
    assert bus.result("sp_tsq_complete", domain=DOMAIN, batch_id=batch_id) is False
    assert bus.result("sp_tsq_cancel", domain=DOMAIN, batch_id=batch_id) is False
    assert bus.counts(batch_id) == (3, 1, 0, 1, 0)
    count(bus, batch_id, "tsq_move")
    assert bus.result("sp_tsq_complete", domain=DOMAIN, batch_id=batch_id) is True
    assert bus.batch(batch_id)["status"] == "COMPLETED_WITH_FAILURES"


def test_an_unknown_batch_is_refused_everywhere(bus: Bus) -> None:
    for function in ("sp_start_batch", "sp_tsq_complete", "sp_tsq_cancel", "sp_tsq_retry"):
        with refusal("CB004", "not found"):
            bus.call(function, domain=DOMAIN, batch_id=uuid4())
    with refusal("CB004", "not found"):
        count(bus, uuid4(), "complete")
    with refusal("CB004", "not found"):
        count(bus, bus.create_batch("ship"), "complete")


def test_counters_never_leave_their_range(bus: Bus) -> None:
    batch_id = bus.create_batch()
    bus.park(1, batch_id=batch_id)
    before = bus.everything()
    with refusal("23514", "batch_counts_ck"):
        count(bus, batch_id, "complete")
    bus.call("sp_operator_retry", domain=DOMAIN, command_ids=[bus.value("select command_id from commandbus.command")])
    for update_type in ("tsq_complete", "tsq_cancel", "tsq_retry"):
        with refusal("23514", "batch_counts_ck"):
            count(bus, batch_id, update_type)
    assert bus.counts(batch_id) == (1, 0, 0, 0, 0)
    assert before != bus.everything()


def test_a_batch_starts_once(bus: Bus) -> None:
    batch_id = bus.create_batch()
    assert bus.result("sp_start_batch", domain=DOMAIN, batch_id=batch_id) is True
    started = bus.batch(batch_id)
    assert started["status"] == "IN_PROGRESS"
    assert started["started_at"] is not None
    assert bus.result("sp_start_batch", domain=DOMAIN, batch_id=batch_id) is False
    assert bus.batch(batch_id) == started
    assert bus.events(batch_id) == ["BATCH_STARTED"]


def test_eight_starts_at_once_start_a_batch_once(bus: Bus) -> None:
    batch_ids = [bus.create_batch() for _ in range(20)]

    def start(own: Bus, _: int) -> int:
        return sum(own.result("sp_start_batch", domain=DOMAIN, batch_id=batch_id) for batch_id in batch_ids)

    assert sum(in_parallel(bus.url, start, 8)) == 20


def test_a_batch_that_all_commands_completed_is_completed(bus: Bus) -> None:
    batch_id = bus.create_batch()
    bus.send_new(3, batch_id=batch_id)
    bus.settle(bus.receive(limit=2), "COMPLETED")
    assert (bus.batch(batch_id)["status"], bus.batch(batch_id)["completed_at"]) == ("IN_PROGRESS", None)
    bus.settle(bus.receive(), "COMPLETED")
    row = bus.batch(batch_id)
    assert row["status"] == "COMPLETED"
    assert row["completed_at"] is not None
    assert bus.events(batch_id) == ["BATCH_STARTED", "BATCH_COMPLETED"]
    assert bus.trail(batch_id)[-1]["details"] == {
        "status": "COMPLETED",
        "total_count": 3,
        "completed_count": 3,
        "failed_count": 0,
        "canceled_count": 0,
    }


def test_one_failed_or_canceled_command_makes_it_completed_with_failures(bus: Bus) -> None:
    failed, canceled = bus.create_batch(), bus.create_batch()
    bus.send_new(2, batch_id=failed)
    bus.settle(bus.receive(), "COMPLETED", "FAILED", **errors(2, "BUSINESS_RULE"))
    (command_id,) = bus.park(1, batch_id=canceled)
    bus.call("sp_operator_cancel", domain=DOMAIN, command_ids=[command_id], reason="no")
    assert bus.counts(failed) == (2, 1, 1, 0, 0)
    assert bus.counts(canceled) == (1, 0, 0, 1, 0)
    assert {bus.batch(b)["status"] for b in (failed, canceled)} == {"COMPLETED_WITH_FAILURES"}


def test_a_command_in_the_tsq_keeps_its_batch_open_through_retries_until_the_last_verdict(bus: Bus) -> None:
    batch_id = bus.create_batch(completion_queue=REPLIES)
    done, parked = bus.send_new(2, batch_id=batch_id)
    bus.settle(bus.receive(), "COMPLETED", "TROUBLESHOOT", **errors(2, "PERMANENT"))
    assert bus.counts(batch_id) == (2, 1, 0, 0, 1)
    for _ in range(2):
        assert bus.batch(batch_id)["status"] == "IN_PROGRESS"
        bus.call("sp_operator_retry", domain=DOMAIN, command_ids=[parked])
        assert bus.counts(batch_id) == (2, 1, 0, 0, 0)
        assert bus.batch(batch_id)["status"] == "IN_PROGRESS"
        bus.settle(bus.receive(), "TROUBLESHOOT", **errors(1, "PERMANENT"))
        assert completions(bus) == []
    bus.call("sp_operator_complete", domain=DOMAIN, command_ids=[parked])
    assert bus.counts(batch_id) == (2, 2, 0, 0, 0)
    assert bus.batch(batch_id)["status"] == "COMPLETED"
    assert bus.events(batch_id) == ["BATCH_STARTED", "BATCH_COMPLETED"]
    assert len(completions(bus)) == 1
    assert bus.status(done) == "COMPLETED"


def test_the_completion_message_is_sent_once_with_the_last_end(bus: Bus) -> None:
    batch_id = bus.create_batch(name="night run", completion_queue=REPLIES)
    bus.send_new(2, batch_id=batch_id)
    received = bus.receive()
    bus.settle(received[:1], "COMPLETED")
    assert completions(bus) == []
    bus.settle(received[1:], "FAILED", **errors(1, "BUSINESS_RULE"))
    bus.settle(received, "COMPLETED")
    (message,) = completions(bus)
    assert {
        "batch_id": str(batch_id),
        "domain": DOMAIN,
        "name": "night run",
        "status": "COMPLETED_WITH_FAILURES",
        "total_count": 2,
        "completed_count": 1,
        "failed_count": 1,
        "canceled_count": 0,
    }.items() <= message.items()


def test_the_completion_message_commits_with_the_last_end_or_not_at_all(bus: Bus) -> None:
    batch_id = bus.create_batch(completion_queue=REPLIES)
    bus.send_new(1, batch_id=batch_id)
    received = bus.receive()
    with open_bus(bus.url) as other:
        with bus.connection.transaction(force_rollback=True):
            bus.settle(received, "COMPLETED")
            assert len(completions(bus)) == 1
            assert completions(other) == []
        assert completions(bus) == []
        assert bus.batch(batch_id)["status"] == "IN_PROGRESS"
        bus.settle(received, "COMPLETED")
        assert len(completions(other)) == 1


def test_a_completion_message_whose_queue_was_dropped_waits_for_it(bus: Bus) -> None:
    bus.send_new(1, batch_id=bus.create_batch(completion_queue=REPLIES))
    bus.run("select pgmq.drop_queue(%s)", REPLIES)
    bus.settle(bus.receive(), "COMPLETED")
    bus.create_domain()
    assert len(completions(bus)) == 1


def test_the_last_two_ends_at_once_complete_a_batch_once(bus: Bus) -> None:
    batch_id = bus.create_batch(completion_queue=REPLIES)
    bus.send_new(2, batch_id=batch_id)
    first, second = bus.receive()
    with open_bus(bus.url) as watcher, open_bus(bus.url) as other:
        bus.run("begin")
        bus.settle([first], "COMPLETED")
        with in_thread(lambda: other.settle([second], "COMPLETED")) as late:
            watcher.wait_until_blocked()
            bus.run("commit")
            assert late.result() == {}
    assert bus.counts(batch_id) == (2, 2, 0, 0, 0)
    assert bus.batch(batch_id)["status"] == "COMPLETED"
    assert len(completions(bus)) == 1


def test_a_set_counts_once_per_batch(bus: Bus) -> None:
    batch_ids = [bus.create_batch() for _ in range(3)]
    for batch_id in batch_ids:
        bus.send_new(20, batch_id=batch_id)
    received = bus.receive()
    versions = "select xmin::text from commandbus.batch order by batch_id"
    before = bus.rows(versions)
    updates = "select pg_stat_get_xact_tuples_updated('commandbus.batch'::regclass)"
    with bus.connection.transaction():
        started = bus.value(updates)
        bus.settle(received, "COMPLETED")
        assert bus.value(updates) - started == 3
    assert bus.rows(versions) != before


def test_interleaved_batches_of_eight_workers_neither_deadlock_nor_miscount(bus: Bus) -> None:
    batch_ids = [bus.create_batch(completion_queue=REPLIES) for _ in range(12)]
    random = Random(7)
    for _ in range(40):
        for batch_id in random.sample(batch_ids, 12):
            bus.send(*new_ids(2), batch_id=batch_id)

    def work(own: Bus, number: int) -> int:
        choices = Random(number)
        ended = 0
        while received := own.receive(limit=20):
            outcomes = choices.choices(["COMPLETED", "FAILED", "TROUBLESHOOT"], [6, 2, 2], k=len(received))
            own.settle(received, *outcomes, **errors(len(received), "PERMANENT"))
            parked = [row["command_id"] for row, outcome in zip(received, outcomes, strict=True) if outcome[0] == "T"]
            choices.shuffle(parked)
            if parked:
                verdict = choices.choice(["retry", "cancel", "complete"])
                reason = {"reason": "no"} if verdict == "cancel" else {}
                own.call(f"sp_operator_{verdict}", domain=DOMAIN, command_ids=parked, **reason)
            ended += len(received)
        return ended

    assert sum(in_parallel(bus.url, work, 8)) >= 960
    while received := bus.receive():
        bus.settle(received, "COMPLETED")
    assert batch_counters_off(bus.url) == []
    assert all(bus.batch(batch_id)["status"].startswith("COMPLETED") for batch_id in batch_ids)
    assert len(completions(bus)) == 12


def test_a_command_sent_while_another_ends_is_counted(bus: Bus) -> None:
    batch_id = bus.create_batch()
    bus.send_new(1, batch_id=batch_id)
    received = bus.receive()
    with open_bus(bus.url) as watcher, open_bus(bus.url) as worker:
        bus.run("begin")
        bus.send_new(1, batch_id=batch_id)
        with in_thread(lambda: worker.settle(received, "COMPLETED")) as late:
            watcher.wait_until_blocked()
            bus.run("commit")
            assert late.result() == {}
    assert bus.counts(batch_id) == (2, 1, 0, 0, 0)
    assert bus.batch(batch_id)["status"] == "IN_PROGRESS"


def test_list_batches_and_their_commands(bus: Bus) -> None:
    first, second, third = (bus.create_batch() for _ in range(3))
    command_ids = bus.send_new(3, batch_id=second)
    bus.settle(bus.receive(limit=1), "COMPLETED")

    def batches(**options: object) -> list[UUID]:
        return [row["batch_id"] for row in bus.call("list_batches", domain=DOMAIN, **options)]

    def commands(**options: object) -> list[UUID]:
        rows = bus.call("list_batch_commands", domain=DOMAIN, batch_id=second, **options)
        return [row["command_id"] for row in rows]

    assert batches() == [third, second, first]
    assert batches(limit=1, offset=1) == [second]
    assert batches(status="IN_PROGRESS") == [second]
    assert sorted(commands()) == sorted(command_ids)
    assert commands(status="COMPLETED") == command_ids[:1]
    assert commands(limit=2) + commands(limit=2, offset=2) == commands()
