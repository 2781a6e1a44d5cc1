"""A file's SQL as psql must get it, which reads commands of its own and variables where the server reads SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from commandbus.errors import MigrationError
from commandbus.migrate.statements import tokens

if TYPE_CHECKING:
    from commandbus.migrate.files import Migration


_COMMAND = "a backslash outside of quotes is no SQL, and psql would take what follows for a command"
_UNSURE = "a quote after a backslash ends the text in some sessions and not in others: write E'...'"


def as_psql_reads_it(migration: Migration, text: str) -> str:
    """Return SQL that is the same for psql and for the server: a colon before a name, as in ``a[1:n]``, gets a space.

    Within quotes and comments psql sees nothing of its own either. But a quote after a backslash ends a string or
    does not, by a setting of the session.

    Raises:
        MigrationError: there is a backslash outside of quotes and comments: no SQL, but a command of psql's; or one
            before a quote.
    """
    parts: list[str] = []
    for kind, piece, start in tokens(text):
        if piece == "\\":
            raise _refusal(migration, text, start, _COMMAND)
        if kind == "string" and "\\'" in piece:
            raise _refusal(migration, text, start + piece.find("\\'"), _UNSURE)
        parts.append(": " if kind == "variable" else piece)
    return "".join(parts)


def _refusal(migration: Migration, text: str, position: int, reason: str) -> MigrationError:
    line = text.count("\n", 0, position) + 1
    return MigrationError(f"{migration.script} line {line}: {reason}")
