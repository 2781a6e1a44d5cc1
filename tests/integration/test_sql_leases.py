"""sp_settle_commands: who may still end an attempt, and who comes too late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from psycopg.types.json import Jsonb

from tests.integration.sql_helpers import (
    DOMAIN,
    QUEUE,
    REPLIES,
    Bus,
    Row,
    errors,
    ids_of,
    in_parallel,
    in_thread,
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


def start(bus: Bus, count: int = 1, **options: Any) -> list[Row]:
    """Send commands that want replies, all of one batch, and begin their attempts."""
    batch_id = bus.create_batch()
    bus.send_new(count, batch_id=batch_id, reply_queues=[REPLIES] * count, **options)
    return bus.receive(limit=count)


def check_stale(bus: Bus, received: Row, outcome: str) -> None:
    """Settle by a lease that is no longer held; only an audit row may come of it."""
    before = [row for row in bus.everything() if row["place"] != "commandbus.audit"]
    events = bus.events(received["command_id"])
    verdicts = bus.settle([received], outcome, **errors(1, "TRANSIENT", delay=1))
    assert verdicts == {received["command_id"]: "STALE"}
    assert [row for row in bus.everything() if row["place"] != "commandbus.audit"] == before
    assert bus.events(received["command_id"]) == [*events, "STALE_SETTLE"]
    assert bus.trail(received["command_id"])[-1]["details"]["outcome"] == outcome


OUTCOMES = ["COMPLETED", "FAILED", "RETRY", "TROUBLESHOOT", "RELEASE"]


def test_a_lease_that_was_delivered_again_is_stale_for_every_outcome(bus: Bus) -> None:
    (first,) = start(bus)
    bus.expire_leases()
    (second,) = bus.receive()
    for outcome in OUTCOMES:
        check_stale(bus, first, outcome)
    assert bus.settle([second], "COMPLETED") == {}


@pytest.mark.parametrize("end", OUTCOMES)
def test_a_lease_that_was_settled_is_stale_for_every_other_outcome(bus: Bus, end: str) -> None:
    (received,) = start(bus)
    bus.settle([received], end, **errors(1, "TRANSIENT", delay=1))
    same = {end, "RELEASE", "RETRY"} if end in ("RELEASE", "RETRY") else {end}
    for outcome in OUTCOMES:
        if outcome not in same:
            check_stale(bus, received, outcome)


def test_a_released_command_is_still_delivered_after_a_late_settle(bus: Bus) -> None:
    (received,) = start(bus)
    bus.settle([received], "RELEASE")
    for outcome in OUTCOMES:
        bus.settle([received], outcome, **errors(1, "TRANSIENT", delay=1))
    assert ids_of(bus.receive()) == [received["command_id"]]


def test_a_released_lease_cannot_be_extended(bus: Bus) -> None:
    (received,) = start(bus)
    bus.settle([received], "RELEASE")
    (answer,) = bus.call(
        "sp_extend_leases",
        domain=DOMAIN,
        command_ids=[received["command_id"]],
        msg_ids=[received["msg_id"]],
        read_cts=[received["read_ct"]],
        visibility_timeout=600,
    )
    assert answer["renewed"] is False
    assert len(bus.receive()) == 1


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_repeated_settle_is_done_and_changes_nothing(bus: Bus, outcome: str) -> None:
    received = start(bus, 3)
    facts = errors(3, "TRANSIENT", delay=60)
    bus.settle(received, outcome, **facts)
    before = bus.everything()
    assert bus.settle(received, outcome, **facts) == dict.fromkeys(ids_of(received), "DONE")
    after = bus.everything()
    if outcome == "RELEASE":  # it may only be visible a little later
        before, after = ([row for row in rows if "__commands" not in row["place"]] for rows in (before, after))
    assert after == before


def test_a_set_with_some_stale_leases_settles_the_others_with_their_own_facts(bus: Bus) -> None:
    first = start(bus, 5)
    bus.run(f"update pgmq.q_{QUEUE} set vt = now() where msg_id = any(%s)", [first[1]["msg_id"], first[3]["msg_id"]])
    assert len(bus.receive()) == 2
    facts: dict[str, Any] = {"error_codes": ["E0", "E1", "E2", "E3", "E4"], "error_types": ["PERMANENT"] * 5}
    outcomes = ["TROUBLESHOOT", "TROUBLESHOOT", "FAILED", "COMPLETED", "TROUBLESHOOT"]
    facts["places"] = ["pay.py:0", "pay.py:1", "pay.py:2", "pay.py:3", "pay.py:4"]
    verdicts = bus.settle(first, *outcomes, reasons=["PERMANENT"] * 5, **facts)
    assert verdicts == {first[1]["command_id"]: "STALE", first[3]["command_id"]: "STALE"}
    rows = [bus.command(command_id) for command_id in ids_of(first)]
    assert [(row["status"], row["last_error_code"]) for row in rows] == [
        ("IN_TROUBLESHOOTING_QUEUE", "E0"),
        ("IN_PROGRESS", None),
        ("FAILED", "E2"),
        ("IN_PROGRESS", None),
        ("IN_TROUBLESHOOTING_QUEUE", "E4"),
    ]
    failed = bus.rows("select details->>'error_place' as place from commandbus.audit where event_type = 'FAILED'")
    assert sorted(row["place"] for row in failed) == ["pay.py:0", "pay.py:2", "pay.py:4"]
    for place in (0, 4):
        message = bus.payload(first[place]["command_id"])[0]["message"]
        assert message["command_id"] == str(first[place]["command_id"])


def test_both_leases_of_one_command_in_one_call_settle_once_and_name_the_stale_one(bus: Bus) -> None:
    (first,) = start(bus)
    bus.expire_leases()
    (second,) = bus.receive()
    assert bus.settle([first, second], "COMPLETED") == {first["command_id"]: "STALE"}
    assert bus.status(first["command_id"]) == "COMPLETED"
    assert bus.events(first["command_id"])[-2:] == ["COMPLETED", "STALE_SETTLE"]
    assert len(bus.replies()) == 1


def test_a_lease_given_twice_in_one_call_settles_once(bus: Bus) -> None:
    (received,) = start(bus)
    bus.settle([received, received], "COMPLETED")
    assert bus.events(received["command_id"]) == ["SENT", "RECEIVED", "COMPLETED"]
    assert len(bus.replies()) == 1
    assert bus.counts(received["batch_id"]) == (1, 1, 0, 0, 0)


def test_a_lease_that_names_another_command_loses_no_message(bus: Bus) -> None:
    first, second = start(bus, 2)
    wrong = first | {"command_id": second["command_id"]}
    unknown = first | {"command_id": uuid4()}
    for lease in (wrong, unknown):
        with refusal("CB007", "is not the message of command_id"):
            bus.settle([lease], "COMPLETED")
    assert len(bus.queue()) == 2
    assert bus.settle([first, second], "COMPLETED") == {}


def test_a_lease_of_an_unknown_command_is_stale_and_leaves_no_audit(bus: Bus) -> None:
    before = bus.everything()
    nothing = {"command_id": uuid4(), "msg_id": 99, "read_ct": 1}
    assert bus.settle([nothing], "COMPLETED") == {nothing["command_id"]: "STALE"}
    assert bus.everything() == before


def test_two_settles_of_one_lease_at_once_end_it_once(bus: Bus) -> None:
    (received,) = start(bus)
    with open_bus(bus.url) as watcher, open_bus(bus.url) as second:
        bus.run("begin")
        bus.settle([received], "COMPLETED")
        with in_thread(lambda: second.settle([received], "FAILED")) as late:
            watcher.wait_until_blocked()
            bus.run("commit")
            assert late.result() == {received["command_id"]: "STALE"}
    assert bus.status(received["command_id"]) == "COMPLETED"
    assert len(bus.replies()) == 1
    assert bus.counts(received["batch_id"]) == (1, 1, 0, 0, 0)


def test_eight_settlers_of_the_same_leases_end_each_once(bus: Bus) -> None:
    received = start(bus, 200)
    outcomes = ["COMPLETED", "FAILED", "RETRY", "TROUBLESHOOT"]

    def settle(own: Bus, number: int) -> int:
        outcome = outcomes[number % 4]
        return sum(own.settle([row], outcome, **errors(1, "TRANSIENT", delay=60)) == {} for row in received)

    assert sum(in_parallel(bus.url, settle, 8)) == 200
    ends = bus.value(
        "select count(*) from commandbus.audit where event_type in ('COMPLETED', 'FAILED') and attempt is not null"
    )
    assert ends == 200
    assert bus.queue() == []


def test_a_settle_rolled_back_by_its_caller_leaves_the_lease_held(bus: Bus) -> None:
    (received,) = start(bus)
    before = bus.everything()
    with bus.connection.transaction(force_rollback=True):
        assert bus.settle([received], "COMPLETED") == {}
    assert bus.everything() == before
    assert bus.settle([received], "COMPLETED") == {}


def test_what_cannot_be_settled_is_refused_before_anything_changes(bus: Bus) -> None:
    received = start(bus, 2)
    before = bus.everything()
    for outcome in ("PENDING", "completed", "", None):
        with refusal("CB007", "outcome: must be"):
            bus.settle(received, "COMPLETED", outcome)  # type: ignore[arg-type]  # None is one of them
    for delay in (None, -1, 31_536_001, float("nan"), float("inf")):
        with refusal("CB007", "delay: a retry needs one"):
            bus.settle(received, "RETRY", **errors(2, "TRANSIENT", delay=delay))
    with refusal("CB007", "delay: a retry needs one"):
        bus.settle(received, "RETRY")
    with refusal("CB007", "1 to 10,000 per call"):
        bus.settle([], "COMPLETED")
    with refusal("CB005", "nowhere"):
        bus.settle(received, "COMPLETED", domain="nowhere")
    leases: dict[str, list[Any]] = {
        "command_ids": ids_of(received),
        "msg_ids": [row["msg_id"] for row in received],
        "read_cts": [1, 1],
        "outcomes": ["COMPLETED"] * 2,
    }
    for short in ("msg_ids", "read_cts", "outcomes"):
        with refusal("CB007", "one element per command"):
            bus.call("sp_settle_commands", domain=DOMAIN, **leases | {short: leases[short][:1]})
    assert bus.everything() == before


def test_a_reply_whose_queue_was_dropped_waits_until_the_domain_is_made_again(bus: Bus) -> None:
    received = start(bus, 3)
    bus.run("select pgmq.drop_queue(%s)", REPLIES)
    assert bus.settle(received, "COMPLETED", results=[Jsonb(n) for n in range(3)]) == {}
    assert {bus.status(command_id) for command_id in ids_of(received)} == {"COMPLETED"}
    assert bus.value("select count(*) from commandbus.undelivered_reply where queue_name = %s", REPLIES) == 3

    assert bus.result("sp_create_domain", domain=DOMAIN) is True

    assert sorted(reply["command_id"] for reply in bus.replies()) == sorted(str(c) for c in ids_of(received))
    assert bus.rows("select * from commandbus.undelivered_reply") == []


def test_a_reply_that_missed_its_queue_while_it_was_made_is_delivered_by_the_next_create_domain(bus: Bus) -> None:
    received = start(bus)
    bus.run("select pgmq.drop_queue(%s)", REPLIES)
    with open_bus(bus.url) as creator:
        bus.run("begin")
        bus.settle(received, "COMPLETED")
        creator.create_domain()
        bus.run("commit")
        assert bus.replies() == []
        assert creator.result("sp_create_domain", domain=DOMAIN) is False
    assert len(bus.replies()) == 1


@pytest.mark.direct("it listens on a session of its own")
def test_a_settle_wakes_those_who_wait_for_replies_unless_told_not_to(bus: Bus) -> None:
    received = start(bus, 2)
    bus.run(f'listen "commandbus:{REPLIES}"')
    bus.settle(received[:1], "COMPLETED", notify=False)
    assert list(bus.connection.notifies(timeout=0)) == []
    bus.settle(received[1:], "COMPLETED")
    (notify,) = bus.connection.notifies(timeout=10, stop_after=1)
    assert (notify.channel, notify.payload) == (f"commandbus:{REPLIES}", "")


def test_no_payload_and_no_result_is_ever_audited(bus: Bus) -> None:
    command_ids = [uuid4() for _ in range(4)]
    bus.send(*command_ids, data=[Jsonb({"card": "CANARY"})] * 4, reply_queues=[REPLIES] * 4)
    outcomes = ["COMPLETED", "FAILED", "RETRY", "TROUBLESHOOT"]
    facts = errors(4, "TRANSIENT", delay=1) | {"details": [Jsonb({"card": "CANARY"})] * 4}
    bus.settle(bus.receive(), *outcomes, results=[Jsonb("CANARY")] * 4, **facts)
    assert bus.rows("select * from commandbus.audit a where a::text like '%%CANARY%%'") == []
