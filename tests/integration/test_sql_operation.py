"""What operators look at and do to many commands: groups of failures, edits, redrives, pauses, workers, pages."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from commandbus.console.attention import STALE
from commandbus.operations import _KNOWN as KNOWN
from tests.integration.sql_helpers import (
    DOMAIN,
    REPLIES,
    Bus,
    errors,
    ids_of,
    in_thread,
    new_ids,
    open_bus,
    refusal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ZEROS = UUID(int=0)
AGO = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture
def bus(database_url: str) -> Iterator[Bus]:
    """Give a database with one domain."""
    with open_bus(database_url) as found:
        found.create_domain()
        yield found


def fail(bus: Bus, *texts: str, kind: str = "charge", code: str = "BROKEN") -> list[UUID]:
    """Let one command for each text fail for good with it."""
    command_ids = bus.send_new(len(texts), kind=kind)
    received = bus.receive()
    refused = bus.settle(
        received,
        "TROUBLESHOOT",
        error_types=["PERMANENT"] * len(texts),
        error_codes=[code] * len(texts),
        error_msgs=list(texts),
        reasons=["PERMANENT"] * len(texts),
    )
    assert refused == {}
    return command_ids


def groups(bus: Bus) -> list[tuple[str, str, int]]:
    """Return type, text and number of each group."""
    found = bus.call("list_failure_groups", domain=DOMAIN)
    return [(row["command_type"], row["error_text"], row["waiting"]) for row in found]


def test_failures_that_differ_in_numbers_ids_and_quoted_words_are_one_group(bus: Bus) -> None:
    fail(
        bus,
        f"account 'A-1' of {uuid4()} lacks 12.50, see 0xBEEF",
        f"account 'B-22'  of {uuid4()} lacks 7, see 0x01",
        "the host is away",
    )
    fail(bus, "the host is away", kind="refund")
    fail(bus, "the host is away", code="AWAY")
    assert sorted(groups(bus)) == [
        ("charge", "account <text> of <uuid> lacks <number>, see <hex>", 2),
        ("charge", "the host is away", 1),
        ("charge", "the host is away", 1),
        ("refund", "the host is away", 1),
    ]


def test_a_group_knows_its_commands_and_since_when_they_wait(bus: Bus) -> None:
    first, second = fail(bus, "lacks 1", "lacks 2")
    fail(bus, "away")
    (group,) = [row for row in bus.call("list_failure_groups") if row["waiting"] == 2]
    times = [bus.command(command_id)["attention_at"] for command_id in (first, second)]
    assert (group["first_seen"], group["last_seen"]) == (min(times), max(times))
    assert group["example_id"] in {first, second}
    key = group["failure_key"]
    assert {r["list_troubleshooting_ids"] for r in bus.call("list_troubleshooting_ids", domain=DOMAIN, failure_key=key)}
    assert len(bus.call("list_troubleshooting", domain=DOMAIN, failure_key=key)) == 2
    assert len(bus.call("find_commands", failure_key=key)) == 2


@pytest.mark.parametrize("verb", ["retry", "cancel", "complete"])
def test_a_command_leaves_its_group_with_the_verdict(bus: Bus, verb: str) -> None:
    (command_id,) = fail(bus, "away")
    reason = {"reason": "sold"} if verb == "cancel" else {}
    bus.call(f"sp_operator_{verb}", domain=DOMAIN, command_ids=[command_id], **reason)
    assert groups(bus) == []
    assert bus.command(command_id)["failure_key"] is None


def test_every_way_into_the_troubleshooting_queue_leads_into_a_group(bus: Bus) -> None:
    (crashed,) = bus.send_new(max_attempts=[1])
    bus.receive()
    bus.expire_leases()
    bus.receive()
    (finished,) = bus.send_new()
    bus.receive()
    bus.call(
        "sp_finish_command",
        domain=DOMAIN,
        command_id=finished,
        status="IN_TROUBLESHOOTING_QUEUE",
        event_type="FAILED",
        error_code="BY_HAND",
    )
    (lost,) = bus.send_new()
    bus.run("delete from pgmq.q_pay__commands")
    bus.call("sp_park_lost", domain=DOMAIN, before=bus.value("select now()"))
    waiting = {
        row["command_id"] for row in bus.rows("select command_id from commandbus.command where failure_key is not null")
    }
    assert waiting == {crashed, finished, lost}


def test_a_reason_of_a_retry_and_a_completion_is_audited(bus: Bus) -> None:
    first, second = fail(bus, "away", "away")
    bus.call("sp_operator_retry", domain=DOMAIN, command_ids=[first], operator="ann", reason="host is back")
    bus.call("sp_operator_complete", domain=DOMAIN, command_ids=[second], operator="ann", reason="by phone")
    assert bus.trail(first)[-1]["details"] == {"operator": "ann", "reason": "host is back"}
    assert bus.trail(second)[-1]["details"] == {"operator": "ann", "reason": "by phone"}


def test_the_reason_of_a_completion_is_no_error_in_the_reply(bus: Bus) -> None:
    (command_id,) = bus.park(reply_queues=[REPLIES])
    bus.call("sp_operator_complete", domain=DOMAIN, command_ids=[command_id], reason="by phone")
    assert {"error_message", "error_code"} & set(bus.replies()[0]) == set()


def test_an_edit_queues_other_data_and_keeps_both_versions(bus: Bus) -> None:
    (command_id,) = bus.park()
    msg_id = bus.result(
        "sp_operator_edit",
        domain=DOMAIN,
        command_id=command_id,
        data=Jsonb({"n": 7}),
        operator="ann",
        reason="typing error",
    )
    edited, retried = bus.trail(command_id)[-2:]
    assert edited["event_type"] == "OPERATOR_EDIT"
    assert edited["details"] == {"operator": "ann", "reason": "typing error", "before": {"n": 0}, "after": {"n": 7}}
    assert retried["event_type"] == "OPERATOR_RETRY"
    (received,) = bus.receive()
    assert (received["msg_id"], received["data"], received["attempts"]) == (msg_id, '{"n": 7}', 1)


def test_an_edit_makes_a_command_whole_whose_message_was_lost(bus: Bus) -> None:
    (command_id,) = bus.park()
    bus.run("delete from commandbus.payload_archive")
    bus.call("sp_operator_edit", domain=DOMAIN, command_id=command_id, data=Jsonb({"n": 7}))
    assert bus.receive()[0]["data"] == '{"n": 7}'


def test_an_edit_may_be_as_large_as_a_send(bus: Bus) -> None:
    (command_id,) = bus.park()
    large = Jsonb({"text": "x" * 300_000})
    with refusal("CB007", "data: larger than 262144 bytes"):
        bus.call("sp_operator_edit", domain=DOMAIN, command_id=command_id, data=large)
    bus.call("sp_operator_edit", domain=DOMAIN, command_id=command_id, data=large, max_payload_bytes=400_000)


def test_an_edit_of_what_does_not_wait_changes_nothing(bus: Bus) -> None:
    (command_id,) = bus.send_new()
    before = bus.everything()
    with refusal("CB006", "PENDING"):
        bus.call("sp_operator_edit", domain=DOMAIN, command_id=command_id, data=Jsonb({}))
    with refusal("CB002"):
        bus.call("sp_operator_edit", domain=DOMAIN, command_id=uuid4(), data=Jsonb({}))
    (parked,) = new_ids(1)
    with refusal("CB007", "data"):
        bus.call("sp_operator_edit", domain=DOMAIN, command_id=parked, data=Jsonb([1]))
    assert bus.everything() == before


def test_of_two_edits_at_once_one_wins(bus: Bus, database_url: str) -> None:
    (command_id,) = bus.park()
    edit = {"domain": DOMAIN, "command_id": command_id}
    with (
        open_bus(database_url) as other,
        open_bus(database_url) as watcher,
        ExitStack() as stack,
    ):
        with other.connection.transaction():
            other.call("sp_operator_edit", **edit, data=Jsonb({"n": 1}))
            late = in_thread(lambda: bus.call("sp_operator_edit", **edit, data=Jsonb({"n": 2})))
            second = stack.enter_context(late)
            watcher.wait_until_blocked()
        with refusal("CB006"):
            second.result(timeout=10)
    assert [row["data"] for row in bus.receive()] == ['{"n": 1}']


def test_a_paused_domain_gives_out_nothing_until_it_is_resumed(bus: Bus) -> None:
    running = bus.send_new()
    received = bus.receive()
    waiting = bus.send_new()
    assert bus.result("sp_pause_domain", domain=DOMAIN, operator="ann", reason="host is away") is True
    assert bus.result("sp_pause_domain", domain=DOMAIN) is False
    assert bus.receive() == []
    assert bus.call("sp_receive_command", domain=DOMAIN, command_id=waiting[0]) == []
    assert bus.settle(received, "COMPLETED") == {}
    assert bus.status(running[0]) == "COMPLETED"
    row = bus.call("overview", domain=DOMAIN)[0]
    assert (row["paused_by"], row["pause_reason"], row["depth"]) == ("ann", "host is away", 1)
    assert bus.result("sp_resume_domain", domain=DOMAIN, operator="bob") is True
    assert bus.result("sp_resume_domain", domain=DOMAIN) is False
    assert [row["command_id"] for row in bus.receive()] == waiting
    assert bus.events(ZEROS) == ["DOMAIN_PAUSED", "DOMAIN_RESUMED"]
    assert bus.trail(ZEROS)[0]["details"] == {"operator": "ann", "reason": "host is away"}


def test_a_domain_without_a_queue_cannot_be_paused(bus: Bus) -> None:
    with refusal("CB005"):
        bus.call("sp_pause_domain", domain="nobody")


def start(bus: Bus, **options: Any) -> UUID:
    """Start a redrive."""
    chosen = {"command_ids": None, "failure_key": None, "rate": 10.0, **options}
    return UUID(str(bus.result("sp_start_redrive", domain=DOMAIN, **chosen)))


def pass_time(bus: Bus, seconds: float) -> None:
    """Let the redrives believe that time went by."""
    bus.run(
        f"update commandbus.redrive set stepped_at = stepped_at - interval '{seconds} seconds',"
        f" looked_at = looked_at - interval '{seconds} seconds', seen_at = seen_at - interval '{seconds} seconds'"
    )


def step(bus: Bus) -> int:
    return int(bus.result("sp_step_redrives", domain=DOMAIN))


def redrive(bus: Bus, redrive_id: UUID) -> tuple[str, int, int, int, int]:
    """Return status, total, sent, refused and failed."""
    (row,) = bus.rows("select * from commandbus.redrive where redrive_id = %s", redrive_id)
    counts = [row[f"{name}_count"] for name in ("total", "sent", "refused", "failed")]
    return (row["status"], *counts)


def test_a_redrive_of_an_id_is_started_once_though_two_ask_at_the_same_moment(bus: Bus) -> None:
    bus.park(3)
    redrive_id = uuid4()
    with open_bus(bus.url) as watcher, open_bus(bus.url) as other:
        bus.run("begin")
        assert start(bus, redrive_id=redrive_id) == redrive_id
        with in_thread(lambda: start(other, redrive_id=redrive_id)) as late:
            watcher.wait_until_blocked()
            bus.run("commit")
            with refusal("CB006", "exists"):
                late.result()
    assert redrive(bus, redrive_id)[:2] == ("RUNNING", 3)
    assert bus.value("select count(*) from commandbus.redrive_item") == 3


def test_a_redrive_starts_though_others_hold_commands_and_redrives(bus: Bus) -> None:
    bus.park(3)
    start(bus)
    with open_bus(bus.url) as other, other.connection.transaction():
        other.run("select from commandbus.command for update")
        other.run("select from commandbus.redrive for update")
        bus.run("set lock_timeout = '1s'")
        assert redrive(bus, start(bus))[:2] == ("RUNNING", 3)


def test_a_redrive_queues_its_selection_again_at_its_rate_longest_waiting_first(bus: Bus) -> None:
    command_ids = bus.park(12)
    by_age = [row["list_troubleshooting_ids"] for row in bus.call("list_troubleshooting_ids", domain=DOMAIN)]
    redrive_id = start(bus, rate=0.2, operator="ann", reason="host is back")
    for sent in range(1, 12):
        assert step(bus) == 1
        assert redrive(bus, redrive_id)[:3] == ("RUNNING", 12, sent)
        assert {UUID(row["message"]["command_id"]) for row in bus.queue()} == set(by_age[:sent])
        pass_time(bus, 5)
    assert step(bus) == 0
    assert redrive(bus, redrive_id) == ("COMPLETED", 12, 12, 0, 0)
    assert bus.events(redrive_id) == ["REDRIVE_STARTED", "REDRIVE_COMPLETED"]
    assert bus.trail(command_ids[0])[-1]["details"] == {
        "operator": "ann",
        "reason": f"redrive {redrive_id}: host is back",
    }
    assert len(bus.receive()) == 12


def test_a_fast_redrive_queues_a_thousand_in_a_step_and_keeps_its_credit(bus: Bus) -> None:
    bus.park(2_000)
    redrive_id = start(bus, rate=1_000)
    pass_time(bus, 2)
    step(bus)
    assert redrive(bus, redrive_id)[2] == 1_000
    step(bus)
    assert redrive(bus, redrive_id)[:3] == ("COMPLETED", 2_000, 2_000)


def test_a_slow_redrive_moves_and_a_long_silence_is_not_made_up_for(bus: Bus) -> None:
    bus.park(20)
    slow = start(bus, rate=0.01, limit=2)
    step(bus)
    pass_time(bus, 50)
    step(bus)
    assert redrive(bus, slow)[2] == 1
    pass_time(bus, 51)
    step(bus)
    assert redrive(bus, slow)[:3] == ("COMPLETED", 2, 2)
    fast = start(bus, rate=2)
    pass_time(bus, 3_600)
    step(bus)
    assert redrive(bus, fast)[:3] == ("RUNNING", 18, 10)


def test_a_redrive_takes_a_frozen_selection(bus: Bus) -> None:
    chosen = fail(bus, "lacks 1", "lacks 2")
    fail(bus, "away")
    (key,) = {bus.command(command_id)["failure_key"] for command_id in chosen}
    redrive_id = start(bus, failure_key=key)
    fail(bus, "lacks 3")
    assert redrive(bus, redrive_id)[1] == 2
    assert redrive(bus, start(bus, command_ids=[chosen[0], uuid4()]))[1] == 1
    assert redrive(bus, start(bus))[1] == 4


def test_what_somebody_decided_before_its_turn_is_refused_not_sent_twice(bus: Bus) -> None:
    first, second = bus.park(2)
    redrive_id = start(bus, rate=100)
    bus.call("sp_operator_cancel", domain=DOMAIN, command_ids=[first], reason="sold")
    pass_time(bus, 1)
    assert step(bus) == 0
    assert redrive(bus, redrive_id) == ("COMPLETED", 2, 1, 1, 0)
    assert [row["command_id"] for row in bus.receive()] == [second]


def test_a_redrive_stops_when_too_many_fail_again(bus: Bus) -> None:
    bus.park(10)
    redrive_id = start(bus, rate=0.2, stop_after=2)
    for failed in (0, 1):
        assert step(bus) == 1
        assert redrive(bus, redrive_id) == ("RUNNING", 10, failed + 1, 0, failed)
        bus.settle(bus.receive(), "TROUBLESHOOT", **errors(1, "PERMANENT"))
        pass_time(bus, 5)
    assert step(bus) == 0
    assert redrive(bus, redrive_id) == ("STOPPED", 10, 2, 0, 2)
    assert bus.trail(redrive_id)[-1]["details"]["reason"] == "too many failed again"
    (row,) = bus.call("get_redrive", redrive_id=redrive_id)
    assert (row["completed"], row["again"]) == (0, 2)


def test_a_redrive_is_paused_resumed_and_stopped_by_operators(bus: Bus) -> None:
    bus.park(3)
    redrive_id = start(bus, rate=0.2)
    assert bus.result("sp_control_redrive", redrive_id=redrive_id, action="PAUSE", operator="ann") == "PAUSED"
    pass_time(bus, 9)
    assert step(bus) == 0
    with refusal("CB006", "PAUSED"):
        bus.call("sp_control_redrive", redrive_id=redrive_id, action="PAUSE")
    assert bus.result("sp_control_redrive", redrive_id=redrive_id, action="RESUME") == "RUNNING"
    assert step(bus) == 1
    assert redrive(bus, redrive_id)[2] == 0, "the time of the pause is not made up for"
    assert bus.result("sp_control_redrive", redrive_id=redrive_id, action="STOP") == "STOPPED"
    for action in ("PAUSE", "RESUME", "STOP"):
        with refusal("CB006", "STOPPED"):
            bus.call("sp_control_redrive", redrive_id=redrive_id, action=action)
    with refusal("CB006", "not found"):
        bus.call("sp_control_redrive", redrive_id=uuid4(), action="STOP")
    with refusal("CB007", "action"):
        bus.call("sp_control_redrive", redrive_id=redrive_id, action="RUN")
    assert bus.events(redrive_id) == ["REDRIVE_STARTED", "REDRIVE_PAUSED", "REDRIVE_RESUMED", "REDRIVE_STOPPED"]


def test_redrives_take_turns_one_a_call(bus: Bus) -> None:
    bus.park(4)
    first, second = start(bus, rate=0.2, limit=2), start(bus, rate=0.2)
    sent = []
    for _ in range(2):
        assert step(bus) == 2
        sent.append([sum(redrive(bus, one)[2:4]) for one in (first, second)])
    assert sent == [[1, 0], [1, 1]]


def test_operators_and_redrives_of_one_batch_never_deadlock(bus: Bus, database_url: str) -> None:
    batch_id = bus.create_batch()
    bus.park(400, batch_id=batch_id)
    waiting = [row["list_troubleshooting_ids"] for row in bus.call("list_troubleshooting_ids", domain=DOMAIN)]
    for part in (waiting[0::2], waiting[1::2]):
        start(bus, command_ids=part, rate=100)

    def decide() -> None:
        with open_bus(database_url) as operator:
            for place in range(0, 400, 10):
                operator.call("sp_operator_retry", domain=DOMAIN, command_ids=waiting[::-1][place : place + 10])

    with in_thread(decide) as operator:
        while not operator.done():
            pass_time(bus, 0.1)
            step(bus)
        operator.result()
    assert bus.counts(batch_id) == (400, 0, 0, 0, 0)


def test_a_locked_command_holds_up_its_own_redrive_only(bus: Bus, database_url: str) -> None:
    held, free = bus.park(2)
    first, second = start(bus, command_ids=[held], rate=100), start(bus, command_ids=[free], rate=100)
    bus.run("set lock_timeout = 0")
    bus.run("set statement_timeout = '15s'")  # another error than that of a lock
    with open_bus(database_url) as other, other.connection.transaction():
        other.run("select from commandbus.command where command_id = %s for update", held)
        assert step(bus) == 2
        assert step(bus) == 1
        assert [redrive(bus, one)[:3] for one in (first, second)] == [("RUNNING", 1, 0), ("COMPLETED", 1, 1)]
    assert step(bus) == 0
    assert redrive(bus, first)[:3] == ("COMPLETED", 1, 1)


def test_an_operator_waits_longer_for_a_step_than_a_step_for_a_command(bus: Bus, database_url: str) -> None:
    held, _ = bus.park(2)
    redrive_id = start(bus, rate=100)
    pass_time(bus, 1)
    with open_bus(database_url) as other, open_bus(database_url) as worker:
        with other.connection.transaction():
            other.run("select from commandbus.command where command_id = %s for update", held)
            with in_thread(lambda: step(worker)) as stepped:
                bus.wait_until_blocked()
                assert bus.result("sp_control_redrive", redrive_id=redrive_id, action="STOP") == "STOPPED"
                assert stepped.result() == 1
        with other.connection.transaction():
            other.run("select from commandbus.redrive where redrive_id = %s for update", redrive_id)
            bus.run("set lock_timeout = 0")
            bus.run("set statement_timeout = '15s'")  # another error than that of a lock
            with refusal("55P03"):
                bus.call("sp_control_redrive", redrive_id=redrive_id, action="STOP")


def outcomes(bus: Bus, redrive_id: UUID) -> dict[str, int]:
    """Return what became of what a redrive queued, but for what never happened."""
    (row,) = bus.call("get_redrive", redrive_id=redrive_id)
    names = ("completed", "failed", "canceled", "again", "forgotten")
    return {name: row[name] for name in names if row[name]}


def let_end(bus: Bus, count: int, outcome: str) -> None:
    """Let the next commands of the queue end."""
    received = bus.receive(limit=count)
    assert bus.settle(received, outcome, **errors(count, "PERMANENT")) == {}


def test_what_becomes_of_queued_commands_is_told_and_stays_told(bus: Bus) -> None:
    bus.park(7)
    redrive_id = start(bus, rate=1_000)
    pass_time(bus, 1)
    step(bus)
    let_end(bus, 2, "COMPLETED")
    let_end(bus, 1, "TROUBLESHOOT")
    let_end(bus, 1, "TROUBLESHOOT")
    newest = bus.value("select command_id from commandbus.command order by attention_at desc nulls last limit 1")
    bus.call("sp_operator_cancel", domain=DOMAIN, command_ids=[newest], reason="sold")
    known = {"completed": 2, "canceled": 1, "again": 1}
    assert outcomes(bus, redrive_id) == known, "before anybody has counted"
    pass_time(bus, 1)
    step(bus)
    assert outcomes(bus, redrive_id) == known
    assert redrive(bus, redrive_id) == ("COMPLETED", 7, 7, 0, 1)
    bus.run("delete from commandbus.command where status = 'COMPLETED'")
    let_end(bus, 1, "COMPLETED")
    bus.run("delete from commandbus.command where status = 'COMPLETED'")
    assert outcomes(bus, redrive_id) == {**known, "forgotten": 1}, "nobody counted this one in time"
    let_end(bus, 2, "COMPLETED")
    pass_time(bus, 1)
    step(bus)
    assert outcomes(bus, redrive_id) == {"completed": 4, "canceled": 1, "again": 1, "forgotten": 1}
    assert bus.value("select is_counted from commandbus.redrive")


def test_more_ends_than_one_look_counts_are_counted_round_by_round(bus: Bus) -> None:
    bus.park(4_500)
    redrive_id = start(bus, rate=1_000)
    for _ in range(5):
        pass_time(bus, 1)
        step(bus)
    let_end(bus, 4_499, "COMPLETED")
    for _ in range(4):
        assert outcomes(bus, redrive_id)["completed"] < 4_500
        pass_time(bus, 1)
        assert step(bus) == 1, "workers come again soon while there is something to count"
    assert outcomes(bus, redrive_id) == {"completed": 4_499}
    bus.run("update commandbus.redrive set counted_at = counted_at - interval '11 seconds'")
    assert step(bus) == 0, "and seldom while nothing ends"
    let_end(bus, 1, "COMPLETED")
    pass_time(bus, 1)
    step(bus)
    assert outcomes(bus, redrive_id) == {"completed": 4_500}


def test_two_workers_step_a_redrive_once(bus: Bus, database_url: str) -> None:
    bus.park(30)
    redrive_id = start(bus, rate=0.2)
    with open_bus(database_url) as other:
        with bus.connection.transaction():
            step(bus)
            step(other)
        step(other)
    assert redrive(bus, redrive_id)[2] == 1


@pytest.mark.parametrize(
    ("options", "sqlstate", "text"),
    [
        ({"rate": 0}, "CB007", "rate"),
        ({"rate": float("nan")}, "CB007", "rate"),
        ({"rate": 10_001}, "CB007", "rate"),
        ({"stop_after": 0}, "CB007", "stop_after"),
        ({"limit": 0}, "CB007", "commands"),
        ({"command_ids": [uuid4()]}, "CB006", "nothing"),
        ({"failure_key": uuid4()}, "CB006", "nothing"),
    ],
)
def test_a_redrive_of_nothing_or_out_of_range_is_refused(
    bus: Bus, options: dict[str, object], sqlstate: str, text: str
) -> None:
    bus.park()
    with refusal(sqlstate, text):
        start(bus, **options)
    assert bus.call("list_redrives") == []


def beat(bus: Bus, worker_id: UUID, **options: Any) -> None:
    """Let a worker say that it lives."""
    said = {"host": "here", "pid": 7, "concurrency": 4, "in_flight": 1, "counts": [0] * 4, "waits": [], "runs": []}
    bus.call("sp_worker_beat", worker_id=worker_id, domain=DOMAIN, **{**said, **options})


def test_workers_are_seen_while_they_beat(bus: Bus) -> None:
    first, second = uuid4(), uuid4()
    beat(bus, first)
    beat(bus, second, pid=8, concurrency=6)
    beat(bus, first, in_flight=3)
    assert [(w["worker_id"], w["in_flight"]) for w in bus.call("list_workers")] == [(first, 3), (second, 1)]
    assert [(row["workers"], row["capacity"]) for row in bus.call("overview")] == [(2, 10)]
    # The console calls the same ones silent.
    for silence, alive in ((STALE - timedelta(seconds=8), (2, 10)), (STALE + timedelta(seconds=1), (1, 6))):
        bus.run("update commandbus.worker set seen_at = now() - %s where worker_id = %s", silence, first)
        assert [(row["workers"], row["capacity"]) for row in bus.call("overview")] == [alive]
    bus.call("sp_worker_gone", worker_id=second)
    assert [w["worker_id"] for w in bus.call("list_workers", domain=DOMAIN)] == [first]


def test_throughput_adds_up_over_workers_time_and_domains(bus: Bus) -> None:
    bus.send_new(3)
    beat(bus, uuid4(), counts=[1, 2, 3, 4], waits=[1, 0, 1], runs=[5])
    beat(bus, uuid4(), counts=[10, 0, 0, 0], waits=[0, 1], runs=[0, 0, 0, 2])
    bus.run("update commandbus.throughput set at = at - interval '10 minutes' where seconds = 10")
    beat(bus, uuid4(), counts=[1, 0, 0, 0])
    one, two = bus.call("list_throughput", domain=DOMAIN, after=AGO)
    assert [one[k] for k in ("completed", "failed", "retried", "parked", "depth")] == [11, 2, 3, 4, 3]
    assert (one["waits"], one["runs"]) == ([1, 1, 1, 0], [5, 0, 0, 2])
    assert (one["enqueued"], two["enqueued"]) == (None, None), "nobody knows when it was sent in these ten minutes"
    assert two["completed"] == 1
    (day,) = bus.call("list_throughput", domain=None, after=AGO, seconds=86_400)[-1:]
    assert day["completed"] in {1, 12}  # midnight may lie between the two
    assert bus.call("list_throughput", domain="other", after=AGO) == []
    with refusal("CB007", "seconds"):
        bus.call("list_throughput", domain=DOMAIN, after=AGO, seconds=9)


def test_sends_are_known_only_next_to_a_look_that_is_not_long_ago(bus: Bus) -> None:
    for seconds, sent in ((240, 10), (10, 2), (10, 0), (60, 3)):
        beat(bus, uuid4())
        bus.run("update commandbus.throughput set at = at - %s * interval '1 second' where seconds = 10", seconds)
        if sent:
            bus.send_new(sent)
    beat(bus, uuid4())
    found = bus.call("list_throughput", domain=DOMAIN, after=AGO)
    assert [piece["enqueued"] for piece in found] == [None, None, 2, 0, None]
    assert (
        sum(piece["enqueued"] or 0 for piece in bus.call("list_throughput", domain=None, after=AGO, seconds=3600)) == 2
    )


@pytest.mark.parametrize(("seconds", "length"), [(60, 30), (360, 180), (1_200, 600), (86_400, 3_600)])
def test_pieces_are_made_of_the_longest_that_are_kept(bus: Bus, seconds: int, length: int) -> None:
    bus.send_new(2)
    beat(bus, uuid4(), counts=[5, 0, 0, 1], waits=[0, 5])
    bus.run("delete from commandbus.throughput where seconds <> %s", length)
    beat(bus, uuid4())
    found = bus.call("list_throughput", domain=None, after=AGO, seconds=seconds)
    assert sum(piece["completed"] for piece in found) == 5
    assert found[-1]["depth"] == 2
    assert sum(sum(piece["waits"]) for piece in found) == 5


def test_pieces_are_kept_for_longer_than_operations_promise(bus: Bus) -> None:
    kept = {row["seconds"]: row["kept"] for row in bus.rows("select * from commandbus._pieces()")}
    assert {length for length, _ in KNOWN} == set(kept)
    for length, seconds in KNOWN:
        assert kept[length] > timedelta(seconds=seconds + length)


def test_short_pieces_are_forgotten_first_a_step_at_a_time(bus: Bus) -> None:
    beat(bus, uuid4())
    bus.run("update commandbus.throughput set at = at - interval '9 hours'")
    assert [bus.result("sp_prune_throughput", limit=1) for _ in range(3)] == [1, 1, 0]
    kept = bus.rows("select seconds from commandbus.throughput order by seconds")
    assert [row["seconds"] for row in kept] == [180, 600, 3_600]


def test_old_throughput_is_forgotten(bus: Bus) -> None:
    beat(bus, uuid4())
    bus.run("update commandbus.throughput set at = at - interval '9 days'")
    bus.run("update commandbus.worker set seen_at = seen_at - interval '2 days'")
    beat(bus, uuid4())
    assert bus.result("sp_prune_throughput") == 6
    assert bus.value("select count(*) from commandbus.throughput") == 5
    assert bus.value("select count(*) from commandbus.worker") == 1


def test_leases_show_what_workers_have(bus: Bus) -> None:
    one, two = bus.send_new(2)
    assert bus.call("list_leases", domain=DOMAIN) == []
    bus.receive(limit=1)
    (lease,) = bus.call("list_leases", domain=DOMAIN)
    assert (lease["command_id"], lease["attempts"], lease["read_ct"]) == (one, 1, 1)
    bus.enqueue_by_hand({"command_id": "no id"})
    bus.receive()
    assert {lease["command_id"] for lease in bus.call("list_leases", domain=DOMAIN)} == {one, two}


def pages(bus: Bus, limit: int, **filters: object) -> tuple[list[UUID], int]:
    """Walk through all pages; return the ids in order, and how many calls it took."""
    found: list[UUID] = []
    key: dict[str, object] = {}
    for calls in range(1, 1_000):
        rows = bus.rows(
            "select (command).command_id, (command).created_at, resume_at, resume_id from commandbus.find_commands("
            + ", ".join(f"p_{name} => %s" for name in {**filters, **key, "limit": limit})
            + ")",
            *{**filters, **key, "limit": limit}.values(),
        )
        commands = [row for row in rows if row["resume_id"] is None]
        found += [row["command_id"] for row in commands]
        if len(rows) > len(commands):
            key = {"before_at": rows[-1]["resume_at"], "before_id": rows[-1]["resume_id"]}
        elif len(commands) == limit:
            key = {"before_at": commands[-1]["created_at"], "before_id": commands[-1]["command_id"]}
        else:
            return found, calls
    raise AssertionError


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_pages_show_every_command_once_newest_first(bus: Bus, limit: int) -> None:
    sent = [bus.send_new(5) for _ in range(3)]
    found, _ = pages(bus, limit)
    assert sorted(found) == sorted(i for ids in sent for i in ids)
    assert [set(found[n : n + 5]) for n in (0, 5, 10)] == [set(ids) for ids in reversed(sent)]


def test_a_search_that_looks_at_a_few_at_a_time_finds_everything(bus: Bus) -> None:
    bus.send_new(20)
    rare = bus.send_new(2, kind="rare")
    bus.send_new(20)
    found, calls = pages(bus, 2, command_type="rare", scan=5)
    assert sorted(found) == sorted(rare)
    assert calls > 4
    assert sorted(pages(bus, 2, text="RAR", scan=5)[0]) == sorted(rare)


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_pages_of_what_waits_show_every_command_once_longest_waiting_first(bus: Bus, limit: int) -> None:
    bus.create_domain("ship")
    for domain, kind in ((DOMAIN, "charge"), ("ship", "charge"), (DOMAIN, "refund"), (DOMAIN, "charge")):
        bus.park(4, domain=domain, kind=kind)  # the four at the same moment
    (key,) = bus.rows("select distinct failure_key from commandbus.command where command_type = 'refund'")
    for filters, where in (
        ({}, "true"),
        ({"domain": DOMAIN}, "domain = 'pay'"),
        ({"command_type": "charge"}, "command_type = 'charge'"),
        ({"domain": DOMAIN, "failure_key": key["failure_key"]}, "command_type = 'refund'"),
    ):
        expected = ids_of(
            bus.rows(f"select command_id from commandbus.command where {where} order by attention_at, command_id")
        )
        found: list[UUID] = []
        place: dict[str, object] = {}
        while len(found) <= len(expected):
            page = bus.rows(
                "select (command).command_id, (command).attention_at from commandbus.list_troubleshooting("
                + ", ".join(f"p_{name} => %s" for name in (*filters, *place, "limit"))
                + ")",
                *filters.values(),
                *place.values(),
                limit,
            )
            if not page:
                break
            if "domain" in filters:
                ids = bus.call("list_troubleshooting_ids", **filters, **place, limit=limit)
                assert [row["list_troubleshooting_ids"] for row in ids] == ids_of(page)
            found += ids_of(page)
            place = {"after_at": page[-1]["attention_at"], "after_id": page[-1]["command_id"]}
        assert found == expected, filters


def test_a_text_is_looked_for_among_a_few_of_those_that_wait_at_a_time(bus: Bus) -> None:
    rare = [*fail(bus, "it broke", kind="rare"), *fail(bus, "it broke", kind="rare")]
    for _ in range(8):
        fail(bus, "it broke", kind="charge")
    bus.send_new(20)
    for filters in ({"text": "RARE"}, {"command_type": "rare"}):
        found, calls = pages(bus, 1, status="IN_TROUBLESHOOTING_QUEUE", scan=3, **filters)
        assert sorted(found) == sorted(rare)
        assert calls < 8  # what does not wait is not looked at
    assert pages(bus, 3, status="IN_TROUBLESHOOTING_QUEUE", scan=3, text="it")[0] == [
        row["command_id"] for row in bus.rows("select command_id from commandbus.command where failure_key is not null"
                                              " order by created_at desc, command_id desc")
    ]  # fmt: skip


def test_what_failed_is_found_in_pieces_of_all_domains_in_order(bus: Bus) -> None:
    bus.create_domain("ship")
    for domain in (DOMAIN, "ship", DOMAIN, DOMAIN, "ship", DOMAIN):
        bus.send_new(5, domain=domain)
        received = bus.receive(domain=domain)
        bus.settle(received, *["FAILED", "TROUBLESHOOT", "FAILED", "TROUBLESHOOT", "FAILED"], domain=domain,
                   **errors(5, "PERMANENT"))  # fmt: skip
        bus.call("sp_operator_cancel", domain=domain, command_ids=[received[1]["command_id"]], reason="sold")
    for status in ("FAILED", "CANCELED", "IN_TROUBLESHOOTING_QUEUE"):
        expected = [
            row["command_id"]
            for row in bus.rows(
                "select command_id from commandbus.command where status = %s order by created_at desc, command_id desc",
                status,
            )
        ]
        for limit, scan in ((1, 2), (2, 3), (3, 50_000), (100, 100)):
            assert pages(bus, limit, status=status, scan=scan)[0] == expected, (status, limit, scan)


def test_commands_are_found_by_everything_they_have(bus: Bus) -> None:
    batch_id, correlation_id = bus.create_batch(), uuid4()
    (one,) = bus.send_new(batch_id=batch_id, correlation_ids=[correlation_id])
    bus.receive()
    (two,) = fail(bus, "the Host is away", kind="refund", code="NO_HOST")
    bus.create_domain("ship")
    (three,) = bus.send_new(domain="ship")
    for filters, expected in (
        ({"domain": "ship"}, {three}),
        ({"status": "IN_TROUBLESHOOTING_QUEUE"}, {two}),
        ({"status": "IN_PROGRESS"}, {one}),
        ({"batch_id": batch_id}, {one}),
        ({"domain": DOMAIN, "batch_id": batch_id}, {one}),
        ({"correlation_id": correlation_id}, {one}),
        ({"id": correlation_id}, {one}),
        ({"id": two}, {two}),
        ({"text": "host is"}, {two}),
        ({"text": "no_host"}, {two}),
        ({"text": str(three)[:20]}, {three}),
        ({"text": "100%"}, set()),
        ({"created_before": AGO}, set()),
        ({"created_after": AGO, "command_type": "charge"}, {one, three}),
    ):
        assert set(pages(bus, 10, **filters)[0]) == expected, filters


def test_the_message_is_found_wherever_it_is(bus: Bus) -> None:
    (command_id,) = bus.send_new()

    def place() -> list[tuple[str, object]]:
        rows = bus.call("get_message", domain=DOMAIN, command_id=command_id)
        return [(row["place"], row["message"]["data"]) for row in rows]

    assert place() == [("QUEUE", {"n": 0})]
    bus.settle(bus.receive(), "RETRY", **errors(1, "TRANSIENT", delay=60))
    assert place() == [("SCHEDULED", {"n": 0})]
    bus.make_retries_due()
    bus.settle(bus.receive(), "TROUBLESHOOT", **errors(1, "PERMANENT"))
    assert place() == [("TSQ", {"n": 0})]
    bus.call("sp_operator_retry", domain=DOMAIN, command_ids=[command_id])
    bus.settle(bus.receive(), "COMPLETED")
    assert place() == []
    assert bus.call("get_message", domain="nobody", command_id=command_id) == []
