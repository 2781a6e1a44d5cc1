"""A file's SQL as psql must get it, which reads commands of its own and variables where the server reads SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from commandbus.errors import MigrationError
from commandbus.migrate.statements import tokens

if TYPE_CHECKING:
    from commandbus.migrate.files import Migration


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
        if piece == "\\" or (kind == "string" and "\\'" in piece):
            line = text.count("\n", 0, start + max(piece.find("\\'"), 0)) + 1
            raise MigrationError(
                f"{migration.script} line {line}: a backslash outside of quotes is no SQL, and psql would take"
                " what follows for a command"
            )
        parts.append(": " if kind == "variable" else piece)
    return "".join(parts)
