"""Batches through bus and worker: counted, announced once, and open until nobody waits for an operator."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from commandbus import (
    BatchMetadata,
    BatchNotFoundError,
    BatchStatus,
    BusinessRuleException,
    Command,
    CommandBus,
    CommandBusPool,
    CommandStatus,
    DuplicateCommandError,
    HandlerContext,
    InvalidArgumentError,
    InvalidOperationError,
    PermanentCommandError,
    QueueNotFoundError,
    ReplyTimeoutError,
    TroubleshootingQueue,
    Worker,
)
from tests.integration.live import (
    DOMAIN,
    REPLIES,
    batch_commands,
    events,
    make_worker,
    reached,
    registry_of,
    rows,
    running,
    send,
    terminate,
    until,
)

if TYPE_CHECKING:
    from commandbus import HandlerRegistry


def by_data() -> HandlerRegistry:
    """Return handlers that complete, refuse or break as the command says."""

    async def charge(command: Command, _: HandlerContext) -> None:
        match command.data["n"] % 3:
            case 1:
                raise BusinessRuleException("NO", "the business says no")
            case 2:
                raise PermanentCommandError("BROKEN", "cannot work")

    return registry_of(charge=charge, fine=lambda *_: None)


def counts(batch: BatchMetadata) -> tuple[int, ...]:
    """Return total, completed, failed, canceled, in troubleshooting."""
    return (
        batch.total_count,
        batch.completed_count,
        batch.failed_count,
        batch.canceled_count,
        batch.in_troubleshooting_count,
    )


async def test_a_new_batch_is_pending_and_holds_what_it_was_made_with(bus: CommandBus) -> None:
    commands, batch_id = batch_commands(3), uuid4()
    made = await bus.create_batch(DOMAIN, commands, batch_id=batch_id, name="March", custom_data={"by": "me"})
    assert made.batch_id == batch_id
    assert [result.command_id for result in made.command_results] == [c.command_id for c in commands]
    assert made.total_commands == 3
    batch = await bus.get_batch(DOMAIN, batch_id)
    assert batch is not None
    assert (batch.status, batch.name, batch.custom_data) == (BatchStatus.PENDING, "March", {"by": "me"})
    assert counts(batch) == (3, 0, 0, 0, 0)
    assert (batch.started_at, batch.completed_at, batch.is_complete) == (None, None, False)
    listed = await bus.list_batch_commands(DOMAIN, batch_id)
    assert {command.command_id for command in listed} == {c.command_id for c in commands}
    assert {command.batch_id for command in listed} == {batch_id}


async def test_a_batch_of_several_calls_is_made_whole_or_not_at_all(bus: CommandBus) -> None:
    known = await send(bus)
    commands = batch_commands(1200)
    bad = type(commands[0])("charge", known, {})
    with pytest.raises(DuplicateCommandError):
        await bus.create_batch(DOMAIN, [*commands, bad])
    assert await bus.list_batches(DOMAIN) == []
    assert len(await bus.query_commands(limit=1000)) == 1
    made = await bus.create_batch(DOMAIN, commands)
    batch = await bus.get_batch(DOMAIN, made.batch_id)
    assert batch is not None
    assert counts(batch) == (1200, 0, 0, 0, 0)
    assert [result.msg_id for result in made.command_results] == sorted(r.msg_id for r in made.command_results)


async def test_a_batch_that_exists_or_has_nowhere_to_tell_is_refused(bus: CommandBus) -> None:
    made = await bus.create_batch(DOMAIN, batch_commands(1))
    with pytest.raises(InvalidOperationError, match=str(made.batch_id)):
        await bus.create_batch(DOMAIN, batch_commands(1), batch_id=made.batch_id)
    with pytest.raises(QueueNotFoundError):
        await bus.create_batch(DOMAIN, batch_commands(1), on_complete="nowhere__replies")
    with pytest.raises(QueueNotFoundError, match="nowhere"):
        await bus.create_batch("nowhere", batch_commands(1))
    with pytest.raises(InvalidArgumentError, match="on_complete"):
        await bus.create_batch(DOMAIN, batch_commands(1), on_complete="pay__commands")
    assert len(await bus.list_batches(DOMAIN)) == 1


async def test_commands_join_a_batch_until_it_is_complete(bus: CommandBus, pool: CommandBusPool) -> None:
    made = await bus.create_batch(DOMAIN, batch_commands(1, "fine"))
    joined = await send(bus, "fine", batch_id=made.batch_id)
    async with running(make_worker(pool, by_data())):
        batch = await bus.wait_for_batch(DOMAIN, made.batch_id)
        with pytest.raises(InvalidOperationError, match="complete"):
            await send(bus, "fine", batch_id=made.batch_id)
    assert counts(batch) == (2, 2, 0, 0, 0)
    assert batch.status is BatchStatus.COMPLETED
    command = await bus.get_command(DOMAIN, joined)
    assert command is not None
    assert command.batch_id == made.batch_id


async def test_a_duplicate_that_is_accepted_counts_once(bus: CommandBus) -> None:
    made = await bus.create_batch(DOMAIN, batch_commands(1))
    again = made.command_results[0]
    sent = await bus.send(DOMAIN, "charge", again.command_id, {}, batch_id=made.batch_id, idempotent=True)
    assert sent == again
    batch = await bus.get_batch(DOMAIN, made.batch_id)
    assert batch is not None
    assert batch.total_count == 1


async def test_a_batch_stays_open_until_operators_have_decided(bus: CommandBus, pool: CommandBusPool) -> None:
    tsq = TroubleshootingQueue(pool)
    commands = batch_commands(9)
    parked = [command.command_id for n, command in enumerate(commands) if n % 3 == 2]
    made = await bus.create_batch(DOMAIN, commands, on_complete=REPLIES)
    async with running(make_worker(pool, by_data())):
        await reached(bus, parked, CommandStatus.IN_TROUBLESHOOTING_QUEUE)
        await reached(bus, commands[0].command_id)

        async def only_operators_are_missing() -> bool:
            batch = await bus.get_batch(DOMAIN, made.batch_id)
            return batch is not None and counts(batch) == (9, 3, 3, 0, 3)

        await until(only_operators_are_missing)
        with pytest.raises(ReplyTimeoutError):
            await bus.wait_for_batch(DOMAIN, made.batch_id, timeout=0)
        assert await rows(pool, f"select * from pgmq.q_{REPLIES}") == []
        await tsq.operator_retry(DOMAIN, parked[0])  # it comes back
        await until(only_operators_are_missing)
        await reached(bus, parked[0], CommandStatus.IN_TROUBLESHOOTING_QUEUE)
        await tsq.operator_complete(DOMAIN, parked[0])
        await tsq.operator_cancel(DOMAIN, parked[1], "no")
        await tsq.operator_cancel(DOMAIN, parked[2], "no")
    batch = await bus.wait_for_batch(DOMAIN, made.batch_id)
    assert (batch.status, counts(batch)) == (BatchStatus.COMPLETED_WITH_FAILURES, (9, 4, 3, 2, 0))
    assert await events(bus, made.batch_id) == ["BATCH_STARTED", "BATCH_COMPLETED"]
    ((message,),) = await rows(pool, f"select message from pgmq.q_{REPLIES}")
    assert message["batch_id"] == str(made.batch_id)
    assert (message["event"], message["status"]) == ("BATCH_COMPLETED", "COMPLETED_WITH_FAILURES")


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_function_is_told_once_when_the_batch_is_complete(
    bus: CommandBus, pool: CommandBusPool, is_async: bool
) -> None:
    told: list[BatchMetadata] = []

    async def tell(batch: BatchMetadata) -> None:
        told.append(batch)

    made = await bus.create_batch(DOMAIN, batch_commands(3, "fine"), on_complete=tell if is_async else told.append)
    terminate(pool)  # it looks again
    async with running(make_worker(pool, by_data())):
        await bus.wait_for_batch(DOMAIN, made.batch_id)

        async def is_told() -> bool:
            return bool(told)

        await until(is_told)
    assert [(batch.batch_id, batch.is_complete) for batch in told] == [(made.batch_id, True)]


async def test_a_batch_is_waited_for_by_many(bus: CommandBus, pool: CommandBusPool) -> None:
    made = await bus.create_batch(DOMAIN, batch_commands(20, "fine"))
    waits = [asyncio.create_task(bus.wait_for_batch(DOMAIN, made.batch_id)) for _ in range(5)]
    async with running(make_worker(pool, by_data())):
        found = await asyncio.gather(*waits)
    assert len(set(map(counts, found))) == 1


async def test_unknown_batches_are_named(bus: CommandBus) -> None:
    unknown = uuid4()
    with pytest.raises(BatchNotFoundError, match=str(unknown)):
        await bus.wait_for_batch(DOMAIN, unknown)
    assert await bus.get_batch(DOMAIN, unknown) is None
    assert await bus.list_batch_commands(DOMAIN, unknown) == []


async def test_batches_are_listed_newest_first_by_status_and_page(bus: CommandBus, pool: CommandBusPool) -> None:
    made = [(await bus.create_batch(DOMAIN, batch_commands(2, "fine"))).batch_id for _ in range(4)]
    listed = await bus.list_batches(DOMAIN)
    assert [batch.batch_id for batch in listed] == made[::-1]
    assert await bus.list_batches(DOMAIN, limit=2, offset=1) == listed[1:3]
    async with running(make_worker(pool, by_data())):
        for batch_id in made:
            await bus.wait_for_batch(DOMAIN, batch_id)
    assert await bus.list_batches(DOMAIN, status=BatchStatus.PENDING) == []
    assert len(await bus.list_batches(DOMAIN, status=BatchStatus.COMPLETED)) == 4
    commands = await bus.list_batch_commands(DOMAIN, made[0], status=CommandStatus.COMPLETED)
    assert len(commands) == 2
    assert await bus.list_batch_commands(DOMAIN, made[0], limit=1, offset=1) == commands[1:]


async def test_a_handler_is_told_its_batch(bus: CommandBus, pool: CommandBusPool) -> None:
    made = await bus.create_batch(DOMAIN, batch_commands(1))
    (received,) = await Worker(pool, DOMAIN).receive()
    assert (received.context.batch_id, received.metadata.batch_id) == (made.batch_id, made.batch_id)


async def test_batches_of_all_domains_are_listed_newest_first(bus: CommandBus) -> None:
    await bus.create_domain("ship")
    domains = (DOMAIN, "ship", "ship", DOMAIN, "ship")
    made = [(await bus.create_batch(domain, batch_commands(1))).batch_id for domain in domains]
    assert [batch.batch_id for batch in await bus.list_batches()] == made[::-1]
    assert [batch.batch_id for batch in await bus.list_batches(limit=2, offset=2)] == made[::-1][2:4]
