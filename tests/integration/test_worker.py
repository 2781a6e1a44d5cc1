"""What becomes of commands in a worker's hands: outcomes, leases, transactions, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from commandbus import (
    BusinessRuleException,
    Command,
    CommandBus,
    CommandBusPool,
    CommandStatus,
    HandlerContext,
    InvalidOperationError,
    PermanentCommandError,
    RetryPolicy,
    StaleLeaseError,
    TransientCommandError,
    TroubleshootingQueue,
    Worker,
)
from tests.integration.live import (
    AT_ONCE,
    DOMAIN,
    QUEUE,
    REPLIES,
    events,
    make_worker,
    reached,
    registry_of,
    replies_to,
    rows,
    running,
    send,
    send_many,
    until,
    value,
)

IN_TSQ = CommandStatus.IN_TROUBLESHOOTING_QUEUE


@pytest.fixture
async def bus(pool: CommandBusPool) -> CommandBus:
    """A bus whose domain is made."""
    made = CommandBus(pool)
    await made.create_domain(DOMAIN)
    return made


class Charge(BaseModel):
    """What a charge says."""

    amount: int


class Gate:
    """A handler that says that it began and waits until it may end."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.runs = 0

    async def __call__(self, _: Command, __: HandlerContext) -> str:
        self.runs += 1
        self.began.set()
        await self.may_end.wait()
        return "done"


def raises(error: BaseException) -> Any:
    """Return a handler that raises."""

    async def fail(_: Command, __: HandlerContext) -> None:
        raise error

    return fail


async def last_error(bus: CommandBus, command_id: UUID) -> tuple[str | None, str | None, str | None, int]:
    """Return type, code and text of a command's last error, and its attempts."""
    command = await bus.get_command(DOMAIN, command_id)
    assert command is not None
    return command.last_error_type, command.last_error_code, command.last_error_msg, command.attempts


async def reason_of(bus: CommandBus, command_id: UUID) -> str:
    """Return why a command waits for an operator."""
    trail = await bus.get_audit_trail(command_id)
    return str(next(event.details["reason"] for event in trail[::-1] if event.event_type == "MOVED_TO_TSQ"))


async def test_a_handler_that_returns_completes_its_command_and_answers(bus: CommandBus, pool: CommandBusPool) -> None:
    seen: list[tuple[Command, HandlerContext]] = []

    async def charge(command: Command, context: HandlerContext) -> dict[str, int]:
        seen.append((command, context))
        return {"charged": command.data["amount"]}

    command_id = await send(bus, data={"amount": 5}, reply_to=REPLIES, max_attempts=7)
    async with running(make_worker(pool, registry_of(charge=charge))):
        await reached(bus, command_id)
    ((command, context),) = seen
    assert (command.domain, command.command_type, command.command_id) == (DOMAIN, "charge", command_id)
    assert (command.data, command.correlation_id, command.reply_to) == ({"amount": 5}, command_id, REPLIES)
    assert (context.attempt, context.max_attempts, context.command_id) == (1, 7, command_id)
    (reply,) = await replies_to(pool, command_id)
    assert reply == {
        "command_id": str(command_id),
        "correlation_id": str(command_id),
        "outcome": "SUCCESS",
        "result": {"charged": 5},
    }
    assert await events(bus, command_id) == ["SENT", "RECEIVED", "COMPLETED"]
    assert await rows(pool, f"select * from pgmq.q_{QUEUE}") == []


@pytest.mark.parametrize(
    ("error", "stored", "reason"),
    [
        (
            PermanentCommandError("BROKEN", "no such account"),
            ("PERMANENT", "BROKEN", "no such account", 1),
            "PERMANENT",
        ),
        (TransientCommandError("BUSY", "try later"), ("TRANSIENT", "BUSY", "try later", 3), "EXHAUSTED"),
        (KeyError("iban"), ("TRANSIENT", "KeyError", "'iban'", 3), "EXHAUSTED"),
        (ValueError("a\0b\ud800c"), ("TRANSIENT", "ValueError", "a\ufffdb\ufffdc", 3), "EXHAUSTED"),
        (TimeoutError(), ("TRANSIENT", "TimeoutError", "", 3), "EXHAUSTED"),
    ],
)
async def test_a_failing_command_waits_for_an_operator_in_the_end(
    bus: CommandBus,
    pool: CommandBusPool,
    error: Exception,
    stored: tuple[str, str, str, int],
    reason: str,
) -> None:
    command_id = await send(bus, reply_to=REPLIES)
    async with running(make_worker(pool, registry_of(charge=raises(error)))):
        await reached(bus, command_id, IN_TSQ)
    assert await last_error(bus, command_id) == stored
    assert await reason_of(bus, command_id) == reason
    assert await replies_to(pool, command_id) == []
    (item,) = await TroubleshootingQueue(pool).list_troubleshooting(DOMAIN)
    assert (item.command_id, item.payload, item.last_error_code) == (command_id, {}, stored[1])


async def test_a_business_rule_fails_a_command_for_good(bus: CommandBus, pool: CommandBusPool) -> None:
    command_id = await send(bus, reply_to=REPLIES)
    refusal = BusinessRuleException("NO_FUNDS", "the account is empty", {"balance": 0})
    async with running(make_worker(pool, registry_of(charge=raises(refusal)))):
        await reached(bus, command_id, CommandStatus.FAILED)
    (reply,) = await replies_to(pool, command_id)
    assert (reply["outcome"], reply["error_type"], reply["error_code"]) == ("FAILED", "BUSINESS_RULE", "NO_FUNDS")
    assert (reply["error_message"], reply["details"]) == ("the account is empty", {"balance": 0})
    assert await events(bus, command_id) == ["SENT", "RECEIVED", "FAILED", "BUSINESS_RULE_FAILED"]


async def test_retries_come_after_their_delays_and_a_later_success_counts(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    began: list[float] = []

    async def charge(_: Command, context: HandlerContext) -> int:
        began.append(time.monotonic())
        if context.attempt < 3:
            raise OSError("not now")
        return context.attempt

    command_id = await send(bus, reply_to=REPLIES)
    policy = RetryPolicy(backoff_schedule=[0.2, 0.5], jitter=0)
    async with running(make_worker(pool, registry_of(charge=charge), retry_policy=policy)):
        await reached(bus, command_id)
    assert began[1] - began[0] >= 0.2
    assert began[2] - began[1] >= 0.5
    once = ["RECEIVED", "FAILED", "RETRY_SCHEDULED"]
    assert await events(bus, command_id) == ["SENT", *once, *once, "RECEIVED", "COMPLETED"]
    (reply,) = await replies_to(pool, command_id)
    assert reply["result"] == 3


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_the_commands_own_max_attempts_wins_over_the_policy(
    bus: CommandBus, pool: CommandBusPool, attempts: int
) -> None:
    policy = RetryPolicy(max_attempts=3, backoff_schedule=[0], jitter=0)
    command_id = await send(bus, max_attempts=attempts)
    async with running(make_worker(pool, registry_of(charge=raises(OSError("not now"))), retry_policy=policy)):
        await reached(bus, command_id, IN_TSQ)
    assert (await last_error(bus, command_id))[3] == attempts
    assert (await events(bus, command_id)).count("RECEIVED") == attempts


async def test_a_command_without_handler_is_retried_and_waits_for_an_operator(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    command_id = await send(bus, "unheard_of", max_attempts=2)
    async with running(make_worker(pool, registry_of())):
        await reached(bus, command_id, IN_TSQ)
    kind, code, text, attempts = await last_error(bus, command_id)
    assert (kind, code, attempts) == ("TRANSIENT", "HandlerNotFoundError", 2)
    assert text is not None
    assert "unheard_of" in text


async def test_plain_functions_run_in_parallel_threads(bus: CommandBus, pool: CommandBusPool) -> None:
    together = threading.Barrier(4, timeout=10)

    def charge(_: Command, __: HandlerContext) -> str:
        together.wait()  # passes only when four are here at once
        return threading.current_thread().name

    ids = await send_many(bus, 4, reply_to=REPLIES)
    async with running(make_worker(pool, registry_of(charge=charge)), concurrency=4):
        await reached(bus, ids)
    names = {(await replies_to(pool, command_id))[0]["result"] for command_id in ids}
    assert len(names) == 4
    assert threading.current_thread().name not in names


async def test_no_more_handlers_run_than_asked_for(bus: CommandBus, pool: CommandBusPool) -> None:
    now = most = 0

    async def charge(_: Command, __: HandlerContext) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    ids = await send_many(bus, 30)
    async with running(make_worker(pool, registry_of(charge=charge)), concurrency=3):
        await reached(bus, ids)
    assert most == 3


async def test_a_handler_of_a_model_is_given_the_model_or_its_command_waits_at_once(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    async def charge(charge: Charge, context: HandlerContext) -> int:
        return charge.amount + context.command.data["amount"]

    good = await send(bus, data={"amount": 21}, reply_to=REPLIES)
    bad = await send(bus, data={"amount": "S3CRET"})
    async with running(make_worker(pool, registry_of(charge=charge))):
        await reached(bus, good)
        await reached(bus, bad, IN_TSQ)
    assert (await replies_to(pool, good))[0]["result"] == 42
    kind, code, text, attempts = await last_error(bus, bad)
    assert (kind, code, attempts) == ("PERMANENT", "INVALID_PAYLOAD", 1)
    assert text is not None
    assert "amount" in text
    assert "S3CRET" not in text
    assert await reason_of(bus, bad) == "INVALID_PAYLOAD"


@pytest.mark.parametrize("result", [{1, 2}, float("nan"), {"a": "\0"}, "\ud800", b"x", {1: 2}, "x" * 300_000])
async def test_a_result_that_is_no_json_waits_for_an_operator_and_does_not_run_again(
    bus: CommandBus, pool: CommandBusPool, result: object
) -> None:
    runs: list[int] = []

    async def charge(_: Command, context: HandlerContext) -> object:
        runs.append(context.attempt)
        return result

    command_id = await send(bus)
    async with running(make_worker(pool, registry_of(charge=charge))):
        await reached(bus, command_id, IN_TSQ)
    assert runs == [1]
    assert (await last_error(bus, command_id))[:2] == ("PERMANENT", "INVALID_RESULT")


class Unprintable(Exception):
    """An error that cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Mute:
    """A text that cannot be made into one."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "error",
    [
        Unprintable(),
        PermanentCommandError("CODE", Mute()),  # type: ignore[arg-type]
        PermanentCommandError("CODE", "text", {"not": {"json"}}),
        PermanentCommandError("C\0DE\ud800", "t\0xt"),
        ExceptionGroup("several", [ValueError("a\0"), Unprintable()]),
    ],
)
async def test_no_exception_stops_a_worker(bus: CommandBus, pool: CommandBusPool, error: Exception) -> None:
    bad = await send(bus, "bad", max_attempts=1)
    good = await send(bus, "good")
    registry = registry_of(bad=raises(error), good=lambda *_: None)
    async with running(make_worker(pool, registry), concurrency=1):
        await reached(bus, bad, IN_TSQ)
        await reached(bus, good)


async def test_a_handler_that_cancels_itself_is_retried_under_that_name(bus: CommandBus, pool: CommandBusPool) -> None:
    command_id = await send(bus, max_attempts=2)
    async with running(make_worker(pool, registry_of(charge=raises(asyncio.CancelledError()))), concurrency=1):
        await reached(bus, command_id, IN_TSQ)
    assert (await last_error(bus, command_id))[:2] == ("TRANSIENT", "CancelledError")


async def test_leases_are_extended_while_a_handler_runs(bus: CommandBus, pool: CommandBusPool) -> None:
    runs: list[int] = []

    async def slow(_: Command, context: HandlerContext) -> None:
        runs.append(context.attempt)
        await asyncio.sleep(3)

    def slow_thread(_: Command, context: HandlerContext) -> None:
        runs.append(context.attempt)
        time.sleep(3)

    ids = [await send(bus, "slow"), await send(bus, "thread")]
    registry = registry_of(slow=slow, thread=slow_thread)
    # A second worker would take what the first one lost.
    first, second = (make_worker(pool, registry, visibility_timeout=1) for _ in range(2))
    async with running(first, concurrency=2), running(second, concurrency=2):
        await reached(bus, ids)
    assert runs == [1, 1]
    for command_id in ids:
        assert await events(bus, command_id) == ["SENT", "RECEIVED", "COMPLETED"]


async def test_a_handlers_own_extension_is_not_cut_short(bus: CommandBus, pool: CommandBusPool) -> None:
    gate = Gate()

    async def charge(command: Command, context: HandlerContext) -> None:
        await context.extend_visibility(100)
        await gate(command, context)

    command_id = await send(bus)
    async with running(make_worker(pool, registry_of(charge=charge), visibility_timeout=1)):
        await gate.began.wait()
        await asyncio.sleep(0.8)  # two turns of what keeps leases
        left = await value(pool, f"select extract(epoch from vt - clock_timestamp()) from pgmq.q_{QUEUE}")
        gate.may_end.set()
        await reached(bus, command_id)
    assert left > 90


async def test_a_handler_whose_lease_is_lost_is_stopped_and_cannot_extend_it(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    gate, refused = Gate(), asyncio.Event()

    async def charge(command: Command, context: HandlerContext) -> None:
        if context.attempt > 1:
            return
        try:
            await gate(command, context)
        except asyncio.CancelledError:
            with pytest.raises(StaleLeaseError):
                await context.extend_visibility(5)
            refused.set()
            raise

    command_id = await send(bus)
    async with running(make_worker(pool, registry_of(charge=charge), visibility_timeout=1), poll_interval=60):
        await gate.began.wait()
        await rows(pool, f"update pgmq.q_{QUEUE} set vt = clock_timestamp() - interval '1 second'")
        (other,) = await Worker(pool, DOMAIN).receive()
        await asyncio.wait_for(refused.wait(), 10)

        async def is_refused() -> bool:
            return "STALE_SETTLE" in await events(bus, command_id)

        await until(is_refused)
        await Worker(pool, DOMAIN).complete(other)
    assert await events(bus, command_id) == ["SENT", "RECEIVED", "RECEIVED", "STALE_SETTLE", "COMPLETED"]


async def test_stop_waits_for_handlers_and_gives_back_what_has_not_begun(bus: CommandBus, pool: CommandBusPool) -> None:
    gate = Gate()
    ids = await send_many(bus, 5)
    worker = make_worker(pool, registry_of(charge=gate))
    async with running(worker, concurrency=2):
        await gate.began.wait()
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0.2)
        assert not stopping.done()
        assert worker.is_running
        assert worker.in_flight_count == 2
        gate.may_end.set()
        await asyncio.wait_for(stopping, 5)
    assert not worker.is_running
    assert gate.runs == 2
    states = [await last_error(bus, command_id) for command_id in ids]
    assert [attempts for *_, attempts in states] == [1, 1, 0, 0, 0]
    visible = await value(pool, f"select count(*) from pgmq.q_{QUEUE} where vt <= clock_timestamp()")
    assert visible == 3


async def test_stop_with_a_timeout_cancels_handlers_and_their_commands_are_retried(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    gate = Gate()
    command_id = await send(bus)
    worker = make_worker(pool, registry_of(charge=gate))
    async with running(worker) as run:
        await gate.began.wait()
        await worker.stop(timeout=0.1)
        assert run.done() or not worker.is_running
    assert await events(bus, command_id) == ["SENT", "RECEIVED", "FAILED", "RETRY_SCHEDULED"]
    assert (await last_error(bus, command_id))[1] == "WORKER_STOPPED"
    gate.may_end.set()
    async with running(make_worker(pool, registry_of(charge=gate))):
        await reached(bus, command_id)


async def test_a_stop_while_the_worker_starts_is_heard(bus: CommandBus, pool: CommandBusPool) -> None:
    command_id = await send(bus)
    worker = make_worker(pool, registry_of(charge=lambda *_: None))
    run = asyncio.create_task(worker.run())
    await asyncio.sleep(0)
    with pytest.raises(InvalidOperationError, match="runs already"):
        await worker.run()
    await worker.stop()
    await asyncio.wait_for(run, 5)
    assert (await last_error(bus, command_id))[3] == 0
    async with running(worker):  # and it can run again
        await reached(bus, command_id)


async def test_a_cancelled_run_leaves_nothing_behind(bus: CommandBus, pool: CommandBusPool) -> None:
    gate = Gate()
    plain = registry_of(charge=gate, thread=lambda *_: None)
    threads, tasks = threading.active_count(), len(asyncio.all_tasks())
    sessions = "select count(*) from pg_stat_activity where datname = current_database()"
    before = await value(pool, sessions)
    worker = make_worker(pool, plain)
    ids = [await send(bus), await send(bus, "thread")]
    run = asyncio.create_task(worker.run(concurrency=2))
    await gate.began.wait()
    await reached(bus, ids[1])
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not worker.is_running
    assert len(asyncio.all_tasks()) == tasks

    async def is_clean() -> bool:
        return threading.active_count() == threads and await value(pool, sessions) == before

    await until(is_clean)
    assert await events(bus, ids[0]) == ["SENT", "RECEIVED", "FAILED", "RETRY_SCHEDULED"]


async def test_commands_taken_by_hand_end_as_the_caller_says(bus: CommandBus, pool: CommandBusPool) -> None:
    ids = await send_many(bus, 6, reply_to=REPLIES)
    worker = Worker(pool, DOMAIN, retry_policy=AT_ONCE)
    received = await worker.receive(batch_size=10)
    assert [one.command.command_id for one in received] == ids
    assert [one.metadata.status for one in received] == [CommandStatus.IN_PROGRESS] * 6
    assert await worker.receive() == []
    await worker.complete(received[0], {"by": "hand"})
    await worker.fail(received[1], BusinessRuleException("LATER", "it may work later"))
    await worker.fail(received[2], ValueError("never"), is_transient=False)
    await worker.fail_permanent(received[3], ValueError("never"))
    await worker.fail_business_rule(received[4], ValueError("not allowed"))
    found = [await bus.get_command(DOMAIN, command_id) for command_id in ids]
    assert [(c.status, c.last_error_type, c.last_error_code) for c in found if c is not None] == [
        ("COMPLETED", None, None),
        ("PENDING", "TRANSIENT", "LATER"),
        (IN_TSQ, "PERMANENT", "ValueError"),
        (IN_TSQ, "PERMANENT", "ValueError"),
        ("FAILED", "BUSINESS_RULE", "ValueError"),
        ("IN_PROGRESS", None, None),
    ]
    for late in (worker.fail_permanent, worker.fail_business_rule, worker.fail):
        with pytest.raises(StaleLeaseError, match=str(ids[0])):
            await late(received[0], ValueError("too late"))
    await worker.complete(received[0], {"by": "hand"})  # said twice
    assert len(await replies_to(pool, ids[0])) == 1


async def test_a_lease_that_ran_out_by_hand_is_stale_once_somebody_else_has_it(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    command_id = await send(bus)
    worker = Worker(pool, DOMAIN)
    (first,) = await worker.receive(visibility_timeout=1)

    async def again() -> list[Any]:
        return await worker.receive()

    (second,) = await until(again)
    assert second.context.attempt == 2
    with pytest.raises(StaleLeaseError):
        await worker.complete(first)
    await worker.complete(second)
    assert await events(bus, command_id) == ["SENT", "RECEIVED", "RECEIVED", "STALE_SETTLE", "COMPLETED"]


async def test_no_payload_result_or_exception_text_is_logged(
    bus: CommandBus, pool: CommandBusPool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("C4NARY")

    caplog.set_level(logging.INFO)
    good = await send(bus, "good", {"iban": "C4NARY"}, reply_to=REPLIES)
    bad = await send(bus, "bad", {"iban": "C4NARY"})
    none = await send(bus, "none", {"iban": "C4NARY"}, max_attempts=1)
    result = await send(bus, "result", {"iban": "C4NARY"})
    registry = registry_of(good=lambda *_: "C4NARY", bad=fail, result=lambda *_: {"C4NARY"})
    async with running(make_worker(pool, registry)) as run:
        await reached(bus, good)
        await reached(bus, [bad, none, result], IN_TSQ)
    assert caplog.records
    logged = [f"{record.getMessage()} {record.__dict__} {record.exc_text}" for record in caplog.records]
    assert "C4NARY" not in "".join(logged)
    assert "C4NARY" not in repr(run)
    (item, *_) = await TroubleshootingQueue(pool).list_troubleshooting(DOMAIN, "none")
    commands = await bus.query_commands(domain=DOMAIN)
    quiet = [item, [c for c in commands if c.command_id != bad], await bus.wait_for_reply(REPLIES, good)]
    assert "C4NARY" not in repr(quiet)
    audited = await rows(pool, "select details::text from commandbus.audit where command_id <> %s", bad)
    assert "C4NARY" not in repr(audited)
