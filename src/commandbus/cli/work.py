"""`commandbus worker`: execute the commands of a domain, in this process or in several."""

import gc
import logging
import os
import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from commandbus.cli.load import load_registry
from commandbus.cli.logs import LogFormat, LogLevel, configure_logging
from commandbus.cli.options import URL_VARIABLE, DatabaseUrl, examples, resolve_url
from commandbus.cli.processes import Supervisor
from commandbus.cli.serve import LEFT_BEHIND, ServeOptions, leave, run, serve, stop_at_end_of_input
from commandbus.cli.variables import misspelt_settings
from commandbus.errors import InvalidArgumentError
from commandbus.payload import check_count, check_domain, check_timeout
from commandbus.retry import RetryPolicy
from commandbus.settings import CommandBusSettings
from commandbus.worker.limits import check_concurrency, check_poll_interval, check_visibility_timeout

logger = logging.getLogger("commandbus.cli.worker")

_MOST_CONNECTIONS = 20  # for handlers, unless the settings say otherwise
_MOST_PROCESSES = 256
_DELAYS = "10,60,300"

EXAMPLES = examples(
    "worker app.handlers:registry --domain payments",
    "worker app.handlers:make_registry --domain payments --concurrency 50 --processes 2 --log-format json",
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the command line said, ready to be said again to a process of its own."""

    target: str
    serve: ServeOptions
    retry_delays: str
    log_level: LogLevel
    log_format: LogFormat

    def command(self) -> list[str]:
        """Return the command line of one process; the database URL is not in it, for all could read it there."""
        options = self.serve
        values = {
            "--domain": options.domain,
            "--concurrency": options.concurrency,
            "--poll-interval": options.poll_interval,
            "--visibility-timeout": options.visibility_timeout,
            "--grace": options.grace,
            "--retry-delays": self.retry_delays,
            "--log-level": self.log_level,
            "--log-format": self.log_format,
        }
        words = [word for name, value in values.items() for word in (name, str(value))]
        notify = [] if options.use_notify else ["--no-notify"]
        return [sys.executable, "-m", "commandbus", "worker", self.target, *words, *notify, "--stop-at-end-of-input"]


def worker(
    target: Annotated[
        str,
        typer.Argument(
            help="Module and name of a HandlerRegistry, or of a function that returns one.", metavar="MODULE:NAME"
        ),
    ],
    domain: Annotated[str, typer.Option("--domain", "-d", help="Whose commands to execute.", metavar="DOMAIN")],
    concurrency: Annotated[int, typer.Option(help="Most handlers at once in each process.", metavar="N")] = 10,
    processes: Annotated[int, typer.Option(help="Processes; one that dies is replaced.", metavar="N")] = 1,
    poll_interval: Annotated[float, typer.Option(help="Between looks at an empty queue.", metavar="SECONDS")] = 1.0,
    visibility_timeout: Annotated[
        int, typer.Option(help="Until a command whose worker died is delivered again.", metavar="SECONDS")
    ] = 30,
    backoff_schedule: Annotated[
        str,
        typer.Option(
            "--retry-delays", help="Seconds to wait after the first, second, ... failed attempt.", metavar="LIST"
        ),
    ] = _DELAYS,
    no_notify: Annotated[bool, typer.Option("--no-notify", help="Only poll.")] = False,
    grace: Annotated[
        float, typer.Option(help="For handlers to end after SIGTERM or SIGINT.", metavar="SECONDS")
    ] = 30.0,
    log_level: Annotated[LogLevel, typer.Option(help="Least important log lines.")] = LogLevel.INFO,
    log_format: Annotated[LogFormat, typer.Option(help="Log lines for people or machines.")] = LogFormat.TEXT,
    stop_with_input: Annotated[bool, typer.Option("--stop-at-end-of-input", hidden=True)] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Execute the commands of a domain until SIGTERM or SIGINT.

    The first signal lets running handlers end within --grace seconds; a second one ends the process at once.
    MODULE is looked for in the current directory first.

    Exit code 0 after a clean stop, 3 when threads of handlers had to be left behind.
    """
    configure_logging(log_level, log_format)
    if not stop_with_input:  # the parent of such a process has said so
        for variable, meant in misspelt_settings(os.environ).items():
            logger.warning("variable is no setting and is ignored", extra={"variable": variable, "meant": meant})
    check_count(processes, "processes", 1, _MOST_PROCESSES)
    options = ServeOptions(
        domain=check_domain(domain),
        concurrency=check_concurrency(concurrency),
        poll_interval=check_poll_interval(poll_interval),
        visibility_timeout=check_visibility_timeout(visibility_timeout),
        use_notify=not no_notify,
        grace=check_timeout(grace, "grace"),
        policy=RetryPolicy(backoff_schedule=_delays(backoff_schedule)),
    )
    settings = worker_settings(resolve_url(database_url), concurrency)
    if stop_with_input:
        stop_at_end_of_input()
    if processes == 1:
        _serve_here(target, options, settings)
    load_registry(target, options.domain)  # what cannot be imported fails here, not over and over in each process
    asked = _Asked(target, options, backoff_schedule, log_level, log_format)
    environment = os.environ | {URL_VARIABLE: settings.database_url.get_secret_value()}
    supervisor = Supervisor(asked.command(), environment, options.grace)
    raise typer.Exit(run(lambda: supervisor.run(processes, settings)))


def _serve_here(target: str, options: ServeOptions, settings: CommandBusSettings) -> None:
    """Run the worker in this process, and end it."""
    registry = load_registry(target, options.domain)
    spare_collector()
    code = run(lambda: serve(options, registry, settings))
    if code == LEFT_BEHIND:
        leave(code)
    raise typer.Exit(code)


def spare_collector() -> None:
    """Let Python's collector pass over what is loaded by now, and look less often.

    A worker with much at hand makes it look for garbage all the time. There is next to none, and the modules of a
    program are most of what it would look through, again and again: up to half of a worker's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


def worker_settings(url: str, concurrency: int) -> CommandBusSettings:
    """Return the settings, with as many connections as handlers may want where nothing else is set."""
    settings = CommandBusSettings.load(database_url=url)
    if "pool_max_size" in settings.model_fields_set:
        return settings
    fitting = max(1, settings.pool_min_size, min(concurrency, _MOST_CONNECTIONS))
    return settings.replace(pool_max_size=fitting)


def _delays(text: str) -> list[float]:
    try:
        return [float(seconds) for seconds in text.split(",")]
    except ValueError:
        raise InvalidArgumentError("backoff_schedule", "must be numbers of seconds, separated by commas") from None
