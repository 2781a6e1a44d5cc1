"""Operation through its Python doors: what workers tell, domains on hold, redrives, edits, pages of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from pydantic import BaseModel

from commandbus import (
    BusinessRuleException,
    CommandNotFoundError,
    InvalidArgumentError,
    InvalidOperationError,
    InvalidPayloadError,
    MessagePlace,
    Operations,
    PageKey,
    PermanentCommandError,
    QueueNotFoundError,
    RedriveProgress,
    Redrives,
    RedriveStatus,
    TransientCommandError,
    TroubleshootingQueue,
)
from tests.integration.live import (
    DOMAIN,
    Gate,
    make_worker,
    park,
    raises,
    reached,
    registry_of,
    rows,
    running,
    send,
    send_many,
    until,
)

if TYPE_CHECKING:
    from commandbus import Command, CommandBus, CommandBusPool, CommandPage, HandlerContext, ThroughputPoint


class Charge(BaseModel):
    """What a charge needs."""

    amount: int


async def take(charge: Charge, _: HandlerContext) -> int:
    """Return the amount."""
    return charge.amount


async def do_nothing(_: Command, __: HandlerContext) -> None:
    """Succeed."""


async def test_a_worker_is_seen_while_it_runs_and_gone_when_it_stopped(bus: CommandBus, pool: CommandBusPool) -> None:
    gate = Gate()
    operations = Operations(pool)
    async with running(make_worker(pool, registry_of(charge=gate)), concurrency=3):
        (worker,) = await until(operations.list_workers)
        assert (worker.domain, worker.concurrency) == (DOMAIN, 3)
        (domain,) = await operations.overview()
        assert (domain.workers, domain.capacity) == (1, 3)
        command_id = await send(bus)
        await gate.began.wait()
        (lease,) = await operations.list_leases(DOMAIN)
        assert (lease.command_id, lease.attempts) == (command_id, 1)
        assert [one.in_flight for one in await operations.overview(DOMAIN)] == [1]
        gate.may_end.set()
    assert await operations.list_workers() == []


async def test_a_worker_tells_what_it_did_at_the_latest_when_it_ends(bus: CommandBus, pool: CommandBusPool) -> None:
    handlers = registry_of(
        good=do_nothing,
        refused=raises(BusinessRuleException("NO", "no")),
        shaky=raises(TransientCommandError("AWAY", "away")),
        broken=raises(PermanentCommandError("BROKEN", "broken")),
    )
    async with running(make_worker(pool, handlers)):
        good = await send_many(bus, 5, "good")
        refused, broken = await send(bus, "refused"), await send(bus, "broken")
        shaky = await send(bus, "shaky", max_attempts=3)
        await reached(bus, good)
        await reached(bus, refused, "FAILED")
        await reached(bus, [broken, shaky], "IN_TROUBLESHOOTING_QUEUE")
    done = await Operations(pool).throughput(DOMAIN)

    def sums(name: str) -> int:
        return sum(getattr(point, name) for point in done)

    assert [sums(name) for name in ("completed", "failed", "retried", "parked")] == [5, 1, 2, 2]
    assert counted(done, "runs") == 10, "every attempt has a time"
    assert counted(done, "waits") == 10, "every message waited once"


async def test_waits_count_from_the_queue_not_from_the_send(bus: CommandBus, pool: CommandBusPool) -> None:
    old, late = await send_many(bus, 2)
    await rows(pool, "update commandbus.command set created_at = created_at - interval '3 hours'")
    await rows(
        pool,
        "update pgmq.q_pay__commands set enqueued_at = enqueued_at - interval '1 hour'"
        " where message ->> 'command_id' = %s",
        str(late),
    )
    async with running(make_worker(pool, registry_of(charge=do_nothing))):
        await reached(bus, [old, late])
    done = await Operations(pool).throughput(DOMAIN)  # in two pieces of time, when they meet while the worker runs
    (hour,) = [place for point in done for place, count in enumerate(point.waits) if place > 20 and count]
    assert (2 ** (hour - 1) < 3_600_000 < 2**hour, counted(done, "waits")) == (True, 2)


def counted(done: list[ThroughputPoint], name: str) -> int:
    """Return how many a histogram has counted."""
    return sum(sum(getattr(point, name)) for point in done)


@pytest.mark.listens
async def test_a_paused_domain_is_not_worked_on_until_it_is_resumed(bus: CommandBus, pool: CommandBusPool) -> None:
    operations = Operations(pool)
    async with running(make_worker(pool, registry_of(charge=do_nothing)), poll_interval=60):
        await reached(bus, await send(bus))
        assert await operations.pause(DOMAIN, "ann", "the bank is away") is True
        held = await send(bus)
        assert await make_worker(pool, registry_of()).receive(10) == []
        assert await operations.resume(DOMAIN, "ann") is True
        await reached(bus, held)  # woken by the resume: the next look would be in a minute
    assert await operations.resume(DOMAIN) is False


async def test_what_is_asked_of_operations_is_checked_first(bus: CommandBus, pool: CommandBusPool) -> None:
    operations, redrives = Operations(pool), Redrives(pool)
    assert await bus.create_domain(DOMAIN) is False
    for field, call in (
        ("domain", operations.overview("No Domain")),
        ("seconds", operations.throughput(seconds=9)),
        ("step", operations.throughput(step=9)),
        ("step", operations.throughput(seconds=60, step=15)),
        ("step", operations.throughput(seconds=86_400, step=60)),
        ("limit", operations.list_leases(DOMAIN, 0)),
        ("operator", operations.pause(DOMAIN, "x" * 201)),
        ("reason", operations.pause(DOMAIN, None, "")),
        ("rate", redrives.start(DOMAIN, rate=0)),
        ("rate", redrives.start(DOMAIN, rate=float("inf"))),
        ("command_ids", redrives.start(DOMAIN, rate=1, command_ids=[])),
        ("command_ids", redrives.start(DOMAIN, rate=1, command_ids=[uuid4()], failure_key=uuid4())),
        ("stop_after", redrives.start(DOMAIN, rate=1, stop_after=0)),
        ("text", bus.find_commands(text="")),
        ("start", bus.find_commands(start="here")),  # type: ignore[arg-type]  # a wrong argument on purpose
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            await call
        assert refused.value.field.startswith(field)
    for missing in (operations.pause("nobody"), operations.list_leases("nobody"), redrives.start("nobody", rate=1)):
        with pytest.raises(QueueNotFoundError):
            await missing


async def test_workers_carry_a_redrive_out(bus: CommandBus, pool: CommandBusPool) -> None:
    command_ids = await park(bus, pool, 20)
    redrives = Redrives(pool)
    redrive_id = await redrives.start(DOMAIN, rate=1_000, operator="ann", reason="fixed")
    async with running(make_worker(pool, registry_of(charge=do_nothing))):
        await reached(bus, command_ids)

        async def ended() -> list[RedriveProgress]:
            progress = await redrives.get(redrive_id)
            return [progress] if progress is not None and progress.redrive.finished_at is not None else []

        (progress,) = await until(ended)
    assert (progress.redrive.status, progress.redrive.sent_count) == (RedriveStatus.COMPLETED, 20)
    assert (progress.completed, progress.again) == (20, 0)
    assert [one.redrive_id for one in await redrives.list(DOMAIN)] == [redrive_id]
    assert await redrives.get(uuid4()) is None


@pytest.mark.direct("it renames a function")
async def test_a_worker_that_cannot_say_that_it_lives_carries_redrives_out(
    bus: CommandBus, pool: CommandBusPool, caplog: pytest.LogCaptureFixture
) -> None:
    command_ids = await park(bus, pool, 5)
    await Redrives(pool).start(DOMAIN, rate=1_000)
    await rows(pool, "alter function commandbus.sp_worker_beat rename to lost")
    async with running(make_worker(pool, registry_of(charge=do_nothing))):
        await reached(bus, command_ids)
    assert [r.message for r in caplog.records if "lives" in r.message] == ["a worker cannot say that it lives"]


async def test_a_redrive_on_hold_sends_nothing(bus: CommandBus, pool: CommandBusPool) -> None:
    await park(bus, pool, 3)
    redrives = Redrives(pool)
    redrive_id = await redrives.start(DOMAIN, rate=1)
    assert await redrives.pause(redrive_id, "ann") is RedriveStatus.PAUSED
    assert await redrives.resume(redrive_id) is RedriveStatus.RUNNING
    assert await redrives.stop(redrive_id) is RedriveStatus.STOPPED
    with pytest.raises(InvalidOperationError, match="STOPPED"):
        await redrives.resume(redrive_id)


async def test_an_edited_command_must_fit_its_handler(bus: CommandBus, pool: CommandBusPool) -> None:
    registry = registry_of(charge=take)
    tsq = TroubleshootingQueue(pool)
    (command_id,) = await park(bus, pool)
    with pytest.raises(InvalidPayloadError, match="amount"):
        await tsq.edit_and_retry(DOMAIN, command_id, {"amount": "much"}, registry=registry)
    assert await tsq.count_troubleshooting(DOMAIN) == 1
    await tsq.edit_and_retry(DOMAIN, command_id, {"amount": 7}, "ann", reason="typing error", registry=registry)
    async with running(make_worker(pool, registry)):
        await reached(bus, command_id)
    with pytest.raises(InvalidOperationError, match="COMPLETED"):
        await tsq.edit_and_retry(DOMAIN, command_id, {"amount": 7})
    with pytest.raises(CommandNotFoundError):
        await tsq.edit_and_retry(DOMAIN, uuid4(), {"amount": 7}, registry=registry)
    edited = [e for e in await bus.get_audit_trail(command_id) if e.event_type == "OPERATOR_EDIT"]
    assert [e.details["after"] for e in edited] == [{"amount": 7}]


async def test_groups_are_listed_and_decided_as_one(bus: CommandBus, pool: CommandBusPool) -> None:
    tsq = TroubleshootingQueue(pool)
    command_ids = await park(bus, pool, 3)
    await park(bus, pool, 1, command_type="refund")
    large, small = await tsq.list_failure_groups()
    assert (large.waiting, large.error_text, small.command_type) == (3, "cannot work", "refund")
    assert await tsq.list_command_ids(DOMAIN, failure_key=large.failure_key) == command_ids
    assert len(await tsq.list_troubleshooting(DOMAIN, failure_key=small.failure_key)) == 1
    verdicts = await tsq.retry_many(DOMAIN, command_ids, "ann", reason="fixed")
    assert {verdict.refusal for verdict in verdicts} == {None}
    assert [group.command_type for group in await tsq.list_failure_groups(DOMAIN)] == ["refund"]


async def test_pages_lead_from_one_to_the_next(bus: CommandBus) -> None:
    sent = await send_many(bus, 7)
    page: CommandPage = await bus.find_commands(limit=3)
    found = page.commands
    while page.next_key is not None:
        page = await bus.find_commands(limit=3, start=page.next_key)
        found += page.commands
    assert {command.command_id for command in found} == set(sent)
    assert len(found) == 7
    (one,) = (await bus.find_commands(text=str(sent[0]).upper())).commands
    assert one.command_id == sent[0]
    assert (await bus.find_commands(text=str(uuid4()))).commands == []


async def test_what_waits_is_listed_from_a_place_on_though_others_were_decided_about(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    tsq = TroubleshootingQueue(pool)
    parked = sorted(await park(bus, pool, 7), key=(await tsq.list_command_ids(DOMAIN)).index)
    last = (await tsq.list_troubleshooting(DOMAIN, limit=3))[-1]
    place = PageKey(last.waiting_since, last.command_id)
    await tsq.cancel_many(DOMAIN, parked[:3], "sold")
    for found in (
        await tsq.list_troubleshooting(DOMAIN, limit=2, start=place),
        await tsq.list_all_troubleshooting(limit=2, start=place),
    ):
        assert [item.command_id for item in found] == parked[3:5]
    assert await tsq.list_command_ids(DOMAIN, start=place) == parked[3:]
    assert await tsq.list_command_ids(DOMAIN, start=place, limit=1) == parked[3:4]
    for field, call in (
        ("start", tsq.list_troubleshooting(DOMAIN, start="here")),  # type: ignore[arg-type]  # a wrong argument on purpose
        ("start", tsq.list_command_ids(DOMAIN, start=3)),  # type: ignore[arg-type]  # a wrong argument on purpose
        ("limit", tsq.list_command_ids(DOMAIN, limit=0)),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            await call
        assert refused.value.field == field


async def test_what_was_sent_can_be_looked_at(bus: CommandBus) -> None:
    command_id = await send(bus, data={"n": 1})
    message = await bus.get_message(DOMAIN, command_id)
    assert message is not None
    assert (message.place, message.data) == (MessagePlace.QUEUE, {"n": 1})
    assert "1" not in repr(message)
    assert await bus.get_message(DOMAIN, uuid4()) is None
