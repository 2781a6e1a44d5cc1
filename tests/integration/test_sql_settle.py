"""sp_settle_commands: what each outcome does, and who may still settle."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

from tests.integration.sql_helpers import (
    DOMAIN,
    REPLIES,
    Bus,
    Row,
    errors,
    ids_of,
    open_bus,
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


def test_completed(bus: Bus) -> None:
    (received,) = start(bus)
    command_id, batch_id = received["command_id"], received["batch_id"]
    assert bus.settle([received], "COMPLETED", results=[Jsonb({"balance": 7})]) == {}

    row = bus.command(command_id)
    assert (row["status"], row["attempts"], row["lease_expires_at"]) == ("COMPLETED", 1, None)
    assert isinstance(row["finished_at"], datetime)
    assert (row["attention_at"], row["last_error_code"]) == (None, None)
    assert bus.events(command_id) == ["SENT", "RECEIVED", "COMPLETED"]
    assert bus.trail(command_id)[-1]["attempt"] == 1
    assert bus.queue() == []
    assert bus.replies() == [
        {
            "command_id": str(command_id),
            "correlation_id": str(command_id),
            "domain": DOMAIN,
            "outcome": "SUCCESS",
            "result": {"balance": 7},
        }
    ]
    assert bus.payload(command_id) == []
    assert bus.counts(batch_id) == (1, 1, 0, 0, 0)
    assert bus.batch(batch_id)["status"] == "COMPLETED"
    assert bus.events(batch_id) == ["BATCH_STARTED", "BATCH_COMPLETED"]


def test_failed(bus: Bus) -> None:
    (received,) = start(bus)
    command_id, batch_id = received["command_id"], received["batch_id"]
    error = errors(1, "BUSINESS_RULE") | {"details": [Jsonb({"limit": 5})], "places": ["pay.py:7" + "7" * 1_000]}
    assert bus.settle([received], "FAILED", **error) == {}

    row = bus.command(command_id)
    assert (row["status"], row["last_error_type"], row["last_error_code"], row["last_error_msg"]) == (
        "FAILED",
        "BUSINESS_RULE",
        "E_TEST",
        "it did not work",
    )
    assert row["finished_at"] == row["attention_at"]
    assert row["finished_at"] is not None
    assert bus.events(command_id) == ["SENT", "RECEIVED", "FAILED", "BUSINESS_RULE_FAILED"]
    assert bus.trail(command_id)[2]["details"] == {
        "error_type": "BUSINESS_RULE",
        "error_code": "E_TEST",
        "error_msg": "it did not work",
        "attempt": 1,
        "max_attempts": 3,
        "msg_id": received["msg_id"],
        "error_place": "pay.py:7" + "7" * 492,
    }
    assert bus.queue() == []
    (reply,) = bus.replies()
    assert {
        "outcome": "FAILED",
        "result": None,
        "error_type": "BUSINESS_RULE",
        "error_code": "E_TEST",
        "error_message": "it did not work",
        "details": {"limit": 5},
    }.items() <= reply.items()
    assert bus.payload(command_id) == []
    assert bus.counts(batch_id) == (1, 0, 1, 0, 0)
    assert bus.batch(batch_id)["status"] == "COMPLETED_WITH_FAILURES"


def test_retry(bus: Bus) -> None:
    (received,) = start(bus)
    (message,) = bus.queue()
    command_id = received["command_id"]
    assert bus.settle([received], "RETRY", **errors(1, "TRANSIENT", delay=90.5)) == {}

    row = bus.command(command_id)
    assert (row["status"], row["attempts"], row["last_error_type"]) == ("PENDING", 1, "TRANSIENT")
    assert (row["finished_at"], row["attention_at"], row["lease_expires_at"]) == (None, None, None)
    (waiting,) = bus.scheduled(command_id)
    assert (waiting["due_at"] - row["updated_at"]).total_seconds() == 90.5
    assert waiting["message"] == message["message"]
    assert bus.events(command_id) == ["SENT", "RECEIVED", "FAILED", "RETRY_SCHEDULED"]
    assert bus.trail(command_id)[-1]["details"] == {"delay_seconds": 90.5, "error_code": "E_TEST"}
    assert (bus.queue(), bus.replies(), bus.payload(command_id)) == ([], [], [])
    assert bus.counts(received["batch_id"]) == (1, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("reason", "events"),
    [
        ("PERMANENT", ["FAILED", "MOVED_TO_TSQ"]),
        ("EXHAUSTED", ["FAILED", "RETRY_EXHAUSTED", "MOVED_TO_TSQ"]),
    ],
)
def test_troubleshoot(bus: Bus, reason: str, events: list[str]) -> None:
    (received,) = start(bus)
    (message,) = bus.queue()
    command_id = received["command_id"]
    assert bus.settle([received], "TROUBLESHOOT", **errors(1, "TRANSIENT", reason)) == {}

    row = bus.command(command_id)
    assert (row["status"], row["attempts"], row["finished_at"]) == ("IN_TROUBLESHOOTING_QUEUE", 1, None)
    assert row["attention_at"] == row["updated_at"]
    (payload,) = bus.payload(command_id)
    assert (payload["message"], payload["msg_id"]) == (message["message"], message["msg_id"])
    assert bus.events(command_id) == ["SENT", "RECEIVED", *events]
    assert bus.trail(command_id)[-1]["details"] == {"reason": reason, "error_code": "E_TEST"}
    assert (bus.queue(), bus.replies(), bus.scheduled(command_id)) == ([], [], [])
    assert bus.counts(received["batch_id"]) == (1, 0, 0, 0, 1)
    assert bus.batch(received["batch_id"])["status"] == "IN_PROGRESS"


def test_release(bus: Bus) -> None:
    (received,) = start(bus)
    command_id = received["command_id"]
    assert bus.settle([received], "RELEASE") == {}

    row = bus.command(command_id)
    assert (row["status"], row["attempts"], row["lease_expires_at"]) == ("PENDING", 0, None)
    assert bus.events(command_id) == ["SENT", "RECEIVED", "RELEASED"]
    assert [event["attempt"] for event in bus.trail(command_id)] == [None, 1, 1]
    assert bus.counts(received["batch_id"]) == (1, 0, 0, 0, 0)
    (again,) = bus.receive()
    assert (again["command_id"], again["msg_id"], again["attempts"]) == (command_id, received["msg_id"], 1)
    assert bus.settle([again], "COMPLETED") == {}


def test_a_command_that_wants_no_reply_gets_none(bus: Bus) -> None:
    bus.send_new(2)
    bus.settle(bus.receive(), "COMPLETED", "FAILED", **errors(2, "BUSINESS_RULE"))
    assert bus.replies() == []


def test_a_set_may_mix_all_outcomes_and_each_takes_its_own_facts(bus: Bus) -> None:
    received = start(bus, 10)
    outcomes = ["COMPLETED", "FAILED", "RETRY", "TROUBLESHOOT", "RELEASE"] * 2
    facts: dict[str, Any] = {
        "results": [Jsonb(n) if outcome == "COMPLETED" else None for n, outcome in enumerate(outcomes)],
        "error_types": [None if outcome in ("COMPLETED", "RELEASE") else "PERMANENT" for outcome in outcomes],
        "error_codes": [None if outcome in ("COMPLETED", "RELEASE") else f"E{n}" for n, outcome in enumerate(outcomes)],
        "delays": [n + 1.0 if outcome == "RETRY" else None for n, outcome in enumerate(outcomes)],
        "reasons": ["PERMANENT" if outcome == "TROUBLESHOOT" else None for outcome in outcomes],
        "places": [f"pay.py:{n}" for n, _ in enumerate(outcomes)],
    }
    messages = {row["message"]["command_id"]: row["message"] for row in bus.queue()}
    assert bus.settle(received, *outcomes, **facts) == {}

    statuses = ["COMPLETED", "FAILED", "PENDING", "IN_TROUBLESHOOTING_QUEUE", "PENDING"] * 2
    rows = [bus.command(command_id) for command_id in ids_of(received)]
    assert [row["status"] for row in rows] == statuses
    assert [row["last_error_code"] for row in rows] == facts["error_codes"]
    told = [event["details"] for row in received for event in bus.trail(row["command_id"])]
    failed = [n for n, outcome in enumerate(outcomes) if outcome not in ("COMPLETED", "RELEASE")]
    assert [one["error_place"] for one in told if one and "error_place" in one] == [f"pay.py:{n}" for n in failed]
    assert bus.counts(received[0]["batch_id"]) == (10, 2, 2, 0, 2)
    ids = [str(command_id) for command_id in ids_of(received)]
    assert {reply["command_id"]: (reply["outcome"], reply["result"]) for reply in bus.replies()} == {
        ids[0]: ("SUCCESS", 0),
        ids[1]: ("FAILED", None),
        ids[5]: ("SUCCESS", 5),
        ids[6]: ("FAILED", None),
    }
    for place in (2, 7):
        (waiting,) = bus.scheduled(received[place]["command_id"])
        assert waiting["message"] == messages[ids[place]]
    for place in (3, 8):
        assert bus.payload(received[place]["command_id"])[0]["message"] == messages[ids[place]]
    assert [row["message"]["command_id"] for row in bus.queue()] == [ids[4], ids[9]]
