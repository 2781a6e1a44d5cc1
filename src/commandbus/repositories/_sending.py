"""Commands on their way in: stored and queued, alone or as a set."""

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from psycopg import AsyncConnection, errors, sql

from commandbus.errors import DatabaseUnavailableError, DuplicateCommandError, QueueNotFoundError
from commandbus.models import SendResult
from commandbus.payload import check_domain
from commandbus.repositories._arrays import optional_array, plain_array, text_array, uuid_array
from commandbus.repositories._base import Repository, recover


class OutgoingCommand(NamedTuple):
    """One command of a set to be sent; data is JSON text, everything is checked."""

    command_id: UUID
    command_type: str
    data: str
    correlation_id: UUID | None
    reply_to: str | None
    max_attempts: int


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


class Sending(Repository):
    """What a sender calls."""

    async def send(self, domain: str, command: OutgoingCommand) -> int:
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
            return await self._send_once(domain, command)
        except DatabaseUnavailableError:
            if isinstance(self._source, AsyncConnection):
                raise
            await recover(self._source)
        try:
            return await self._send_once(domain, command)
        except DuplicateCommandError:
            msg_id = await self._find_younger(domain, command, time.monotonic() - began_at)
            if msg_id is None:
                raise
            return msg_id

    async def _send_once(self, domain: str, command: OutgoingCommand) -> int:
        try:
            msg_id = await self._value(
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

    async def _find_younger(self, domain: str, command: OutgoingCommand, seconds: float) -> int | None:
        """Return the msg_id of a command of the same type that was sent at most *seconds* ago, or None."""
        rows = await self._rows(
            "select msg_id from commandbus.get_command($1::text, $2::uuid) where command_type = $3::text"
            " and created_at >= pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $4::float8)",
            (domain, command.command_id, command.command_type, seconds),
        )
        return rows[0][0] if rows else None

    async def send_many(
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
        rows = await self._rows(
            "select command_id, msg_id from commandbus.sp_send_commands($1::text, $2::uuid[], $3::text[], $4::jsonb[],"
            " $5::uuid[], $6::text[], $7::int[], $8::uuid, $9::boolean, $10::boolean, $11::int)",
            (
                domain,
                uuid_array([c.command_id for c in commands]),
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
