"""Worker processes test commands, and handles each behaviour type (S017): a real worker, on a real server."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from commandbus.sync import CommandBus, CommandBusPool, Operations
from tests.e2e.app.config import DOMAIN
from tests.e2e.demo import Visitor, quick, until

pytestmark = pytest.mark.usefixtures("demo_worker")

PARKED = "IN_TROUBLESHOOTING_QUEUE"


def send(visitor: Visitor, kind: str, **more: Any) -> str:
    """Send a test command; return its id."""
    made = visitor.api("POST", "/test-commands", {"behavior": {"type": kind, **more}}, code=201)
    return str(made["command_id"])


def trail(pool: CommandBusPool, command_id: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of a command with their facts."""
    return [(e.event_type, e.details or {}) for e in CommandBus(pool).get_audit_trail(UUID(command_id), DOMAIN)]


def test_success_completes_normally(visitor: Visitor, sync_pool: CommandBusPool) -> None:
    command_id = send(visitor, "success", execution_time_ms=200)
    found = visitor.ended(command_id, "COMPLETED")
    assert (found["attempts"], found["result"]) == (1, {"status": "success"})
    assert found["processed_at"] is not None
    command = CommandBus(sync_pool).get_command(DOMAIN, UUID(command_id))
    assert command is not None
    assert (command.updated_at - command.created_at).total_seconds() >= 0.2


def test_fail_permanent_waits_for_an_operator_after_one_attempt(visitor: Visitor) -> None:
    command_id = send(visitor, "fail_permanent", error_code="CLOSED", error_message="The account is closed")
    found = visitor.ended(command_id, PARKED)
    assert (found["attempts"], found["error_code"], found["error_message"]) == (1, "CLOSED", "The account is closed")
    assert found["result"] == {"status": "failed", "error_code": "CLOSED"}


def test_fail_transient_is_tried_as_often_as_allowed(visitor: Visitor) -> None:
    quick(visitor)
    found = visitor.ended(send(visitor, "fail_transient"), PARKED)
    assert (found["attempts"], found["max_attempts"], found["error_code"]) == (3, 3, "TRANSIENT")
    assert found["error_message"] == "Simulated transient failure"


def test_fail_transient_then_succeed_fails_n_times_then_succeeds(visitor: Visitor) -> None:
    quick(visitor)
    found = visitor.ended(send(visitor, "fail_transient_then_succeed", transient_failures=2), "COMPLETED")
    assert (found["attempts"], found["result"]) == (3, {"status": "success", "attempts": 3})


def test_timeout_is_delivered_again_until_its_attempts_are_used_up(visitor: Visitor, sync_pool: CommandBusPool) -> None:
    quick(visitor, visibility_timeout=1)
    until(lambda: any(one.concurrency == 10 for one in Operations(sync_pool).list_workers()))
    command_id = send(visitor, "timeout", execution_time_ms=60_000)
    found = visitor.ended(command_id, PARKED)
    assert (found["attempts"], found["processed_at"]) == (3, None)
    names = [name for name, _ in trail(sync_pool, command_id)]
    assert names.count("RECEIVED") == 3
    assert "STALE_SETTLE" in names, "the handlers that were too slow are refused"


def test_timeout_shorter_than_the_lease_only_takes_its_time(visitor: Visitor) -> None:
    found = visitor.ended(send(visitor, "timeout", execution_time_ms=300), "COMPLETED")
    assert (found["attempts"], found["result"]) == (1, {"status": "success"})


@pytest.mark.parametrize("behavior", ['{"type": "dance"}', "{}"])
def test_a_behaviour_that_is_unknown_is_a_permanent_failure(
    visitor: Visitor, sync_pool: CommandBusPool, behavior: str
) -> None:
    bus, command_id = CommandBus(sync_pool), UUID(int=2)
    with sync_pool.connection() as connection:
        statement = "insert into e2e.test_command (command_id, behavior) values (%s, %s)"
        connection.execute(statement, (command_id, behavior))
    bus.create_domain(DOMAIN)
    bus.send(DOMAIN, "TestCommand", command_id, {})
    assert visitor.ended(str(command_id), PARKED)["error_code"] == "UNKNOWN_BEHAVIOR"


def test_a_command_without_its_row_is_a_permanent_failure(sync_pool: CommandBusPool) -> None:
    bus = CommandBus(sync_pool)
    command_id = UUID(int=1)
    bus.create_domain(DOMAIN)
    bus.send(DOMAIN, "TestCommand", command_id, {})

    def parked() -> bool:
        found = bus.get_command(DOMAIN, command_id)
        return found is not None and found.last_error_code == "NO_TEST_COMMAND"

    until(parked)


def test_what_fails_succeeds_after_its_behaviour_was_changed_and_an_operator_retried_it(visitor: Visitor) -> None:
    command_id = send(visitor, "fail_permanent")
    visitor.ended(command_id, PARKED)
    visitor.api("PATCH", f"/test-commands/{command_id}", {"behavior": {"type": "success"}})
    visitor.post("/troubleshooting/retry", {"command": f"{DOMAIN}/{command_id}"})
    assert visitor.ended(command_id, "COMPLETED")["attempts"] == 2


def test_changed_settings_take_effect_while_the_worker_runs(visitor: Visitor, sync_pool: CommandBusPool) -> None:
    held = send(visitor, "success", execution_time_ms=3_000)
    visitor.ended(held, "IN_PROGRESS")
    visitor.post("/settings/worker", {"concurrency": "7", "visibility_timeout": "9"}, form="/settings")
    retries = {"max_attempts": "4", "base_delay_ms": "20", "max_delay_ms": "50", "backoff_multiplier": "2"}
    visitor.post("/settings/retry", retries, form="/settings")

    def delays() -> list[float] | None:
        command_id = send(visitor, "fail_transient")
        visitor.ended(command_id, PARKED)
        found = [facts["delay_seconds"] for name, facts in trail(sync_pool, command_id) if name == "RETRY_SCHEDULED"]
        return found if found == [0.02, 0.04, 0.05] else None

    until(delays)
    assert 7 in {one.concurrency for one in Operations(sync_pool).list_workers()}
    assert visitor.ended(held, "COMPLETED")["attempts"] == 1, "the handler of the old settings ended in peace"
