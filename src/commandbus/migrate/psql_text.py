"""A file's SQL as psql must get it, which reads commands of its own and variables where the server reads SQL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from commandbus.errors import MigrationError

if TYPE_CHECKING:
    from commandbus.migrate.files import Migration

_START, _MORE = r"[A-Za-z_\u0080-\U0010ffff]", r"[A-Za-z0-9_\u0080-\U0010ffff]"

# Within quotes and comments psql sees nothing of its own either. A quote after a backslash ends a string or does not,
# by a setting of the session: such a string is no string here, so that its backslash is met outside.
_TOKEN = re.compile(
    rf"""
    --[^\r\n]*
    | (?P<comment>/\*)
    | [eE]'(?:[^'\\]|''|\\.)*'
    | '(?:[^'\\]|''|\\(?!'))*'
    | "[^"]*"
    | (?P<dollars>\$(?:{_START}{_MORE}*)?\$).*?(?P=dollars)
    | {_START}(?:{_MORE}|\$)*
    | ::|:=
    | (?P<variable>:)(?={_MORE}|['"{{])
    | (?P<backslash>\\)
    | .
    """,
    re.VERBOSE | re.DOTALL,
)


def as_psql_reads_it(migration: Migration, text: str) -> str:
    """Return SQL that is the same for psql and for the server: a colon before a name, as in ``a[1:n]``, gets a space.

    Raises:
        MigrationError: there is a backslash outside of quotes and comments: no SQL, but a command of psql's.
    """
    parts: list[str] = []
    position = 0
    while found := _TOKEN.match(text, position):
        end = _end_of_comment(text, position) if found.lastgroup == "comment" else found.end()
        if found.lastgroup == "backslash":
            line = text.count("\n", 0, position) + 1
            raise MigrationError(
                f"{migration.script} line {line}: a backslash outside of quotes is no SQL, and psql would take"
                " what follows for a command"
            )
        parts.append(": " if found.lastgroup == "variable" else text[position:end])
        position = end
    return "".join(parts)


def _end_of_comment(text: str, start: int) -> int:
    """Return where a comment ends, which may have others in it."""
    depth = 0
    for found in re.compile(r"/\*|\*/").finditer(text, start):
        depth += 1 if found[0] == "/*" else -1
        if depth == 0:
            return found.end()
    return len(text)
