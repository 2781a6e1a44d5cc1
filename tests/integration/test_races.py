"""Many at once: whoever is first wins, the others are told, and the books agree afterwards."""

from __future__ import annotations

import asyncio
import random
from itertools import combinations, combinations_with_replacement
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from commandbus import (
    BusinessRuleException,
    CommandBus,
    CommandBusPool,
    DuplicateCommandError,
    InvalidOperationError,
    PermanentCommandError,
    SendRequest,
    StaleLeaseError,
    TroubleshootingQueue,
    Worker,
)
from tests.integration.live import (
    DOMAIN,
    QUEUE,
    REPLIES,
    TERMINAL_EVENTS,
    batch_commands,
    events,
    make_worker,
    park,
    registry_of,
    replies_to,
    rows,
    running,
    send,
    status,
    until,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from commandbus import Command, HandlerContext

ROUNDS = 6


async def outcomes(*calls: Awaitable[object]) -> list[str]:
    """Carry out all calls at once; return "ok" or the name of its error for each, sorted."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    return sorted(type(result).__name__ if isinstance(result, BaseException) else "ok" for result in results)


async def test_of_64_senders_of_the_same_500_ids_one_sends_each(bus: CommandBus, pool: CommandBusPool) -> None:
    ids = [uuid4() for _ in range(500)]
    sent: dict[UUID, int] = {}
    refused = 0

    async def send_all(seed: int) -> None:
        nonlocal refused
        for command_id in random.Random(seed).sample(ids, len(ids)):
            try:
                result = await bus.send(DOMAIN, "charge", command_id, {})
            except DuplicateCommandError:
                refused += 1
            else:
                assert command_id not in sent
                sent[command_id] = result.msg_id

    await asyncio.gather(*(send_all(seed) for seed in range(64)))
    assert sorted(sent) == sorted(ids)
    assert refused == 63 * len(ids)
    found = await rows(pool, "select command_id, msg_id from commandbus.command")
    assert dict(found) == sent
    assert await value(pool, f"select count(*) from pgmq.q_{QUEUE}") == 500
    assert await value(pool, "select count(*) from commandbus.audit where event_type = 'SENT'") == 500


async def test_of_overlapping_sets_each_is_sent_whole_or_refused_whole(bus: CommandBus, pool: CommandBusPool) -> None:
    ids = [uuid4() for _ in range(60)]

    async def send_set(seed: int) -> int:
        chosen = random.Random(seed).sample(ids, 20)
        try:
            await bus.send_batch([SendRequest(DOMAIN, "charge", command_id, {}) for command_id in chosen])
        except DuplicateCommandError:
            return 0
        return 20

    stored = sum(await asyncio.gather(*(send_set(seed) for seed in range(40))))
    assert stored >= 20
    assert len(await bus.query_commands(limit=1000)) == stored
    assert await value(pool, f"select count(*) from pgmq.q_{QUEUE}") == stored


async def test_idempotent_senders_agree_on_one_message(bus: CommandBus) -> None:
    ids = [uuid4() for _ in range(20)]

    async def send_all(seed: int) -> dict[UUID, int]:
        order = random.Random(seed).sample(ids, len(ids))
        sent = [await bus.send(DOMAIN, "charge", command_id, {}, idempotent=True) for command_id in order]
        return {result.command_id: result.msg_id for result in sent}

    first, *others = await asyncio.gather(*(send_all(seed) for seed in range(16)))
    assert all(other == first for other in others)


@pytest.mark.parametrize("verb", ["retry", "cancel", "complete"])
async def test_of_five_operators_one_wins(bus: CommandBus, pool: CommandBusPool, verb: str) -> None:
    tsq = TroubleshootingQueue(pool)
    for _ in range(ROUNDS):
        (command_id,) = await park(bus, pool, reply_to=REPLIES)
        found = await outcomes(*(verdict(tsq, verb, command_id) for _ in range(5)))
        assert found == ["InvalidOperationError"] * 4 + ["ok"]
        assert len(await replies_to(pool, command_id)) == (0 if verb == "retry" else 1)
        await rows(pool, f"select pgmq.purge_queue('{QUEUE}')")


@pytest.mark.parametrize("pair", list(combinations_with_replacement(["retry", "cancel", "complete"], 2)))
async def test_of_two_verdicts_one_wins_and_the_batch_counts_it_once(
    bus: CommandBus, pool: CommandBusPool, pair: tuple[str, str]
) -> None:
    tsq = TroubleshootingQueue(pool)
    for _ in range(ROUNDS):
        batch = await bus.create_batch(DOMAIN, batch_commands(1, reply_to=REPLIES))
        (received,) = await Worker(pool, DOMAIN).receive()
        await Worker(pool, DOMAIN).fail_permanent(received, ValueError("no"))
        command_id = received.context.command_id
        found = await outcomes(*(verdict(tsq, verb, command_id) for verb in pair))
        assert found == ["InvalidOperationError", "ok"]
        trail = await events(bus, command_id)
        assert sum(event.startswith("OPERATOR") for event in trail) == 1
        metadata = await bus.get_batch(DOMAIN, batch.batch_id)  # the recount comes after the test
        assert metadata is not None
        assert metadata.in_troubleshooting_count == 0
        await rows(pool, f"select pgmq.purge_queue('{QUEUE}')")


def verdict(tsq: TroubleshootingQueue, verb: str, command_id: UUID) -> Awaitable[object]:
    """Return an operator's call."""
    match verb:
        case "retry":
            return tsq.operator_retry(DOMAIN, command_id)
        case "cancel":
            return tsq.operator_cancel(DOMAIN, command_id, "no")
        case _:
            return tsq.operator_complete(DOMAIN, command_id, "done")


async def expire(pool: CommandBusPool) -> list[Any]:
    """Let a lease run out, and take the command as somebody else."""
    await rows(pool, f"update pgmq.q_{QUEUE} set vt = clock_timestamp() - interval '1 s'")
    return await Worker(pool, DOMAIN).receive()


ENDS: dict[str, Callable[[Worker, Any], Awaitable[None]]] = {
    "complete": lambda worker, received: worker.complete(received, "done"),
    "fail": lambda worker, received: worker.fail(received, OSError("not now")),
    "fail_permanent": lambda worker, received: worker.fail_permanent(received, ValueError("no")),
    "fail_business_rule": lambda worker, received: worker.fail_business_rule(received, ValueError("no")),
}


@pytest.mark.parametrize("pair", list(combinations(ENDS, 2)))
async def test_of_two_ends_of_one_lease_one_counts(
    bus: CommandBus, pool: CommandBusPool, pair: tuple[str, str]
) -> None:
    worker = make_worker(pool, registry_of())
    for _ in range(ROUNDS):
        command_id = await send(bus, reply_to=REPLIES)
        (received,) = await worker.receive()
        found = await outcomes(*(ENDS[end](worker, received) for end in pair))
        assert found == ["StaleLeaseError", "ok"]
        await check_books(bus, pool, [command_id])
        await rows(pool, f"delete from pgmq.q_{QUEUE}")
        await rows(pool, "delete from commandbus.scheduled")


@pytest.mark.parametrize("end", ENDS)
async def test_an_end_and_the_next_delivery_do_not_both_have_the_command(
    bus: CommandBus, pool: CommandBusPool, end: str
) -> None:
    worker = make_worker(pool, registry_of())
    for _ in range(ROUNDS):
        command_id = await send(bus, reply_to=REPLIES)
        (first,) = await worker.receive()
        ended, second = await asyncio.gather(ENDS[end](worker, first), expire(pool), return_exceptions=True)
        assert not isinstance(second, BaseException)
        again = [one for one in second if one.context.attempt == 2 and one.lease != first.lease]
        if isinstance(ended, StaleLeaseError):
            assert [one.context.command_id for one in again] == [command_id]
        else:
            assert ended is None
        for one in again:
            await worker.complete(one)
        await check_books(bus, pool, [command_id])
        await rows(pool, f"delete from pgmq.q_{QUEUE}")
        await rows(pool, "delete from commandbus.scheduled")


async def test_an_operator_and_a_worker_never_both_end_a_command(bus: CommandBus, pool: CommandBusPool) -> None:
    tsq = TroubleshootingQueue(pool)
    worker = make_worker(pool, registry_of())
    for n in range(ROUNDS * 3):
        command_id = await send(bus, reply_to=REPLIES)
        (received,) = await worker.receive()
        operators = [verdict(tsq, verb, command_id) for verb in ("cancel", "complete")]
        # The worker parks it while operators already wait for it: at most one of them wins.
        end = worker.fail_permanent(received, ValueError("no")) if n % 3 else worker.complete(received)
        found = await outcomes(end, *operators)
        assert found.count("ok") in ((1, 2) if n % 3 else (1,))
        await check_books(bus, pool, [command_id])


async def test_workers_on_interleaved_batches_agree_with_a_recount(bus: CommandBus, pool: CommandBusPool) -> None:
    made = [await bus.create_batch(DOMAIN, batch_commands(1, reply_to=REPLIES)) for _ in range(4)]
    requests = [
        SendRequest(DOMAIN, "charge", uuid4(), {"n": n}, reply_to=REPLIES, batch_id=made[n % 4].batch_id)
        for n in range(400)
    ]
    ids = [request.command_id for request in requests]

    async def charge(command: Command, context: HandlerContext) -> None:
        await asyncio.sleep(0)
        match command.data["n"] % 10:
            case 3:
                raise BusinessRuleException("NO", "no")
            case 5:
                raise PermanentCommandError("BROKEN", "no")
            case 7 if context.attempt == 1:
                raise OSError("not now")

    tsq = TroubleshootingQueue(pool)
    workers = [make_worker(pool, registry_of(charge=charge)) for _ in range(2)]
    for start in range(0, 400, 40):
        await bus.send_batch(requests[start : start + 40])
    async with running(workers[0], concurrency=20), running(workers[1], concurrency=20):

        async def all_parked_ones_are_canceled() -> bool:
            waiting = await tsq.list_command_ids(DOMAIN)
            if waiting:
                await tsq.cancel_many(DOMAIN, waiting, "no")
            batches = [await bus.get_batch(DOMAIN, batch.batch_id) for batch in made]
            return all(batch is not None and batch.is_complete for batch in batches)

        await until(all_parked_ones_are_canceled, 30)
    for batch in made:
        assert await events(bus, batch.batch_id) == ["BATCH_STARTED", "BATCH_COMPLETED"]
        found = await bus.get_batch(DOMAIN, batch.batch_id)
        assert found is not None
        assert found.completed_count + found.failed_count + found.canceled_count == found.total_count == 101
    await check_books(bus, pool, ids)
    ended = await value(
        pool, "select count(*) from commandbus.audit where event_type = any (%s)", list(TERMINAL_EVENTS)
    )
    assert ended == 404


async def check_books(bus: CommandBus, pool: CommandBusPool, ids: list[UUID]) -> None:
    """Fail unless each command has at most one end and one reply, and both exactly when it is final."""
    for command_id in ids:
        ends = [event for event in await events(bus, command_id) if event in TERMINAL_EVENTS]
        is_final = await status(bus, command_id) in ("COMPLETED", "FAILED", "CANCELED")
        assert len(ends) == int(is_final)
        assert len(await replies_to(pool, command_id)) == int(is_final)


async def test_of_five_cancelled_sends_each_is_whole_or_nothing(bus: CommandBus, pool: CommandBusPool) -> None:
    sends = [asyncio.create_task(send(bus)) for _ in range(60)]
    for n, task in enumerate(sends):
        if n % 3 == 0:
            await asyncio.sleep(0.001)
            task.cancel()
    await asyncio.gather(*sends, return_exceptions=True)
    assert await value(pool, f"select count(*) from pgmq.q_{QUEUE}") == len(await bus.query_commands(limit=1000))
    with pytest.raises(InvalidOperationError):  # and the pool is as good as before
        await TroubleshootingQueue(pool).operator_retry(DOMAIN, await send(bus))
