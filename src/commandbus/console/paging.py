"""Pages of commands as addresses: where a page starts, and the starts of those before it."""

from commandbus.console.forms import Form
from commandbus.errors import InvalidArgumentError
from commandbus.models import PageKey
from commandbus.payload import read_key, write_key

_FIRST = "first"
_MOST_BACK = 20  # pages; further back there is the newest


class Trail:
    """Where a list is now, as its query string says: ``start``, and ``trail`` with the starts of the pages before.

    Attributes:
        start: of this page; None for the newest.
    """

    def __init__(self, form: Form) -> None:
        self.start = form.check("start", read_key)
        form.check("trail", _read_trail)
        self._here = form.raw("start").strip() or _FIRST
        self._back = [] if "trail" in form.errors else [key for key in form.raw("trail").split("~") if key]

    def older(self, next_key: PageKey | None) -> dict[str, object] | None:
        """Return the parameters of the page that starts at *next_key*, or None."""
        if next_key is None:
            return None
        return {"start": write_key(next_key), "trail": "~".join([*self._back, self._here][-_MOST_BACK:])}

    def newer(self) -> dict[str, object] | None:
        """Return the parameters of the page before, or None on the newest."""
        if self.start is None:
            return None
        *back, before = self._back or [_FIRST]
        return {"start": None if before == _FIRST else before, "trail": "~".join(back) or None}


def _read_trail(text: str, field: str) -> list[PageKey | None]:
    keys = [key for key in text.split("~") if key]
    if len(keys) > _MOST_BACK:
        raise InvalidArgumentError(field, "must be taken from a link of the page before")
    return [None if key == _FIRST else read_key(key, field) for key in keys]
