# Printed from ../../repositories/_lookup.py by tools/async_to_sync.py; edit that file.
"""Commands as they are stored: one by its id, many by what they have in common."""

from datetime import datetime
from uuid import UUID

from commandbus.models import (
    CommandMetadata,
    CommandPage,
    CommandStatus,
    ErrorType,
    MessagePlace,
    PageKey,
    StoredMessage,
)
from commandbus.payload import decode_leniently
from commandbus.sync.repositories._base import Repository, Row

_COLUMNS = (
    "domain, command_id, command_type, status, attempts, max_attempts, msg_id, correlation_id, reply_queue,"
    " last_error_type, last_error_code, last_error_msg, created_at, updated_at, batch_id"
)
_OF_COMMAND = ", ".join(f"(command).{name}" for name in _COLUMNS.split(", "))


class Lookup(Repository):
    """What anybody asks; it changes nothing."""

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

    def find_by_id(self, first: UUID, last: UUID, limit: int) -> list[CommandMetadata]:
        """Return the commands whose ids lie from *first* to *last*, by id. Source: ``commandbus.find_by_id``."""
        rows = self._rows(
            f"select {_COLUMNS} from commandbus.find_by_id($1::uuid, $2::uuid, $3::int)",  # noqa: S608  (a constant)
            (first, last, limit),
        )
        return [_to_metadata(row) for row in rows]

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
            f"select {_COLUMNS} from commandbus.query_commands($1::text, $2::text, $3::text, $4::timestamptz,"  # noqa: S608  (a constant)
            " $5::timestamptz, $6::int, $7::int, $8::uuid)",
            (status, domain, command_type, created_after, created_before, limit, offset, correlation_id),
        )
        return [_to_metadata(row) for row in rows]

    def find(
        self,
        *,
        status: str | None,
        domain: str | None,
        command_type: str | None,
        created_after: datetime | None,
        created_before: datetime | None,
        correlation_id: UUID | None,
        batch_id: UUID | None,
        failure_key: UUID | None,
        any_id: UUID | None,
        text: str | None,
        start: PageKey | None,
        limit: int,
    ) -> CommandPage:
        """Return a page of the commands that match every filter given. Source: ``commandbus.find_commands``."""
        rows = self._rows(
            f"select {_OF_COMMAND}, resume_at, resume_id from commandbus.find_commands($1::text, $2::text, $3::text,"  # noqa: S608  (a constant)
            " $4::timestamptz, $5::timestamptz, $6::uuid, $7::uuid, $8::uuid, $9::uuid, $10::text, $11::timestamptz,"
            " $12::uuid, $13::int)",
            (
                domain,
                status,
                command_type,
                created_after,
                created_before,
                correlation_id,
                batch_id,
                failure_key,
                any_id,
                text,
                None if start is None else start.created_at,
                None if start is None else start.command_id,
                limit,
            ),
        )
        commands = [_to_metadata(row[:-2]) for row in rows if row[-1] is None]
        if len(rows) > len(commands):  # the last one is no command: it says where to go on
            return CommandPage(commands, PageKey(*rows[-1][-2:]), is_cut_short=True)
        if len(commands) < limit:
            return CommandPage(commands)
        return CommandPage(commands, PageKey(commands[-1].created_at, commands[-1].command_id))

    def get_message(self, domain: str, command_id: UUID, *, exact: bool = False) -> StoredMessage | None:
        """Return what was sent, where it still is, or None. Source: ``commandbus.get_message``."""
        rows = self._rows(
            "select place, (message -> 'data')::text from commandbus.get_message($1::text, $2::uuid)",
            (domain, command_id),
        )
        return StoredMessage(MessagePlace(rows[0][0]), decode_leniently(rows[0][1], exact=exact)) if rows else None

    def list_batch(
        self, domain: str, batch_id: UUID, *, status: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[CommandMetadata]:
        """Return a batch's commands, oldest first. Source: ``commandbus.list_batch_commands``."""
        rows = self._rows(
            f"select {_COLUMNS} from commandbus.list_batch_commands($1::text, $2::uuid, $3::text, $4::int, $5::int)",  # noqa: S608  (a constant)
            (domain, batch_id, status, limit, offset),
        )
        return [_to_metadata(row) for row in rows]


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
