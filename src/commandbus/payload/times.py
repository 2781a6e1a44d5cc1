"""Times as people write them: a moment, or how long ago."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from commandbus.errors import InvalidArgumentError

_AGO = re.compile(r"(\d{1,6})\s*([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def utc_now() -> datetime:
    """Return the time by this machine's clock."""
    return datetime.now(UTC)


def parse_time(text: str, field: str, clock: Callable[[], datetime] = utc_now) -> datetime:
    """Return the time that a text means: ISO 8601, UTC where no zone is given, or how long ago: 90s, 15m, 2h, 7d, 1w.

    Args:
        text: the text.
        field: the argument's name.
        clock: what "ago" is counted back from.

    Raises:
        InvalidArgumentError: it means none.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            return clock() - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgumentError(
            field, "must be a time such as 2030-01-31T12:00 (UTC), or how long ago, such as 15m, 2h or 7d"
        ) from None
