"""`commandbus console`: the operator's pages in a browser."""

import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from commandbus.cli.load import load_registry
from commandbus.cli.logs import LogFormat, LogLevel, configure_logging
from commandbus.cli.options import DatabaseUrl, examples, resolve_url
from commandbus.cli.output import note
from commandbus.cli.problem import Problem
from commandbus.settings import CommandBusSettings
from commandbus.sync.pool import CommandBusPool

_PATIENCE = 3.0  # seconds

EXAMPLES = examples("console", "console --port 9000 --registry app.handlers:registry")


def console(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on, by default 127.0.0.1.", metavar="ADDRESS")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port, by default 8080.", metavar="N")] = None,
    target: Annotated[
        str | None,
        typer.Option("--registry", help="Handlers whose models check what operators write.", metavar="MODULE:NAME"),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(help="Least important log lines.")] = LogLevel.WARNING,
    log_format: Annotated[LogFormat, typer.Option(help="Log lines for people or machines.")] = LogFormat.TEXT,
    database_url: DatabaseUrl = None,
) -> None:
    """Serve the operator's console until it is interrupted.

    Without COMMANDBUS_CONSOLE_OPERATOR_TOKEN, _VIEWER_TOKEN or _USER_HEADER it answers this machine only.
    """
    try:
        from commandbus.console import ConsoleSettings, serve, url_of
    except ModuleNotFoundError as error:
        raise Problem(f"the console needs {error.name}: pip install 'commandbus-pg[console]'") from None
    configure_logging(log_level, log_format)
    asked = {"host": host, "port": port}
    settings = ConsoleSettings.load(**{name: value for name, value in asked.items() if value is not None})
    handlers = None if target is None else load_registry(target)
    signal.signal(signal.SIGTERM, _stop)
    with CommandBusPool(_pool_settings(resolve_url(database_url))) as pool:
        door = "; without login, for this machine only" if settings.is_open else ""
        serve(pool, settings, handlers, lambda: note(f"console on {url_of(settings)}{door}"))


def _pool_settings(url: str) -> CommandBusSettings:
    """Return the settings; where nothing else is set, people wait less than programs for a free connection."""
    settings = CommandBusSettings.load(database_url=url)
    return settings if "pool_timeout" in settings.model_fields_set else settings.replace(pool_timeout=_PATIENCE)


def _stop(_number: int, _frame: FrameType | None) -> None:
    """Let the server end as it does by Ctrl-C: requests that run are answered first."""
    sys.exit(0)
