"""Draining and background workers for tests of users: order, retries, results, and what is left for an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from commandbus import (
    BusinessRuleException,
    CommandBus,
    HandlerContext,
    HandlerRegistry,
    InvalidArgumentError,
    InvalidOperationError,
    PermanentCommandError,
    QueueNotFoundError,
    RetryPolicy,
    TransientCommandError,
    TroubleshootingQueue,
)
from commandbus.sync import CommandBus as SyncCommandBus
from commandbus.testing import SyncWorkerFactory, WorkerFactory, drain, waiting_commands
from tests.integration.live import DOMAIN, Gate, raises, reached, registry_of, send, send_many, status

if TYPE_CHECKING:
    from commandbus import Command, CommandBusPool
    from commandbus.sync import CommandBusPool as SyncCommandBusPool


class Sum(BaseModel):
    n: int


async def double(command: Command, _: HandlerContext) -> int:
    return int(command.data["n"]) * 2


async def test_everything_due_is_executed_in_queue_order(bus: CommandBus, pool: CommandBusPool) -> None:
    ids = await send_many(bus, 3)
    ended = await drain(pool, registry_of(charge=double), DOMAIN)
    assert list(ended) == ids
    assert [(one.status, one.result, one.error) for one in ended.values()] == [
        ("COMPLETED", 0, None),
        ("COMPLETED", 2, None),
        ("COMPLETED", 4, None),
    ]
    assert await drain(pool, registry_of(charge=double), DOMAIN) == {}


async def test_what_handlers_send_is_executed_too(bus: CommandBus, pool: CommandBusPool) -> None:
    async def forward(command: Command, _: HandlerContext) -> None:
        if command.data["n"] < 3:
            await send(bus, data={"n": command.data["n"] + 1})

    await send(bus, data={"n": 0})
    ended = await drain(pool, registry_of(charge=forward), DOMAIN)
    assert [one.command.data["n"] for one in ended.values()] == [0, 1, 2, 3]


async def test_handlers_that_send_each_other_commands_for_ever_are_stopped(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    async def again(_: Command, __: HandlerContext) -> None:
        await send(bus)

    await send(bus)
    with pytest.raises(InvalidOperationError, match="may be left after 20 attempts: raise limit"):
        await drain(pool, registry_of(charge=again), DOMAIN, limit=20)


async def test_a_retry_is_left_until_it_is_due(bus: CommandBus, pool: CommandBusPool) -> None:
    command_id = await send(bus)
    failure = TransientCommandError("DOWN", "later")
    ended = await drain(pool, registry_of(charge=raises(failure)), DOMAIN)
    assert ended[command_id].status == "PENDING"
    assert ended[command_id].metadata.attempts == 1
    assert ended[command_id].error is failure


async def test_retries_can_be_carried_out_at_once(bus: CommandBus, pool: CommandBusPool) -> None:
    async def third_time(_: Command, context: HandlerContext) -> str:
        if context.attempt < 3:
            raise TransientCommandError("DOWN", "later")
        return "done"

    command_id = await send(bus)
    ended = await drain(pool, registry_of(charge=third_time), DOMAIN, retries=True)
    assert (ended[command_id].status, ended[command_id].result) == ("COMPLETED", "done")
    assert ended[command_id].error is None
    assert ended[command_id].metadata.attempts == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BusinessRuleException("LIMIT", "no"), "FAILED"),
        (PermanentCommandError("GONE", "never"), "IN_TROUBLESHOOTING_QUEUE"),
    ],
)
async def test_a_failure_ends_as_it_would_under_a_worker(
    bus: CommandBus, pool: CommandBusPool, error: Exception, expected: str
) -> None:
    command_id = await send(bus)
    ended = await drain(pool, registry_of(charge=raises(error)), DOMAIN)
    assert ended[command_id].status == expected == await status(bus, command_id)
    assert ended[command_id].error is error


async def test_a_transaction_commits_with_its_command(bus: CommandBus, pool: CommandBusPool) -> None:
    registry = HandlerRegistry()

    @registry.handler(DOMAIN, "charge", transactional=True)
    async def charge(_: Command, context: HandlerContext) -> str:
        await context.connection.execute("create table public.proof ()")
        return "written"

    command_id = await send(bus)
    ended = await drain(pool, registry, DOMAIN)
    assert (ended[command_id].status, ended[command_id].result) == ("COMPLETED", "written")
    async with pool.connection() as connection:
        await connection.execute("select from public.proof")


async def test_a_plain_function_runs_and_models_are_checked(bus: CommandBus, pool: CommandBusPool) -> None:
    def plain(data: Sum, _: HandlerContext) -> int:
        return data.n

    registry = HandlerRegistry()
    registry.register(DOMAIN, "charge", plain)
    good, bad = await send(bus, data={"n": 5}), await send(bus, data={"n": "many"})
    ended = await drain(pool, registry, DOMAIN)
    assert ended[good].result == 5
    assert ended[bad].status == "IN_TROUBLESHOOTING_QUEUE"
    assert ended[bad].metadata.last_error_code == "INVALID_PAYLOAD"


async def test_a_command_without_a_handler_is_among_what_ran(bus: CommandBus, pool: CommandBusPool) -> None:
    command_id = await send(bus, "unheard_of")
    ended = await drain(pool, HandlerRegistry(), DOMAIN)
    assert ended[command_id].metadata.last_error_code == "HandlerNotFoundError"


async def test_a_domain_that_nobody_made_is_refused(pool: CommandBusPool) -> None:
    with pytest.raises(QueueNotFoundError):
        await drain(pool, HandlerRegistry(), "misspelt")


async def test_waiting_commands_come_with_their_data_and_in_order(bus: CommandBus, pool: CommandBusPool) -> None:
    correlation_id = uuid4()
    first = await send(bus, data={"n": 1}, correlation_id=correlation_id, reply_to="pay__replies")
    second = await send(bus, "refund", data={"n": 2})
    waiting = await waiting_commands(pool, DOMAIN)
    assert [command.command_id for command in waiting] == [first, second]
    assert (waiting[0].data, waiting[0].correlation_id, waiting[0].reply_to) == (
        {"n": 1},
        correlation_id,
        "pay__replies",
    )
    assert [command.command_id for command in await waiting_commands(pool, DOMAIN, "refund")] == [second]


async def test_retries_wait_as_well_but_what_ended_does_not(bus: CommandBus, pool: CommandBusPool) -> None:
    retried = await send(bus)
    await send(bus, "refund", data={"n": 1})
    handlers = registry_of(charge=raises(TransientCommandError("DOWN", "later")), refund=double)
    await drain(pool, handlers, DOMAIN)
    assert [command.command_id for command in await waiting_commands(pool, DOMAIN)] == [retried]


async def test_a_background_worker_finishes_what_is_due_when_it_is_closed(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    workers = WorkerFactory(pool)
    worker = await workers(registry_of(charge=double), DOMAIN)
    assert worker.is_running
    ids = await send_many(bus, 50)
    await workers.close()
    assert not worker.is_running
    assert {await status(bus, command_id) for command_id in ids} == {"COMPLETED"}


async def test_a_worker_that_is_still_busy_in_the_end_is_an_error(bus: CommandBus, pool: CommandBusPool) -> None:
    workers = WorkerFactory(pool, timeout=0.2)
    gate = Gate()
    await workers(registry_of(charge=gate), DOMAIN)
    await send(bus)
    await gate.began.wait()
    with pytest.raises(AssertionError, match=r'the worker of domain "pay" was still busy after 0.2 s'):
        await workers.close()


async def test_a_command_left_for_an_operator_is_an_error_with_its_traceback(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    workers = WorkerFactory(pool)
    command_id = await send(bus)
    await workers(registry_of(charge=raises(PermanentCommandError("GONE", "never"))), DOMAIN)
    with pytest.raises(AssertionError) as caught:
        await workers.close()
    assert '1 command waits for an operator in domain "pay"' in str(caught.value)
    assert f"charge {command_id}: GONE: never" in str(caught.value)
    assert "Traceback (most recent call last)" in str(caught.value)


async def test_what_an_operator_decided_is_not_left(bus: CommandBus, pool: CommandBusPool) -> None:
    workers = WorkerFactory(pool)
    command_id = await send(bus)
    await workers.drain(registry_of(charge=raises(PermanentCommandError("GONE", "never"))), DOMAIN)
    await TroubleshootingQueue(pool).operator_cancel(DOMAIN, command_id, "seen")
    await workers.close()


@pytest.mark.parametrize("in_background", [True, False])
async def test_a_test_may_allow_commands_to_be_left(bus: CommandBus, pool: CommandBusPool, in_background: bool) -> None:
    workers = WorkerFactory(pool)
    await send(bus)
    run: Any = workers if in_background else workers.drain
    await run(registry_of(charge=raises(PermanentCommandError("GONE", "never"))), DOMAIN, allow_troubleshooting=True)
    await workers.close()
    assert await TroubleshootingQueue(pool).count_troubleshooting(DOMAIN) == 1


async def test_a_background_worker_takes_a_policy_of_its_own(bus: CommandBus, pool: CommandBusPool) -> None:
    workers = WorkerFactory(pool)
    command_id = await send(bus)
    at_once = RetryPolicy(backoff_schedule=[0])
    failing = registry_of(charge=raises(TransientCommandError("DOWN", "later")))
    await workers(failing, DOMAIN, retry_policy=at_once, allow_troubleshooting=True)
    await reached(bus, command_id, "IN_TROUBLESHOOTING_QUEUE")
    await workers.close()


def test_a_test_without_an_event_loop_can_drain(database_url: str, sync_pool: SyncCommandBusPool) -> None:
    bus = SyncCommandBus(sync_pool)
    bus.create_domain(DOMAIN)
    workers = SyncWorkerFactory(database_url)
    for n in (1, 2):
        bus.send(DOMAIN, "charge", uuid4(), {"n": n})
        assert [command.data for command in workers.waiting(DOMAIN)] == [{"n": n}]
        assert [one.result for one in workers.drain(registry_of(charge=double), DOMAIN).values()] == [2 * n]
    bus.send(DOMAIN, "charge", uuid4(), {})
    workers.drain(registry_of(charge=raises(PermanentCommandError("GONE", "never"))), DOMAIN)
    with pytest.raises(AssertionError, match="1 command waits"):
        workers.close()


async def test_a_worker_that_cannot_run_is_refused_at_once(pool: CommandBusPool) -> None:
    workers = WorkerFactory(pool)
    with pytest.raises(InvalidArgumentError, match="concurrency"):
        await workers(HandlerRegistry(), DOMAIN, concurrency=0)
    await workers.close()


async def test_a_domain_that_nobody_created_is_refused_with_what_to_call(bus: CommandBus, pool: CommandBusPool) -> None:
    await bus.create_domain("ship")
    expected = f'domain "{DOMAIN}s" has no queue: bus.create_domain("{DOMAIN}s") makes it; there is: {DOMAIN}, ship'
    with pytest.raises(QueueNotFoundError) as drained:
        await drain(pool, HandlerRegistry(), f"{DOMAIN}s")
    with pytest.raises(QueueNotFoundError) as waited:
        await WorkerFactory(pool).waiting(f"{DOMAIN}s")
    assert str(drained.value) == str(waited.value) == expected
