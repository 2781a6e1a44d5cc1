"""The console on waitress: a few threads, and a clean end."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from flask import Flask
from waitress.server import BaseWSGIServer, MultiSocketServer, create_server
from waitress.task import ThreadedTaskDispatcher

from commandbus.console.app import create_app
from commandbus.console.bodies import LONGEST, read_to_the_end
from commandbus.console.live import EXTENSION, Live
from commandbus.console.settings import ConsoleSettings
from commandbus.errors import InvalidArgumentError
from commandbus.handlers import HandlerRegistry
from commandbus.sync import CommandBusPool

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

logger = logging.getLogger(__name__)

_CONNECTIONS = 1_000
_IDLE = 30  # seconds until a connection on which nothing happens is closed
_LOOK = 5


class _Dispatcher(ThreadedTaskDispatcher):
    """The server's threads. When it is interrupted it waits for them, so live streams must not hold them."""

    def __init__(self, threads: int, numbers: Live) -> None:
        super().__init__()
        self._numbers = numbers
        self.set_thread_count(threads)

    def shutdown(self, cancel_pending: bool = True, timeout: int = 5) -> bool:
        """End the streams first."""
        self._numbers.end()
        return super().shutdown(cancel_pending, timeout)


def serve(
    pool: CommandBusPool,
    settings: ConsoleSettings,
    registry: HandlerRegistry | None = None,
    on_listening: Callable[[], None] | None = None,
) -> None:
    """Serve the console until the process is interrupted; *on_listening* is called once browsers can come.

    Raises:
        InvalidArgumentError: it cannot listen there.
    """
    serve_app(create_app(pool, settings=settings, registry=registry), settings, on_listening)


def serve_app(app: Flask, settings: ConsoleSettings, on_listening: Callable[[], None] | None = None) -> None:
    """Serve any app that the console is part of, as `serve`.

    Raises:
        InvalidArgumentError: it cannot listen there.
    """
    server = _listen(app, settings, _Dispatcher(settings.threads, app.extensions[EXTENSION]))
    read_to_the_end(server)
    if on_listening is not None:
        on_listening()
    logger.info("console started", extra={"url": url_of(settings), "open": settings.is_open})
    try:
        server.run()
    finally:
        server.close()


def check_address(settings: ConsoleSettings) -> None:
    """Make sure that the console could be served now, for those who start much else before.

    Raises:
        InvalidArgumentError: it cannot listen there.
    """
    _listen(lambda _environ, _start_response: (), settings, ThreadedTaskDispatcher()).close()


def _listen(
    app: "WSGIApplication", settings: ConsoleSettings, dispatcher: ThreadedTaskDispatcher
) -> MultiSocketServer | BaseWSGIServer:
    try:
        return create_server(
            app,
            _dispatcher=dispatcher,
            host=settings.host,
            port=settings.port,
            ident="commandbus",
            connection_limit=_CONNECTIONS,  # a browser keeps six open
            channel_timeout=_IDLE,
            cleanup_interval=_LOOK,
            asyncore_use_poll=True,  # select() would end at 1,024 files
            max_request_body_size=LONGEST,
            clear_untrusted_proxy_headers=False,  # we believe none, but must see that there is a proxy
        )
    except OSError as error:
        field, why = "port", error.strerror
    except ValueError:  # of all that is given here, only a name can be unknown
        field, why = "host", "the host is not known"
    raise InvalidArgumentError(field, f"cannot listen on {url_of(settings)}: {why}")


def url_of(settings: ConsoleSettings) -> str:
    """Return the address for a browser."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}/"
