"""Runs what is due, in the caller's own event loop and in the order of the queue, and says what became of it."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import class_row

from commandbus.errors import InvalidOperationError, QueueNotFoundError
from commandbus.handlers import HandlerRegistry, Registration
from commandbus.models import Command, CommandMetadata
from commandbus.payload import check_command_type, check_count, check_domain
from commandbus.repositories import PgmqClient, PostgresCommandRepository
from commandbus.repositories._base import settings_of
from commandbus.retry import RetryPolicy
from commandbus.worker.execute import Runner
from commandbus.worker.leases import make_extender
from commandbus.worker.received import to_received, without_faults

if TYPE_CHECKING:
    from uuid import UUID

    from psycopg_pool import AsyncConnectionPool

    from commandbus.handlers import HandlerContext

_LEASE = 3_600  # seconds: whoever steps through a handler with a debugger keeps its command
_MOST = 100_000

# A queue table's name is not known before; what the handler will be given is in the message, the rest in the row.
_WAITING = """
    select c.domain, c.command_type, c.command_id, m.message -> 'data' as data, c.correlation_id,
           nullif(c.reply_queue, '') as reply_to, c.created_at
      from (
        select q.msg_id, q.message from pgmq.{queue} q
        union all
        select null, s.message from commandbus.scheduled s where s.domain = %(domain)s
      ) as m
      join commandbus.command c on c.command_id = (m.message ->> 'command_id')::uuid and c.domain = %(domain)s
     where c.status = 'PENDING' and c.command_type = coalesce(%(command_type)s::text, c.command_type)
     order by m.msg_id nulls last, c.created_at
"""
_BRING_FORWARD = "update commandbus.scheduled set due_at = pg_catalog.clock_timestamp() where domain = %s"


@dataclass(frozen=True, slots=True)
class Executed:
    """A command whose handler ran, as it stood when everything was done.

    Attributes:
        command: what the handler was given; its data is None where it cannot be decoded.
        metadata: the stored state: status, attempts, last error.
        result: what the handler last returned; None when it raised, or never ran.
        error: what it last raised, traceback included; None when it returned, or never ran.
    """

    command: Command
    metadata: CommandMetadata
    result: Any = field(default=None, repr=False)
    error: BaseException | None = field(default=None, repr=False)

    @property
    def status(self) -> str:
        """The command's status, see `CommandStatus`."""
        return self.metadata.status


class Recorder(HandlerRegistry):
    """The same handlers as in another registry; what each last returned or raised is remembered by command id."""

    def __init__(self, registry: HandlerRegistry) -> None:
        super().__init__()
        self._source = registry
        self.results: dict[UUID, Any] = {}
        self.errors: dict[UUID, BaseException] = {}

    def registration(self, domain: str, command_type: str) -> Registration | None:
        """Return how commands of this type are handled, or None."""
        found = self._source.registration(domain, command_type)
        if found is None:
            return None
        wrap = self._wrap_async if found.is_async else self._wrap
        return dataclasses.replace(found, fn=partial(wrap, found))

    async def _wrap_async(self, found: Registration, argument: object, context: HandlerContext) -> object:
        try:
            return self._returned(context, await found.fn(argument, context))
        except BaseException as error:
            self._raised(context, error)
            raise

    def _wrap(self, found: Registration, argument: object, context: HandlerContext) -> object:
        try:
            return self._returned(context, found.fn(argument, context))
        except BaseException as error:
            self._raised(context, error)
            raise

    def _returned(self, context: HandlerContext, result: object) -> object:
        self.errors.pop(context.command_id, None)
        self.results[context.command_id] = result
        return result

    def _raised(self, context: HandlerContext, error: BaseException) -> None:
        self.results.pop(context.command_id, None)
        self.errors[context.command_id] = error


async def drain(
    pool: AsyncConnectionPool[Any],
    registry: HandlerRegistry,
    domain: str,
    *,
    retries: bool = False,
    limit: int = 1_000,
) -> dict[UUID, Executed]:
    """Execute the commands of a domain one by one until none is due, those that handlers send meanwhile included.

    Every command goes the whole way that a worker would send it: lease, handler, settle.

    Args:
        pool: a `CommandBusPool`, or any psycopg pool on a migrated database.
        registry: the handlers.
        domain: the domain.
        retries: carry out retries at once, instead of leaving them until they are due.
        limit: most attempts, 1 to 100,000; more are taken for handlers that send each other commands for ever.

    Returns:
        The commands by id, in the order in which they first ran. One that an operator must look at is among them.

    Raises:
        QueueNotFoundError: the domain has no queue: it is misspelt, or nobody has created it.
        InvalidOperationError: commands are left after *limit* attempts.
        InvalidArgumentError: an argument breaks its limit.
    """
    check_count(limit, "limit", 1, _MOST)
    await _check_created(pool, domain)
    recorder = registry if isinstance(registry, Recorder) else Recorder(registry)
    with ThreadPoolExecutor(1, thread_name_prefix="commandbus-handler") as threads:
        runner = Runner(recorder, RetryPolicy(), pool, settings_of(pool).max_payload_bytes, threads)
        commands = await _run_all(pool, runner, domain, retries, limit)
    repository = PostgresCommandRepository(pool)
    executed = {}
    for command_id, command in commands.items():
        metadata = await repository.get(domain, command_id)
        if metadata is not None:
            result, error = recorder.results.get(command_id), recorder.errors.get(command_id)
            executed[command_id] = Executed(command, metadata, result, error)
    return executed


async def _run_all(
    pool: AsyncConnectionPool[Any], runner: Runner, domain: str, retries: bool, limit: int
) -> dict[UUID, Command]:
    repository = PostgresCommandRepository(pool)
    commands: dict[UUID, Command] = {}
    extender = make_extender(repository, domain, _LEASE)
    attempts = 0
    while True:
        deliveries = await repository.receive(domain, limit=1, visibility_timeout=_LEASE)
        if not deliveries and not (retries and await _bring_forward(pool, domain)):
            return commands
        for delivery in deliveries:
            received = to_received(domain, delivery, extender)
            commands[delivery.command_id] = received.command
            if not without_faults(domain, [delivery]):
                continue
            settlement = await runner.run(received)
            if settlement is not None:
                await repository.settle(domain, [received.lease], [settlement])
            attempts += 1
        if attempts >= limit:
            raise InvalidOperationError(
                f'commands of domain "{domain}" may be left after {limit} attempts: raise limit, or find the handlers'
                " that send each other commands for ever"
            )


async def _bring_forward(pool: AsyncConnectionPool[Any], domain: str) -> bool:
    """Let all retries of a domain be due now; say whether there were any."""
    async with pool.connection() as connection:
        cursor = await connection.execute(_BRING_FORWARD, (domain,))
        return bool(cursor.rowcount > 0)


async def _check_created(pool: AsyncConnectionPool[Any], domain: str) -> None:
    """Make sure that a domain has a queue: to find nothing under a misspelt name would prove nothing."""
    known = await PgmqClient(pool).list_domains()
    if check_domain(domain) not in known:
        there = f"there is: {', '.join(known)}" if known else "there is no domain at all"
        raise QueueNotFoundError(f'domain "{domain}" has no queue: bus.create_domain("{domain}") makes it; {there}')


async def waiting_commands(
    pool: AsyncConnectionPool[Any], domain: str, command_type: str | None = None
) -> list[Command]:
    """Return the commands of a domain that wait for a worker, with their data, in queue order; then its retries.

    Args:
        pool: a `CommandBusPool`, or any psycopg pool on a migrated database.
        domain: the domain.
        command_type: only of this one.

    Raises:
        QueueNotFoundError: the domain has no queue: it is misspelt, or nobody has created it.
    """
    parameters = {
        "domain": domain,
        "command_type": None if command_type is None else check_command_type(command_type),
    }
    await _check_created(pool, domain)
    async with pool.connection() as connection, connection.cursor(row_factory=class_row(Command)) as cursor:
        queue = sql.Identifier(f"q_{domain}__commands")
        await cursor.execute(sql.SQL(_WAITING).format(queue=queue), parameters)
        commands: list[Command] = await cursor.fetchall()
        return commands
