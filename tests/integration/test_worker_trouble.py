"""A worker in trouble: lost connections, dropped queues, full pools and poison, none of which stops it."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from commandbus import CommandBus, CommandBusPool, CommandStatus, HandlerRegistry, SendRequest, Worker
from tests.integration.live import (
    AT_ONCE,
    DOMAIN,
    QUEUE,
    REPLIES,
    Gate,
    events,
    make_worker,
    reached,
    registry_of,
    replies_to,
    rows,
    running,
    send,
    send_many,
    terminate,
    until,
    value,
)

if TYPE_CHECKING:
    from commandbus import Command, HandlerContext

LISTENING = "query ilike 'listen%'"


def fine() -> HandlerRegistry:
    """Return a registry whose handler completes at once."""
    return registry_of(charge=lambda command, _: command.data)


async def is_listening(pool: CommandBusPool) -> bool:
    """Return whether a worker listens."""
    found = f"select count(*) from pg_stat_activity where datname = current_database() and {LISTENING}"
    return int(await value(pool, found)) > 0


@pytest.mark.listens
async def test_a_notification_wakes_an_idle_worker_at_once(bus: CommandBus, pool: CommandBusPool) -> None:
    async with running(make_worker(pool, fine()), poll_interval=60):
        await until(lambda: is_listening(pool))
        for _ in range(3):  # before the first poll, or `reached` gives up
            await reached(bus, await send(bus))


@pytest.mark.parametrize("way", ["use_notify", "settings"])
async def test_polling_alone_is_enough(bus: CommandBus, database_url: str, way: str) -> None:
    pool = CommandBusPool(database_url=database_url, notify=way != "settings")
    async with pool, running(make_worker(pool, fine()), use_notify=way != "use_notify"):
        await reached(bus, await send(bus))
        assert not await is_listening(pool)


@pytest.mark.listens
async def test_a_terminated_listener_is_replaced_and_polling_goes_on(bus: CommandBus, pool: CommandBusPool) -> None:
    async with running(make_worker(pool, fine()), poll_interval=0.2):
        for _ in range(3):
            await until(lambda: is_listening(pool))
            assert terminate(pool, LISTENING) == 1
            await reached(bus, await send(bus))


@pytest.mark.listens
async def test_a_replaced_listener_looks_at_what_was_missed(bus: CommandBus, pool: CommandBusPool) -> None:
    async with running(make_worker(pool, fine()), poll_interval=60):
        await until(lambda: is_listening(pool))
        terminate(pool, LISTENING)
        await reached(bus, await send(bus))


async def test_a_worker_outlives_the_loss_of_all_its_connections(bus: CommandBus, pool: CommandBusPool) -> None:
    runs: dict[Any, int] = {}

    async def charge(command: Command, _: HandlerContext) -> None:
        runs[command.command_id] = runs.get(command.command_id, 0) + 1
        await asyncio.sleep(0.01)

    async with running(make_worker(pool, registry_of(charge=charge))):
        requests = [SendRequest(DOMAIN, "charge", uuid4(), {}) for _ in range(100)]
        for start in range(0, 100, 20):
            await bus.send_batch(requests[start : start + 20], idempotent=True)
            terminate(pool)
        ids = [request.command_id for request in requests]
        await reached(bus, ids)
    assert set(runs) == set(ids)
    for command_id in ids:
        assert (await events(bus, command_id)).count("COMPLETED") == 1


async def test_a_worker_outlives_its_queue(
    bus: CommandBus, pool: CommandBusPool, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(make_worker(pool, fine())) as run:
        await reached(bus, await send(bus))
        await rows(pool, f"select pgmq.drop_queue('{QUEUE}')")

        async def has_looked() -> bool:
            return "commands cannot be received now" in caplog.text

        await until(has_looked)
        assert not run.done()
        assert await bus.create_domain(DOMAIN)
        await reached(bus, await send(bus))


async def test_a_reply_waits_for_its_queue(bus: CommandBus, pool: CommandBusPool) -> None:
    gate = Gate()
    command_id = await send(bus, reply_to=REPLIES)
    async with running(make_worker(pool, registry_of(charge=gate))):
        await gate.began.wait()
        await rows(pool, f"select pgmq.drop_queue('{REPLIES}')")
        gate.may_end.set()
        await reached(bus, command_id)
    assert gate.runs == 1
    assert await bus.create_domain(DOMAIN)
    assert (await bus.wait_for_reply(REPLIES, command_id, timeout=1)).result == "done"


async def test_handlers_that_hold_every_connection_do_not_keep_others_from_settling(
    bus: CommandBus, pool: CommandBusPool, database_url: str
) -> None:
    async with CommandBusPool(database_url=database_url, pool_max_size=2, pool_timeout=0.5) as small:
        gate = Gate()

        async def hold(command: Command, context: HandlerContext) -> str:
            async with small.connection():
                return await gate(command, context)

        registry = registry_of(hold=hold, charge=lambda *_: None)
        held = await send_many(bus, 2, "hold")
        async with running(make_worker(small, registry, visibility_timeout=1), concurrency=20):

            async def are_held() -> bool:
                return gate.runs == 2

            await until(are_held)
            first_leases = await value(pool, "select max(lease_expires_at) from commandbus.command")
            await reached(bus, await send_many(bus, 50))
            await until(lambda: value(pool, "select clock_timestamp() > %s", first_leases))
            gate.may_end.set()
            await reached(bus, held)
        assert gate.runs == 2


async def test_a_transactional_handler_that_gets_no_connection_is_given_back_uncounted(
    bus: CommandBus, database_url: str
) -> None:
    async with CommandBusPool(database_url=database_url, pool_max_size=1, pool_timeout=0.1) as small:
        registry, ran = HandlerRegistry(), asyncio.Event()

        @registry.handler(DOMAIN, "charge", transactional=True)
        async def charge(_: Command, context: HandlerContext) -> None:
            assert context.attempt == 1
            ran.set()

        command_id = await send(bus, max_attempts=1)
        async with small.connection():
            worker = Worker(small, DOMAIN, registry)
            run = asyncio.create_task(worker.run(poll_interval=0.05))

            async def is_given_back() -> bool:
                return "RELEASED" in await events(bus, command_id)

            await until(is_given_back)
            assert not ran.is_set()
        await reached(bus, command_id)
        await worker.stop()
        await run


POISON = [
    "null",
    "5",
    '"text"',
    "[1, 2]",
    "{}",
    '{"command_id": 5}',
    '{"command_id": "not-a-uuid", "domain": "pay", "command_type": "charge"}',
    '{"command_id": "00000000-0000-0000-0000-000000000001", "domain": "pay", "command_type": "charge"}',
    '{"command_id": ["x"], "data": ' + "[" * 900 + "]" * 900 + "}",
    '{"command_id": {}, "data": 1e4000}',
]


async def test_poison_in_the_queue_stops_nobody(bus: CommandBus, pool: CommandBusPool) -> None:
    ids = []
    for text in POISON:
        await rows(pool, f"select pgmq.send('{QUEUE}', %s::text::jsonb)", text)
        ids.append(await send(bus))
    await rows(pool, f"insert into pgmq.q_{QUEUE} (vt, message) values (now(), null)")
    ids.append(await send(bus))
    async with running(make_worker(pool, fine())):
        await reached(bus, ids)

        async def is_empty() -> bool:
            return int(await value(pool, f"select count(*) from pgmq.q_{QUEUE}")) == 0

        await until(is_empty)
    assert await value(pool, f"select count(*) from pgmq.a_{QUEUE}") == len(POISON) + 1


@pytest.mark.parametrize("by_hand", [True, False])
async def test_messages_without_a_command_share_one_line_of_the_log(
    bus: CommandBus, pool: CommandBusPool, caplog: pytest.LogCaptureFixture, by_hand: bool
) -> None:
    stray = '{"command_id": "00000000-0000-0000-0000-000000000001", "domain": "pay", "command_type": "charge"}'
    await rows(pool, f"select pgmq.send('{QUEUE}', %s::jsonb) from generate_series(1, 5)", stray)
    tampered, good = await send(bus), await send(bus)
    await rows(
        pool,
        f"update pgmq.q_{QUEUE} set message = jsonb_set(message, '{{command_type}}', '\"other\"')"
        " where message ->> 'command_id' = %s",
        str(tampered),
    )
    if by_hand:
        (received,) = await Worker(pool, DOMAIN).receive(batch_size=10)
        assert received.command.command_id == good
    else:
        async with running(make_worker(pool, fine()), concurrency=10):
            await reached(bus, good)
    taken = [record for record in caplog.records if "taken out of the queue" in record.getMessage()]
    facts = [(r.__dict__["fault"], r.__dict__.get("count"), r.__dict__.get("command_id")) for r in taken]
    assert facts == [("STRAY", 5, None), ("TAMPERED", None, tampered)]
    assert {r.levelname for r in taken} == {"WARNING"}


@pytest.mark.parametrize("data", ["9" * 5000, "[" * 5000 + "]" * 5000, "9" * 400 + ".5"])
async def test_data_that_python_cannot_hold_waits_for_an_operator_and_hides_no_other(
    bus: CommandBus, pool: CommandBusPool, data: str
) -> None:
    bad, good = uuid4(), []
    for n in range(4):
        good.append(await send(bus))
        if n == 1:
            await rows(
                pool,
                "select commandbus.sp_send_command('pay', %s, 'charge', %s::text::jsonb)",
                bad,
                f'{{"n": {data}}}',
            )
    async with running(make_worker(pool, fine()), concurrency=10):
        await reached(bus, good)
        await reached(bus, bad, CommandStatus.IN_TROUBLESHOOTING_QUEUE)
    assert await events(bus, bad) == ["SENT", "RECEIVED", "FAILED", "MOVED_TO_TSQ"]


async def test_a_message_that_says_something_else_than_its_command_waits_for_an_operator(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    forged = await send(bus)
    await rows(pool, f"update pgmq.q_{QUEUE} set message = message || %s", Jsonb({"command_type": "refund"}))
    good = await send(bus)
    async with running(make_worker(pool, fine())):
        await reached(bus, good)
        await reached(bus, forged, CommandStatus.IN_TROUBLESHOOTING_QUEUE)
    command = await bus.get_command(DOMAIN, forged)
    assert command is not None
    assert command.last_error_code == "TAMPERED"


async def test_a_message_put_twice_runs_once(bus: CommandBus, pool: CommandBusPool) -> None:
    command_id = await send(bus, reply_to=REPLIES)
    for _ in range(3):
        await rows(pool, f"insert into pgmq.q_{QUEUE} (vt, message) select now(), message from pgmq.q_{QUEUE} limit 1")
    async with running(make_worker(pool, fine())):
        await reached(bus, command_id)
        await reached(bus, await send(bus))
    assert len(await replies_to(pool, command_id)) == 1
    assert await events(bus, command_id) == ["SENT", "RECEIVED", "COMPLETED"]


async def test_workers_that_start_together_in_a_new_domain_all_start(pool: CommandBusPool) -> None:
    bus = CommandBus(pool)
    workers = [Worker(pool, "fresh", HandlerRegistry(), retry_policy=AT_ONCE) for _ in range(8)]
    runs = [asyncio.create_task(worker.run()) for worker in workers]

    async def all_run() -> bool:
        assert not any(run.done() for run in runs)
        return all(worker.is_running for worker in workers)

    await until(all_run)
    await asyncio.gather(*(worker.stop() for worker in workers))
    await asyncio.gather(*runs)
    assert await bus.create_domain("fresh") is False


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="later Pythons wait without a task, and lose no cancel")
async def test_a_cancel_that_python_loses_ends_a_worker_that_starts(pool: CommandBusPool) -> None:
    loop = asyncio.get_running_loop()
    worker = make_worker(pool, fine())
    run = asyncio.create_task(worker.run(poll_interval=60))

    def make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, **options)
        if coroutine.__qualname__ == "Event.wait" and asyncio.current_task() is run:
            task.add_done_callback(lambda _: run.cancel())  # as the pool's first connections are there
        return task

    async def is_decided() -> bool:
        return run.done() or worker.is_running

    loop.set_task_factory(make_task)
    try:
        await until(is_decided)
    finally:
        loop.set_task_factory(None)
    assert run.done()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


class Deaf(psycopg.AsyncConnection[Any]):
    """Loses every cancel that meets a statement, and ends the statement: Python 3.11 does when both come at once."""

    async def wait(self, *arguments: Any, **options: Any) -> Any:
        """Wait for the server, and for nothing else."""
        statement = asyncio.ensure_future(super().wait(*arguments, **options))
        while not statement.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({statement})
        return statement.result()


@pytest.mark.listens
@pytest.mark.parametrize("table", ["pgmq.q_pay__commands", "commandbus.worker"])
async def test_a_cancel_that_a_statement_loses_ends_its_task_all_the_same(
    bus: CommandBus, pool: CommandBusPool, database_url: str, table: str
) -> None:
    assert bus  # its domain
    waits = f"select count(*) from pg_locks where not granted and relation = '{table}'::regclass"

    async def is_waiting() -> bool:
        await value(pool, "select pg_notify(%s, '')", f"commandbus:{QUEUE}")  # the reader looks
        return int(await value(pool, waits)) > 0

    async with AsyncConnectionPool(database_url, connection_class=Deaf, open=False) as deaf:
        worker = make_worker(deaf, fine())
        run = asyncio.create_task(worker.run(poll_interval=60))
        async with pool.connection() as other, other.transaction():
            await other.execute(f"lock table {table} in access exclusive mode")
            await until(is_waiting)
            run.cancel()
            await asyncio.sleep(0.1)  # for the cancel to be lost in
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(run, 30)
        left = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}  # type: ignore[union-attr]  # each has one
        assert [name for name in left if name.startswith(("Vitals", "Listener", "LeaseKeeper", "keep_house"))] == []
