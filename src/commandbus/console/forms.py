"""The only reader of query strings and forms: what is wrong gets a message beside its field, and nothing happens.

    form = Form(request.args)
    status = form.one_of("status", CommandStatus)
    since = form.time("since")
    if form.errors: answer the same page with `form` in it, and 400 (a query) or 422 (a form)

A field that is empty or missing is None unless it is required. Rules are those of `commandbus.payload`.
"""

import json
import re
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes, urlencode
from uuid import UUID

from flask import abort, has_request_context, request
from werkzeug.datastructures import MultiDict

from commandbus.console.recent import recent
from commandbus.errors import CommandBusError, InvalidArgumentError
from commandbus.payload import (
    check_command_type,
    check_count,
    check_domain,
    check_one_of,
    check_reason,
    check_reply_queue,
    check_text,
    check_uuid,
    parse_json,
    parse_time,
    write_json,
)

T = TypeVar("T")
S = TypeVar("S", bound=StrEnum)

SENT_ALREADY = "This form was sent already: look at what it did before you send it once more."
_OFTEN = frozenset({"command", "group"})
_JSON = frozenset({"data", "result"})
_ENCODER = json.JSONEncoder()
_INTEGER = re.compile(r"-?\d{1,19}")
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_EVENT = re.compile(r"[^\W\d_][\w .:/-]{0,99}")
_NAME = re.compile(rb"[a-z_]{1,40}")
_CHECKED = frozenset({"on", "1", "true", "yes"})
_ACTS_ONCE = "commandbus.console.acts_once"


def acts_once() -> bool:
    """Return whether the form that this request sent does nothing when it is sent again, see `Form.once`."""
    return _ACTS_ONCE in request.environ


class Form:
    """What somebody typed: its values, and what is wrong with them.

    Attributes:
        is_of_program: it came as JSON, and not from a page.
        errors: one sentence per field; the key "" is about the form as a whole.
    """

    def __init__(self, values: MultiDict[str, str], *, is_of_program: bool = False) -> None:
        self._values = values
        self.is_of_program = is_of_program
        self._read: set[str] = set()
        self.errors: dict[str, str] = {}

    def raw(self, name: str, default: str = "") -> str:
        """Return the text as it was typed, to be shown again."""
        return self._values.get(name, default)

    def all(self, name: str) -> list[str]:
        """Return the different values of a field that may be given many times, in their order."""
        self._read.add(name)
        return list(dict.fromkeys(self._values.getlist(name)))

    def refuse(self, name: str, message: str) -> None:
        """Say what is wrong with a field; the first sentence stays."""
        self.errors.setdefault(name, message)

    def refuse_unread(self) -> None:
        """Refuse the fields that nobody has read until now: a filter with a slip in its name would find too much."""
        for name in self._values.keys() - self._read:
            self.refuse(name, f"is unknown here; known: {', '.join(sorted(self._read)) or 'none'}")

    def has(self, name: str) -> bool:
        """Return whether a field was sent at all, be it empty."""
        return name in self._values

    def refuse_unknown(self) -> None:
        """The same for a program; a page sends what any of its buttons could need."""
        if self.is_of_program:
            self.refuse_unread()

    def refuse_error(self, error: CommandBusError, fields: dict[str, str] | None = None) -> None:
        """Say beside its field what the library refuses; *fields* are the form's names for its arguments."""
        if isinstance(error, InvalidArgumentError):
            name = (fields or {}).get(error.field.partition("[")[0], error.field)
            if name in self._values:
                self.refuse(name, error.problem)
                return
        self.refuse("", _sentence(str(error)))

    def check(self, name: str, parse: Callable[[str, str], T], *, required: bool = False) -> T | None:
        """Return what *parse(text, name)* makes of a field.

        Args:
            name: the field.
            parse: raises InvalidArgumentError.
            required: an empty field is refused.
        """
        self._read.add(name)
        found = self._values.getlist(name)
        text = found[0].strip() if found else ""
        if len(found) > 1:
            self.refuse(name, "is given more than once")
        elif text:
            try:
                return parse(text, name)
            except InvalidArgumentError as error:
                self.refuse(name, error.problem)
        elif required:
            self.refuse(name, "is missing")
        return None

    def text(self, name: str, max_length: int, *, required: bool = False) -> str | None:
        """Return a text of up to *max_length* characters."""
        return self.check(name, lambda text, field: check_text(text, field, max_length), required=required)

    def reason(self, *, required: bool = False) -> str | None:
        """Return why somebody decides."""
        return self.check("reason", lambda text, _: check_reason(text), required=required)

    def domain(self, name: str = "domain", *, required: bool = False) -> str | None:
        """Return the name of a domain."""
        return self.check(name, check_domain, required=required)

    def event(self, name: str = "event") -> str | None:
        """Return the name of an event: the library's, or one of an application."""
        return self.check(name, _event)

    def command_type(self, name: str = "type", *, required: bool = False) -> str | None:
        """Return a command type."""
        return self.check(name, check_command_type, required=required)

    def reply_queue(self, name: str = "reply_to") -> str | None:
        """Return the name of a reply queue."""
        return self.check(name, check_reply_queue)

    def uuid(self, name: str, *, required: bool = False) -> UUID | None:
        """Return a UUID."""
        return self.check(name, check_uuid, required=required)

    def once(self) -> UUID | None:
        """Return the id that its page gave the form. What it makes has ids made of it: sent twice, it acts once."""
        found = self.uuid("form_id")
        if "form_id" in self.errors:
            self.refuse("", "The id of the form cannot be read: reload the page.")
        elif found is not None and has_request_context():
            request.environ[_ACTS_ONCE] = True
        return found

    def one_of(self, name: str, kind: type[S]) -> S | None:
        """Return a member of an enumeration."""
        return self.check(name, lambda text, field: check_one_of(text, field, kind))

    def value_of(self, name: str, kind: type[S]) -> S | None:
        """Return a member of an enumeration of the console's own, by its value."""

        def parse(text: str, field: str) -> S:
            try:
                return kind(text)
            except ValueError:
                raise InvalidArgumentError(field, f"must be one of {', '.join(kind)}") from None

        return self.check(name, parse)

    def count(self, name: str, low: int, high: int, default: int | None = None) -> int | None:
        """Return an integer from *low* to *high*."""
        found = self.check(name, lambda text, field: check_count(_integer(text, field, low, high), field, low, high))
        return default if found is None else found

    def decimal(self, name: str, low: float, high: float, *, required: bool = False) -> float | None:
        """Return a number from *low* to *high*."""
        return self.check(name, lambda text, field: _decimal(text, field, low, high), required=required)

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
        return self.check(name, lambda text, field: parse_time(text, field, recent().now))

    def query(self, *without: str, **more: object) -> str:
        """Return the query string of the filters in use, for links to other pages of the same list."""
        kept = {k: v for k, v in self._values.items(multi=True) if v.strip() and k not in {*without, *more}}
        return urlencode(kept | {k: str(v) for k, v in more.items() if v is not None})


def posted() -> Form:
    """Return the form of this request. A program may send it as a JSON object, with lists for what is given often."""
    if not request.is_json:
        return Form(request.form)
    sent = parse_json(request.get_data(), "body")
    if not isinstance(sent, dict):
        abort(400, "The body must be a JSON object.")
    texts = MultiDict[str, str]()
    for name, value in sent.items():
        many = value if isinstance(value, list) and name in _OFTEN else [value]
        texts.setlist(name, [_text_of(name, item) for item in many if item is not None])
    return Form(texts, is_of_program=True)


def refuse_broken_text(*, is_body_read: bool) -> None:
    """Refuse a query or a form that is not UTF-8: it would be read as something that nobody sent.

    Raises:
        InvalidArgumentError: names the field.
    """
    _check_pairs(request.query_string, "query")
    if is_body_read and request.mimetype == "application/x-www-form-urlencoded":
        _check_pairs(request.get_data(), "body")
    elif is_body_read and request.mimetype == "multipart/form-data":
        _check_utf8(request.get_data(), "body")


def _check_pairs(text: bytes, where: str) -> None:
    for pair in text.split(b"&"):
        name, _, value = pair.partition(b"=")
        _check_utf8(unquote_to_bytes(name), where)
        _check_utf8(unquote_to_bytes(value), name.decode() if _NAME.fullmatch(name) else where)


def _check_utf8(text: bytes, field: str) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise InvalidArgumentError(field, "is not valid UTF-8") from None


def _text_of(name: str, value: Any) -> str:  # noqa: ANN401  (any JSON)
    """Return a value as it would stand in a form; what is JSON there too, as JSON."""
    try:
        return value if isinstance(value, str) and name not in _JSON else write_json(value, _ENCODER)
    except RecursionError:
        raise InvalidArgumentError(name, "is nested too deeply") from None


def _event(text: str, field: str) -> str:
    if not _EVENT.fullmatch(text):
        raise InvalidArgumentError(
            field, "must be the name of an event, such as SENT: up to 100 letters, digits, _ - . : /"
        )
    return text


def _integer(text: str, field: str, low: int, high: int) -> int:
    if not _INTEGER.fullmatch(text) or not text.isascii():
        raise InvalidArgumentError(field, f"must be an integer from {low:,} to {high:,}")
    return int(text)


def _decimal(text: str, field: str, low: float, high: float) -> float:
    if not _DECIMAL.fullmatch(text) or not low <= float(text) <= high:
        raise InvalidArgumentError(field, f"must be a number from {low:,g} to {high:,g}")
    return float(text)


def _flag(text: str, field: str) -> bool:
    if text not in _CHECKED:
        raise InvalidArgumentError(field, "must be on, or left out")
    return True


def _json_object(text: str, field: str) -> dict[str, Any]:
    found = parse_json(text, field)
    if not isinstance(found, dict):
        raise InvalidArgumentError(field, "must be a JSON object, such as {}")
    return found


def _sentence(message: str) -> str:
    return message[:1].upper() + message[1:] + ("" if message.endswith(".") else ".")
