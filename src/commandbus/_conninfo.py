"""From a database URL to libpq's parameters, and from libpq's errors to ours, without ever showing a password."""

import logging
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from commandbus.errors import (
    AuthenticationFailedError,
    DatabaseNotFoundError,
    DatabaseUnavailableError,
    InvalidArgumentError,
)

_SECRETS = ("password", "sslpassword")
_BREAK = re.compile(r"\s*\n\s*")
WORKERS_POOL = "commandbus-worker-"  # how the names of workers' own pools begin
_SELDOM = 60.0  # seconds between two warnings of one trouble
_ENCODE_HINT = "in a URL, characters such as @ : / ? % and spaces in a user name or password are percent-encoded"
# libpq hands over no SQLSTATE when a connection cannot be made; these sentences are all there is.
_WRONG_PASSWORD = re.compile(r'password authentication failed for user "(?P<user>[^"]*)"')
_REFUSED = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|role \"[^\"]*\" does not exist"
)
_NO_DATABASE = re.compile(r"(?P<reason>database \"[^\"]*\" does not exist)")
# What libpq would complain of only when it connects, as of a server that cannot be reached.
_NUMBERS = (
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}
_NUMBER = re.compile(r" *-?[0-9]{1,9} *")
_WHERE = re.compile(r"^connection (?:failed|is bad): ")


def parse_url(url: str, field: str) -> dict[str, Any]:
    """Return the parameters that a URL or connection string gives.

    Raises:
        InvalidArgumentError: it cannot be read, or a part shows that a password was not percent-encoded.
    """
    parameters = _parse(url)
    if parameters is None:
        raise InvalidArgumentError(field, f"must be a PostgreSQL URL or connection string; {_ENCODE_HINT}")
    if "://" in url and any("@" in str(parameters.get(part, "")) for part in ("host", "dbname")):
        raise InvalidArgumentError(field, f"has an @ in its host or database name; {_ENCODE_HINT}")
    for port in str(parameters.get("port", "")).split(","):
        if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65_536):
            raise InvalidArgumentError(field, f"must have ports from 1 to 65535; {_ENCODE_HINT}")
    for name in _NUMBERS:
        if not _NUMBER.fullmatch(str(parameters.get(name) or 0)):
            raise InvalidArgumentError(field, f"must have a whole number as {name}")
    for name, choices in _CHOICES.items():
        if parameters.get(name) and parameters[name] not in choices:
            raise InvalidArgumentError(field, f"must have one of {', '.join(choices)} as {name}")
    return parameters


def _parse(url: str) -> dict[str, Any] | None:
    # The caller raises outside of the handler: libpq's sentence quotes parts of the password.
    if not url.isprintable():
        return None
    try:
        return conninfo_to_dict(url)
    except (psycopg.Error, UnicodeError):
        return None


def secrets_in(parameters: Mapping[str, Any]) -> frozenset[str]:
    """Return the passwords among libpq's parameters, also as they look in a URL."""
    plain = {str(parameters[name]) for name in _SECRETS if parameters.get(name)}
    return frozenset(plain | {quote(secret, safe="") for secret in plain})


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Return *text* with three asterisks in place of each secret."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def connection_error(error: Exception, parameters: Mapping[str, Any]) -> DatabaseUnavailableError:
    """Return our error for a connection that could not be made.

    Args:
        error: what ``connect`` raised.
        parameters: what it was called with; its passwords are taken out of the text.
    """
    text = _WHERE.sub("", " ".join(scrub(str(error), secrets_in(parameters)).split()))
    if found := _WRONG_PASSWORD.search(text):
        return AuthenticationFailedError(f'wrong password for user "{found["user"]}", or no such user')
    if _REFUSED.search(text):
        return AuthenticationFailedError(f"the database refuses this user: {text}")
    if found := _NO_DATABASE.search(text):
        return DatabaseNotFoundError(found["reason"])
    if "unsupported startup parameter" in text:
        text += " (a pooler is in between: set COMMANDBUS_PGBOUNCER=true, or pgbouncer=True)"
    return DatabaseUnavailableError(f"the database cannot be reached: {text or type(error).__name__}")


class PoolLogFilter(logging.Filter):
    """Takes passwords out of the log of psycopg's pools, and remembers why one of them could not connect.

    That log is the only place where a pool tells the cause. It tells every attempt: of this pool and of workers' own,
    one a minute is told here, and all to who wants DEBUG.

    Args:
        pool_name: the pool whose failures are remembered.
        parameters: what it connects with.
    """

    def __init__(self, pool_name: str, parameters: Mapping[str, Any]) -> None:
        super().__init__()
        self._pool_name = pool_name
        self._parameters = parameters
        self.last_failure: DatabaseUnavailableError | None = None
        self._silent_until: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Let records pass, without passwords in their text, each in one line."""
        is_told = True
        match record.args:
            case (self._pool_name, psycopg.Error() as error):
                self.last_failure = connection_error(error, self._parameters)
                is_told = self._is_time(self._pool_name)
            case (str() as name, psycopg.Error()) if name.startswith(WORKERS_POOL):
                is_told = self._is_time(name)
        text = record.getMessage()
        clean = _BREAK.sub(" ", scrub(text, secrets_in(self._parameters)))
        if clean != text:
            record.msg, record.args = clean, None
        return is_told or logging.getLogger(record.name).isEnabledFor(logging.DEBUG)

    def _is_time(self, pool_name: str) -> bool:
        now = time.monotonic()
        if now < self._silent_until.get(pool_name, now):
            return False
        self._silent_until[pool_name] = now + _SELDOM
        return True
