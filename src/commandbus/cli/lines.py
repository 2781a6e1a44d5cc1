"""Commands in a file, one JSON object per line: read twice, first to check every line, then to send."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast
from uuid import UUID, uuid4

from commandbus.cli.problem import BAD_INPUT, Problem
from commandbus.errors import InvalidArgumentError
from commandbus.models import SendRequest
from commandbus.payload import check_command_type, check_count, check_reply_queue, check_uuid, encode, parse_json
from commandbus.retry import MAX_ATTEMPTS

_KEYS = frozenset({"command_type", "data", "command_id", "correlation_id", "reply_to", "max_attempts"})
_IN_MEMORY = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for all lines; a line's own reply_to and max_attempts win. *max_bytes*: largest JSON of data."""

    domain: str
    max_bytes: int
    reply_to: str | None = None
    max_attempts: int | None = None
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be sent. *line* counts from 1; *reason* never quotes the line."""

    line: int
    reason: str


@dataclass(slots=True)
class Checked:
    """What the first reading found: the good and the bad lines."""

    good: int = 0
    bad: list[BadLine] = field(default_factory=list)


@contextmanager
def open_twice(path: str) -> Iterator[BinaryIO]:
    """Give a file that can be read again; ``-`` is stdin, kept in memory or in a temporary file.

    Raises:
        Problem: it cannot be read.
    """
    if path == "-":
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as kept:
            shutil.copyfileobj(sys.stdin.buffer, kept)
            yield cast("BinaryIO", kept)
        return
    with _open(path) as file:
        if not file.seekable():
            raise Problem(f'{path} cannot be read twice: give it as stdin, with "--file -"', BAD_INPUT)
        yield file


def _open(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror}", BAD_INPUT) from None


def check_lines(file: BinaryIO, defaults: Defaults) -> Checked:
    """Check every line; nothing is kept but what is wrong."""
    checked = Checked()
    for _, found in _read(file, defaults):
        if isinstance(found, BadLine):
            checked.bad.append(found)
        else:
            checked.good += 1
    return checked


def good_requests(file: BinaryIO, defaults: Defaults) -> Iterator[tuple[int, SendRequest]]:
    """Yield line number and request of every good line."""
    for number, found in _read(file, defaults):
        if isinstance(found, SendRequest):
            yield number, found


def _read(file: BinaryIO, defaults: Defaults) -> Iterator[tuple[int, SendRequest | BadLine]]:
    file.seek(0)
    seen: dict[UUID, int] = {}
    for number, line in enumerate(file, 1):
        text = line.removeprefix(_BOM) if number == 1 else line
        if not text.strip():
            continue
        try:
            request = _request(parse_json(text, ""), defaults)
        except InvalidArgumentError as error:
            yield number, BadLine(number, str(error))
            continue
        first = seen.setdefault(request.command_id, number)
        is_new = first == number
        yield number, request if is_new else BadLine(number, f"command_id: is that of line {first} too")


def _request(line: object, defaults: Defaults) -> SendRequest:
    """Return the request of a line, all of whose members were checked."""
    if not isinstance(line, dict):
        raise InvalidArgumentError("", "must be a JSON object")
    if "command_type" not in line or "data" not in line:
        raise InvalidArgumentError("", "must have command_type and data")
    if not line.keys() <= _KEYS:
        raise InvalidArgumentError("", f"may have no members but {', '.join(sorted(_KEYS))}")
    if not isinstance(line["data"], dict):
        raise InvalidArgumentError("data", "must be a JSON object")
    encode(line["data"], "data", defaults.max_bytes)
    command_id, correlation_id = line.get("command_id"), line.get("correlation_id")
    reply_to, max_attempts = line.get("reply_to"), line.get("max_attempts")
    return SendRequest(
        defaults.domain,
        check_command_type(line["command_type"]),
        uuid4() if command_id is None else check_uuid(command_id, "command_id"),
        line["data"],
        correlation_id=None if correlation_id is None else check_uuid(correlation_id, "correlation_id"),
        reply_to=defaults.reply_to if reply_to is None else check_reply_queue(reply_to),
        max_attempts=defaults.max_attempts
        if max_attempts is None
        else check_count(max_attempts, "max_attempts", 1, MAX_ATTEMPTS),
        batch_id=defaults.batch_id,
    )
