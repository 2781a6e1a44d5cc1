"""The console on waitress: a few threads, and a clean end."""

import logging

from flask import Flask
from waitress.server import create_server

from commandbus.console.app import create_app
from commandbus.console.security import MAX_BODY
from commandbus.console.settings import ConsoleSettings
from commandbus.errors import InvalidArgumentError
from commandbus.handlers import HandlerRegistry
from commandbus.sync import CommandBusPool

logger = logging.getLogger(__name__)


def serve(pool: CommandBusPool, settings: ConsoleSettings, registry: HandlerRegistry | None = None) -> None:
    """Serve the console until the process is interrupted.

    Raises:
        InvalidArgumentError: it cannot listen there.
    """
    serve_app(create_app(pool, settings=settings, registry=registry), settings)


def serve_app(app: Flask, settings: ConsoleSettings) -> None:
    """Serve any app that the console is part of, until the process is interrupted.

    Raises:
        InvalidArgumentError: it cannot listen there.
    """
    try:
        server = create_server(
            app,
            host=settings.host,
            port=settings.port,
            threads=settings.threads,
            ident="commandbus",
            max_request_body_size=MAX_BODY + 65_536,  # a little more, so that our own page answers what is too large
            clear_untrusted_proxy_headers=False,  # we believe none, but must see that there is a proxy
        )
    except OSError as error:
        raise InvalidArgumentError("port", f"cannot listen on {url_of(settings)}: {error.strerror}") from None
    logger.info("console started", extra={"url": url_of(settings), "open": settings.is_open})
    try:
        server.run()
    finally:
        server.close()


def url_of(settings: ConsoleSettings) -> str:
    """Return the address for a browser."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}/"
