# Printed from ../../bus/questions.py by tools/async_to_sync.py; edit that file.
"""What can be asked: about commands, batches and the audit."""

import re
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from commandbus.errors import InvalidArgumentError
from commandbus.models import (
    AuditEvent,
    BatchMetadata,
    BatchStatus,
    CommandMetadata,
    CommandPage,
    CommandStatus,
    PageKey,
    StoredMessage,
)
from commandbus.payload import (
    check_aware,
    check_command_type,
    check_count,
    check_domain,
    check_limit,
    check_offset,
    check_one_of,
    check_text,
    check_uuid,
)
from commandbus.sync.repositories import PostgresAuditLogger, PostgresBatchRepository, PostgresCommandRepository
from commandbus.sync.repositories._base import check_pool

_BEGINNING = re.compile(r"[0-9a-fA-F]{8,32}")


class Questions:
    """The part of the bus that changes nothing.

    Args:
        pool: as in `CommandBus`.
    """

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = check_pool(pool)
        self._commands = PostgresCommandRepository(pool)
        self._batches = PostgresBatchRepository(pool)
        self._audit = PostgresAuditLogger(pool)

    def get_batch(self, domain: str, batch_id: UUID) -> BatchMetadata | None:
        """Return a batch and its counters, or None."""
        return self._batches.get(check_domain(domain), check_uuid(batch_id, "batch_id"))

    def list_batches(
        self, domain: str | None = None, *, status: BatchStatus | None = None, limit: int = 100, offset: int = 0
    ) -> list[BatchMetadata]:
        """Return the batches of a domain, or all, newest first; *limit* is 1 to 1,000."""
        return self._batches.list(
            None if domain is None else check_domain(domain),
            status=None if status is None else check_one_of(status, "status", BatchStatus),
            limit=check_limit(limit),
            offset=check_offset(offset),
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
            limit=check_limit(limit),
            offset=check_offset(offset),
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
            limit=check_limit(limit),
            offset=check_offset(offset),
        )

    def find_commands(
        self,
        *,
        status: CommandStatus | None = None,
        domain: str | None = None,
        command_type: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        correlation_id: UUID | None = None,
        batch_id: UUID | None = None,
        failure_key: UUID | None = None,
        text: str | None = None,
        start: PageKey | None = None,
        limit: int = 50,
    ) -> CommandPage:
        """Return a page of the commands that match every filter given, newest first, at a bounded price.

        Args:
            status: only these.
            domain: only of this one.
            command_type: only of this one.
            created_after: only those sent at this time or later; aware.
            created_before: only those sent before; aware.
            correlation_id: only of this conversation.
            batch_id: only of this batch.
            failure_key: only of this group of failures, see `TroubleshootingQueue.list_failure_groups`.
            text: part of a type, an error's code or its text, or the beginning of an id; a whole id is looked for
                among commands and conversations. 1 to 200 characters.
            start: the ``next_key`` of the page before.
            limit: 1 to 1,000.

        Raises:
            InvalidArgumentError: an argument breaks its limit, or a time has no zone.
        """
        text = None if text is None else check_text(text, "text", 200)
        any_id = _as_id(text)
        if not isinstance(start, PageKey | None):
            raise InvalidArgumentError("start", "must be the next_key of a page")
        return self._commands.find(
            status=None if status is None else check_one_of(status, "status", CommandStatus),
            domain=None if domain is None else check_domain(domain),
            command_type=None if command_type is None else check_command_type(command_type),
            created_after=None if created_after is None else check_aware(created_after, "created_after"),
            created_before=None if created_before is None else check_aware(created_before, "created_before"),
            correlation_id=None if correlation_id is None else check_uuid(correlation_id, "correlation_id"),
            batch_id=None if batch_id is None else check_uuid(batch_id, "batch_id"),
            failure_key=None if failure_key is None else check_uuid(failure_key, "failure_key"),
            any_id=any_id,
            text=text if any_id is None else None,
            start=start,
            limit=check_limit(limit),
        )

    def find_by_id(self, beginning: str, limit: int = 50) -> list[CommandMetadata]:
        """Return the commands of all domains whose ids begin so, by id.

        Args:
            beginning: 8 to 32 hexadecimal digits, with hyphens or without.
            limit: 1 to 1,000.

        Raises:
            InvalidArgumentError: an argument breaks its limit.
        """
        first, last = _id_range(beginning)
        return self._commands.find_by_id(first, last, check_limit(limit))

    def get_message(self, domain: str, command_id: UUID, *, exact: bool = False) -> StoredMessage | None:
        """Return what was sent, or None: of a command that is over it is kept by PGMQ's archive only, if at all.

        Args:
            domain: the command's domain.
            command_id: the command.
            exact: numbers that a float would change are `JsonNumber`, which keeps their digits when they are sent or
                edited again.
        """
        return self._commands.get_message(check_domain(domain), check_uuid(command_id, "command_id"), exact=exact)

    def get_audit_trail(self, command_id: UUID, domain: str | None = None, *, exact: bool = False) -> list[AuditEvent]:
        """Return what happened to a command (or, given its id, a batch), oldest first; *exact* as `get_message`."""
        return self._audit.get_trail(
            check_uuid(command_id, "command_id"), None if domain is None else check_domain(domain), exact=exact
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
        exact: bool = False,
    ) -> list[AuditEvent]:
        """Return the events that match every filter given, newest first.

        Args:
            domain: only of this one.
            event_type: only of this kind, see `AuditEventType`; 1 to 100 characters.
            after: only from this time on; aware.
            before: only before this time; aware. For the next page, the timestamp of the last event.
            before_id: with *before*: of the events at that very time, only those with a smaller audit_id.
            limit: 1 to 1,000.
            exact: as `get_message`.

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
            limit=check_limit(limit),
            exact=exact,
        )


def _id_range(beginning: str) -> tuple[UUID, UUID]:
    """Return the first and the last id that begin so."""
    digits = beginning.replace("-", "") if isinstance(beginning, str) else ""
    if not _BEGINNING.fullmatch(digits):
        raise InvalidArgumentError("beginning", "must be 8 to 32 hexadecimal digits of an id")
    return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))


def _as_id(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        return None
