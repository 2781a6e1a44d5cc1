"""Whose wrong tokens are counted together: of a browser that an operator logged in with, else of an address."""

import secrets
from ipaddress import ip_address, ip_network

from flask import Response, current_app, request
from itsdangerous import BadData, URLSafeTimedSerializer

from commandbus.console.settings import ConsoleSettings
from commandbus.console.state import console

_KNOWN, _KNOWN_FOR = "commandbus_known", 180 * 86_400  # the cookie, and its seconds
_MOST = 200


def client_of(settings: ConsoleSettings) -> str:
    """Return who is counted for a wrong token: a browser that an operator logged in with before, else an address."""
    if (known := _browser()) is not None:
        return known
    address = request.remote_addr or ""
    if settings.trusts(address):
        address = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip() or address
    try:
        found = ip_address(address)
    except ValueError:
        return address[:_MOST]
    return str(found if found.version == 4 else ip_network((found, 64), strict=False))


def remember_browser(response: Response) -> Response:
    """Let a browser be known as an operator's: then others at its address cannot use its guesses up."""
    response.set_cookie(
        _KNOWN,
        _serializer().dumps(_browser() or secrets.token_urlsafe(16)),
        max_age=_KNOWN_FOR,
        secure=console().settings.https,
        httponly=True,
        samesite="Strict",
    )
    return response


def _browser() -> str | None:
    """Return the name of a browser that is known; the cookie itself can be written in many ways."""
    try:
        return str(_serializer().loads(request.cookies.get(_KNOWN, ""), max_age=_KNOWN_FOR))
    except BadData:
        return None


def _serializer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(current_app.secret_key or b"", salt=_KNOWN)
