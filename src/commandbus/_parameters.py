"""From settings to the parameters of a connection: where it leads, and how its session begins."""

import re
from typing import Any

from pydantic import SecretStr

from commandbus._conninfo import parse_url
from commandbus.settings import CommandBusSettings

_SPLITS = re.compile(r"[\\\s]")  # needs a backslash within libpq's options


def connection_parameters(settings: CommandBusSettings, *, listen: bool = False) -> dict[str, Any]:
    """Return the keyword arguments of ``connect``, all but a row factory.

    What the URL says wins over the settings, except autocommit, the encoding, and the startup options.

    Args:
        settings: where to connect and how.
        listen: for a connection that must be direct; uses ``listen_database_url`` if there is one.

    Raises:
        InvalidArgumentError: the URL cannot be read.
    """
    url, field = settings.database_url, "database_url"
    if listen and _text(settings.listen_database_url):
        url, field = settings.listen_database_url or url, "listen_database_url"
    given = parse_url(_text(url), field)
    parameters: dict[str, Any] = {
        "application_name": settings.application_name,
        "connect_timeout": settings.connect_timeout,
        "keepalives": 1,
        "keepalives_idle": settings.keepalives_idle,
        "keepalives_interval": settings.keepalives_interval,
        "keepalives_count": settings.keepalives_count,
        "tcp_user_timeout": settings.tcp_user_timeout_ms,
        **given,
        "client_encoding": "utf8",
        "autocommit": True,
    }
    if settings.pgbouncer and not listen:
        return parameters | {"prepare_threshold": None}
    return parameters | {"options": _startup_options(settings, given.get("options"))}


def _text(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()


def _startup_options(settings: CommandBusSettings, given: str | None) -> str:
    """Return libpq's ``options``, those of the URL first: the server takes the last of each."""
    options = {"search_path": settings.search_path, "default_transaction_isolation": "read committed"}
    if settings.statement_timeout is not None:
        options["statement_timeout"] = f"{settings.statement_timeout * 1000:.0f}"
    ours = [_SPLITS.sub(r"\\\g<0>", f"{name}={value}") for name, value in options.items()]
    return " ".join([given or "", *(f"-c {option}" for option in ours)]).strip()
