# Printed from ../../bus/bus.py by tools/async_to_sync.py; edit that file.
"""The public face of the bus."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from psycopg import Connection
from psycopg_pool import ConnectionPool

from commandbus._compat import spawn
from commandbus.errors import BatchNotFoundError, CommandCanceledError, CommandFailedError, ReplyTimeoutError
from commandbus.models import (
    BatchCommand,
    BatchMetadata,
    BatchSendResult,
    CreateBatchResult,
    Reply,
    ReplyOutcome,
    SendRequest,
    SendResult,
)
from commandbus.payload import (
    check_count,
    check_domain,
    check_items,
    check_reply_queue,
    check_text,
    check_timeout,
    check_uuid,
)
from commandbus.sync.bus._transactions import transaction
from commandbus.sync.bus.outgoing import Checker, Chunk, chunked
from commandbus.sync.bus.questions import Questions
from commandbus.sync.bus.waiting import OnComplete, look_until, tell
from commandbus.sync.repositories import PgmqClient, PostgresCommandRepository
from commandbus.sync.repositories._base import settings_of

MAX_SET = 10_000
_SET = 1_000


class CommandBus(Questions):
    """Sends commands and answers questions about them. It has no state of its own and needs no closing.

    Args:
        pool: a `CommandBusPool`, or any psycopg pool on a migrated database.
        default_max_attempts: for commands sent without their own, 1 to 1,000; the pool's setting when None.

    Raises:
        InvalidArgumentError: *pool* is none, or *default_max_attempts* is out of its range.
    """

    def __init__(self, pool: ConnectionPool[Any], default_max_attempts: int | None = None) -> None:
        super().__init__(pool)
        settings = settings_of(pool)
        if default_max_attempts is None:
            default_max_attempts = settings.default_max_attempts
        self._checker = Checker(settings.max_payload_bytes, default_max_attempts)
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
        command = self._checker.command(command_type, command_id, data, correlation_id, reply_to, max_attempts)
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
        chunks = chunked(self._checker.by_target(check_items(requests, "requests", SendRequest)), chunk_size)
        if len(chunks) == 1:
            sent = self._send_chunks(self._commands.on(conn), chunks, idempotent)
        else:
            with transaction(self._pool, conn) as connection:
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
        text = None if custom_data is None else self._checker.encode(custom_data, "custom_data")
        is_queue = on_complete is not None and not callable(on_complete)
        queue = check_reply_queue(on_complete, "on_complete") if is_queue else None
        check_items(commands, "commands", BatchCommand)
        outgoing = [self._checker.command_of(command, f"commands[{i}]") for i, command in enumerate(commands)]
        results: list[SendResult] = []
        with transaction(self._pool, conn) as connection:
            self._batches.on(connection).create(domain, batch_id, name=name, custom_data=text, completion_queue=queue)
            commands_here = self._commands.on(connection)
            for start in range(0, len(outgoing), _SET):
                results += commands_here.send_many(domain, outgoing[start : start + _SET], batch_id=batch_id)
        if callable(on_complete):
            spawn(tell, self.get_batch, domain, batch_id, on_complete)
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

        def look() -> Reply | None:
            replies = self._queues.take_replies(queue, [command_id], domain)
            return replies[0] if replies else None

        reply = look_until(look, timeout)
        if reply is None:
            raise ReplyTimeoutError(
                f"no reply to command {command_id} within {timeout:g} seconds", command_id=command_id
            )
        return reply

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

        def look() -> BatchMetadata | None:
            batch = self.get_batch(domain, batch_id)
            if batch is None:
                raise BatchNotFoundError(f'batch {batch_id} not found in domain "{domain}"')
            return batch if batch.is_complete else None

        batch = look_until(look, timeout)
        if batch is None:
            raise ReplyTimeoutError(f"batch {batch_id} is not complete within {timeout:g} seconds")
        return batch

    def _send_chunks(
        self, commands: PostgresCommandRepository, chunks: Sequence[Chunk], idempotent: bool
    ) -> dict[int, SendResult]:
        sent: dict[int, SendResult] = {}
        for (domain, batch_id), chunk in chunks:
            results = commands.send_many(
                domain, [command for _, command in chunk], batch_id=batch_id, idempotent=idempotent
            )
            sent.update(zip([index for index, _ in chunk], results, strict=True))
        return sent
