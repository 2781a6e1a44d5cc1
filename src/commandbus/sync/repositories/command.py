# Printed from ../../repositories/command.py by tools/async_to_sync.py; edit that file.
"""Commands: send, receive, settle, extend; find and list; operators' verdicts."""

import time
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from psycopg import Connection, errors, sql

from commandbus.errors import DatabaseUnavailableError, DuplicateCommandError, QueueNotFoundError
from commandbus.models import (
    CommandMetadata,
    CommandStatus,
    ErrorType,
    Lease,
    SendResult,
    TroubleshootingItem,
)
from commandbus.payload import check_domain, decode_leniently
from commandbus.retry import Settlement
from commandbus.sync.repositories._arrays import optional_array, plain_array, text_array
from commandbus.sync.repositories._base import Repository, Row, recover

_COLUMNS = (
    "domain, command_id, command_type, status, attempts, max_attempts, msg_id, correlation_id, reply_queue,"
    " last_error_type, last_error_code, last_error_msg, created_at, updated_at, batch_id"
)
_SETTLE = (
    "select command_id, verdict from commandbus.sp_settle_commands($1::text, $2::uuid[], $3::bigint[], $4::int[],"
    " $5::text[], $6::jsonb[], $7::text[], $8::text[], $9::text[], $10::jsonb[], $11::text[], $12::float8[],"
    " $13::boolean, $14::boolean)"
)


class OutgoingCommand(NamedTuple):
    """One command of a set to be sent; data is JSON text, everything is checked."""

    command_id: UUID
    command_type: str
    data: str
    correlation_id: UUID | None
    reply_to: str | None
    max_attempts: int


class Delivery(NamedTuple):
    """One message that was leased.

    Attributes:
        data: JSON text, or None when the message has none.
        fault: None, or why the message was taken out of the queue: STRAY, TAMPERED, CRASHED.
    """

    command_id: UUID
    command_type: str
    data: str | None
    correlation_id: UUID | None
    reply_queue: str
    attempts: int
    max_attempts: int
    msg_id: int
    read_ct: int
    batch_id: UUID | None
    created_at: datetime
    fault: str | None


class Verdict(NamedTuple):
    """What became of one id of an operator's call; refusal is None, NOT_FOUND, NO_PAYLOAD, or the status it has."""

    command_id: UUID
    msg_id: int | None
    refusal: str | None


def _limit_for(data: str, max_payload_bytes: int) -> int | None:
    """Return the limit that the server must check, or None where *data*, which was checked here, cannot reach it.

    The server measures its own text, in which five characters of a float may be 309 digits; nothing grows more. To
    write that text costs a send three percent.
    """
    return None if len(data) * 64 <= max_payload_bytes else max_payload_bytes


@lru_cache(256)
def _send_sql(domain: str) -> str:
    """Return the call of a domain's own function: only there is the queue's name known when the server plans."""
    function = sql.Identifier("commandbus", "send_to_" + check_domain(domain))
    call = sql.SQL(
        "select {}($1::uuid, $2::text, $3::jsonb, $4::uuid, $5::text, $6::int, $7::boolean, $8::int)"
    ).format(function)
    return call.as_string()


class PostgresCommandRepository(Repository):
    """Commands, over the functions of schema ``commandbus``. Arguments must have been checked."""

    def send(self, domain: str, command: OutgoingCommand) -> int:
        """Store and enqueue one command.

        After a lost connection nobody knows whether the first try was carried out. A second one finds out: it
        succeeds, or the command is there and as young as the first try.

        Returns:
            The message's msg_id.

        Raises:
            DuplicateCommandError: the id exists (CB001).
            QueueNotFoundError: the domain or the reply queue does not exist (CB005).

        Source: ``commandbus.send_to_<domain>``.
        """
        began_at = time.monotonic()
        try:
            return self._send_once(domain, command)
        except DatabaseUnavailableError:
            if isinstance(self._source, Connection):
                raise
            recover(self._source)
        try:
            return self._send_once(domain, command)
        except DuplicateCommandError:
            msg_id = self._find_younger(domain, command, time.monotonic() - began_at)
            if msg_id is None:
                raise
            return msg_id

    def _send_once(self, domain: str, command: OutgoingCommand) -> int:
        try:
            msg_id = self._value(
                _send_sql(domain),
                (
                    str(command.command_id),
                    command.command_type,
                    command.data,
                    command.correlation_id,
                    command.reply_to,
                    command.max_attempts,
                    self._settings.notify,
                    _limit_for(command.data, self._settings.max_payload_bytes),
                ),
                repeatable=False,
            )
        except DuplicateCommandError:
            raise DuplicateCommandError(domain, command.command_id) from None
        except errors.UndefinedFunction:
            raise QueueNotFoundError(
                f'domain "{domain}" has no command queue: create it with "commandbus queue create {domain}"'
            ) from None
        return int(msg_id)

    def _find_younger(self, domain: str, command: OutgoingCommand, seconds: float) -> int | None:
        """Return the msg_id of a command of the same type that was sent at most *seconds* ago, or None."""
        rows = self._rows(
            "select msg_id from commandbus.get_command($1::text, $2::uuid) where command_type = $3::text"
            " and created_at >= pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $4::float8)",
            (domain, command.command_id, command.command_type, seconds),
        )
        return rows[0][0] if rows else None

    def send_many(
        self,
        domain: str,
        commands: Sequence[OutgoingCommand],
        *,
        batch_id: UUID | None = None,
        idempotent: bool = False,
    ) -> list[SendResult]:
        """Store and enqueue 1 to 10,000 commands in one call, all or none.

        Args:
            domain: the domain of all.
            commands: queued in this order.
            batch_id: a batch that all of them join.
            idempotent: accept a command that exists with the same type; it is not sent again.

        Returns:
            One result per command, in the same order.

        Raises:
            DuplicateCommandError: an id exists or comes twice (CB001).
            BatchNotFoundError: there is no such batch (CB004).
            QueueNotFoundError: the domain or a reply queue does not exist (CB005).
            InvalidOperationError: the batch is complete (CB006).

        Source: ``commandbus.sp_send_commands``; one round trip.
        """
        rows = self._rows(
            "select command_id, msg_id from commandbus.sp_send_commands($1::text, $2::uuid[], $3::text[], $4::jsonb[],"
            " $5::uuid[], $6::text[], $7::int[], $8::uuid, $9::boolean, $10::boolean, $11::int)",
            (
                domain,
                plain_array([c.command_id for c in commands]),
                text_array([c.command_type for c in commands]),
                text_array([c.data for c in commands]),
                optional_array([c.correlation_id for c in commands]),
                optional_array([c.reply_to for c in commands]),
                plain_array([c.max_attempts for c in commands]),
                batch_id,
                idempotent,
                self._settings.notify,
                self._settings.max_payload_bytes,
            ),
            repeatable=idempotent,
        )
        msg_ids: dict[UUID, int] = dict(rows)
        return [SendResult(c.command_id, msg_ids[c.command_id]) for c in commands]

    def receive(self, domain: str, *, limit: int, visibility_timeout: int) -> list[Delivery]:
        """Lease up to *limit* messages and begin an attempt of each one's command.

        Args:
            domain: whose queue to read.
            limit: most messages, 1 to 10,000.
            visibility_timeout: seconds until an unsettled command is delivered again, 1 to 86,400.

        Returns:
            0 to *limit* deliveries in queue order; those with a fault are no longer in the queue, and last.

        Raises:
            QueueNotFoundError: the domain has no queue (CB005).

        Source: ``commandbus.sp_receive_commands``; one round trip, which waits for no disk on a pool: a
        delivery that a server crash undoes is only made again.
        """
        rows = self._rows(
            "select * from commandbus.sp_receive_commands($1::text, $2::int, $3::int, $4::boolean)",
            (domain, limit, visibility_timeout, not self._owns_transactions),
        )
        return [Delivery._make(row) for row in rows]

    def settle(self, domain: str, settled: Sequence[tuple[Lease, Settlement]]) -> dict[UUID, str]:
        """End attempts, each by the lease it was given.

        Args:
            domain: the domain of all.
            settled: 1 to 10,000 leases and what became of their attempts, by rising msg_id.

        Returns:
            The leases that were not settled now, by command id: STALE, no longer the holder's, or DONE,
            settled by an earlier try of the same call.

        Source: ``commandbus.sp_settle_commands``; one round trip.
        """
        rows = self._rows(_SETTLE, self._settle_parameters(domain, settled, strict=False))
        return dict(rows)

    def settle_unfetched(self, domain: str, settled: Sequence[tuple[Lease, Settlement]]) -> None:
        """Send a settle in the caller's pipeline, and leave it to the pipeline's end to fail if a lease is stale.

        Only for a repository on a connection. Arguments as in `settle`.

        Source: ``commandbus.sp_settle_commands``.
        """
        self._send(_SETTLE, self._settle_parameters(domain, settled, strict=True))

    def _settle_parameters(
        self, domain: str, settled: Sequence[tuple[Lease, Settlement]], *, strict: bool
    ) -> tuple[object, ...]:
        leases = [lease for lease, _ in settled]
        ends = [end for _, end in settled]
        return (
            domain,
            plain_array([lease.command_id for lease in leases]),
            plain_array([lease.msg_id for lease in leases]),
            plain_array([lease.read_ct for lease in leases]),
            plain_array([end.outcome for end in ends]),
            optional_array([end.result for end in ends]),
            optional_array([end.error_type for end in ends]),
            optional_array([end.error_code for end in ends]),
            optional_array([end.error_msg for end in ends]),
            optional_array([end.details for end in ends]),
            optional_array([end.reason for end in ends]),
            optional_array([end.delay for end in ends]),
            self._settings.notify,
            strict,
        )

    def warm_up(self, domain: str) -> None:
        """Let the connection plan what a worker calls; without it, its first commands take milliseconds longer.

        Source: ``commandbus.sp_warm_up``; changes nothing.
        """
        self._rows("select commandbus.sp_warm_up($1::text)", (domain,))

    def extend(self, domain: str, leases: Sequence[Lease], *, visibility_timeout: int) -> set[UUID]:
        """Keep leased commands from being delivered again for *visibility_timeout* seconds from now.

        Returns:
            The ids of commands whose lease is no longer the holder's.

        Source: ``commandbus.sp_extend_leases``; one round trip.
        """
        rows = self._rows(
            "select command_id, renewed from commandbus.sp_extend_leases($1::text, $2::uuid[], $3::bigint[],"
            " $4::int[], $5::int)",
            (
                domain,
                plain_array([lease.command_id for lease in leases]),
                plain_array([lease.msg_id for lease in leases]),
                plain_array([lease.read_ct for lease in leases]),
                visibility_timeout,
            ),
        )
        return {command_id for command_id, renewed in rows if not renewed}

    def get(self, domain: str, command_id: UUID) -> CommandMetadata | None:
        """Return a command's stored state, or None. Source: ``commandbus.get_command``."""
        rows = self._rows(
            f"select {_COLUMNS} from commandbus.get_command($1::text, $2::uuid)",  # noqa: S608  (a constant)
            (domain, command_id),
        )
        return _to_metadata(rows[0]) if rows else None

    def find_domains(self, command_id: UUID) -> list[str]:
        """Return the domains that know a command id. Source: ``commandbus.find_domains``."""
        rows = self._rows("select * from commandbus.find_domains($1::uuid)", (command_id,))
        return [domain for (domain,) in rows]

    def query(
        self,
        *,
        status: str | None = None,
        domain: str | None = None,
        command_type: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        correlation_id: UUID | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[CommandMetadata]:
        """Return the commands that match every filter given, newest first.

        Source: ``commandbus.query_commands``.
        """
        rows = self._rows(
            f"select {_COLUMNS} from commandbus.query_commands($1::text, $2::text, $3::text, $4::timestamptz,"  # noqa: S608
            " $5::timestamptz, $6::int, $7::int, $8::uuid)",
            (status, domain, command_type, created_after, created_before, limit, offset, correlation_id),
        )
        return [_to_metadata(row) for row in rows]

    def list_batch(
        self, domain: str, batch_id: UUID, *, status: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[CommandMetadata]:
        """Return a batch's commands, oldest first. Source: ``commandbus.list_batch_commands``."""
        rows = self._rows(
            f"select {_COLUMNS} from commandbus.list_batch_commands($1::text, $2::uuid, $3::text, $4::int, $5::int)",  # noqa: S608
            (domain, batch_id, status, limit, offset),
        )
        return [_to_metadata(row) for row in rows]

    def list_troubleshooting(
        self, domain: str | None, command_type: str | None, *, limit: int, offset: int
    ) -> list[TroubleshootingItem]:
        """Return commands that wait for an operator, longest waiting first.

        A payload that cannot be decoded is given as its text, so that one bad row hides no other.

        Source: ``commandbus.list_troubleshooting``.
        """
        rows = self._rows(
            "select (command).domain, (command).command_id, (command).command_type, (command).attempts,"
            " (command).max_attempts, (command).last_error_type, (command).last_error_code, (command).last_error_msg,"
            " (command).correlation_id, (command).reply_queue, payload::text, (command).created_at,"
            " (command).updated_at, (command).batch_id"
            " from commandbus.list_troubleshooting($1::text, $2::text, $3::int, $4::int)",
            (domain, command_type, limit, offset),
        )
        return [_to_item(row) for row in rows]

    def list_troubleshooting_ids(self, domain: str, command_type: str | None = None) -> list[UUID]:
        """Return the ids of all commands of a domain that wait for an operator, longest waiting first.

        Source: ``commandbus.list_troubleshooting_ids``.
        """
        rows = self._rows(
            "select * from commandbus.list_troubleshooting_ids($1::text, $2::text)", (domain, command_type)
        )
        return [command_id for (command_id,) in rows]

    def count_troubleshooting(
        self, domain: str | None = None, command_type: str | None = None
    ) -> list[tuple[str, str, int]]:
        """Return (domain, command_type, waiting) of all that wait for an operator.

        Source: ``commandbus.count_troubleshooting``.
        """
        rows = self._rows(
            "select domain, command_type, waiting from commandbus.count_troubleshooting($1::text, $2::text)",
            (domain, command_type),
        )
        return [(found, kind, waiting) for found, kind, waiting in rows]

    def operator_retry(self, domain: str, command_ids: Sequence[UUID], operator: str | None) -> list[Verdict]:
        """Queue commands of the TSQ again, all attempts before them. Source: ``commandbus.sp_operator_retry``."""
        rows = self._rows(
            "select command_id, msg_id, refusal from commandbus.sp_operator_retry($1::text, $2::uuid[], $3::text,"
            " $4::boolean)",
            (domain, plain_array(command_ids), operator, self._settings.notify),
            repeatable=False,
        )
        return [Verdict._make(row) for row in rows]

    def operator_cancel(
        self, domain: str, command_ids: Sequence[UUID], reason: str, operator: str | None
    ) -> list[Verdict]:
        """Give up commands of the TSQ. Source: ``commandbus.sp_operator_cancel``."""
        rows = self._rows(
            "select command_id, null, refusal from commandbus.sp_operator_cancel($1::text, $2::uuid[], $3::text,"
            " $4::text, $5::boolean)",
            (domain, plain_array(command_ids), reason, operator, self._settings.notify),
            repeatable=False,
        )
        return [Verdict._make(row) for row in rows]

    def park_lost(self, domain: str, seconds: float) -> list[UUID]:
        """Park commands sent more than *seconds* ago that have no message. Source: ``commandbus.sp_park_lost``."""
        rows = self._rows(
            "select * from commandbus.sp_park_lost("
            "$1::text, pg_catalog.now() - pg_catalog.make_interval(secs => $2::float8))",
            (domain, seconds),
            repeatable=False,
        )
        return [row[0] for row in rows]

    def operator_complete(
        self, domain: str, command_ids: Sequence[UUID], result: str | None, operator: str | None
    ) -> list[Verdict]:
        """Complete commands of the TSQ; *result* is JSON text. Source: ``commandbus.sp_operator_complete``."""
        rows = self._rows(
            "select command_id, null, refusal from commandbus.sp_operator_complete($1::text, $2::uuid[], $3::jsonb,"
            " $4::text, $5::boolean)",
            (domain, plain_array(command_ids), result, operator, self._settings.notify),
            repeatable=False,
        )
        return [Verdict._make(row) for row in rows]


def _to_metadata(row: Row) -> CommandMetadata:
    """Return the record of a row of _COLUMNS."""
    domain, command_id, kind, status, attempts, most, msg_id, correlation_id, reply_queue, error, *rest = row
    return CommandMetadata(
        domain,
        command_id,
        kind,
        CommandStatus(status),
        attempts,
        most,
        msg_id,
        correlation_id,
        reply_queue or None,
        None if error is None else ErrorType(error),
        *rest,
    )


def _to_item(row: Row) -> TroubleshootingItem:
    """Return the record of a row of list_troubleshooting."""
    (
        domain,
        command_id,
        kind,
        attempts,
        most,
        error,
        code,
        text,
        correlation_id,
        reply_queue,
        payload,
        *rest,
    ) = row
    return TroubleshootingItem(
        domain,
        command_id,
        kind,
        attempts,
        most,
        None if error is None else ErrorType(error),
        code,
        text,
        correlation_id,
        reply_queue or None,
        decode_leniently(payload),
        *rest,
    )
