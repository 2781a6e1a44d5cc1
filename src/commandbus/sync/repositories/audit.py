# Printed from ../../repositories/audit.py by tools/async_to_sync.py; edit that file.
"""The audit trail."""

from datetime import datetime
from typing import Any
from uuid import UUID

from commandbus.models import AuditEvent
from commandbus.payload import decode_leniently
from commandbus.sync.repositories._base import Repository, Row


class PostgresAuditLogger(Repository):
    """The audit trail, over the functions of schema ``commandbus``. Arguments must have been checked."""

    def log(self, domain: str, command_id: UUID, event_type: str, details: str | None = None) -> int:
        """Write an event of the caller's own.

        Args:
            domain: the command's domain.
            command_id: the command it is about.
            event_type: any name but those of `AuditEventType`, which are the library's.
            details: JSON text of an object.

        Returns:
            The event's audit_id.

        Raises:
            InvalidOperationError: *event_type* is one of the library's (CB006).

        Source: ``commandbus.log_event``.
        """
        return int(
            self._value(
                "select commandbus.log_event($1::text, $2::uuid, $3::text, $4::jsonb)",
                (domain, command_id, event_type, details),
                repeatable=False,
            )
        )

    def get_trail(self, command_id: UUID, domain: str | None = None, *, exact: bool = False) -> list[AuditEvent]:
        """Return what happened to a command or batch, oldest first. Source: ``commandbus.get_audit_trail``."""
        rows = self._rows(
            "select audit_id, domain, command_id, event_type, ts, msg_id, attempt, details::text"
            " from commandbus.get_audit_trail($1::uuid, $2::text)",
            (command_id, domain),
        )
        return [_to_event(row, exact) for row in rows]

    def query(
        self,
        *,
        domain: str | None = None,
        event_type: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        before_id: int | None = None,
        limit: int = 100,
        exact: bool = False,
    ) -> list[AuditEvent]:
        """Return the events that match every filter given, newest first. Source: ``commandbus.query_audit``."""
        rows = self._rows(
            "select audit_id, domain, command_id, event_type, ts, msg_id, attempt, details::text"
            " from commandbus.query_audit($1::text, $2::text, $3::timestamptz, $4::timestamptz, $5::bigint, $6::int)",
            (domain, event_type, after, before, before_id, limit),
        )
        return [_to_event(row, exact) for row in rows]


def _to_event(row: Row, exact: bool) -> AuditEvent:
    """Return the record of an audit row; its number columns are facts like the others."""
    audit_id, domain, command_id, event_type, timestamp, msg_id, attempt, text = row
    facts: dict[str, Any] = {}
    if msg_id is not None:
        facts["msg_id"] = msg_id
    if attempt is not None:
        facts["attempt"] = attempt
    found = decode_leniently(text, exact=exact)
    facts.update(found if isinstance(found, dict) else {} if found is None else {"details": found})
    return AuditEvent(audit_id, domain, command_id, event_type, timestamp, facts)
