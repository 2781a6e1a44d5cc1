"""Places in lists as texts: for addresses of pages, and command lines."""

from datetime import datetime

from commandbus.errors import InvalidArgumentError
from commandbus.models import PageKey
from commandbus.payload.arguments import check_uuid


def write_key(key: PageKey) -> str:
    """Return the text of a place: its time and its id, joined by _."""
    return f"{key.created_at.isoformat()}_{key.command_id}"


def read_key(text: str, field: str) -> PageKey:
    """Return the place that a text means.

    Raises:
        InvalidArgumentError: it means none.
    """
    at, _, command_id = text.partition("_")
    try:
        key = PageKey(datetime.fromisoformat(at), check_uuid(command_id, field))
    except ValueError:
        key = None
    if key is None or key.created_at.tzinfo is None or not 2000 <= key.created_at.year < 3000:
        raise InvalidArgumentError(
            field, "must be a time with its zone and an id, joined by _, as the page before gives them"
        )
    return key
