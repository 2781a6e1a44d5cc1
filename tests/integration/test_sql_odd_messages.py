"""Messages that somebody put into a command queue, or changed there, by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from tests.integration.sql_helpers import DOMAIN, QUEUE, Bus, ids_of, open_bus

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bus(database_url: str) -> Iterator[Bus]:
    """Give a database with one domain."""
    with open_bus(database_url) as found:
        found.create_domain()
        yield found


def forged(command_id: object, **changes: object) -> dict[str, Any]:
    """Return a message that looks right."""
    return {"command_id": str(command_id), "command_type": "charge", "domain": DOMAIN, "data": {}} | changes


def nested(depth: int) -> str:
    """Return JSON text of arrays in arrays."""
    return "[" * depth + "]" * depth


STRAYS: dict[str, object] = {
    "SQL null": None,
    "null": "null",
    "true": "true",
    "a number": "1",
    "a long number": "1e5000",
    "a string": '"charge"',
    "an array": "[]",
    "an array with keys": '["command_id", "domain"]',
    "an empty object": {},
    "an id that is no uuid": forged("charge"),
    "an id in braces": forged("{" + str(uuid4()) + "}"),
    "an id that is an object": forged("") | {"command_id": {}},
    "an id that is null": forged("") | {"command_id": None},
    "an id that is a number": forged("") | {"command_id": 7},
    "an unknown id": forged(uuid4()),
    "deep": nested(1000),
    "deep data": json.dumps(forged(uuid4())).replace("{}", nested(1000)),
    "long number as data": json.dumps(forged(uuid4())).replace("{}", "1e5000"),
}


def test_strays_are_archived_and_stop_nobody(bus: Bus) -> None:
    (first,) = bus.send_new()
    msg_ids = [bus.enqueue_by_hand(message) for message in STRAYS.values()]
    (last,) = bus.send_new()

    received = bus.receive()

    assert [(row["command_id"], row["fault"]) for row in received[:2]] == [(first, None), (last, None)]
    strays = received[2:]
    assert [row["msg_id"] for row in strays] == msg_ids
    assert {(row["command_id"], row["data"], row["fault"]) for row in strays} == {(None, None, "STRAY")}
    assert [row["msg_id"] for row in bus.archived()] == msg_ids
    assert len(bus.queue()) == 2
    assert bus.value("select count(*) from commandbus.command") == 2


def test_a_stray_alone_is_archived(bus: Bus) -> None:
    for number, message in enumerate(STRAYS.values(), start=1):
        bus.enqueue_by_hand(message)
        assert [row["fault"] for row in bus.receive()] == ["STRAY"]
        assert bus.queue() == []
        assert len(bus.archived()) == number


def test_a_second_message_for_a_waiting_command_is_a_stray(bus: Bus) -> None:
    (command_id,) = bus.send_new()
    copy = bus.enqueue_by_hand(bus.queue()[0]["message"])
    received = bus.receive()
    assert [(row["msg_id"] == copy, row["fault"]) for row in received] == [(False, None), (True, "STRAY")]
    assert bus.command(command_id)["attempts"] == 1
    assert bus.settle(received[:1], "COMPLETED") == {}


def test_a_second_message_that_comes_first_is_a_stray_too(bus: Bus) -> None:
    (command_id,) = bus.send_new()
    (own,) = bus.queue()
    bus.run(
        "insert into pgmq.q_pay__commands (msg_id, vt, message) overriding system value"
        " select 0, vt, message from pgmq.q_pay__commands"
    )
    received = bus.receive(limit=1) + bus.receive(limit=1)
    assert [(row["msg_id"], row["fault"]) for row in received] == [(0, "STRAY"), (own["msg_id"], None)]
    assert bus.command(command_id)["attempts"] == 1


def test_a_message_for_a_command_that_is_over_or_waits_is_a_stray(bus: Bus) -> None:
    command_ids = bus.send_new(3)
    bus.run("create table public.kept as select * from pgmq.q_pay__commands")
    bus.settle(bus.receive(), "COMPLETED", "FAILED", "TROUBLESHOOT")
    before = [bus.command(command_id) for command_id in command_ids]
    bus.run(
        "insert into pgmq.q_pay__commands (msg_id, vt, message) overriding system value"
        " select msg_id, vt, message from public.kept"
    )
    assert [row["fault"] for row in bus.receive()] == ["STRAY"] * 3
    assert [bus.command(command_id) for command_id in command_ids] == before
    assert bus.queue() == []


def test_a_message_for_a_running_command_of_another_domain_is_a_stray(bus: Bus) -> None:
    bus.create_domain("ship")
    (command_id,) = bus.send_new(domain="ship")
    bus.enqueue_by_hand(forged(command_id, domain="ship"))
    bus.enqueue_by_hand(forged(command_id))
    assert [row["fault"] for row in bus.receive()] == ["STRAY", "STRAY"]
    assert ids_of(bus.receive(domain="ship")) == [command_id]


def tamper(bus: Bus, command_id: UUID, message: str) -> None:
    """Change what a command's own message says; *message* is an SQL expression."""
    changed = bus.run(
        f"update pgmq.q_{QUEUE} set message = {message} where message ->> 'command_id' = %s", str(command_id)
    )
    assert changed == 1


TAMPERED = {
    "forged domain": """message || '{"domain": "ship"}'""",
    "no domain": "message - 'domain'",
    "forged type": """message || '{"command_type": "refund"}'""",
    "no type": "message - 'command_type'",
    "type that is an object": """message || '{"command_type": {}}'""",
}


def test_a_tampered_message_sends_its_command_to_the_tsq_and_stops_nobody(bus: Bus) -> None:
    batch_id = bus.create_batch()
    command_ids = [bus.send_new(batch_id=batch_id)[0] for _ in TAMPERED]
    for command_id, message in zip(command_ids, TAMPERED.values(), strict=True):
        tamper(bus, command_id, message)
    messages = [row["message"] for row in bus.queue()]
    (healthy,) = bus.send_new(batch_id=batch_id)

    received = bus.receive()

    assert [(row["command_id"], row["fault"]) for row in received] == [(healthy, None)] + [
        (command_id, "TAMPERED") for command_id in command_ids
    ]
    for command_id, message in zip(command_ids, messages, strict=True):
        row = bus.command(command_id)
        assert (row["status"], row["attempts"], row["command_type"]) == ("IN_TROUBLESHOOTING_QUEUE", 0, "charge")
        assert (row["last_error_type"], row["last_error_code"]) == ("PERMANENT", "TAMPERED")
        assert bus.payload(command_id)[0]["message"] == message
        assert bus.events(command_id) == ["SENT", "FAILED", "MOVED_TO_TSQ"]
        assert bus.trail(command_id)[-1]["details"]["reason"] == "TAMPERED"
    assert bus.counts(batch_id) == (len(TAMPERED) + 1, 0, 0, 0, len(TAMPERED))
    assert len(bus.queue()) == 1


def test_an_id_in_capitals_is_the_same_id_beside_whatever_message(bus: Bus) -> None:
    for neighbours in ([], [forged("none")]):
        (command_id,) = bus.send_new()
        tamper(bus, command_id, "message || jsonb_build_object('command_id', upper(message ->> 'command_id'))")
        for neighbour in neighbours:
            bus.enqueue_by_hand(neighbour)
        assert [row["fault"] for row in bus.receive()] == [None] + ["STRAY"] * len(neighbours)


def test_a_batch_whose_first_command_was_tampered_with_is_audited_as_started(bus: Bus) -> None:
    batch_id = bus.create_batch()
    command_id, _ = bus.send_new(2, batch_id=batch_id)
    tamper(bus, command_id, "message - 'domain'")
    bus.receive(limit=1)
    bus.receive(limit=1)
    assert bus.events(batch_id) == ["BATCH_STARTED"]


def test_an_operator_can_retry_a_tampered_command(bus: Bus) -> None:
    command_id, correlation_id = uuid4(), uuid4()
    bus.send(command_id, correlation_ids=[correlation_id], reply_queues=["pay__replies"])
    sent = bus.queue()[0]["message"]
    forgery = """'{"domain": "x", "command_type": "y", "reply_to": "z", "correlation_id": 1, "created_at": 2}'"""
    tamper(bus, command_id, f"message || {forgery}")
    bus.receive()
    bus.call("sp_operator_retry", domain=DOMAIN, command_ids=[command_id])
    (again,) = bus.queue()
    created_at = again["message"].pop("created_at")
    assert bus.value("select %s::timestamptz = %s::timestamptz", created_at, sent.pop("created_at"))
    assert again["message"] == sent
    assert [(row["command_id"], row["fault"]) for row in bus.receive()] == [(command_id, None)]


def test_odd_data_comes_back_as_its_text(bus: Bus) -> None:
    for data in (nested(1000), "1e5000", '"\\ud83d\\ude00"', "null", "-0", "[]"):
        (command_id,) = bus.send_new()
        tamper(bus, command_id, f"""message || '{{"data": {data}}}'""")
        (received,) = bus.receive()
        assert (received["command_id"], received["fault"]) == (command_id, None)
        assert bus.value("select %s::jsonb = %s::jsonb", received["data"], data)


def test_a_message_without_data_is_received_without(bus: Bus) -> None:
    (command_id,) = bus.send_new()
    tamper(bus, command_id, "message - 'data'")
    assert [(row["command_id"], row["data"], row["fault"]) for row in bus.receive()] == [(command_id, None, None)]
