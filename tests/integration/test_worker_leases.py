"""A worker's leases: kept while handlers run, given back at the end, and fenced when somebody else has them."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
import time
from typing import Any
from uuid import uuid4

import pytest
from psycopg.errors import UniqueViolation
from pydantic import TypeAdapter, ValidationError

from commandbus import (
    BusinessRuleException,
    Command,
    CommandBus,
    CommandBusPool,
    CommandStatus,
    HandlerContext,
    InvalidOperationError,
    PermanentCommandError,
    StaleLeaseError,
    TransientCommandError,
    Worker,
)
from tests.integration.live import (
    AT_ONCE,
    DOMAIN,
    QUEUE,
    REPLIES,
    Gate,
    events,
    failure_of,
    last_error,
    make_worker,
    raises,
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

    async def are_running() -> bool:
        return gate.runs == 2

    extended, other = await send(bus), await send(bus, "other")
    lease = "select lease_expires_at from commandbus.command where command_id = %s"
    turns = "select lease_expires_at > %s + interval '0.6 s' from commandbus.command where command_id = %s"
    registry = registry_of(charge=charge, other=gate)
    async with running(make_worker(pool, registry, visibility_timeout=1)):
        await until(are_running)
        first = await value(pool, lease, other)
        await until(lambda: value(pool, turns, first, other))  # two turns of what keeps leases, a third of it each
        left = await value(pool, f"select extract(epoch from max(vt) - clock_timestamp()) from pgmq.q_{QUEUE}")
        gate.may_end.set()
        await reached(bus, [extended, other])
    assert left > 80


async def test_a_handlers_short_extension_takes_no_time_from_its_lease(bus: CommandBus, pool: CommandBusPool) -> None:
    gate, asked = Gate(), asyncio.Event()

    async def charge(command: Command, context: HandlerContext) -> None:
        await context.extend_visibility(1)
        asked.set()
        await gate(command, context)

    command_id = await send(bus)
    async with running(make_worker(pool, registry_of(charge=charge), visibility_timeout=100)):
        await asyncio.wait_for(asked.wait(), 10)
        left = await value(pool, f"select extract(epoch from vt - clock_timestamp()) from pgmq.q_{QUEUE}")
        told = await value(
            pool, "select extract(epoch from lease_expires_at - clock_timestamp()) from commandbus.command"
        )
        gate.may_end.set()
        await reached(bus, command_id)
    assert min(left, told) > 80


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
    worker = make_worker(pool, registry_of(charge=charge), visibility_timeout=1)
    async with running(worker, poll_interval=60, use_notify=False):  # it must not take the command again itself
        await gate.began.wait()
        await rows(pool, f"update pgmq.q_{QUEUE} set vt = clock_timestamp() - interval '1 second'")
        (other,) = await Worker(pool, DOMAIN).receive()
        await asyncio.wait_for(refused.wait(), 10)

        async def is_refused() -> bool:
            return "STALE_SETTLE" in await events(bus, command_id)

        await until(is_refused)
        await Worker(pool, DOMAIN).complete(other)
    assert await events(bus, command_id) == ["SENT", "RECEIVED", "RECEIVED", "STALE_SETTLE", "COMPLETED"]


async def test_no_more_commands_are_leased_than_can_run(bus: CommandBus, pool: CommandBusPool) -> None:
    gate = Gate()
    await send_many(bus, 6)
    worker = make_worker(pool, registry_of(charge=gate))
    async with running(worker, concurrency=2, poll_interval=0.01):
        await gate.began.wait()
        await asyncio.sleep(0.3)  # in which a worker that takes too many would do so
        assert worker.in_flight_count == 2
        assert await value(pool, "select count(*) from commandbus.audit where event_type = 'RECEIVED'") == 2
        gate.may_end.set()


async def test_a_worker_whose_settles_wait_takes_no_more(bus: CommandBus, pool: CommandBusPool) -> None:
    ids = await send_many(bus, 40)
    runs = 0

    async with pool.connection() as other, other.transaction():

        async def charge(command: Command, _: HandlerContext) -> None:
            nonlocal runs
            runs += 1
            if command.command_id == ids[0]:  # its settle, and so every later one, waits for this
                await other.execute("select from commandbus.command where command_id = %s for update", [ids[0]])

        worker = make_worker(pool, registry_of(charge=charge))
        run = asyncio.create_task(worker.run(concurrency=2, poll_interval=0.01))

        async def is_full() -> bool:
            return runs > 2 * 2

        await until(is_full)
        await asyncio.sleep(0.3)  # in which a worker that takes too many would do so
        assert runs <= 3 * 2 + 1
    await reached(bus, ids)
    await worker.stop()
    await run


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


async def test_what_arrives_while_the_worker_stops_is_given_back(bus: CommandBus, pool: CommandBusPool) -> None:
    gate = Gate()
    worker = make_worker(pool, registry_of(charge=gate))
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    async with running(worker, poll_interval=0.01):
        async with pool.connection() as other, other.transaction():
            await other.execute(f"lock table pgmq.q_{QUEUE}".encode())
            sent = await bus.send(DOMAIN, "charge", uuid4(), {}, conn=other)

            async def is_receiving() -> bool:
                return int(await value(pool, waiting)) > 0

            await until(is_receiving)
            stopping = asyncio.create_task(worker.stop())
            await asyncio.sleep(0)
        await asyncio.wait_for(stopping, 5)
    assert await events(bus, sent.command_id) == ["SENT", "RECEIVED", "RELEASED"]
    assert gate.runs == 0
    assert len(await Worker(pool, DOMAIN).receive()) == 1


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
    where = (await failure_of(bus, command_id))["error_place"]
    assert where.startswith(Gate.__call__.__code__.co_filename), "the line at which it waited"
    gate.may_end.set()
    async with running(make_worker(pool, registry_of(charge=gate))):
        await reached(bus, command_id)


async def test_a_worker_says_at_its_end_what_it_did(
    bus: CommandBus, pool: CommandBusPool, caplog: pytest.LogCaptureFixture
) -> None:
    async def nothing(*_: object) -> None:
        pass

    gate = Gate()
    registry = registry_of(charge=gate, fail=raises(PermanentCommandError("NO", "never")))
    registry.register(DOMAIN, "transfer", nothing, transactional=True)
    caplog.set_level(logging.INFO, "commandbus.worker")
    ended = [await send(bus, "fail"), await send(bus, "transfer")]
    worker = make_worker(pool, registry)
    async with running(worker, concurrency=2):
        await reached(bus, ended[0], CommandStatus.IN_TROUBLESHOOTING_QUEUE)
        await reached(bus, ended[1])
        await send_many(bus, 5)
        await gate.began.wait()
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        gate.may_end.set()
        await asyncio.wait_for(stopping, 5)
    attempted = [command_id for command_id in await bus.query_commands(domain=DOMAIN) if command_id.attempts]
    (said,) = [record for record in caplog.records if record.getMessage() == "worker stopped"]
    assert said.levelname == "INFO"
    assert (said.__dict__["done"], said.__dict__["domain"]) == (len(attempted), DOMAIN)
    released = await rows(pool, "select 1 from commandbus.audit where event_type = 'RELEASED'")
    assert said.__dict__["given_back"] == len(released)


async def test_a_cancelled_worker_says_what_it_did_too(
    bus: CommandBus, pool: CommandBusPool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "commandbus.worker")
    gate = Gate()
    await send(bus)
    run = asyncio.create_task(make_worker(pool, registry_of(charge=gate)).run())
    await gate.began.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    (said,) = [record for record in caplog.records if record.getMessage() == "worker stopped"]
    assert (said.__dict__["done"], said.__dict__["given_back"]) == (1, 0)


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


@pytest.mark.direct("it counts sessions")
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
    assert [one.metadata for one in received] == [
        dataclasses.replace(stored, updated_at=stored.created_at)
        for stored in [await bus.get_command(DOMAIN, command_id) for command_id in ids]
        if stored is not None
    ]
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


@pytest.mark.parametrize("end", ["fail_permanent", "fail_business_rule"])
async def test_an_error_given_by_hand_is_stored_as_one_of_a_handler_is(
    bus: CommandBus, pool: CommandBusPool, end: str
) -> None:
    await send_many(bus, 3)
    statement = "insert into card values ('C4NARY'), ('C4NARY')"
    with pytest.raises(UniqueViolation) as doubled:
        await rows(pool, f"create temporary table card (number text constraint card_pk primary key); {statement}")
    with pytest.raises(ValidationError) as unfit:
        TypeAdapter(int).validate_python("C4NARY")
    errors: list[Exception] = [doubled.value, unfit.value, TransientCommandError("SOLD_OUT", "none left", {"left": 0})]
    worker = Worker(pool, DOMAIN)
    stored = []
    for received, error in zip(await worker.receive(3), errors, strict=True):
        await getattr(worker, end)(received, error)
        _, code, text, _ = await last_error(bus, received.command.command_id)
        stored.append((code, text))
    assert stored == [
        ("UniqueViolation", '23505: duplicate key value violates unique constraint "card_pk"'),
        ("ValidationError", "data: int_parsing"),
        ("SOLD_OUT", "none left"),
    ]


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


async def test_a_command_taken_by_hand_can_be_kept(bus: CommandBus, pool: CommandBusPool) -> None:
    await send(bus)
    worker = Worker(pool, DOMAIN)
    (received,) = await worker.receive(visibility_timeout=1)
    await received.context.extend_visibility(100)
    assert await value(pool, f"select vt > clock_timestamp() + interval '90 s' from pgmq.q_{QUEUE}")
    await worker.complete(received)
    with pytest.raises(StaleLeaseError):
        await received.context.extend_visibility(100)


async def test_a_command_without_a_reply_queue_says_none(bus: CommandBus, pool: CommandBusPool) -> None:
    await send(bus)
    (received,) = await Worker(pool, DOMAIN).receive()
    assert (received.metadata.reply_to, received.command.reply_to) == (None, None)
