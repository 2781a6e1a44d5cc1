"""The repositories and the queue client: one method per function, on a pool or on the caller's connection."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from commandbus import (
    AuditEventType,
    InvalidOperationError,
    PgmqClient,
    PostgresAuditLogger,
    PostgresBatchRepository,
    PostgresCommandRepository,
    PostgresPayloadArchive,
    QueueNotFoundError,
    ReplyOutcome,
    TroubleshootingQueue,
    Worker,
)
from tests.integration.live import DOMAIN, QUEUE, REPLIES, park, rows, send, send_many, until, value

if TYPE_CHECKING:
    from commandbus import CommandBus, CommandBusPool, PgmqMessage


@pytest.fixture
async def queues(pool: CommandBusPool) -> PgmqClient:
    """A queue client with one queue of its own."""
    client = PgmqClient(pool)
    assert await client.create_queue("plain")
    return client


async def test_a_queue_is_made_once(queues: PgmqClient) -> None:
    assert await queues.create_queue("plain") is False
    assert await queues.create_domain("pay") is True
    assert await queues.create_domain("pay") is False
    assert await queues.list_domains() == ["pay"]


async def test_messages_come_in_order_once_until_their_time_is_over(queues: PgmqClient) -> None:
    sent = await queues.send_batch("plain", [{"n": 1}, [2], "three", None])
    messages = await queues.read("plain", visibility_timeout=1, batch_size=3)
    assert [message.msg_id for message in messages] == sent[:3]
    assert [message.message for message in messages] == [{"n": 1}, [2], "three"]
    assert {message.read_count for message in messages} == {1}
    assert messages[0].vt > messages[0].enqueued_at
    assert [message.message for message in await queues.read("plain", 60, batch_size=10)] == [None]

    async def again() -> list[PgmqMessage]:
        return await queues.read("plain", 60, 10)

    assert {message.read_count for message in await until(again)} == {2}


async def test_a_message_can_be_deleted_archived_or_shown_again_once(queues: PgmqClient) -> None:
    first, second, third = await queues.send_batch("plain", [1, 2, 3])
    assert [await queues.delete("plain", first), await queues.delete("plain", first)] == [True, False]
    assert [await queues.archive("plain", second), await queues.archive("plain", second)] == [True, False]
    assert len(await queues.read("plain", 60)) == 1
    assert await queues.read("plain") == []
    assert await queues.set_vt("plain", third, 0)
    assert [message.msg_id for message in await queues.read("plain")] == [third]
    assert await queues.set_vt("plain", 999, 5) is False


async def test_a_delayed_message_is_not_visible_yet(queues: PgmqClient) -> None:
    await queues.send("plain", {"n": 1}, delay=60)
    assert await queues.read("plain") == []


async def test_a_message_python_cannot_hold_is_given_as_text(queues: PgmqClient, pool: CommandBusPool) -> None:
    await rows(pool, "select pgmq.send('plain', %s::text::jsonb)", "9" * 5000)
    await queues.send("plain", "fine")
    assert [message.message for message in await queues.read("plain", batch_size=5)] == ["9" * 5000, "fine"]


async def test_a_queue_that_is_not_there_is_named_as_such(queues: PgmqClient) -> None:
    for call in (
        queues.send("nowhere", 1),
        queues.read("nowhere"),
        queues.delete("nowhere", 1),
        queues.archive("nowhere", 1),
        queues.set_vt("nowhere", 1, 1),
        queues.metrics("nowhere"),
        queues.take_replies("nowhere__replies", [uuid4()]),
    ):
        with pytest.raises(QueueNotFoundError):
            await call


async def test_metrics_tell_visible_leased_scheduled_and_parked_apart(bus: CommandBus, pool: CommandBusPool) -> None:
    empty = await PgmqClient(pool).metrics(DOMAIN)
    assert (empty.queue_name, empty.length, empty.oldest_age_seconds) == (QUEUE, 0, None)
    await park(bus, pool)
    await send_many(bus, 4)
    worker = Worker(pool, DOMAIN)
    one, _ = await worker.receive(batch_size=2)
    await worker.fail(one, OSError("not now"))
    found = await PgmqClient(pool).metrics(DOMAIN)
    assert (found.length, found.visible, found.in_flight, found.scheduled) == (3, 2, 1, 1)
    assert found.oldest_age_seconds is not None
    assert found.newest_age_seconds is not None
    assert found.oldest_age_seconds >= found.newest_age_seconds >= 0


async def test_replies_are_taken_by_command_and_only_once(bus: CommandBus, pool: CommandBusPool) -> None:
    ids = await park(bus, pool, 3, reply_to=REPLIES)
    await TroubleshootingQueue(pool).complete_many(DOMAIN, ids, "done")
    client = PgmqClient(pool)
    replies = await client.take_replies(REPLIES, ids[:2])
    assert {reply.command_id for reply in replies} == set(ids[:2])
    assert {reply.outcome for reply in replies} == {ReplyOutcome.SUCCESS}
    assert await client.take_replies(REPLIES, ids[:2]) == []
    assert await value(pool, f"select count(*) from pgmq.q_{REPLIES}") == 1


async def test_every_repository_joins_the_callers_transaction(bus: CommandBus, pool: CommandBusPool) -> None:
    command_id, batch_id = await send(bus), uuid4()
    async with pool.connection() as connection, connection.transaction(force_rollback=True):
        await PostgresBatchRepository(connection).create(DOMAIN, batch_id, name="gone")
        await PostgresAuditLogger(pool).on(connection).log(DOMAIN, command_id, "NOTE", '{"by": "me"}')
        await PgmqClient(connection).send(REPLIES, {})
        assert await PostgresBatchRepository(connection).get(DOMAIN, batch_id) is not None
        assert len(await PostgresAuditLogger(connection).get_trail(command_id)) == 2
    assert await PostgresBatchRepository(pool).get(DOMAIN, batch_id) is None
    assert len(await PostgresAuditLogger(pool).get_trail(command_id)) == 1
    assert await value(pool, f"select count(*) from pgmq.q_{REPLIES}") == 0


async def test_an_event_of_the_callers_own_is_in_the_trail(bus: CommandBus, pool: CommandBusPool) -> None:
    command_id = await send(bus)
    audit_id = await PostgresAuditLogger(pool).log(DOMAIN, command_id, "CHECKED", '{"by": "ann"}')
    event = (await bus.get_audit_trail(command_id))[-1]
    assert (event.audit_id, event.event_type, event.details) == (audit_id, "CHECKED", {"by": "ann"})
    assert event.timestamp.utcoffset() is not None


@pytest.mark.parametrize("event_type", AuditEventType)
async def test_nobody_writes_the_librarys_own_events(pool: CommandBusPool, event_type: AuditEventType) -> None:
    audit, command_id = PostgresAuditLogger(pool), uuid4()
    with pytest.raises(InvalidOperationError, match=f'event type "{event_type}" is written by commandbus only'):
        await audit.log(DOMAIN, command_id, event_type)
    assert await audit.get_trail(command_id) == []
    await audit.log(DOMAIN, command_id, f"MY_{event_type}")
    assert [event.event_type for event in await audit.get_trail(command_id)] == [f"MY_{event_type}"]


async def test_the_archive_holds_the_message_while_an_operator_is_waited_for(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    (command_id,) = await park(bus, pool)
    archive = PostgresPayloadArchive(pool)
    message = await archive.get(DOMAIN, command_id)
    assert message is not None
    assert (message["data"], message["command_type"]) == ({"n": 0}, "charge")
    await TroubleshootingQueue(pool).operator_retry(DOMAIN, command_id)
    assert await archive.get(DOMAIN, command_id) is None


async def test_a_batch_made_alone_takes_commands_later(bus: CommandBus, pool: CommandBusPool) -> None:
    batches, batch_id = PostgresBatchRepository(pool), uuid4()
    await batches.create(DOMAIN, batch_id, custom_data='{"a": 1}', completion_queue=REPLIES)
    with pytest.raises(InvalidOperationError):
        await batches.create(DOMAIN, batch_id)
    await send(bus, batch_id=batch_id)
    (batch,) = await batches.list(DOMAIN)
    assert (batch.batch_id, batch.total_count, batch.custom_data) == (batch_id, 1, {"a": 1})


async def test_a_command_is_found_in_every_domain_that_has_it(bus: CommandBus, pool: CommandBusPool) -> None:
    await bus.create_domain("ship")
    command_id = await send(bus)
    await bus.send("ship", "pack", command_id, {})
    commands = PostgresCommandRepository(pool)
    assert await commands.find_domains(command_id) == ["pay", "ship"]
    assert await commands.find_domains(uuid4()) == []
