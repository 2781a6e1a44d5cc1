"""Failures that commands find themselves, and the words for those of the library and the server."""

import re

import psycopg
from psycopg.errors import InsufficientPrivilege

from commandbus.errors import MigrationError
from commandbus.migrate.roles import Role, RoleNames, callers

BAD_INPUT = 2
_WHO_MIGRATES = "the role that migrated before, which owns the history, or as a superuser"
_WHO_OWNS = "a role that may do this, or as a superuser"


class Problem(Exception):  # noqa: N818  (its text is a sentence for the user, not a fault of the program)
    """Ends the command with a sentence, and facts for programs.

    Args:
        message: one sentence.
        exit_code: 1 when the operation failed, 2 for bad input.
        facts: further members of the error's JSON form.
    """

    def __init__(self, message: str, exit_code: int = 1, **facts: object) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.facts = facts


def describe(error: Exception) -> dict[str, object]:
    """Return an error's type and sentence; of the server's errors only what cannot quote data."""
    message = str(error)
    if isinstance(error, psycopg.Error):
        reason = error.diag.message_primary or "no reason given"
        message = f"the database refused: {reason} ({error.sqlstate or type(error).__name__})"
    if isinstance(error, InsufficientPrivilege):
        message += f"; {_who_may(message)}"
    if isinstance(error, MigrationError) and error.sqlstate == InsufficientPrivilege.sqlstate:
        message += f"; connect as {_WHO_MIGRATES if 'flyway_schema_history' in message else _WHO_OWNS}"
    return {"type": type(error).__name__, "message": message}


def _who_may(refused: str) -> str:
    """Return what to do about a refusal, whose text names a function, or else a table or a schema."""
    roles = next(filter(None, map(callers, re.findall(r"\w+", refused))), None)
    if roles is None:
        return 'connect as a member of a role that "commandbus grant" made; if you do, run that again: rights lack'
    names = " or ".join(RoleNames()[role] for role in Role if role in roles)
    return f'connect as a member of {names}, or of what "commandbus grant" was told to call it'
