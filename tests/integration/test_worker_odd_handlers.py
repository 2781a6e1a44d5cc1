"""Handlers and programs that end in odd ways, none of which hangs the worker or loses a command."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from psycopg_pool import PoolTimeout

from commandbus import CommandBus, CommandBusPool, DuplicateCommandError, HandlerRegistry
from tests.integration.live import (
    DOMAIN,
    Gate,
    events,
    last_error,
    make_worker,
    reached,
    registry_of,
    rows,
    running,
    send,
    terminate,
)

if TYPE_CHECKING:
    from commandbus import Command, HandlerContext


async def test_a_plain_handler_that_raises_stop_iteration_fails_its_attempt(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    def charge(_: Command, __: HandlerContext) -> None:
        next(iter(()))

    async with running(make_worker(pool, registry_of(charge=charge))):
        command_id = await send(bus, max_attempts=1)
        await reached(bus, command_id, "IN_TROUBLESHOOTING_QUEUE")
    assert (await last_error(bus, command_id))[1] == "RuntimeError"


@pytest.mark.parametrize("plain", [False, True])
async def test_a_handler_that_exits_fails_its_attempt_and_stops_nobody(
    bus: CommandBus, pool: CommandBusPool, plain: bool
) -> None:
    def leave(_: Command, __: HandlerContext) -> None:
        raise SystemExit(4)

    async def leave_too(command: Command, context: HandlerContext) -> None:
        leave(command, context)

    async with running(
        make_worker(pool, registry_of(leave=leave if plain else leave_too, charge=lambda command, _: command.data))
    ):
        command_id = await send(bus, "leave", max_attempts=1)
        await reached(bus, command_id, "IN_TROUBLESHOOTING_QUEUE")
        await reached(bus, await send(bus))
    assert (await last_error(bus, command_id))[1] == "SystemExit"


async def test_a_pool_that_times_out_in_a_transactional_handler_counts_as_its_failure(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    registry = HandlerRegistry()

    @registry.handler(DOMAIN, "charge", transactional=True)
    async def charge(_: Command, __: HandlerContext) -> None:
        raise PoolTimeout("another pool is empty")

    async with running(make_worker(pool, registry)):
        command_id = await send(bus, max_attempts=2)
        await reached(bus, command_id, "IN_TROUBLESHOOTING_QUEUE")
    assert (await events(bus, command_id)).count("FAILED") == 2


async def test_a_program_that_fails_while_its_worker_runs_ends(pool: CommandBusPool, bus: CommandBus) -> None:
    gate = Gate()

    others = asyncio.all_tasks()
    task = asyncio.create_task(make_worker(pool, registry_of(charge=gate)).run(concurrency=2, poll_interval=0.05))
    await send(bus)
    await gate.began.wait()
    for one in asyncio.all_tasks() - others:  # as asyncio.run does when its program raises
        one.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait({task})
    assert task.cancelled()


async def test_an_old_command_is_no_answer_to_a_send_whose_connection_broke(
    bus: CommandBus, pool: CommandBusPool
) -> None:
    command_id = await send(bus, data={"amount": 1})
    await rows(pool, "update commandbus.command set created_at = created_at - interval '1 hour'")
    terminate(pool)
    with pytest.raises(DuplicateCommandError) as caught:
        await bus.send(DOMAIN, "charge", command_id, {"amount": 999})
    assert (caught.value.domain, caught.value.command_id) == (DOMAIN, command_id)
