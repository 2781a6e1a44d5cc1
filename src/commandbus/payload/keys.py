"""Places in lists as texts: for addresses of pages, and command lines."""

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from commandbus.errors import InvalidArgumentError
from commandbus.models import AuditEvent, PageKey
from commandbus.payload.arguments import check_count, check_uuid

Id = TypeVar("Id")


def write_key(key: PageKey) -> str:
    """Return the text of a place: its time and its id, joined by _."""
    return f"{key.created_at.isoformat()}_{key.command_id}"


def read_key(text: str, field: str) -> PageKey:
    """Return the place that a text means.

    Raises:
        InvalidArgumentError: it means none.
    """
    return PageKey(*_read(text, field, lambda command_id: check_uuid(command_id, field)))


def write_event_key(event: AuditEvent) -> str:
    """Return the text of an event's place in the audit: its timestamp and its audit_id, joined by _."""
    return f"{event.timestamp.isoformat()}_{event.audit_id}"


def read_event_key(text: str, field: str) -> tuple[datetime, int]:
    """Return the timestamp and the audit_id that a text means.

    Raises:
        InvalidArgumentError: it means none.
    """
    return _read(text, field, lambda audit_id: check_count(int(audit_id), field, 1, 2**63 - 1))


def _read(text: str, field: str, read_id: Callable[[str], Id]) -> tuple[datetime, Id]:
    at, _, its_id = text.partition("_")
    try:
        found = datetime.fromisoformat(at), read_id(its_id)
    except ValueError:
        found = None
    if found is None or found[0].tzinfo is None or not 2000 <= found[0].year < 3000:
        raise InvalidArgumentError(
            field, "must be a time with its zone and an id, joined by _, as the page before gives them"
        )
    return found
