"""Every failure as a page of our own, or as JSON: one sentence, and never a traceback."""

import logging
from collections.abc import Mapping

import psycopg
from flask import Blueprint, Flask, Response, jsonify, make_response, render_template, request
from flask.typing import ResponseReturnValue
from psycopg.errors import (
    DeadlockDetected,
    InsufficientPrivilege,
    InvalidSchemaName,
    LockNotAvailable,
    QueryCanceled,
    UndefinedFunction,
    UndefinedTable,
)
from werkzeug.exceptions import HTTPException

from commandbus.console.forms import acts_once
from commandbus.console.recent import recent
from commandbus.console.security import OldFormError, known_user, wants_json
from commandbus.errors import (
    BatchNotFoundError,
    CommandBusError,
    CommandNotFoundError,
    DatabaseUnavailableError,
    InvalidArgumentError,
    InvalidOperationError,
    PoolTimeoutError,
    QueueNotFoundError,
    SchemaError,
)

logger = logging.getLogger(__name__)

_AGAIN_AFTER = 5  # seconds
_AWAY = ("08", "57")  # classes of SQLSTATE: the connection, or the server, is lost
_KEPT = ("Allow", "Retry-After")  # of Werkzeug's own headers
_TITLES = {
    400: "That cannot be read",
    401: "Who are you?",
    403: "Not allowed",
    404: "Nothing here",
    405: "That does not work here",
    409: "Too late",
    413: "Too large",
    422: "That cannot be done",
    429: "Too often",
    500: "Something went wrong",
    503: "The database does not answer",
}
_SENTENCES = {
    400: "The request cannot be read.",
    404: "There is no such page, or what it showed is gone.",
    405: "This address does not take this kind of request.",
    413: "What was sent is too large: at most 8 MiB.",
    500: "The console failed; its log says more.",
}
_UNKNOWN = " Whether it was done is not known: "
_ONCE = "send it once more when the database is back. This form acts only once."
_LOOK = "look, when the database is back, before you do it once more."
_STATUS: tuple[tuple[type[CommandBusError], int], ...] = (
    (InvalidArgumentError, 400),
    (CommandNotFoundError, 404),
    (BatchNotFoundError, 404),
    (QueueNotFoundError, 404),
    (InvalidOperationError, 409),
    (DatabaseUnavailableError, 503),
    (PoolTimeoutError, 503),
    (SchemaError, 503),
)


def handle_errors(scaffold: Flask | Blueprint) -> None:
    """Let an app or a blueprint answer every error with a page of this file."""
    scaffold.register_error_handler(HTTPException, _on_http_error)
    scaffold.register_error_handler(CommandBusError, _on_own_error)
    scaffold.register_error_handler(psycopg.Error, _on_database_error)
    scaffold.register_error_handler(500, _on_http_error)


def _on_http_error(error: HTTPException) -> ResponseReturnValue:
    status = error.code or 500
    if status < 400 and error.response is not None:  # a redirect that the router asks for
        return error.get_response()
    # Werkzeug's own descriptions speak to programmers; ours were given to abort().
    headers = {name: value for name, value in error.get_headers() if name in _KEPT}
    own = error.description if type(error).description != error.description else None
    sentence = own if isinstance(own, str) and status < 500 else _SENTENCES.get(status, _TITLES.get(status, "Refused."))
    return _answer(status, sentence, headers=headers, is_lost=isinstance(error, OldFormError))


def _on_own_error(error: CommandBusError) -> ResponseReturnValue:
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    fields = {error.field: error.problem} if isinstance(error, InvalidArgumentError) else {}
    return _answer(status, str(error), fields, is_away=isinstance(error, DatabaseUnavailableError | PoolTimeoutError))


def _on_database_error(error: psycopg.Error) -> ResponseReturnValue:
    """Answer what the server refused; its text can quote data, so only its code is told."""
    who = known_user()
    logger.warning(
        "the database refused a call of the console" if error.sqlstate else "the database does not answer the console",
        extra={"sqlstate": error.sqlstate, "page": request.endpoint, "user": who and who.name},
    )
    if isinstance(error, InsufficientPrivilege | InvalidSchemaName | UndefinedFunction | UndefinedTable):
        recent().forget()  # what was known of rights and schema is so no more
    if isinstance(error, InsufficientPrivilege):
        return _answer(
            403,
            "The console's role may not do that: it needs the rights of commandbus_operator to decide, and of"
            " commandbus_app to send; see commandbus grant.",
        )
    if isinstance(error, InvalidSchemaName | UndefinedFunction | UndefinedTable):
        return _answer(503, "The schema is not there, or another version of it: run commandbus migrate.")
    if isinstance(error, LockNotAvailable | DeadlockDetected):
        return _answer(503, "Somebody else has it at the moment; try again.", title="Busy")
    if isinstance(error, QueryCanceled):
        return _answer(503, "The database took too long, and gave up (57014): try again.")
    if isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08")[:2] in _AWAY:
        return _answer(503, "The database does not answer, or all connections are in use: try again.", is_away=True)
    return _answer(500, f"The database refused: {error.sqlstate or type(error).__name__}.")


def _is_ours() -> bool:
    """Return whether a form of the console was sent, which may be shown again: one of a host may hold a password."""
    return (request.blueprint or "").startswith("console.")


def problem(status: int, detail: str, errors: Mapping[str, str] | None = None, *, title: str | None = None) -> Response:
    """Return a failure for programs, as RFC 9457 has it; *errors* has a sentence per field."""
    found: dict[str, object] = {"title": title or _TITLES.get(status, "Refused"), "status": status, "detail": detail}
    if errors:
        found["errors"] = dict(errors)
    response = make_response(jsonify(found), status)
    response.mimetype = "application/problem+json"
    return response


def _answer(
    status: int,
    sentence: str,
    errors: Mapping[str, str] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    title: str | None = None,
    is_away: bool = False,
    is_lost: bool = False,
) -> ResponseReturnValue:
    sentence = sentence[:1].upper() + sentence[1:]
    lost_form = request.form if (is_away or is_lost) and request.method == "POST" and _is_ours() else None
    if is_away and lost_form is not None and not wants_json():
        sentence = sentence.rstrip(".") + "." + _UNKNOWN + (_ONCE if acts_once() else _LOOK)
    if wants_json():
        response = problem(status, sentence, errors, title=title)
    else:
        page = render_template(
            "commandbus/error.html",
            status=status,
            title=title or _TITLES.get(status, "Refused"),
            sentence=sentence,
            again_after=_AGAIN_AFTER if status == 503 and request.method == "GET" else None,  # no form by itself
            lost_form=lost_form,
            acts_once=acts_once(),
        )
        response = make_response(page, status)
    response.headers.update(headers or {})
    if status == 503:
        response.headers["Retry-After"] = str(_AGAIN_AFTER)
    return response
