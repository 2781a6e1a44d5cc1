"""Asking and being answered: call, wait_for_reply, and what is in a reply queue."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from psycopg.types.json import Jsonb

from commandbus import (
    BusinessRuleException,
    CommandBus,
    CommandBusPool,
    CommandCanceledError,
    CommandFailedError,
    CommandStatus,
    DuplicateCommandError,
    InvalidArgumentError,
    InvalidPayloadError,
    PermanentCommandError,
    ReplyOutcome,
    ReplyTimeoutError,
    TroubleshootingQueue,
)
from tests.integration.live import (
    DOMAIN,
    QUEUE,
    REPLIES,
    make_worker,
    park,
    reached,
    registry_of,
    rows,
    running,
    send,
    send_many,
    until,
    value,
)


async def test_a_reply_may_go_to_the_reply_queue_of_another_domain(bus: CommandBus, pool: CommandBusPool) -> None:
    await bus.create_domain("shop")
    command_id = await send(bus, reply_to="shop__replies")
    async with running(make_worker(pool, registry_of(charge=lambda _, __: [1, "two"]))):
        reply = await bus.wait_for_reply("shop__replies", command_id)
    assert (reply.outcome, reply.result, reply.correlation_id) == (ReplyOutcome.SUCCESS, [1, "two"], command_id)


async def test_call_returns_what_the_handler_returns(bus: CommandBus, pool: CommandBusPool) -> None:
    async with running(make_worker(pool, registry_of(double=lambda command, _: command.data["n"] * 2))):
        assert await bus.call(DOMAIN, "double", {"n": 21}, timeout=10) == 42
    assert await value(pool, f"select count(*) from pgmq.q_{REPLIES}") == 0


async def test_call_raises_what_a_business_rule_says(bus: CommandBus, pool: CommandBusPool) -> None:
    def refuse(*_: object) -> None:
        raise BusinessRuleException("NO_FUNDS", "the account is empty", {"balance": 0})

    async with running(make_worker(pool, registry_of(charge=refuse))):
        with pytest.raises(CommandFailedError, match="NO_FUNDS") as caught:
            await bus.call(DOMAIN, "charge", {}, timeout=10)
    assert (caught.value.code, caught.value.details) == ("NO_FUNDS", {"balance": 0})
    assert caught.value.error_message == "the account is empty"


async def test_call_raises_when_an_operator_gives_the_command_up(bus: CommandBus, pool: CommandBusPool) -> None:
    def refuse(*_: object) -> None:
        raise PermanentCommandError("BROKEN", "cannot be done")

    tsq, command_id = TroubleshootingQueue(pool), uuid4()
    async with running(make_worker(pool, registry_of(charge=refuse))):
        with pytest.raises(ReplyTimeoutError) as late:
            await bus.call(DOMAIN, "charge", {}, timeout=0.05, command_id=command_id)
        assert late.value.command_id == command_id
        await reached(bus, command_id, CommandStatus.IN_TROUBLESHOOTING_QUEUE)
    await tsq.operator_cancel(DOMAIN, command_id, "not worth it")
    canceled = await bus.wait_for_reply(REPLIES, command_id)
    assert (canceled.outcome, canceled.error_message) == (ReplyOutcome.CANCELED, "not worth it")
    with pytest.raises(DuplicateCommandError):
        await bus.call(DOMAIN, "charge", {}, command_id=command_id)


async def test_call_raises_canceled_with_the_operators_reason(bus: CommandBus, pool: CommandBusPool) -> None:
    def refuse(*_: object) -> None:
        raise PermanentCommandError("BROKEN", "cannot be done")

    tsq = TroubleshootingQueue(pool)

    async def cancel() -> bool:
        waiting = await tsq.list_command_ids(DOMAIN)
        for command_id in waiting:
            await tsq.operator_cancel(DOMAIN, command_id, "not worth it")
        return bool(waiting)

    async with running(make_worker(pool, registry_of(charge=refuse))), asyncio.TaskGroup() as group:
        group.create_task(until(cancel))
        with pytest.raises(CommandCanceledError, match="not worth it"):
            await bus.call(DOMAIN, "charge", {}, timeout=10)


async def test_a_call_that_timed_out_can_be_waited_for_again(bus: CommandBus, pool: CommandBusPool) -> None:
    with pytest.raises(ReplyTimeoutError) as late:
        await bus.call(DOMAIN, "charge", {}, timeout=0)
    assert late.value.command_id is not None
    async with running(make_worker(pool, registry_of(charge=lambda *_: "late"))):
        reply = await bus.wait_for_reply(REPLIES, late.value.command_id)
    assert reply.result == "late"


async def test_wait_for_reply_leaves_the_replies_to_others(bus: CommandBus, pool: CommandBusPool) -> None:
    ids = await send_many(bus, 3, reply_to=REPLIES)
    async with running(make_worker(pool, registry_of(charge=lambda command, _: command.data["n"]))):
        await reached(bus, ids)
    assert [(await bus.wait_for_reply(REPLIES, ids[n])).result for n in (1, 0, 2)] == [1, 0, 2]


async def test_a_reply_that_is_none_is_refused_in_our_words(bus: CommandBus, pool: CommandBusPool) -> None:
    command_id = uuid4()
    for message in ({}, {"outcome": "MAYBE"}, {"outcome": "SUCCESS", "correlation_id": 5}):
        body = {"command_id": str(command_id), **message}
        await rows(pool, f"select pgmq.send('{REPLIES}', %s)", Jsonb(body))
        with pytest.raises(InvalidPayloadError, match="no reply"):
            await bus.wait_for_reply(REPLIES, command_id, timeout=1)


async def test_what_waits_for_an_operator_has_no_reply_yet(bus: CommandBus, pool: CommandBusPool) -> None:
    (command_id,) = await park(bus, pool, reply_to=REPLIES)
    with pytest.raises(ReplyTimeoutError):
        await bus.wait_for_reply(REPLIES, command_id, timeout=0)
    with pytest.raises(InvalidArgumentError, match="queue"):
        await bus.wait_for_reply(QUEUE, command_id)
