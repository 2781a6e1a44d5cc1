"""Failures that commands find themselves, and the words for those of the library and the server."""

import psycopg

BAD_INPUT = 2


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
    return {"type": type(error).__name__, "message": message}
