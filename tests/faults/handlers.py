"""What the worker processes of these tests run: handlers that leave marks in the database, and wait to be let go."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import psycopg

from commandbus import HandlerRegistry

if TYPE_CHECKING:
    from commandbus import Command, HandlerContext

DOMAIN = "pay"
# Nothing here keeps a row from being there twice: that is for the library to prevent.
TABLES = """
    create table public.effect (command_id uuid, attempt int);
    create table public.mark (command_id uuid, attempt int, pid int);
    create table public.gate (is_open boolean);
"""

registry = HandlerRegistry()


@registry.handler(DOMAIN, "effect", transactional=True)
async def effect(command: Command, context: HandlerContext) -> int:
    """Write once, and take the time the command asks for."""
    await context.connection.execute("insert into public.effect values (%s, %s)", [command.command_id, context.attempt])
    await asyncio.sleep(command.data.get("seconds", 0))
    return context.attempt


@registry.handler(DOMAIN, "wait")
def wait(_: Command, context: HandlerContext) -> int:
    """Leave a mark; on the first attempt, wait for the gate."""
    _mark(context)
    while context.attempt == 1 and not _is_open():
        time.sleep(0.02)
    return context.attempt


@registry.handler(DOMAIN, "wait_with_effect", transactional=True)
async def wait_with_effect(command: Command, context: HandlerContext) -> int:
    """The same with an effect."""
    await effect(command, context)
    _mark(context)
    while context.attempt == 1 and not _is_open():  # noqa: ASYNC110  (another process opens it)
        await asyncio.sleep(0.02)
    return context.attempt


@registry.handler(DOMAIN, "hang")
async def hang(_: Command, context: HandlerContext) -> None:
    """Leave a mark and never end."""
    _mark(context)
    await asyncio.Event().wait()


@registry.handler(DOMAIN, "crash")
async def crash(_: Command, context: HandlerContext) -> None:
    """Leave a mark and take the process along."""
    _mark(context)
    os._exit(9)


def _mark(context: HandlerContext) -> None:
    with _connection() as connection:
        connection.execute(
            "insert into public.mark values (%s, %s, %s)", [context.command_id, context.attempt, os.getpid()]
        )


def _is_open() -> bool:
    with _connection() as connection:
        return connection.execute("select from public.gate").fetchone() is not None


def _connection() -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(os.environ["COMMANDBUS_DATABASE_URL"], autocommit=True)
