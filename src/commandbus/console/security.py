"""Who may do what: Host check, authentication, roles, CSRF, and the headers of every answer.

Every request passes `protect`, in this order: its Host is one of ours, and its text can be read (400); what changes
anything comes from a page of ours (Origin, CSRF token; 403); somebody known asks (401, or the login page), and for
changes an operator (403).
"""

import getpass
import hmac
import logging
import os
import secrets
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, abort, current_app, make_response, redirect, request, session, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import Forbidden, TooManyRequests

from commandbus.console.clients import client_of
from commandbus.console.forms import refuse_broken_text
from commandbus.console.sessions import ROLE
from commandbus.console.settings import ConsoleSettings, is_loopback
from commandbus.console.state import console

logger = logging.getLogger(__name__)

CSRF_FIELD = "csrf_token"
MAX_NAME = 200
MAX_BODY = 8 * 1024 * 1024
_CSRF, _NAME, _PROOF = "commandbus_csrf", "commandbus_name", "commandbus_proof"
_USER = "commandbus.user"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_PUBLIC = frozenset({"console.static", "console.login", "console.login_post"})
_OF_PROXIES = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
_FOR_ANYONE = frozenset({"console.login_post", "console.logout"})  # POSTs that change nothing but the session
_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Role(StrEnum):
    """Viewers look; operators also decide, send, and see payloads."""

    VIEWER = "viewer"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class User:
    """Who asks. *name* goes into the audit."""

    name: str
    role: Role

    @property
    def is_operator(self) -> bool:
        """Whether they may change anything, and see payloads."""
        return self.role is Role.OPERATOR


def protect(scaffold: Flask | Blueprint) -> None:
    """Let every request of an app or a blueprint pass the checks of this file."""
    scaffold.before_request(_check)
    scaffold.after_request(add_headers)


def user() -> User:
    """Return who asks; only requests that passed `protect` know."""
    found = known_user()
    assert found is not None  # noqa: S101  (protect let nobody else in)
    return found


def known_user() -> User | None:
    """Return who asks, or None on the pages that anybody may see."""
    found: User | None = request.environ.get(_USER)
    return found


def csrf_token() -> str:
    """Return the token that every form of this session carries."""
    if _CSRF not in session:
        session[_CSRF] = secrets.token_urlsafe(32)
    return str(session[_CSRF])


def check_login(settings: ConsoleSettings, token: str) -> Role | None:
    """Return the role that a token gives, or None. It takes the same time for every wrong token.

    Raises:
        TooManyRequests: whoever asks was wrong too often.
    """
    asker = {"address": request.remote_addr}
    try:
        role = console().guesses.check(client_of(settings), lambda: _role_of(settings, token))
    except TooManyRequests:
        logger.warning("too many wrong tokens, not looked at", extra=asker)
        raise
    if role is None:
        logger.warning("wrong token", extra=asker)
    return role


def _role_of(settings: ConsoleSettings, token: str) -> Role | None:
    given = token.encode("utf-8", "replace")
    found = None
    for role, secret in ((Role.VIEWER, settings.viewer_token), (Role.OPERATOR, settings.operator_token)):
        if secret is not None and hmac.compare_digest(secret.get_secret_value().encode(), given):
            found = role
    return found


def log_in(settings: ConsoleSettings, role: Role, name: str) -> None:
    """Begin a new session for somebody who showed a token."""
    console().sessions.begin(role.value)
    session[_NAME], session[_PROOF] = name, _proof(settings, role)
    logger.info("logged in", extra={"address": request.remote_addr, "user": name, "role": role.value})


def log_out() -> None:
    """End the session, in all browsers that have its cookie."""
    console().sessions.end()


def add_headers(response: Response) -> Response:
    """Put the security headers on an answer."""
    response.headers.update(_HEADERS)
    if request.endpoint is None or not request.endpoint.endswith("static"):
        response.headers["Cache-Control"] = "no-store"
    if console().settings.https:
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    return response


def _check() -> ResponseReturnValue | None:
    """Let the request through, or answer it. An app and a blueprint in it check once."""
    if _USER in request.environ:
        return None
    settings = console().settings
    request.max_content_length = request.max_form_memory_size = MAX_BODY
    if _name_of(request.host) not in settings.allowed_hosts:
        return _refuse_host()
    found = _identify(settings)
    request.environ[_USER] = found  # and not in `g`, which requests of one app context would share
    if request.endpoint is None:
        return None  # an unknown address is answered 404 to everybody, or 405
    refuse_broken_text(is_body_read=request.method not in _SAFE)
    if request.method not in _SAFE:
        _check_origin(settings)
        _check_csrf()
    if request.endpoint in _PUBLIC:
        return None
    if found is None:
        return _ask_to_log_in(settings)
    if request.method not in _SAFE and request.endpoint not in _FOR_ANYONE and not found.is_operator:
        abort(403, "Only operators may do this; you are logged in as viewer.")
    return None


def _refuse_host() -> Response:
    """Refuse a name that is not ours: a page elsewhere may have let its name point here (DNS rebinding), and reads."""
    text = "This address is not known here: its name must be among COMMANDBUS_CONSOLE_HOSTS.\n"
    return make_response(text, 400, {"Content-Type": "text/plain; charset=utf-8"})


def _name_of(netloc: str) -> str:
    """Return the host of "host:port" in small letters, or nothing when it has no such form."""
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _identify(settings: ConsoleSettings) -> User | None:
    if settings.is_open:
        return _local_user()
    return _from_proxy(settings) or _from_session(settings) or _from_bearer(settings)


def _local_user() -> User:
    """Return the user of this machine: without authentication nobody else is let in."""
    if not is_loopback(request.remote_addr or "") or any(name in request.headers for name in _OF_PROXIES):
        abort(403, "Without authentication the console answers this machine only.")
    return User(os.environ.get("COMMANDBUS_OPERATOR") or _login(), Role.OPERATOR)


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "console"


def _from_proxy(settings: ConsoleSettings) -> User | None:
    """Return whom a trusted proxy names. A comma means that the header came twice, perhaps once from outside."""
    if settings.user_header is None or not settings.trusts(request.remote_addr or ""):
        return None
    name = request.headers.get(settings.user_header, "").strip()
    if not name or "," in name or len(name) > MAX_NAME or not name.isprintable():
        return None
    return User(name, Role.OPERATOR if name in settings.operators else Role.VIEWER)


def _from_session(settings: ConsoleSettings) -> User | None:
    """Return who logged in, as long as the token that was shown is still the one of the settings."""
    role, name, proof = session.get(ROLE), session.get(_NAME), session.get(_PROOF)
    if role not in list(Role) or not isinstance(name, str) or not isinstance(proof, str):
        return None
    expected = _proof(settings, Role(role))
    if not expected or not hmac.compare_digest(expected, proof) or not console().sessions.is_alive():
        return None
    return User(name, Role(role))


def _from_bearer(settings: ConsoleSettings) -> User | None:
    """Return a program that shows its token with each request. It looks only: decisions have a name."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    if not settings.has_tokens or kind.lower() != "bearer" or request.method not in _SAFE:
        return None
    role = check_login(settings, token.strip())
    return None if role is None else User("program", role)


def _proof(settings: ConsoleSettings, role: Role) -> str:
    """Return what a session remembers of the token that was shown: nothing that leads back to it."""
    secret = settings.operator_token if role is Role.OPERATOR else settings.viewer_token
    key = str(current_app.secret_key).encode()
    return "" if secret is None else hmac.new(key, secret.get_secret_value().encode(), sha256).hexdigest()


def _ask_to_log_in(settings: ConsoleSettings) -> ResponseReturnValue:
    if not settings.has_tokens:
        abort(401, "The proxy in front of the console does not say who you are.")
    if wants_json() or request.method not in _SAFE:
        abort(401, "Log in first.")
    return redirect(url_for("console.login", next=request.script_root + request.full_path.rstrip("?")))


def _check_origin(settings: ConsoleSettings) -> None:
    """Refuse posts from pages of other origins; browsers say where a post comes from."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
        abort(403, "This was sent from another site.")
    source = request.headers.get("Origin") or request.headers.get("Referer")
    if source is None:
        return
    try:
        netloc = urlsplit(source).netloc.lower()
    except ValueError:  # such as "http://["
        netloc = ""
    if netloc != request.host.lower() and netloc not in {name.lower() for name in settings.hosts}:
        abort(403, "This was sent from another site.")


class OldFormError(Forbidden):
    """A form does not carry the token of this session."""


def _check_csrf() -> None:
    """Refuse posts that do not come from a form of this session."""
    expected = session.get(_CSRF, "")
    given = request.headers.get("X-CSRF-Token") or request.form.get(CSRF_FIELD, "")
    if not expected or not hmac.compare_digest(str(expected).encode(), given.encode("utf-8", "replace")):
        raise OldFormError("The form is too old, or not from this console: go back, reload the page, and try again.")


def wants_json() -> bool:
    """Return whether the answer is for a program."""
    return "/api/" in request.path or "/live/" in request.path


def is_local_path(path: str) -> bool:
    """Return whether a redirect to *path* stays on this site."""
    try:
        parts = urlsplit(path)
    except ValueError:  # such as "//["
        return False
    return path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.netloc and path.isprintable()
