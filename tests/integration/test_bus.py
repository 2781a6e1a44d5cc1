"""Sending through the bus: with or without the caller's transaction, alone or many, and what it answers."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

from commandbus import (
    BatchNotFoundError,
    CommandBus,
    CommandBusPool,
    CommandStatus,
    DatabaseUnavailableError,
    DuplicateCommandError,
    InvalidArgumentError,
    InvalidOperationError,
    QueueNotFoundError,
    SendRequest,
)
from tests.integration.live import (
    DOMAIN,
    QUEUE,
    batch_commands,
    make_worker,
    registry_of,
    rows,
    running,
    send,
    send_many,
    terminate,
    url_of,
    value,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Caller = psycopg.AsyncConnection[Any]


class Charge(BaseModel):
    """What a charge says."""

    amount: int


@pytest.fixture(params=["ours", "plain", "autocommit", "dict rows", "plain pool"])
async def caller(request: pytest.FixtureRequest, pool: CommandBusPool, database_url: str) -> AsyncIterator[Caller]:
    """A connection of every kind that callers have, with a transaction open."""
    if request.param == "plain pool":
        async with AsyncConnectionPool(database_url, open=False) as plain, plain.connection() as connection:
            yield connection
            await connection.rollback()
        return
    if request.param == "ours":
        async with pool.connection() as own, own.transaction(force_rollback=True):
            yield own
        return
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "autocommit": {"autocommit": True},
        "dict rows": {"row_factory": dict_row},
    }
    async with await psycopg.AsyncConnection.connect(database_url, **kinds[request.param]) as other:
        if request.param == "autocommit":
            async with other.transaction(force_rollback=True):
                yield other
        else:
            yield other
            await other.rollback()


Sending = "Callable[[CommandBus, Caller, UUID], Awaitable[object]]"


async def send_one(bus: CommandBus, conn: Caller, command_id: UUID) -> object:
    """Send by `send`."""
    return await bus.send(DOMAIN, "charge", command_id, {}, conn=conn)


async def send_chunks(bus: CommandBus, conn: Caller, command_id: UUID) -> object:
    """Send by `send_batch`, in several calls of the database."""
    requests = [SendRequest(DOMAIN, "charge", an_id, {}) for an_id in (uuid4(), command_id)]
    return await bus.send_batch(requests, chunk_size=1, conn=conn)


async def send_as_batch(bus: CommandBus, conn: Caller, command_id: UUID) -> object:
    """Send by `create_batch`."""
    (command,) = batch_commands(1)
    return await bus.create_batch(DOMAIN, [type(command)("charge", command_id, {})], conn=conn, name="in a transaction")


SENDINGS = pytest.mark.parametrize("sending", [send_one, send_chunks, send_as_batch])


@SENDINGS
async def test_a_send_on_the_callers_connection_is_visible_to_the_caller_only_and_rolls_back(
    bus: CommandBus, pool: CommandBusPool, caller: Caller, sending: Callable[..., Awaitable[object]]
) -> None:
    command_id = uuid4()
    await sending(bus, caller, command_id)
    assert not await bus.command_exists(DOMAIN, command_id), "committed behind the caller's back"
    assert caller.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    cursor = await caller.execute("select count(*) as n from commandbus.command")
    assert await cursor.fetchone() is not None
    # The fixture rolls back; here a second connection must go on seeing nothing.
    assert await value(pool, f"select count(*) from pgmq.q_{QUEUE}") == 0


@SENDINGS
@pytest.mark.parametrize("commits", [True, False])
async def test_a_send_on_a_plain_connection_is_sent_if_and_only_if_its_transaction_commits(
    bus: CommandBus, database_url: str, sending: Callable[..., Awaitable[object]], commits: bool
) -> None:
    command_id = uuid4()
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await sending(bus, connection, command_id)
        await (connection.commit() if commits else connection.rollback())
    assert await bus.command_exists(DOMAIN, command_id) is commits


async def test_numbers_that_grow_beyond_the_limit_in_the_server_are_refused(bus: CommandBus) -> None:
    with pytest.raises(InvalidArgumentError, match="data: larger than 262144 bytes"):
        await bus.send(DOMAIN, "charge", uuid4(), {"n": [1e308] * 1000})  # 7,000 characters here, 310,000 there
    await bus.send(DOMAIN, "charge", uuid4(), {"n": [1e308] * 500})


async def test_a_send_in_a_transaction_of_our_pool_commits_with_it(bus: CommandBus, pool: CommandBusPool) -> None:
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("create table public.invoice (id int)")
        command_id = await send(bus, conn=connection)
        assert not await bus.command_exists(DOMAIN, command_id)
    assert await bus.command_exists(DOMAIN, command_id)


async def test_a_refused_send_in_a_savepoint_leaves_the_callers_transaction_usable(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    first = await send(bus)
    async with pool.connection() as connection, connection.transaction():
        kept = await send(bus, conn=connection)
        with pytest.raises(DuplicateCommandError):
            async with connection.transaction():
                await send(bus, command_id=first, conn=connection)
    assert await bus.command_exists(DOMAIN, kept)


async def test_every_call_works_on_a_plain_pool_without_autocommit(bus: CommandBus, database_url: str) -> None:
    async with AsyncConnectionPool(database_url, kwargs={"row_factory": dict_row}, open=False) as plain:
        other = CommandBus(plain, default_max_attempts=2)
        command_id = await send(other)
        batch = await other.create_batch(DOMAIN, batch_commands(2))
        await send_many(other, 3)
        found = await bus.get_command(DOMAIN, command_id)
        assert found is not None
        assert found.max_attempts == 2
        assert len(await other.list_batch_commands(DOMAIN, batch.batch_id)) == 2
        assert len(await other.query_commands()) == 6


async def test_a_duplicate_is_refused_and_an_idempotent_send_gives_the_first_message(bus: CommandBus) -> None:
    command_id = uuid4()
    first = await bus.send(DOMAIN, "charge", command_id, {"n": 1})
    with pytest.raises(DuplicateCommandError, match=str(command_id)):
        await bus.send(DOMAIN, "charge", command_id, {"n": 2})
    assert await bus.send(DOMAIN, "charge", command_id, {"n": 1}, idempotent=True) == first
    with pytest.raises(DuplicateCommandError):
        await bus.send(DOMAIN, "refund", command_id, {}, idempotent=True)


async def test_an_idempotent_set_sends_only_what_is_new(bus: CommandBus, pool: CommandBusPool) -> None:
    requests = [SendRequest(DOMAIN, "charge", uuid4(), {"n": n}) for n in range(5)]
    first = await bus.send_batch(requests[:3])
    with pytest.raises(DuplicateCommandError):
        await bus.send_batch(requests)
    again = await bus.send_batch(requests, chunk_size=2, idempotent=True)
    assert again.results[:3] == first.results
    assert await value(pool, f"select count(*) from pgmq.q_{QUEUE}") == 5


async def test_a_pydantic_model_and_its_dict_are_stored_alike(bus: CommandBus, pool: CommandBusPool) -> None:
    await send(bus, data=Charge(amount=5))
    await send(bus, data={"amount": 5})
    assert await rows(pool, f"select distinct message -> 'data' from pgmq.q_{QUEUE}") == [({"amount": 5},)]


async def test_the_correlation_id_is_the_same_in_row_and_message(bus: CommandBus, pool: CommandBusPool) -> None:
    given = uuid4()
    first, second = await send(bus), await send(bus, correlation_id=given)
    for command_id, expected in ((first, first), (second, given)):
        command = await bus.get_command(DOMAIN, command_id)
        assert command is not None
        assert command.correlation_id == expected
    messages = await rows(pool, f"select message ->> 'correlation_id' from pgmq.q_{QUEUE} order by msg_id")
    assert messages == [(str(first),), (str(given),)]


async def test_send_batch_keeps_the_order_and_counts_its_chunks(bus: CommandBus, pool: CommandBusPool) -> None:
    requests = [SendRequest(DOMAIN, "charge", uuid4(), {"n": n}) for n in range(25)]
    sent = await bus.send_batch(requests, chunk_size=10)
    assert [result.command_id for result in sent.results] == [request.command_id for request in requests]
    assert [result.msg_id for result in sent.results] == sorted(result.msg_id for result in sent.results)
    assert (sent.chunks_processed, sent.total_commands) == (3, 25)
    order = await rows(pool, f"select (message -> 'data' ->> 'n')::int from pgmq.q_{QUEUE} order by msg_id")
    assert [n for (n,) in order] == list(range(25))


async def test_send_batch_serves_many_domains_and_batches_in_the_order_asked(bus: CommandBus) -> None:
    await bus.create_domain("ship")
    batch = await bus.create_batch(DOMAIN, batch_commands(1))
    requests = [
        SendRequest(("pay", "ship")[n % 2], "go", uuid4(), {"n": n}, batch_id=batch.batch_id if n == 2 else None)
        for n in range(6)
    ]
    sent = await bus.send_batch(requests)
    assert [result.command_id for result in sent.results] == [request.command_id for request in requests]
    assert sent.chunks_processed == 3
    assert len(await bus.query_commands(domain="ship")) == 3
    assert len(await bus.list_batch_commands(DOMAIN, batch.batch_id)) == 2


async def test_send_batch_sends_all_or_none_over_chunks_and_domains(bus: CommandBus) -> None:
    await bus.create_domain("ship")
    known = await send(bus)
    requests = [SendRequest(domain, "go", uuid4(), {}) for domain in ("ship", "pay", "ship")]
    with pytest.raises(DuplicateCommandError):
        await bus.send_batch([*requests, SendRequest(DOMAIN, "go", known, {})], chunk_size=1)
    with pytest.raises(QueueNotFoundError):
        await bus.send_batch([*requests, SendRequest("nowhere", "go", uuid4(), {})], chunk_size=1)
    assert [command.command_id for command in await bus.query_commands()] == [known]


async def test_queues_that_nobody_made_are_refused_by_name(bus: CommandBus) -> None:
    with pytest.raises(QueueNotFoundError, match="nowhere"):
        await bus.send("nowhere", "charge", uuid4(), {})
    for idempotent in (True, False):
        with pytest.raises(QueueNotFoundError, match="reply_to"):
            await send(bus, reply_to="nowhere__replies", idempotent=idempotent)
    with pytest.raises(QueueNotFoundError):
        await bus.wait_for_reply("nowhere__replies", uuid4(), timeout=0)
    assert await bus.query_commands() == []


async def test_queries_filter_and_page_newest_first(bus: CommandBus) -> None:
    ids = [await send(bus, ("charge", "refund")[n % 2]) for n in range(6)]
    await bus.create_domain("ship")
    await bus.send("ship", "charge", uuid4(), {})
    found = await bus.query_commands(domain=DOMAIN)
    assert [command.command_id for command in found] == ids[::-1]
    assert await bus.query_commands(domain=DOMAIN, limit=2, offset=3) == found[3:5]
    assert [c.command_id for c in await bus.query_commands(command_type="refund")] == ids[5::-2]
    assert await bus.query_commands(created_after=found[2].created_at, domain=DOMAIN) == found[:3]
    assert await bus.query_commands(created_before=found[2].created_at, domain=DOMAIN) == found[3:]
    assert await bus.query_commands(created_after=found[0].created_at + timedelta(days=1)) == []
    assert await bus.query_commands(CommandStatus.COMPLETED) == []
    assert len(await bus.query_commands("PENDING")) == 7  # type: ignore[arg-type]  # its text will do
    assert await bus.get_command(DOMAIN, uuid4()) is None
    assert await bus.command_exists("ship", ids[0]) is False


async def test_audit_trails_are_told_apart_by_domain(bus: CommandBus) -> None:
    await bus.create_domain("ship")
    command_id = await send(bus)
    await bus.send("ship", "charge", command_id, {})
    assert len(await bus.get_audit_trail(command_id)) == 2
    (event,) = await bus.get_audit_trail(command_id, "ship")
    assert (event.domain, event.event_type) == ("ship", "SENT")


async def test_one_odd_audit_row_hides_no_other(bus: CommandBus, pool: CommandBusPool) -> None:
    command_id = await send(bus)
    for details in ("[1, 2]", '"text"', "9" * 5000, "null"):
        await rows(pool, "select commandbus.log_event('pay', %s, 'NOTE', %s::jsonb)", command_id, details)
    trail = await bus.get_audit_trail(command_id)
    assert [event.details for event in trail[1:]] == [
        {"details": [1, 2]},
        {"details": "text"},
        {"details": "9" * 5000},
        {},
    ]


@pytest.mark.direct("a session is lost")
async def test_a_send_whose_connection_broke_is_sent_once(bus: CommandBus, pool: CommandBusPool) -> None:
    requests = [SendRequest(DOMAIN, "charge", uuid4(), {}) for _ in range(2)]
    terminate(pool)
    await send(bus)
    terminate(pool)
    await bus.send_batch(requests, idempotent=True)
    terminate(pool)
    with pytest.raises(DatabaseUnavailableError):  # whether it was sent cannot be known
        await bus.send_batch([SendRequest(DOMAIN, "charge", uuid4(), {})])
    await pool.recover()
    assert await value(pool, f"select count(*) from pgmq.q_{QUEUE}") == 3


@pytest.mark.direct("a session is lost")
async def test_a_lost_connection_of_the_callers_is_not_replaced(bus: CommandBus, pool: CommandBusPool) -> None:
    async with await psycopg.AsyncConnection.connect(url_of(pool)) as connection:
        terminate(pool)
        for sending in (send_one, send_chunks, send_as_batch):
            with pytest.raises(DatabaseUnavailableError):
                await sending(bus, connection, uuid4())
    assert await bus.query_commands() == []


async def test_unknown_batches_and_complete_ones_take_no_command(bus: CommandBus, pool: CommandBusPool) -> None:
    with pytest.raises(BatchNotFoundError):
        await send(bus, batch_id=uuid4())
    batch = await bus.create_batch(DOMAIN, batch_commands(1))
    async with running(make_worker(pool, registry_of(charge=lambda *_: None))):
        await bus.wait_for_batch(DOMAIN, batch.batch_id)
    with pytest.raises(InvalidOperationError, match="complete"):
        await send(bus, batch_id=batch.batch_id)
