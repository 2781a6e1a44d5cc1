"""sp_operator_retry, sp_operator_cancel and sp_operator_complete, and the lists that operators read."""

from __future__ import annotations

from threading import Barrier
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from tests.integration.sql_helpers import (
    DOMAIN,
    QUEUE,
    REPLIES,
    Bus,
    errors,
    ids_of,
    in_parallel,
    in_thread,
    new_ids,
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


VERDICTS: dict[str, dict[str, object]] = {
    "retry": {"operator": "ann"},
    "cancel": {"operator": "ann", "reason": "sold"},
    "complete": {"operator": "ann", "result": Jsonb({"by": "hand"})},
}
VERBS = pytest.mark.parametrize("verb", VERDICTS)


def decide(bus: Bus, verb: str, *command_ids: UUID, **options: object) -> dict[UUID, str | None]:
    """Give an operator's verdict; return the refusals, None where there is none."""
    arguments = {"domain": DOMAIN, "command_ids": list(command_ids), **VERDICTS[verb], **options}
    rows = bus.call(f"sp_operator_{verb}", **arguments)
    assert len(rows) == len({row["command_id"] for row in rows})
    return {row["command_id"]: row["refusal"] for row in rows}


def park(bus: Bus, count: int = 1) -> tuple[UUID, list[UUID]]:
    """Move new commands of a new batch, which want replies, to the TSQ."""
    batch_id = bus.create_batch()
    return batch_id, bus.park(count, batch_id=batch_id, reply_queues=[REPLIES] * count)


def test_retry_queues_the_command_again_with_all_its_attempts(bus: Bus) -> None:
    batch_id = bus.create_batch()
    (command_id,) = bus.send_new(batch_id=batch_id, reply_queues=[REPLIES], max_attempts=[2])
    (sent,) = bus.queue()
    for outcome in ("RETRY", "TROUBLESHOOT"):
        bus.make_retries_due()
        bus.settle(bus.receive(), outcome, **errors(1, "TRANSIENT", delay=60))

    (answer,) = bus.call("sp_operator_retry", domain=DOMAIN, command_ids=[command_id], operator="ann")

    row = bus.command(command_id)
    (message,) = bus.queue()
    assert answer == {"command_id": command_id, "msg_id": message["msg_id"], "refusal": None}
    assert message["msg_id"] > sent["msg_id"]
    assert message["message"] == sent["message"]
    assert (row["status"], row["attempts"], row["msg_id"]) == ("PENDING", 0, message["msg_id"])
    assert (row["attention_at"], row["finished_at"], row["read_ct"]) == (None, None, None)
    assert bus.payload(command_id) == []
    assert bus.replies() == []
    assert bus.counts(batch_id) == (1, 0, 0, 0, 0)
    assert bus.events(command_id)[-1] == "OPERATOR_RETRY"
    assert bus.trail(command_id)[-1]["details"] == {"operator": "ann"}
    (again,) = bus.receive()
    assert (again["command_id"], again["attempts"], again["read_ct"]) == (command_id, 1, 1)
    assert bus.settle([again], "COMPLETED") == {}


def test_cancel_ends_the_command_and_says_so(bus: Bus) -> None:
    batch_id, (command_id,) = park(bus)
    assert decide(bus, "cancel", command_id) == {command_id: None}
    row = bus.command(command_id)
    assert row["status"] == "CANCELED"
    assert row["finished_at"] == row["attention_at"] == row["updated_at"]
    assert bus.queue() == []
    (reply,) = bus.replies()
    assert {
        "command_id": str(command_id),
        "correlation_id": str(command_id),
        "outcome": "CANCELED",
        "result": None,
        "error_message": "sold",
    }.items() <= reply.items()
    assert bus.counts(batch_id) == (1, 0, 0, 1, 0)
    assert bus.batch(batch_id)["status"] == "COMPLETED_WITH_FAILURES"
    assert bus.events(command_id)[-1] == "OPERATOR_CANCEL"
    assert bus.trail(command_id)[-1]["details"] == {"operator": "ann", "reason": "sold"}


def test_complete_ends_the_command_with_the_operators_result(bus: Bus) -> None:
    batch_id, (command_id,) = park(bus)
    assert decide(bus, "complete", command_id) == {command_id: None}
    row = bus.command(command_id)
    assert (row["status"], row["attention_at"]) == ("COMPLETED", None)
    assert row["finished_at"] is not None
    assert bus.replies() == [
        {
            "command_id": str(command_id),
            "correlation_id": str(command_id),
            "domain": DOMAIN,
            "outcome": "SUCCESS",
            "result": {"by": "hand"},
        }
    ]
    assert bus.counts(batch_id) == (1, 1, 0, 0, 0)
    assert bus.batch(batch_id)["status"] == "COMPLETED"
    assert bus.events(command_id)[-1] == "OPERATOR_COMPLETE"
    assert bus.trail(command_id)[-1]["details"] == {"operator": "ann", "result": {"by": "hand"}}


@VERBS
def test_one_call_decides_on_those_that_wait_and_says_why_not_of_the_others(bus: Bus, verb: str) -> None:
    _, waiting = park(bus, 3)
    _, retried = park(bus)
    decide(bus, "retry", *retried)
    running = bus.receive()
    pending, unknown = bus.send_new(), new_ids(1)
    ended = bus.send_new(2, domain=DOMAIN)
    received = [row for row in bus.receive() if row["command_id"] in ended]
    bus.settle(received, "COMPLETED", "FAILED", **errors(2, "BUSINESS_RULE"))
    before = {c: bus.command(c) for c in [*retried, *pending, *ended]}

    answers = decide(bus, verb, *waiting, *retried, *pending, *ended, *unknown)

    assert answers == {
        **dict.fromkeys(waiting),
        retried[0]: "IN_PROGRESS",
        pending[0]: "IN_PROGRESS",
        ended[0]: "COMPLETED",
        ended[1]: "FAILED",
        unknown[0]: "NOT_FOUND",
    }
    assert {c: bus.command(c) for c in before} == before
    assert ids_of(running) == retried


@VERBS
def test_a_verdict_on_a_command_that_has_one_is_refused(bus: Bus, verb: str) -> None:
    for first, status in (("retry", "PENDING"), ("cancel", "CANCELED"), ("complete", "COMPLETED")):
        _, (command_id,) = park(bus)
        decide(bus, first, command_id)
        before = bus.everything()
        assert decide(bus, verb, command_id) == {command_id: status}
        assert bus.everything() == before
        if first == "retry":
            bus.settle(bus.receive(), "COMPLETED")


@VERBS
def test_an_id_given_twice_is_decided_on_once(bus: Bus, verb: str) -> None:
    batch_id, (command_id,) = park(bus)
    assert decide(bus, verb, command_id, command_id) == {command_id: None}
    assert bus.counts(batch_id)[4] == 0
    assert bus.events(command_id).count(f"OPERATOR_{verb.upper()}") == 1


@VERBS
def test_a_thousand_in_one_call(bus: Bus, verb: str) -> None:
    batch_id, command_ids = park(bus, 1000)
    assert decide(bus, verb, *command_ids) == dict.fromkeys(command_ids)
    assert len(bus.queue()) == (1000 if verb == "retry" else 0)
    assert len(bus.replies()) == (0 if verb == "retry" else 1000)
    assert bus.counts(batch_id) == (
        1000,
        1000 if verb == "complete" else 0,
        0,
        1000 if verb == "cancel" else 0,
        0,
    )
    for row in bus.queue():
        assert bus.command(UUID(row["message"]["command_id"]))["msg_id"] == row["msg_id"]


@VERBS
def test_commands_of_another_domain_are_not_found(bus: Bus, verb: str) -> None:
    bus.create_domain("ship")
    (command_id,) = bus.park(1, domain="ship")
    assert decide(bus, verb, command_id) == {command_id: "NOT_FOUND"}
    assert bus.status(command_id, "ship") == "IN_TROUBLESHOOTING_QUEUE"


def test_what_cannot_be_decided_is_refused(bus: Bus) -> None:
    _, (command_id,) = park(bus)
    before = bus.everything()
    for verb in VERDICTS:
        with refusal("CB007", "domain"):
            decide(bus, verb, command_id, domain="Pay")
        for command_ids in ([], new_ids(10_001)):
            with refusal("CB007", "command_ids: 1 to 10,000"):
                decide(bus, verb, *command_ids)
    with refusal("CB005", "nowhere"):
        decide(bus, "retry", command_id, domain="nowhere")
    for reason in ("", None):
        with refusal("CB007", "reason"):
            decide(bus, "cancel", command_id, reason=reason)
    assert bus.everything() == before


@VERBS
def test_of_five_operators_on_one_command_one_wins(bus: Bus, verb: str) -> None:
    batch_id, (command_id,) = park(bus)
    together = Barrier(5)

    def act(own: Bus, number: int) -> tuple[str, str | None]:
        own_verb = [verb, *VERDICTS, verb][number]
        together.wait()
        return own_verb, decide(own, own_verb, command_id)[command_id]

    answers = in_parallel(bus.url, act, 5)
    (won,) = [own_verb for own_verb, refused in answers if refused is None]
    status = {"retry": "PENDING", "cancel": "CANCELED", "complete": "COMPLETED"}[won]
    assert [refused for _, refused in answers if refused] == [status] * 4
    assert bus.status(command_id) == status
    assert len(bus.queue()) == (won == "retry")
    assert len(bus.replies()) == (won != "retry")
    assert sum(event.startswith("OPERATOR_") for event in bus.events(command_id)) == 1
    assert bus.counts(batch_id) == (1, won == "complete", 0, won == "cancel", 0)


@pytest.mark.parametrize(("first", "second"), [("retry", "cancel"), ("cancel", "retry"), ("complete", "complete")])
def test_the_second_operator_waits_for_the_first_and_finds_it_decided(bus: Bus, first: str, second: str) -> None:
    _, (command_id,) = park(bus)
    with open_bus(bus.url) as watcher, open_bus(bus.url) as other:
        bus.run("begin")
        decide(bus, first, command_id)
        with in_thread(lambda: decide(other, second, command_id)) as late:
            watcher.wait_until_blocked()
            bus.run("commit")
            assert late.result() == {command_id: bus.status(command_id)}


def test_two_operators_with_the_same_thousand_in_opposite_order_share_them(bus: Bus) -> None:
    _, command_ids = park(bus, 1000)

    def cancel(own: Bus, number: int) -> int:
        ids = command_ids if number % 2 else command_ids[::-1]
        return sum(refused is None for refused in decide(own, "cancel", *ids).values())

    assert sum(in_parallel(bus.url, cancel, 4)) == 1000
    assert len(bus.replies()) == 1000


def test_an_operator_who_is_early_is_refused_and_the_settle_stands(bus: Bus) -> None:
    (command_id,) = bus.send_new()
    received = bus.receive()
    with open_bus(bus.url) as operator:
        bus.run("begin")
        bus.settle(received, "TROUBLESHOOT", **errors(1, "PERMANENT"))
        assert decide(operator, "cancel", command_id) == {command_id: "IN_PROGRESS"}
        bus.run("commit")
        assert decide(operator, "cancel", command_id) == {command_id: None}


def test_a_late_settle_after_an_operators_retry_is_stale(bus: Bus) -> None:
    (command_id,) = bus.send_new(max_attempts=[1])
    zombie = bus.receive()
    bus.expire_leases()
    assert [row["fault"] for row in bus.receive()] == ["CRASHED"]
    with open_bus(bus.url) as operator:
        operator.run("begin")
        decide(operator, "retry", command_id)
        assert bus.settle(zombie, "COMPLETED") == {command_id: "STALE"}
        operator.run("commit")
    for outcome in ("COMPLETED", "FAILED", "RETRY", "TROUBLESHOOT", "RELEASE"):
        assert bus.settle(zombie, outcome, **errors(1, "TRANSIENT", delay=1)) == {command_id: "STALE"}
    assert ids_of(bus.receive()) == [command_id]


def test_a_retry_whose_payload_is_lost_is_refused_rather_than_run_on_nothing(bus: Bus) -> None:
    lost, kept = bus.park(2)
    bus.run("delete from commandbus.payload_archive where command_id = %s", lost)
    assert decide(bus, "retry", lost, kept) == {lost: "NO_PAYLOAD", kept: None}
    assert bus.status(lost) == "IN_TROUBLESHOOTING_QUEUE"
    assert bus.events(lost)[-1] == "MOVED_TO_TSQ"
    assert ids_of(bus.receive()) == [kept]
    assert decide(bus, "cancel", lost) == {lost: None}


def test_an_operator_who_is_not_named_is_null_in_the_audit(bus: Bus) -> None:
    _, (command_id,) = park(bus)
    decide(bus, "complete", command_id, operator=None, result=None)
    assert bus.trail(command_id)[-1]["details"] == {"operator": None}
    assert bus.replies()[0]["result"] is None


@pytest.mark.direct("it listens on a session of its own")
def test_a_verdict_wakes_workers_or_those_who_wait_for_replies(bus: Bus) -> None:
    channels = {"retry": f"commandbus:{QUEUE}", "cancel": f"commandbus:{REPLIES}", "complete": f"commandbus:{REPLIES}"}
    for channel in set(channels.values()):
        bus.run(f'listen "{channel}"')
    for verb, channel in channels.items():
        for notify in (False, True):
            batch_id = bus.create_batch()
            (command_id,) = bus.send_new(batch_id=batch_id, reply_queues=[REPLIES], notify=False)
            received = [row for row in bus.receive() if row["command_id"] == command_id]
            bus.settle(received, "TROUBLESHOOT", notify=False, **errors(1, "PERMANENT"))
            decide(bus, verb, command_id, notify=notify)
            heard = list(bus.connection.notifies(timeout=10 if notify else 0, stop_after=1))
            assert [found.channel for found in heard] == ([channel] if notify else [])


def test_the_troubleshooting_lists(bus: Bus) -> None:
    bus.create_domain("ship")
    first = bus.park(3)
    second = bus.park(2, kind="refund")
    other = bus.park(1, domain="ship")
    decide(bus, "cancel", first[0])

    def listed(**options: Any) -> list[UUID]:
        rows = bus.rows(
            "select (command).command_id, payload from commandbus.list_troubleshooting("
            "%s::text, %s::text, %s::int, %s::int)",
            *(options.get(name) for name in ("domain", "command_type")),
            options.get("limit", 50),
            options.get("offset", 0),
        )
        assert all(row["payload"].keys() == {"n"} for row in rows)
        return ids_of(rows)

    assert sorted(listed()) == sorted([*first[1:], *second, *other])
    assert sorted(listed(domain=DOMAIN)[:2]) == sorted(first[1:])
    assert sorted(listed(domain=DOMAIN, command_type="refund")) == sorted(second)
    assert listed(limit=2) + listed(limit=10, offset=2) == listed()
    counted = bus.call("count_troubleshooting", domain=None)
    assert [tuple(row.values()) for row in counted] == [
        (DOMAIN, "charge", 2),
        (DOMAIN, "refund", 2),
        ("ship", "charge", 1),
    ]
    assert [row["waiting"] for row in bus.call("count_troubleshooting", domain=DOMAIN, command_type="refund")] == [2]
    assert [row["list_domains"] for row in bus.call("list_domains")] == [DOMAIN, "ship"]
    assert bus.call("find_domains", command_id=other[0]) == [{"find_domains": "ship"}]
    assert bus.call("find_domains", command_id=uuid4()) == []


def park_lost(bus: Bus) -> set[UUID]:
    """Park everything that has no message, however young; return the commands."""
    return {row["sp_park_lost"] for row in bus.rows("select * from commandbus.sp_park_lost('pay', now())")}


def test_commands_of_a_purged_queue_wait_for_an_operator(bus: Bus) -> None:
    batch_id = bus.create_batch()
    lost = bus.send_new(3, batch_id=batch_id)
    bus.rows("select pgmq.purge_queue(%s)", QUEUE)
    (alive,) = bus.send_new()
    assert park_lost(bus) == set(lost)
    assert park_lost(bus) == set()
    assert [bus.status(command_id) for command_id in (*lost, alive)] == ["IN_TROUBLESHOOTING_QUEUE"] * 3 + ["PENDING"]
    assert [row["event_type"] for row in bus.trail(lost[0])] == ["SENT", "FAILED", "MOVED_TO_TSQ"]
    assert bus.call("sp_operator_retry", domain=DOMAIN, command_ids=lost)[0]["refusal"] == "NO_PAYLOAD"
    assert bus.call("sp_operator_cancel", domain=DOMAIN, command_ids=lost, reason="purged")[0]["refusal"] is None


def test_what_runs_waits_for_its_retry_or_has_ended_is_not_lost(bus: Bus) -> None:
    bus.send_new(5)
    received = bus.receive(limit=4)
    bus.settle(received[:3], "COMPLETED", "RETRY", "TROUBLESHOOT", delays=[60.0] * 3)
    assert park_lost(bus) == set()


def test_a_message_that_was_archived_by_hand_can_be_retried(bus: Bus) -> None:
    (command_id,) = bus.send_new()
    bus.rows("select pgmq.archive(%s, %s)", QUEUE, bus.command(command_id)["msg_id"])
    assert park_lost(bus) == {command_id}
    assert bus.call("sp_operator_retry", domain=DOMAIN, command_ids=[command_id])[0]["refusal"] is None
    assert [row["command_id"] for row in bus.receive()] == [command_id]


def test_only_commands_sent_before_a_time_in_the_past_are_looked_at(bus: Bus) -> None:
    bus.send_new()
    bus.rows("select pgmq.purge_queue(%s)", QUEUE)
    assert bus.rows("select * from commandbus.sp_park_lost('pay')") == []
    with refusal("CB007", "before"):
        bus.rows("select * from commandbus.sp_park_lost('pay', now() + interval '1 minute')")
