"""What becomes of commands in a worker's hands: every outcome, stored as it should be."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from pydantic import BaseModel

from commandbus import (
    BusinessRuleException,
    Command,
    CommandBus,
    CommandBusPool,
    CommandStatus,
    HandlerContext,
    HandlerRegistry,
    PermanentCommandError,
    RetryPolicy,
    TransientCommandError,
    TroubleshootingQueue,
    Worker,
)
from tests.integration.live import (
    DOMAIN,
    QUEUE,
    REPLIES,
    events,
    failure_of,
    last_error,
    make_worker,
    raises,
    reached,
    reason_of,
    registry_of,
    replies_to,
    rows,
    running,
    send,
    send_many,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_TSQ = CommandStatus.IN_TROUBLESHOOTING_QUEUE


class Charge(BaseModel):
    """What a charge says."""

    amount: int


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
        "domain": DOMAIN,
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
        return charge.amount * context.attempt

    good = await send(bus, data={"amount": 21}, reply_to=REPLIES)
    bad = await send(bus, data={"amount": "S3CRET"})
    async with running(make_worker(pool, registry_of(charge=charge))):
        await reached(bus, good)
        await reached(bus, bad, IN_TSQ)
    assert (await replies_to(pool, good))[0]["result"] == 21
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


class UnprintableError(Exception):
    """An error that cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class OddError(Exception):
    """An error that looks like the database's and is none."""

    sqlstate = "XX000"
    diag = None


@pytest.mark.parametrize(
    "error",
    [
        UnprintableError(),
        OddError("text"),
        PermanentCommandError("CODE", "text", {"not": {"json"}}),
        PermanentCommandError("C\0DE\ud800", "t\0xt"),
        ExceptionGroup("several", [ValueError("a\0"), UnprintableError()]),
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


async def test_the_log_and_the_audit_name_the_users_line_when_sql_fails(
    bus: CommandBus, pool: CommandBusPool, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask(_: Command, context: HandlerContext) -> None:
        await context.connection.execute("select nothing from nowhere")

    registry = HandlerRegistry()
    registry.register(DOMAIN, "ask", ask, transactional=True)
    ids = [await send(bus, "ask", max_attempts=1), await send(bus, "nobody knows it", max_attempts=1)]
    async with running(make_worker(pool, registry)):
        await reached(bus, ids, IN_TSQ)
    places = {record.__dict__["command_id"]: record.__dict__["at"] for record in caplog.records if "at" in vars(record)}
    assert places == {ids[0]: f"{__file__}:{ask.__code__.co_firstlineno + 1}", ids[1]: None}
    assert {command_id: (await failure_of(bus, command_id)).get("error_place") for command_id in ids} == places


async def test_a_failure_told_by_hand_is_placed_where_it_was_raised(bus: CommandBus, pool: CommandBusPool) -> None:
    ids = [await send(bus) for _ in range(2)]
    raised, never_raised = await Worker(pool, DOMAIN).receive(batch_size=2)
    try:
        int("x")
    except ValueError as error:
        await Worker(pool, DOMAIN).fail_permanent(raised, error)
    await Worker(pool, DOMAIN).fail(never_raised, OSError("not now"))
    place = (await failure_of(bus, ids[0]))["error_place"]
    assert (place.rpartition(":")[0], "error_place" in await failure_of(bus, ids[1])) == (__file__, False)


@pytest.mark.parametrize(
    ("statement", "parameters", "code", "said"),
    [
        ("select nothing", [], "UndefinedColumn", '42703: column "nothing" does not exist, at character 8 of the SQL'),
        ("select %s, %s", ["C4NARY"], "ProgrammingError", "the query has 2 placeholders but 1 parameters were passed"),
        (
            "select %s",
            [object()],
            "ProgrammingError",
            "cannot adapt type 'object' using placeholder '%s' (format: AUTO)",
        ),
        ("select %(a)s", {"b": "C4NARY"}, "ProgrammingError", "query parameter missing: a"),
        ("select %s::int", ["C4NARY"], "InvalidTextRepresentation", "22P02: the server's sentence quotes the value"),
        ("select %s", ["C4NARY\0"], "DataError", "psycopg's sentence may quote"),
        ("a password", None, "ProgrammingError", "psycopg's sentence may quote"),
    ],
)
async def test_an_operator_reads_what_is_wrong_with_sql_and_no_data(
    bus: CommandBus, pool: CommandBusPool, statement: str, parameters: Any, code: str, said: str
) -> None:
    async def ask(_: Command, context: HandlerContext) -> None:
        if parameters is None:
            await psycopg.AsyncConnection.connect("C4NARY")
        cursor = await context.connection.execute(statement.encode(), parameters)
        await cursor.fetchall()

    registry = HandlerRegistry()
    registry.register(DOMAIN, "ask", ask, transactional=True)
    command_id = await send(bus, "ask", max_attempts=1)
    async with running(make_worker(pool, registry)):
        await reached(bus, command_id, IN_TSQ)
    _, stored, text, _ = await last_error(bus, command_id)
    assert stored == code
    assert said in str(text)
    assert "C4NARY" not in str(text)


async def test_rows_that_a_statement_does_not_have_are_named(bus: CommandBus, pool: CommandBusPool) -> None:
    async def ask(_: Command, context: HandlerContext) -> None:
        cursor = await context.connection.execute("create temporary table nothing ()")
        await cursor.fetchall()

    registry = HandlerRegistry()
    registry.register(DOMAIN, "ask", ask, transactional=True)
    command_id = await send(bus, "ask", max_attempts=1)
    async with running(make_worker(pool, registry)):
        await reached(bus, command_id, IN_TSQ)
    assert (await last_error(bus, command_id))[2] == (
        "the last operation didn't produce records (command status: CREATE TABLE)"
    )


async def test_a_worker_takes_at_most_its_batch_size_in_one_look(bus: CommandBus, pool: CommandBusPool) -> None:
    async def charge(_: Command, __: HandlerContext) -> None:
        return

    command_ids = await send_many(bus, 7)
    async with running(make_worker(pool, registry_of(charge=charge)), concurrency=10, batch_size=3):
        await reached(bus, command_ids)
    looks = await rows(pool, "select count(*) from commandbus.audit where event_type = 'RECEIVED' group by ts")
    assert sum(count for (count,) in looks) == 7
    assert max(count for (count,) in looks) <= 3


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nothing that refers to itself is found while the test runs."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_commands_that_ended_are_gone_without_the_collector(bus: CommandBus, pool: CommandBusPool) -> None:
    async def charge(command: Command, context: HandlerContext) -> None:
        if command.data["n"] % 5 == 0:
            await context.extend_visibility(60)
        if command.data["n"] % 10 == 0:
            raise PermanentCommandError("NO_STOCK", "there is none")

    async with running(make_worker(pool, registry_of(charge=charge))):
        command_ids = await send_many(bus, 100)
        for number, command_id in enumerate(command_ids):
            await reached(bus, command_id, "COMPLETED" if number % 10 else IN_TSQ)
    kept = [one.data for one in gc.get_objects() if isinstance(one, Command) and one.command_id in command_ids]
    assert len(kept) <= 10  # each slot knows its last one until the worker itself is gone
