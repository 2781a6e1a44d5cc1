# Printed from ../bus.py by tools/async_to_sync.py; edit that file.
"""The bus: send commands, alone, in sets or as batches; wait for replies; look things up."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolTimeout

from commandbus._compat import Callback, call, sleep, spawn
from commandbus.errors import (
    BatchNotFoundError,
    CommandCanceledError,
    CommandFailedError,
    DatabaseUnavailableError,
    InvalidArgumentError,
    InvalidOperationError,
    PoolTimeoutError,
    ReplyTimeoutError,
)
from commandbus.models import (
    AuditEvent,
    BatchCommand,
    BatchMetadata,
    BatchSendResult,
    BatchStatus,
    CommandMetadata,
    CommandStatus,
    CreateBatchResult,
    Reply,
    ReplyOutcome,
    SendRequest,
    SendResult,
)
from commandbus.payload import (
    check_aware,
    check_command_type,
    check_count,
    check_domain,
    check_items,
    check_one_of,
    check_reply_queue,
    check_text,
    check_timeout,
    check_uuid,
    encode,
)
from commandbus.retry import MAX_ATTEMPTS
from commandbus.sync.repositories import (
    PgmqClient,
    PostgresAuditLogger,
    PostgresBatchRepository,
    PostgresCommandRepository,
)
from commandbus.sync.repositories._base import check_connection, check_pool, settings_of, translate
from commandbus.sync.repositories.command import OutgoingCommand

logger = logging.getLogger(__name__)

MAX_SET = 10_000
_SET = 1_000
MAX_PAGE = 1_000
MAX_OFFSET = 2**31 - 1
_FIRST_LOOK = 0.002
_LONGEST_PAUSE = 0.25
_AFTER_TROUBLE = 5.0
_LONGEST_COMMIT = 300.0  # seconds that the caller's transaction may take after create_batch

OnComplete = Callback[BatchMetadata]

_Target = tuple[str, UUID | None]  # domain and batch
_Chunk = tuple[_Target, list[tuple[int, OutgoingCommand]]]  # with each command's place in the request
_Targets = dict[_Target, list[tuple[int, OutgoingCommand]]]


class CommandBus:
    """Sends commands and answers questions about them. It has no state of its own and needs no closing.

    Args:
        pool: a `CommandBusPool`, or any psycopg pool on a migrated database.
        default_max_attempts: for commands sent without their own, 1 to 1,000; the pool's setting when None.

    Raises:
        InvalidArgumentError: *pool* is none, or *default_max_attempts* is out of its range.
    """

    def __init__(self, pool: ConnectionPool[Any], default_max_attempts: int | None = None) -> None:
        self._pool = check_pool(pool)
        self._settings = settings_of(pool)
        if default_max_attempts is None:
            default_max_attempts = self._settings.default_max_attempts
        self._default_max_attempts = check_count(default_max_attempts, "default_max_attempts", 1, MAX_ATTEMPTS)
        self._commands = PostgresCommandRepository(pool)
        self._batches = PostgresBatchRepository(pool)
        self._audit = PostgresAuditLogger(pool)
        self._queues = PgmqClient(pool)

    def create_domain(self, domain: str) -> bool:
        """Make a domain's command queue and reply queue, if they are not there yet.

        Returns:
            Whether anything had to be made.

        Raises:
            InvalidArgumentError: *domain* does not match ``^[a-z][a-z0-9_]{0,36}$``.
        """
        return self._queues.create_domain(domain)

    def send(
        self,
        domain: str,
        command_type: str,
        command_id: UUID,
        data: Any,  # noqa: ANN401  (a dict or a pydantic model)
        correlation_id: UUID | None = None,
        reply_to: str | None = None,
        max_attempts: int | None = None,
        batch_id: UUID | None = None,
        conn: Connection[Any] | None = None,
        *,
        idempotent: bool = False,
    ) -> SendResult:
        """Store and enqueue one command; when this returns outside a transaction, it will be executed.

        Args:
            domain: whose workers execute it.
            command_type: 1 to 200 characters; selects the handler.
            command_id: unique in the domain; sending it again is refused.
            data: a JSON object or pydantic model, up to 256 KiB and 64 levels.
            correlation_id: joins a conversation; the command's id when None.
            reply_to: a reply queue ``<domain>__replies`` that is told the outcome.
            max_attempts: 1 to 1,000; the bus's default when None.
            batch_id: a batch of the same domain that is not complete; the command joins it.
            conn: the caller's connection: the command is sent when, and only if, its transaction commits.
            idempotent: a command that exists with the same id and type counts as sent, whatever its data.

        Raises:
            InvalidArgumentError: an argument breaks its limit; nothing was sent.
            DuplicateCommandError: the id exists in this domain. As any error of the server's does, it ends the
                transaction of *conn*; where ids may repeat, send *idempotent*, or within ``conn.transaction()``.
            QueueNotFoundError: the domain or the reply queue does not exist.
            BatchNotFoundError: there is no such batch.
            InvalidOperationError: the batch is complete.
        """
        check_domain(domain)
        command = self._outgoing(command_type, command_id, data, correlation_id, reply_to, max_attempts)
        commands = self._commands.on(conn)
        if batch_id is None and not idempotent:
            return SendResult(command.command_id, commands.send(domain, command))
        batch_id = None if batch_id is None else check_uuid(batch_id, "batch_id")
        results = commands.send_many(domain, [command], batch_id=batch_id, idempotent=idempotent)
        return results[0]

    def send_batch(
        self,
        requests: Sequence[SendRequest],
        chunk_size: int = 1000,
        conn: Connection[Any] | None = None,
        *,
        idempotent: bool = False,
    ) -> BatchSendResult:
        """Store and enqueue many commands, all or none, in sets of *chunk_size* per call.

        Args:
            requests: of any domains; those of one domain are queued in this order.
            chunk_size: 1 to 10,000; 1,000 is about as fast as it gets.
            conn: the caller's connection, as in `send`.
            idempotent: as in `send`.

        Raises:
            InvalidArgumentError: an argument breaks its limit; the text names the request by its index.
            DuplicateCommandError, QueueNotFoundError, BatchNotFoundError, InvalidOperationError: as `send`.
        """
        check_count(chunk_size, "chunk_size", 1, MAX_SET)
        chunks = _chunked(self._by_target(check_items(requests, "requests", SendRequest)), chunk_size)
        if len(chunks) == 1:
            sent = self._send_chunks(self._commands.on(conn), chunks, idempotent)
        else:
            with self._transaction(conn) as connection:
                sent = self._send_chunks(self._commands.on(connection), chunks, idempotent)
        return BatchSendResult([sent[index] for index in range(len(sent))], len(chunks), len(sent))

    def create_batch(
        self,
        domain: str,
        commands: Sequence[BatchCommand],
        *,
        batch_id: UUID | None = None,
        name: str | None = None,
        custom_data: Any | None = None,  # noqa: ANN401  (a dict or a pydantic model)
        on_complete: str | OnComplete | None = None,
        conn: Connection[Any] | None = None,
    ) -> CreateBatchResult:
        """Send commands that are counted together, all or none.

        Args:
            domain: the domain of all commands.
            commands: at least one.
            batch_id: unique in the domain; made when None.
            name: for people, 1 to 200 characters.
            custom_data: a JSON object that stays with the batch.
            on_complete: the name of a reply queue that gets a message in the very transaction that ends the
                last command, whatever happens to this process; or, for convenience, a function that this
                process calls with the `BatchMetadata` when it sees the batch complete.
            conn: the caller's connection, as in `send`. With a function as *on_complete*, commit soon.

        Raises:
            InvalidArgumentError: an argument breaks its limit; the text names the command by its index.
            InvalidOperationError: the batch exists.
            DuplicateCommandError, QueueNotFoundError: as `send`.
        """
        check_domain(domain)
        batch_id = uuid4() if batch_id is None else check_uuid(batch_id, "batch_id")
        if name is not None:
            check_text(name, "name", 200)
        text = None if custom_data is None else self._encode(custom_data, "custom_data")
        is_queue = on_complete is not None and not callable(on_complete)
        queue = check_reply_queue(on_complete, "on_complete") if is_queue else None
        check_items(commands, "commands", BatchCommand)
        outgoing = [self._outgoing_of(command, f"commands[{i}]") for i, command in enumerate(commands)]
        results: list[SendResult] = []
        with self._transaction(conn) as connection:
            self._batches.on(connection).create(domain, batch_id, name=name, custom_data=text, completion_queue=queue)
            commands_here = self._commands.on(connection)
            for start in range(0, len(outgoing), _SET):
                results += commands_here.send_many(domain, outgoing[start : start + _SET], batch_id=batch_id)
        if callable(on_complete):
            spawn(self._tell, domain, batch_id, on_complete)
        return CreateBatchResult(batch_id, results, len(results))

    def call(
        self,
        domain: str,
        command_type: str,
        data: Any,  # noqa: ANN401  (a dict or a pydantic model)
        *,
        timeout: float = 30.0,
        command_id: UUID | None = None,
        correlation_id: UUID | None = None,
        reply_to: str | None = None,
        max_attempts: int | None = None,
    ) -> Any:  # noqa: ANN401  (whatever the handler returns)
        """Send a command and return what its handler returns.

        Args:
            domain: as in `send`, like the others not named here.
            command_type: as in `send`.
            data: as in `send`.
            timeout: seconds to wait for the reply, up to 86,400.
            command_id: made when None. To wait again after a timeout, `wait_for_reply` takes it.
            correlation_id: as in `send`.
            reply_to: where the reply passes through; the domain's own reply queue when None.
            max_attempts: as in `send`.

        Raises:
            CommandFailedError: a business rule refused it.
            CommandCanceledError: an operator gave it up.
            ReplyTimeoutError: no reply yet: still under way, or waiting for an operator.
            InvalidArgumentError, DuplicateCommandError, QueueNotFoundError: as `send`.
        """
        check_timeout(timeout)
        queue = f"{check_domain(domain)}__replies" if reply_to is None else check_reply_queue(reply_to)
        command_id = uuid4() if command_id is None else command_id
        sent = self.send(domain, command_type, command_id, data, correlation_id, queue, max_attempts)
        try:
            reply = self.wait_for_reply(queue, sent.command_id, timeout=timeout, domain=domain)
        except ReplyTimeoutError as error:
            command = self.get_command(domain, sent.command_id)
            status = "gone" if command is None else command.status
            raise ReplyTimeoutError(f"{error}; the command is {status}", command_id=sent.command_id) from None
        match reply.outcome:
            case ReplyOutcome.SUCCESS:
                return reply.result
            case ReplyOutcome.FAILED:
                raise CommandFailedError(reply.command_id, reply.error_code, reply.error_message, reply.details)
            case ReplyOutcome.CANCELED:
                raise CommandCanceledError(reply.command_id, reply.error_message)

    def wait_for_reply(
        self, queue: str, command_id: UUID, *, timeout: float = 30.0, domain: str | None = None
    ) -> Reply:
        """Take the reply to one command out of a reply queue as soon as it is there.

        Args:
            queue: the command's reply queue. Replies to other commands stay in it.
            command_id: the command.
            timeout: seconds, up to 86,400.
            domain: the command's domain; needed only where another domain that replies here uses the same id.

        Raises:
            ReplyTimeoutError: no reply in time.
            QueueNotFoundError: there is no such reply queue.
        """
        check_timeout(timeout)
        command_id = check_uuid(command_id, "command_id")
        end = time.monotonic() + timeout
        pause = _FIRST_LOOK
        while True:
            replies = self._queues.take_replies(queue, [command_id], domain)
            if replies:
                return replies[0]
            left = end - time.monotonic()
            if left <= 0:
                raise ReplyTimeoutError(
                    f"no reply to command {command_id} within {timeout:g} seconds", command_id=command_id
                )
            sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def wait_for_batch(self, domain: str, batch_id: UUID, *, timeout: float = 30.0) -> BatchMetadata:
        """Return a batch once all its commands are completed, failed or canceled.

        Args:
            domain: the batch's domain.
            batch_id: the batch.
            timeout: seconds, up to 86,400.

        Raises:
            BatchNotFoundError: there is no such batch.
            ReplyTimeoutError: it is not complete in time.
        """
        check_timeout(timeout)
        end = time.monotonic() + timeout
        pause = _FIRST_LOOK
        while True:
            batch = self.get_batch(domain, batch_id)
            if batch is None:
                raise BatchNotFoundError(f'batch {batch_id} not found in domain "{domain}"')
            if batch.is_complete:
                return batch
            left = end - time.monotonic()
            if left <= 0:
                raise ReplyTimeoutError(f"batch {batch_id} is not complete within {timeout:g} seconds")
            sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def get_batch(self, domain: str, batch_id: UUID) -> BatchMetadata | None:
        """Return a batch and its counters, or None."""
        return self._batches.get(check_domain(domain), check_uuid(batch_id, "batch_id"))

    def list_batches(
        self, domain: str, *, status: BatchStatus | None = None, limit: int = 100, offset: int = 0
    ) -> list[BatchMetadata]:
        """Return a domain's batches, newest first; *limit* is 1 to 1,000."""
        return self._batches.list(
            check_domain(domain),
            status=None if status is None else check_one_of(status, "status", BatchStatus),
            limit=check_count(limit, "limit", 1, MAX_PAGE),
            offset=check_count(offset, "offset", 0, MAX_OFFSET),
        )

    def list_batch_commands(
        self,
        domain: str,
        batch_id: UUID,
        *,
        status: CommandStatus | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[CommandMetadata]:
        """Return a batch's commands, oldest first; *limit* is 1 to 1,000."""
        return self._commands.list_batch(
            check_domain(domain),
            check_uuid(batch_id, "batch_id"),
            status=None if status is None else check_one_of(status, "status", CommandStatus),
            limit=check_count(limit, "limit", 1, MAX_PAGE),
            offset=check_count(offset, "offset", 0, MAX_OFFSET),
        )

    def get_command(self, domain: str, command_id: UUID) -> CommandMetadata | None:
        """Return a command's stored state, or None."""
        return self._commands.get(check_domain(domain), check_uuid(command_id, "command_id"))

    def command_exists(self, domain: str, command_id: UUID) -> bool:
        """Return whether the command was ever sent in this domain."""
        return self.get_command(domain, command_id) is not None

    def query_commands(
        self,
        status: CommandStatus | None = None,
        domain: str | None = None,
        command_type: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 100,
        offset: int = 0,
        *,
        correlation_id: UUID | None = None,
    ) -> list[CommandMetadata]:
        """Return the commands that match every filter given, newest first.

        Args:
            status: only these.
            domain: only of this one.
            command_type: only of this one.
            created_after: only those sent at this time or later; aware.
            created_before: only those sent before; aware.
            limit: 1 to 1,000.
            offset: from 0; later pages cost more.
            correlation_id: only of this conversation.

        Raises:
            InvalidArgumentError: an argument breaks its limit, or a time has no zone.
        """
        return self._commands.query(
            correlation_id=None if correlation_id is None else check_uuid(correlation_id, "correlation_id"),
            status=None if status is None else check_one_of(status, "status", CommandStatus),
            domain=None if domain is None else check_domain(domain),
            command_type=None if command_type is None else check_command_type(command_type),
            created_after=None if created_after is None else check_aware(created_after, "created_after"),
            created_before=None if created_before is None else check_aware(created_before, "created_before"),
            limit=check_count(limit, "limit", 1, MAX_PAGE),
            offset=check_count(offset, "offset", 0, MAX_OFFSET),
        )

    def get_audit_trail(self, command_id: UUID, domain: str | None = None) -> list[AuditEvent]:
        """Return what happened to a command (or, given its id, a batch), oldest first."""
        return self._audit.get_trail(
            check_uuid(command_id, "command_id"), None if domain is None else check_domain(domain)
        )

    def query_audit(
        self,
        domain: str | None = None,
        event_type: str | None = None,
        *,
        after: datetime | None = None,
        before: datetime | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> list[AuditEvent]:
        """Return the events that match every filter given, newest first.

        Args:
            domain: only of this one.
            event_type: only of this kind, see `AuditEventType`; 1 to 100 characters.
            after: only from this time on; aware.
            before: only before this time; aware. For the next page, the timestamp of the last event.
            before_id: with *before*: of the events at that very time, only those with a smaller audit_id.
            limit: 1 to 1,000.

        Raises:
            InvalidArgumentError: an argument breaks its limit, a time has no zone, or *before_id* stands alone.
        """
        if before_id is not None and before is None:
            raise InvalidArgumentError("before_id", "needs before")
        return self._audit.query(
            domain=None if domain is None else check_domain(domain),
            event_type=None if event_type is None else check_text(event_type, "event_type", 100),
            after=None if after is None else check_aware(after, "after"),
            before=None if before is None else check_aware(before, "before"),
            before_id=None if before_id is None else check_count(before_id, "before_id", 1, 2**63 - 1),
            limit=check_count(limit, "limit", 1, MAX_PAGE),
        )

    def _encode(self, data: object, field: str) -> str:
        return encode(data, field, self._settings.max_payload_bytes)

    def _outgoing(
        self,
        command_type: str,
        command_id: UUID,
        data: object,
        correlation_id: UUID | None,
        reply_to: str | None,
        max_attempts: int | None,
    ) -> OutgoingCommand:
        """Return a command whose every part was checked."""
        return OutgoingCommand(
            check_uuid(command_id, "command_id"),
            check_command_type(command_type),
            self._encode(data, "data"),
            None if correlation_id is None else check_uuid(correlation_id, "correlation_id"),
            None if reply_to is None else check_reply_queue(reply_to),
            self._default_max_attempts
            if max_attempts is None
            else check_count(max_attempts, "max_attempts", 1, MAX_ATTEMPTS),
        )

    def _outgoing_of(self, asked: SendRequest | BatchCommand, where: str) -> OutgoingCommand:
        """Return a checked command; an error names its place in the list."""
        try:
            return self._outgoing(
                asked.command_type,
                asked.command_id,
                asked.data,
                asked.correlation_id,
                asked.reply_to,
                asked.max_attempts,
            )
        except InvalidArgumentError as error:
            raise InvalidArgumentError(where, str(error)) from None

    def _by_target(self, requests: Sequence[SendRequest]) -> _Targets:
        """Return (index, command) lists for each (domain, batch) in the order of their first appearance."""
        targets: _Targets = {}
        for index, request in enumerate(requests):
            where = f"requests[{index}]"
            command = self._outgoing_of(request, where)
            batch_id = None if request.batch_id is None else check_uuid(request.batch_id, f"{where}.batch_id")
            target = (check_domain(request.domain, f"{where}.domain"), batch_id)
            targets.setdefault(target, []).append((index, command))
        return targets

    def _send_chunks(
        self, commands: PostgresCommandRepository, chunks: Sequence[_Chunk], idempotent: bool
    ) -> dict[int, SendResult]:
        sent: dict[int, SendResult] = {}
        for (domain, batch_id), chunk in chunks:
            results = commands.send_many(
                domain, [command for _, command in chunk], batch_id=batch_id, idempotent=idempotent
            )
            sent.update(zip([index for index, _ in chunk], results, strict=True))
        return sent

    @contextmanager
    def _transaction(self, conn: Connection[Any] | None) -> Iterator[Connection[Any]]:
        """Open a transaction on a connection of the pool, or a part of the caller's transaction."""
        try:
            if conn is None:
                with self._pool.connection() as own, own.transaction():
                    yield own
            else:
                with _part_of_transaction(check_connection(conn)):
                    yield conn
        except PoolTimeout:
            raise PoolTimeoutError("no connection became free in time") from None
        except psycopg.Error as error:
            failure = translate(error)
            raise failure from None

    def _tell(self, domain: str, batch_id: UUID, on_complete: OnComplete) -> None:
        """Call *on_complete* when the batch is complete; give up when it does not appear, or the pool is closed."""
        facts = {"domain": domain, "batch_id": batch_id}
        give_up_at = time.monotonic() + _LONGEST_COMMIT
        batch = None
        while batch is None or not batch.is_complete:
            sleep(_LONGEST_PAUSE)
            try:
                batch = self.get_batch(domain, batch_id)
            except (DatabaseUnavailableError, PoolTimeoutError):
                logger.warning("batch cannot be looked at now", extra=facts)
                sleep(_AFTER_TROUBLE)
                continue
            except InvalidOperationError:
                return  # the pool was closed
            if batch is None and time.monotonic() > give_up_at:
                logger.warning("batch was never committed, nobody will be told", extra=facts)
                return
        call(on_complete, batch)


@contextmanager
def _part_of_transaction(conn: Connection[Any]) -> Iterator[None]:
    """Let the block succeed or fail as a whole, and leave the commit to the caller."""
    if not conn.autocommit and conn.info.transaction_status is TransactionStatus.IDLE:
        yield  # the first statement opens the caller's transaction; transaction() would also commit it
        return
    with conn.transaction():
        yield


def _chunked(targets: _Targets, size: int) -> list[_Chunk]:
    """Return sets of at most *size* commands that go to the same domain and batch."""
    return [
        (target, commands[start : start + size])
        for target, commands in targets.items()
        for start in range(0, len(commands), size)
    ]
