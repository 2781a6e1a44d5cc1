"""A migration's SQL taken apart as the server does it, as far as the runner must know what is in there."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from commandbus.errors import MigrationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from commandbus.migrate.files import Migration

_START, _MORE = r"[A-Za-z_\u0080-\U0010ffff]", r"[A-Za-z0-9_\u0080-\U0010ffff]"

_TOKEN = re.compile(
    rf"""
    --[^\r\n]*
    | (?P<comment>/\*)
    | [eE]'(?:[^'\\]|''|\\.)*'
    | (?P<string>'(?:[^']|'')*')
    | "[^"]*"
    | (?P<dollars>\$(?:{_START}{_MORE}*)?\$).*?(?P=dollars)
    | (?P<word>{_START}(?:{_MORE}|\$)*)
    | ::|:=
    | (?P<variable>:)(?={_MORE}|['"{{])
    | (?P<sign>[\\;().])
    | \s+
    | .
    """,
    re.VERBOSE | re.DOTALL,
)

_ENDS_TRANSACTION = frozenset({"commit", "end", "abort", "rollback"})
_BEGINS_TRANSACTION = frozenset({"begin", "start"})
_CLIENT = frozenset({"stdin", "stdout"})


class Token(NamedTuple):
    """A piece of SQL.

    Attributes:
        kind: "string" (a plain literal), "word", "variable" (a colon that psql reads), "sign", or nothing of these.
        text: as it stands.
        start: where it stands.
    """

    kind: str | None
    text: str
    start: int


class Statement(NamedTuple):
    """One statement of a file.

    Attributes:
        words: outside of quotes, comments and parentheses, in lower case.
        start: where the first of them stands.
    """

    words: Sequence[str]
    start: int


def tokens(text: str) -> Iterator[Token]:
    """Take SQL apart; the pieces together are the text."""
    position = 0
    while found := _TOKEN.match(text, position):
        end = _end_of_comment(text, position) if found.lastgroup == "comment" else found.end()
        yield Token(found.lastgroup, text[position:end], position)
        position = end


def statements(text: str) -> Iterator[Statement]:
    """Tell statements apart: a semicolon in parentheses, or in a body ``begin atomic ... end``, does not end one."""
    words: list[str] = []
    start = parentheses = blocks = 0
    before = ""
    for kind, piece, position in tokens(text):
        if piece == "(":
            parentheses += 1
        elif piece == ")":
            parentheses -= 1
        elif piece == ";" and parentheses <= 0 and blocks == 0:
            if words:
                yield Statement(words, start)
            words, parentheses = [], 0
        elif kind == "word" and parentheses <= 0:
            word = piece.lower()
            start = start if words else position
            blocks += _opened(word, words, inside=blocks > 0) if before != "." else 0
            words.append(word)
        before = before if piece.isspace() else piece
    if words:
        yield Statement(words, start)


def _opened(word: str, words: Sequence[str], *, inside: bool) -> int:
    """Return by how much a word changes the depth of a function's body."""
    last = words[-1] if words else ""
    if not inside:
        return int(word == "atomic" and last == "begin" and words[0] == "create")
    if last == "as":  # a column's name
        return 0
    return {"case": 1, "end": -1}.get(word, 0)


def check_statements(migration: Migration, text: str) -> None:
    """Make sure that a file can be applied in one transaction, all or nothing.

    Raises:
        MigrationError: a statement begins or ends a transaction, or is a COPY whose rows come from a client.
    """
    for words, start in statements(text):
        reason = _refusal(words)
        if reason is not None:
            line = text.count("\n", 0, start) + 1
            raise MigrationError(f"{migration.script} line {line}: {reason}")


def _refusal(words: Sequence[str]) -> str | None:
    first = words[0]
    to_savepoint = first == "rollback" and "to" in words[1:3]
    if (first in _ENDS_TRANSACTION and not to_savepoint) or list(words[:2]) == ["prepare", "transaction"]:
        return f'"{first}" would end the transaction in which the whole file is applied: remove it'
    if first in _BEGINS_TRANSACTION:
        return f'"{first}" would begin a transaction, but the whole file is applied in one: remove it'
    if first == "copy" and any(one in ("from", "to") and other in _CLIENT for one, other in pairwise(words)):
        return "this COPY needs a client that has or takes the rows: write insert, or run psql's \\copy elsewhere"
    return None


def _end_of_comment(text: str, start: int) -> int:
    """Return where a comment ends, which may have others in it."""
    depth = 0
    for found in re.compile(r"/\*|\*/").finditer(text, start):
        depth += 1 if found[0] == "/*" else -1
        if depth == 0:
            return found.end()
    return len(text)
