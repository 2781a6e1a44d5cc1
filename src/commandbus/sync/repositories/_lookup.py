# Printed from ../../repositories/_lookup.py by tools/async_to_sync.py; edit that file.
"""Commands as they are stored: one by its id, many by what they have in common."""

from datetime import datetime
from uuid import UUID

from commandbus.models import CommandMetadata, CommandStatus, ErrorType
from commandbus.sync.repositories._base import Repository, Row

_COLUMNS = (
    "domain, command_id, command_type, status, attempts, max_attempts, msg_id, correlation_id, reply_queue,"
    " last_error_type, last_error_code, last_error_msg, created_at, updated_at, batch_id"
)


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
