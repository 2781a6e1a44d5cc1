"""sp_finish_command, sp_extend_leases and sp_take_replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from tests.integration.sql_helpers import (
    DOMAIN,
    QUEUE,
    REPLIES,
    Bus,
    Row,
    ids_of,
    in_parallel,
    in_thread,
    open_bus,
    refusal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@pytest.fixture
def bus(database_url: str) -> Iterator[Bus]:
    """Give a database with one domain."""
    with open_bus(database_url) as found:
        found.create_domain()
        yield found


def finish(bus: Bus, command_id: UUID, status: str, event_type: str | None = "DONE_BY_TEST", **options: object) -> bool:
    """End the attempt of one command."""
    arguments = {"domain": DOMAIN, "command_id": command_id, "status": status, "event_type": event_type, **options}
    return bool(bus.result("sp_finish_command", **arguments))


def start(bus: Bus, **options: Any) -> UUID:
    """Send a command that wants a reply, and begin its attempt."""
    (command_id,) = bus.send_new(reply_queues=[REPLIES], **options)
    assert ids_of(bus.receive()) == [command_id]
    return command_id


ERROR = {"error_type": "PERMANENT", "error_code": "E_TEST", "error_msg": "it did not work"}


def test_finish_completed(bus: Bus) -> None:
    batch_id = bus.create_batch()
    command_id = start(bus, batch_id=batch_id)
    assert finish(bus, command_id, "COMPLETED", "COMPLETED", details=Jsonb({"took": 3}), batch_id=batch_id) is True
    row = bus.command(command_id)
    assert row["status"] == "COMPLETED"
    assert row["finished_at"] is not None
    assert bus.events(command_id) == ["SENT", "RECEIVED", "COMPLETED"]
    assert bus.trail(command_id)[-1]["details"] == {"took": 3}
    assert [reply["outcome"] for reply in bus.replies()] == ["SUCCESS"]
    assert bus.counts(batch_id) == (1, 1, 0, 0, 0)
    assert len(bus.queue()) == 1  # the caller's to delete


def test_finish_failed(bus: Bus) -> None:
    batch_id = bus.create_batch()
    command_id = start(bus, batch_id=batch_id)
    assert finish(bus, command_id, "FAILED", "BUSINESS_RULE_FAILED", **ERROR) is True
    row = bus.command(command_id)
    assert (row["status"], row["last_error_type"], row["last_error_code"]) == ("FAILED", "PERMANENT", "E_TEST")
    assert bus.events(command_id) == ["SENT", "RECEIVED", "BUSINESS_RULE_FAILED"]
    assert [(reply["outcome"], reply["error_code"]) for reply in bus.replies()] == [("FAILED", "E_TEST")]
    assert bus.counts(batch_id) == (1, 0, 1, 0, 0)


def test_finish_in_troubleshooting_queue_keeps_the_payload_for_a_retry(bus: Bus) -> None:
    batch_id = bus.create_batch()
    command_id = start(bus, batch_id=batch_id)
    (message,) = bus.queue()
    assert finish(bus, command_id, "IN_TROUBLESHOOTING_QUEUE", "MOVED_TO_TSQ", **ERROR) is False
    assert bus.status(command_id) == "IN_TROUBLESHOOTING_QUEUE"
    assert bus.events(command_id) == ["SENT", "RECEIVED", "MOVED_TO_TSQ"]
    assert bus.payload(command_id)[0]["message"] == message["message"]
    assert bus.replies() == []
    assert bus.counts(batch_id) == (1, 0, 0, 0, 1)
    bus.rows("select pgmq.archive(%s, %s)", QUEUE, message["msg_id"])
    bus.call("sp_operator_retry", domain=DOMAIN, command_ids=[command_id])
    assert [(row["command_id"], row["data"]) for row in bus.receive()] == [(command_id, '{"n": 0}')]


def test_finish_says_whether_the_batch_is_complete_now(bus: Bus) -> None:
    batch_id = bus.create_batch()
    first, second = bus.send_new(2, batch_id=batch_id)
    bus.receive()
    assert finish(bus, first, "COMPLETED") is False
    assert bus.events(batch_id) == ["BATCH_STARTED"]
    assert finish(bus, second, "COMPLETED") is True
    assert bus.events(batch_id) == ["BATCH_STARTED", "BATCH_COMPLETED"]
    assert finish(bus, start(bus), "COMPLETED") is False  # of no batch


def test_finish_refuses_a_command_that_is_not_in_progress(bus: Bus) -> None:
    (waiting,) = bus.send_new()
    with refusal("CB006", "is PENDING"):
        finish(bus, waiting, "COMPLETED")
    bus.receive()
    finish(bus, waiting, "COMPLETED")
    before = bus.everything()
    for status in ("COMPLETED", "FAILED", "IN_TROUBLESHOOTING_QUEUE"):
        with refusal("CB006", "is COMPLETED"):
            finish(bus, waiting, status)
    assert bus.everything() == before


def test_finish_refuses_what_it_does_not_know(bus: Bus) -> None:
    batch_id = bus.create_batch()
    command_id = start(bus, batch_id=batch_id)
    bus.create_domain("ship")
    before = bus.everything()
    with refusal("CB002", "not found"):
        finish(bus, uuid4(), "COMPLETED")
    with refusal("CB002", "not found"):
        finish(bus, command_id, "COMPLETED", domain="ship")
    with refusal("CB006", "is not of batch"):
        finish(bus, command_id, "COMPLETED", batch_id=uuid4())
    for status in ("PENDING", "IN_PROGRESS", "CANCELED", "", None):
        with refusal("CB007", "p_status"):
            finish(bus, command_id, status)  # type: ignore[arg-type]  # None is one of them
    with refusal("CB007", "p_event_type"):
        finish(bus, command_id, "COMPLETED", None)
    with refusal("CB005", "nowhere"):
        finish(bus, command_id, "COMPLETED", domain="nowhere")
    with refusal("CB007", "domain"):
        finish(bus, command_id, "COMPLETED", domain="Pay")
    assert bus.everything() == before


def test_two_finishes_of_one_command_at_once_end_it_once(bus: Bus) -> None:
    command_id = start(bus)
    with open_bus(bus.url) as watcher, open_bus(bus.url) as second:
        bus.run("begin")
        finish(bus, command_id, "COMPLETED")
        with in_thread(lambda: finish(second, command_id, "FAILED")) as late:
            watcher.wait_until_blocked()
            bus.run("commit")
            with refusal("CB006", "is COMPLETED"):
                late.result()
    assert [reply["outcome"] for reply in bus.replies()] == ["SUCCESS"]


def test_a_settle_after_a_finish_is_refused_and_takes_the_message_away(bus: Bus) -> None:
    (command_id,) = bus.send_new()
    received = bus.receive()
    finish(bus, command_id, "COMPLETED")
    assert bus.settle(received, "FAILED") == {command_id: "STALE"}
    assert bus.status(command_id) == "COMPLETED"
    assert bus.queue() == []


def extend(bus: Bus, received: Sequence[Row], seconds: int | None = 600) -> list[tuple[UUID, bool]]:
    """Extend leases; return what became of each."""
    rows = bus.call(
        "sp_extend_leases",
        domain=DOMAIN,
        command_ids=[row["command_id"] for row in received],
        msg_ids=[row["msg_id"] for row in received],
        read_cts=[row["read_ct"] for row in received],
        visibility_timeout=seconds,
    )
    return [(row["command_id"], row["renewed"]) for row in rows]


def test_an_extended_lease_lasts_from_now_on(bus: Bus) -> None:
    first, second = bus.send_new(2)
    received = bus.receive(timeout=5)
    bus.expire_leases()
    assert extend(bus, received[:1]) == [(first, True)]
    (message, _) = bus.queue()
    seconds = bus.value("select extract(epoch from %s - clock_timestamp())::float8", message["vt"])
    assert 590 < seconds <= 600
    assert bus.command(first)["lease_expires_at"] == message["vt"]
    assert ids_of(bus.receive()) == [second]
    assert bus.events(first) == ["SENT", "RECEIVED"]


def test_a_lease_that_was_delivered_again_is_not_renewed(bus: Bus) -> None:
    bus.send_new(2)
    first = bus.receive()
    bus.run(f"update pgmq.q_{QUEUE} set vt = now() where msg_id = %s", first[0]["msg_id"])
    (second,) = bus.receive()
    before = bus.queue()[0]
    assert extend(bus, first) == [(first[0]["command_id"], False), (first[1]["command_id"], True)]
    assert bus.queue()[0] == before
    assert extend(bus, [first[0], second]) == [(second["command_id"], False), (second["command_id"], True)]


def test_a_settled_or_unknown_lease_is_not_renewed(bus: Bus) -> None:
    (command_id,) = bus.send_new()
    received = bus.receive()
    bus.settle(received, "COMPLETED")
    unknown = {"command_id": uuid4(), "msg_id": 99, "read_ct": 1}
    before = bus.everything()
    assert extend(bus, [*received, unknown]) == [(command_id, False), (unknown["command_id"], False)]
    assert bus.everything() == before


def test_an_extension_has_limits(bus: Bus) -> None:
    bus.send_new()
    received = bus.receive()
    for seconds in (0, -1, 86_401, None):
        with refusal("CB007", "visibility_timeout"):
            extend(bus, received, seconds)
    assert extend(bus, []) == []


def take(bus: Bus, command_ids: Sequence[UUID], queue: str = REPLIES) -> list[str]:
    """Take replies; return the ids they answer."""
    rows = bus.call("sp_take_replies", queue=queue, command_ids=list(command_ids))
    return sorted(row["sp_take_replies"]["command_id"] for row in rows)


def texts(command_ids: Sequence[UUID]) -> list[str]:
    """Return ids as the messages hold them, sorted."""
    return sorted(str(command_id) for command_id in command_ids)


def test_take_replies_takes_only_those_asked_for_and_each_once(bus: Bus) -> None:
    command_ids = bus.send_new(6, reply_queues=[REPLIES] * 6)
    assert take(bus, command_ids) == []
    bus.settle(bus.receive(), "COMPLETED")
    assert take(bus, [command_ids[4], uuid4(), command_ids[1]]) == texts([command_ids[1], command_ids[4]])
    assert take(bus, [command_ids[4]]) == []
    assert len(bus.replies()) == 4
    assert take(bus, command_ids) == texts([command_ids[n] for n in (0, 2, 3, 5)])
    assert bus.replies() == []


@pytest.mark.direct("it sets up its session")
def test_take_replies_waits_for_nobody_who_is_taking_others(bus: Bus) -> None:
    first, second = bus.send_new(2, reply_queues=[REPLIES] * 2)
    bus.settle(bus.receive(), "COMPLETED")
    with open_bus(bus.url) as other:
        other.run("set lock_timeout = 100")
        bus.run("begin")
        assert take(bus, [first]) == [str(first)]
        assert take(other, [first, second]) == [str(second)]
        bus.run("rollback")
        assert take(other, [first, second]) == [str(first)]


def test_many_takers_at_once_take_each_reply_once(bus: Bus) -> None:
    command_ids = bus.send_new(400, reply_queues=[REPLIES] * 400)
    bus.settle(bus.receive(limit=400), "COMPLETED")

    def take_all(own: Bus, _: int) -> list[str]:
        return [reply for n in range(400) for reply in take(own, command_ids[n : n + 9])]

    taken = in_parallel(bus.url, take_all, 4)
    assert sorted(reply for part in taken for reply in part) == texts(command_ids)


def test_take_replies_refuses_any_other_queue(bus: Bus) -> None:
    for queue in ("ship__replies", QUEUE, "pay", '"', "", None):
        with refusal("CB005", "reply_to"):
            bus.call("sp_take_replies", queue=queue, command_ids=[uuid4()])


@pytest.mark.parametrize(
    "event_type", ["OPERATOR_COMPLETE", " operator_edit", "BATCH_COMPLETED", "REDRIVE_STARTED", "DOMAIN_PAUSED"]
)
def test_who_ends_an_attempt_cannot_write_what_an_operator_did(bus: Bus, event_type: str) -> None:
    command_id = start(bus)
    with refusal("CB007", "event_type"):
        finish(bus, command_id, "COMPLETED", event_type, details=Jsonb({"operator": "boss"}))
    assert bus.status(command_id) == "IN_PROGRESS"


@pytest.mark.parametrize("event_type", ["OPERATOR_RETRY", "operator_retry ", "\tSENT"])
def test_the_librarys_events_cannot_be_forged_by_their_spelling(bus: Bus, event_type: str) -> None:
    with refusal("CB006", "written by commandbus only"):
        bus.call("log_event", domain=DOMAIN, command_id=uuid4(), event_type=event_type)
