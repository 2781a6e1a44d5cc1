"""The only reader of query strings and forms: what is wrong gets a message beside its field, and nothing happens.

    form = Form(request.args)
    status = form.one_of("status", CommandStatus)
    since = form.time("since")
    if form.errors: answer the same page with `form` in it, and 400 (a query) or 422 (a form)

A field that is empty or missing is None unless it is required. Rules are those of `commandbus.payload`.
"""

import re
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from commandbus.errors import CommandBusError, InvalidArgumentError
from commandbus.payload import (
    check_command_type,
    check_count,
    check_domain,
    check_one_of,
    check_reply_queue,
    check_text,
    check_uuid,
    parse_json,
    parse_time,
)

if TYPE_CHECKING:
    from werkzeug.datastructures import MultiDict

T = TypeVar("T")
S = TypeVar("S", bound=StrEnum)

_INTEGER = re.compile(r"-?\d{1,19}")
_CHECKED = frozenset({"on", "1", "true", "yes"})


class Form:
    """What somebody typed: its values, and what is wrong with them.

    Attributes:
        errors: one sentence per field; the key "" is about the form as a whole.
    """

    def __init__(self, values: "MultiDict[str, str]") -> None:
        self._values = values
        self.errors: dict[str, str] = {}

    def raw(self, name: str, default: str = "") -> str:
        """Return the text as it was typed, to be shown again."""
        return self._values.get(name, default)

    def refuse(self, name: str, message: str) -> None:
        """Say what is wrong with a field; the first sentence stays."""
        self.errors.setdefault(name, message)

    def refuse_error(self, error: CommandBusError, fields: dict[str, str] | None = None) -> None:
        """Say beside its field what the library refuses; *fields* are the form's names for its arguments."""
        field = error.field if isinstance(error, InvalidArgumentError) else ""
        name = (fields or {}).get(field.partition("[")[0], field)
        is_shown = name in self._values
        self.refuse(name if is_shown else "", _without_name(str(error), field) if is_shown else _sentence(str(error)))

    def check(self, name: str, parse: Callable[[str, str], T], *, required: bool = False) -> T | None:
        """Return what *parse(text, name)* makes of a field.

        Args:
            name: the field.
            parse: raises InvalidArgumentError.
            required: an empty field is refused.
        """
        found = self._values.getlist(name)
        text = found[0].strip() if found else ""
        if len(found) > 1:
            self.refuse(name, "is given more than once")
        elif text:
            try:
                return parse(text, name)
            except InvalidArgumentError as error:
                self.refuse(name, _without_name(str(error), name))
        elif required:
            self.refuse(name, "is missing")
        return None

    def text(self, name: str, max_length: int, *, required: bool = False) -> str | None:
        """Return a text of up to *max_length* characters."""
        return self.check(name, lambda text, field: check_text(text, field, max_length), required=required)

    def domain(self, name: str = "domain", *, required: bool = False) -> str | None:
        """Return the name of a domain."""
        return self.check(name, check_domain, required=required)

    def command_type(self, name: str = "type", *, required: bool = False) -> str | None:
        """Return a command type."""
        return self.check(name, check_command_type, required=required)

    def reply_queue(self, name: str = "reply_to") -> str | None:
        """Return the name of a reply queue."""
        return self.check(name, check_reply_queue)

    def uuid(self, name: str, *, required: bool = False) -> UUID | None:
        """Return a UUID."""
        return self.check(name, check_uuid, required=required)

    def one_of(self, name: str, kind: type[S]) -> S | None:
        """Return a member of an enumeration."""
        return self.check(name, lambda text, field: check_one_of(text, field, kind))

    def count(self, name: str, low: int, high: int, default: int | None = None) -> int | None:
        """Return an integer from *low* to *high*."""
        found = self.check(name, lambda text, field: check_count(_integer(text, field, low, high), field, low, high))
        return default if found is None else found

    def flag(self, name: str) -> bool:
        """Return whether a checkbox is set."""
        return self.check(name, _flag) or False

    def json(self, name: str, *, required: bool = False) -> Any | None:  # noqa: ANN401  (JSON can be anything)
        """Return the value of a JSON text; JSON's null is None too."""
        return self.check(name, parse_json, required=required)

    def json_object(self, name: str, *, required: bool = False) -> dict[str, Any] | None:
        """Return a JSON object."""
        return self.check(name, _json_object, required=required)

    def time(self, name: str) -> datetime | None:
        """Return a time: ISO 8601, UTC where no zone is given, or how long ago: 90s, 15m, 2h, 7d, 1w."""
        return self.check(name, parse_time)

    def query(self, *without: str, **more: object) -> str:
        """Return the query string of the filters in use, for links to other pages of the same list."""
        kept = {k: v for k, v in self._values.items(multi=True) if v.strip() and k not in {*without, *more}}
        return urlencode(kept | {k: str(v) for k, v in more.items() if v is not None})


def _integer(text: str, field: str, low: int, high: int) -> int:
    if not _INTEGER.fullmatch(text) or not text.isascii():
        raise InvalidArgumentError(field, f"must be an integer from {low:,} to {high:,}")
    return int(text)


def _flag(text: str, field: str) -> bool:
    if text not in _CHECKED:
        raise InvalidArgumentError(field, "must be on, or left out")
    return True


def _json_object(text: str, field: str) -> dict[str, Any]:
    found = parse_json(text, field)
    if not isinstance(found, dict):
        raise InvalidArgumentError(field, "must be a JSON object, such as {}")
    return found


def _without_name(message: str, field: str) -> str:
    return message.removeprefix(f"{field}: ")


def _sentence(message: str) -> str:
    return message[:1].upper() + message[1:] + ("" if message.endswith(".") else ".")
