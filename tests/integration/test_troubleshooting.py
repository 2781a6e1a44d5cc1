"""The troubleshooting queue through its Python door: what operators see, and what their verdicts do."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from commandbus import (
    BatchStatus,
    CommandNotFoundError,
    CommandStatus,
    InvalidOperationError,
    QueueNotFoundError,
    ReplyOutcome,
    TroubleshootingQueue,
    Worker,
)
from tests.integration.live import (
    DOMAIN,
    REPLIES,
    batch_commands,
    events,
    make_worker,
    park,
    raises,
    reached,
    registry_of,
    replies_to,
    rows,
    running,
    send,
    status,
)

if TYPE_CHECKING:
    from uuid import UUID

    from commandbus import Command, CommandBus, CommandBusPool, HandlerContext

IN_TSQ = CommandStatus.IN_TROUBLESHOOTING_QUEUE


@pytest.fixture
def tsq(pool: CommandBusPool) -> TroubleshootingQueue:
    """The troubleshooting queue on the test's pool."""
    return TroubleshootingQueue(pool)


async def test_what_waits_is_listed_with_its_payload_longest_waiting_first(
    bus: CommandBus, pool: CommandBusPool, tsq: TroubleshootingQueue
) -> None:
    ids = [*await park(bus, pool, 2), *await park(bus, pool, 1, command_type="refund")]
    items = await tsq.list_troubleshooting(DOMAIN)
    assert [item.command_id for item in items] == ids
    assert [item.payload for item in items] == [{"n": 0}, {"n": 1}, {"n": 0}]
    assert {(item.last_error_type, item.last_error_code) for item in items} == {("PERMANENT", "ValueError")}
    assert [item.command_id for item in await tsq.list_troubleshooting(DOMAIN, "refund")] == ids[2:]
    assert await tsq.list_troubleshooting(DOMAIN, limit=1, offset=1) == items[1:2]
    assert await tsq.list_command_ids(DOMAIN) == ids
    assert (await tsq.count_troubleshooting(DOMAIN), await tsq.count_troubleshooting(DOMAIN, "charge")) == (3, 2)


async def test_what_waits_in_all_domains_is_listed_longest_waiting_first(
    bus: CommandBus, pool: CommandBusPool, tsq: TroubleshootingQueue
) -> None:
    await bus.create_domain("ship")
    expected = []
    for number in range(9):
        domain = "ship" if number % 3 == 1 else DOMAIN
        await bus.send(domain, "charge", uuid4(), {"n": number})
        (received,) = await Worker(pool, domain).receive()
        await Worker(pool, domain).fail_permanent(received, ValueError("cannot work"))
        expected.append(received.command.command_id)
    pages = [await tsq.list_all_troubleshooting(limit=4, offset=offset) for offset in (0, 4, 8, 12)]
    assert [item.command_id for page in pages for item in page] == expected
    assert [item.payload["n"] for page in pages for item in page] == list(range(9))


async def test_what_waits_in_several_domains_is_found(
    bus: CommandBus, pool: CommandBusPool, tsq: TroubleshootingQueue
) -> None:
    assert await tsq.list_domains() == []
    (first,) = await park(bus, pool)
    await bus.create_domain("ship")
    await bus.send("ship", "pack", first, {})
    (received,) = await Worker(pool, "ship").receive()
    await Worker(pool, "ship").fail_permanent(received, ValueError("cannot work"))
    assert await tsq.list_domains() == ["pay", "ship"]
    assert [item.domain for item in await tsq.list_all_troubleshooting()] == ["pay", "ship"]
    assert await tsq.count_troubleshooting() == 2
    assert [item.domain for item in await tsq.list_all_troubleshooting("pack")] == ["ship"]
    with pytest.raises(InvalidOperationError, match="pay, ship"):
        await tsq.get_command_domain(first)
    assert await tsq.get_command_domain(await send(bus)) == "pay"
    unknown = uuid4()
    with pytest.raises(CommandNotFoundError, match=str(unknown)):
        await tsq.get_command_domain(unknown)


async def test_a_retry_gives_all_attempts_and_the_same_payload_again(
    bus: CommandBus, pool: CommandBusPool, tsq: TroubleshootingQueue
) -> None:
    seen: list[object] = []

    async def charge(command: Command, context: HandlerContext) -> str:
        seen.append((command.data, context.attempt, command.correlation_id))
        if len(seen) < 4:
            raise OSError("not now")
        return "at last"

    command_id, correlation = uuid4(), uuid4()
    await send(bus, data={"a": [1, "ü"]}, command_id=command_id, reply_to=REPLIES, correlation_id=correlation)
    async with running(make_worker(pool, registry_of(charge=charge))):
        await reached(bus, command_id, IN_TSQ)
        assert await tsq.operator_retry(DOMAIN, command_id, "ann") > 0
        reply = await bus.wait_for_reply(REPLIES, command_id)
    assert (reply.result, reply.correlation_id) == ("at last", correlation)
    assert seen == [({"a": [1, "ü"]}, attempt, correlation) for attempt in (1, 2, 3, 1)]
    trail = await bus.get_audit_trail(command_id)
    (retried,) = [event for event in trail if event.event_type == "OPERATOR_RETRY"]
    assert retried.details["operator"] == "ann"
    assert await replies_to(pool, command_id) == []


async def test_a_cancel_is_final_and_answers_with_the_reason(
    bus: CommandBus, pool: CommandBusPool, tsq: TroubleshootingQueue
) -> None:
    (command_id,) = await park(bus, pool, reply_to=REPLIES)
    await tsq.operator_cancel(DOMAIN, command_id, "customer left", "ann")
    assert await status(bus, command_id) == CommandStatus.CANCELED
    reply = await bus.wait_for_reply(REPLIES, command_id)
    assert (reply.outcome, reply.error_message, reply.result) == (ReplyOutcome.CANCELED, "customer left", None)
    trail = await bus.get_audit_trail(command_id)
    assert trail[-1].event_type == "OPERATOR_CANCEL"
    assert trail[-1].details == {"operator": "ann", "reason": "customer left"}
    for verdict in (
        tsq.operator_retry(DOMAIN, command_id),
        tsq.operator_complete(DOMAIN, command_id),
        tsq.operator_cancel(DOMAIN, command_id, "again"),
    ):
        with pytest.raises(InvalidOperationError, match="CANCELED"):
            await verdict


@pytest.mark.parametrize("result", [None, {"paid": 5}, [1], "text", 0, False])
async def test_a_complete_answers_with_the_operators_result(
    bus: CommandBus, pool: CommandBusPool, tsq: TroubleshootingQueue, result: object
) -> None:
    (command_id,) = await park(bus, pool, reply_to=REPLIES)
    await tsq.operator_complete(DOMAIN, command_id, result)
    reply = await bus.wait_for_reply(REPLIES, command_id)
    assert (reply.outcome, reply.result) == (ReplyOutcome.SUCCESS, result)
    assert await status(bus, command_id) == CommandStatus.COMPLETED
    last = (await bus.get_audit_trail(command_id))[-1]
    assert last.details == {"operator": None} | ({} if result is None else {"result": result})


async def test_a_verdict_on_a_command_that_does_not_wait_says_what_it_is(
    bus: CommandBus, pool: CommandBusPool, tsq: TroubleshootingQueue
) -> None:
    pending, unknown = await send(bus), uuid4()
    with pytest.raises(InvalidOperationError, match="PENDING"):
        await tsq.operator_retry(DOMAIN, pending)
    with pytest.raises(CommandNotFoundError) as caught:
        await tsq.operator_cancel(DOMAIN, unknown, "why")
    assert (caught.value.domain, caught.value.command_id) == (DOMAIN, unknown)
    with pytest.raises((QueueNotFoundError, CommandNotFoundError)):
        await tsq.operator_retry("nowhere", unknown)
    async with running(make_worker(pool, registry_of(charge=lambda *_: None))):
        await reached(bus, pending)
    with pytest.raises(InvalidOperationError, match="COMPLETED"):
        await tsq.operator_complete(DOMAIN, pending)


async def test_many_verdicts_say_of_each_command_what_became_of_it(
    bus: CommandBus, pool: CommandBusPool, tsq: TroubleshootingQueue
) -> None:
    waiting = await park(bus, pool, 4)
    pending, unknown = await send(bus), uuid4()
    verdicts = await tsq.retry_many(DOMAIN, [*waiting[:2], waiting[0], pending, unknown])
    refused = {verdict.command_id: verdict.refusal for verdict in verdicts}
    assert refused == {waiting[0]: None, waiting[1]: None, pending: "PENDING", unknown: "NOT_FOUND"}
    assert len(verdicts) == 4
    assert len({verdict.msg_id for verdict in verdicts if verdict.msg_id}) == 2
    (canceled,) = await tsq.cancel_many(DOMAIN, waiting[2:3], "no")
    (completed,) = await tsq.complete_many(DOMAIN, waiting[3:])
    assert (canceled.refusal, completed.refusal) == (None, None)
    assert await tsq.count_troubleshooting() == 0


async def test_ids_are_listed_however_many_there_are(
    bus: CommandBus, pool: CommandBusPool, tsq: TroubleshootingQueue
) -> None:
    ids = await park(bus, pool, 1100)
    assert await tsq.list_command_ids(DOMAIN) == ids


async def test_one_odd_row_hides_no_other(bus: CommandBus, pool: CommandBusPool, tsq: TroubleshootingQueue) -> None:
    ids = await park(bus, pool, 4)
    archive = "update commandbus.payload_archive set message = %s::text::jsonb where command_id = %s"
    await rows(pool, archive, '{"data": ' + "9" * 5000 + "}", ids[0])
    await rows(pool, archive, "[1]", ids[1])
    await rows(pool, "delete from commandbus.payload_archive where command_id = %s", ids[2])
    items = {item.command_id: item.payload for item in await tsq.list_troubleshooting(DOMAIN)}
    assert items == {ids[0]: "9" * 5000, ids[1]: None, ids[2]: None, ids[3]: {"n": 3}}


async def test_a_batch_counts_every_verdict_once(
    bus: CommandBus, pool: CommandBusPool, tsq: TroubleshootingQueue
) -> None:
    made = await bus.create_batch(DOMAIN, batch_commands(3))
    ids: list[UUID] = [result.command_id for result in made.command_results]
    async with running(make_worker(pool, registry_of(charge=raises(ValueError("no"))))):
        await reached(bus, ids, IN_TSQ)
    await tsq.operator_complete(DOMAIN, ids[0])
    await tsq.operator_cancel(DOMAIN, ids[1], "no")
    await tsq.operator_retry(DOMAIN, ids[2])
    async with running(make_worker(pool, registry_of(charge=lambda *_: None))):
        batch = await bus.wait_for_batch(DOMAIN, made.batch_id)
    assert batch.status is BatchStatus.COMPLETED_WITH_FAILURES
    assert (batch.completed_count, batch.canceled_count, batch.in_troubleshooting_count) == (2, 1, 0)
    assert await events(bus, made.batch_id) == ["BATCH_STARTED", "BATCH_COMPLETED"]
