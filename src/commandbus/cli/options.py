"""Options that commands share, and the way from them to an open pool."""

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import typer

from commandbus.cli.output import note
from commandbus.cli.variables import check_settings
from commandbus.embedded import EmbeddedServer, default_data_directory
from commandbus.errors import InvalidArgumentError, QueueNotFoundError
from commandbus.payload import MAX_PAGE, check_domain, check_operator, check_reason, parse_json, parse_time
from commandbus.sync.pool import CommandBusPool
from commandbus.sync.repositories import PostgresMaintenance

URL_VARIABLE = "COMMANDBUS_DATABASE_URL"

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar=URL_VARIABLE,
        help="PostgreSQL URL or connection string; by default the running embedded server.",
        metavar="URL",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document; errors go to stderr as JSON too.")]
Domain = Annotated[str, typer.Argument(help="The domain.", metavar="DOMAIN")]
AnyDomain = Annotated[str | None, typer.Argument(help="The domain; all when left out.", metavar="DOMAIN")]
CommandId = Annotated[UUID, typer.Argument(help="The command's id.", metavar="COMMAND_ID")]
BatchId = Annotated[UUID, typer.Argument(help="The batch's id.", metavar="BATCH_ID")]
Operator = Annotated[
    str | None,
    typer.Option(
        envvar="COMMANDBUS_OPERATOR",
        help="Who decides, for the audit trail; by default your login.",
        metavar="NAME",
        callback=check_operator,
    ),
]
Reason = Annotated[str | None, typer.Option(help="Why, for the audit trail.", metavar="TEXT", callback=check_reason)]
Registry = Annotated[
    str | None,
    typer.Option("--handlers", help="The handlers, whose model the data must fit.", metavar="MODULE:REGISTRY"),
]
Limit = Annotated[int, typer.Option("--limit", help=f"Most rows, 1 to {MAX_PAGE:,}.", metavar="N")]
_TIMES = "2030-01-31T12:00 (UTC, or with a zone), or how long ago: 2h."
After = Annotated[str | None, typer.Option("--after", help=f"Only from this time on: {_TIMES}", metavar="TIME")]
Before = Annotated[str | None, typer.Option("--before", help=f"Only before it: {_TIMES}", metavar="TIME")]
Offset = Annotated[int, typer.Option("--offset", help="Rows to skip.", metavar="N")]


def examples(*lines: str) -> str:
    """Return the epilog of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  commandbus {line}" for line in lines)


def login() -> str | None:
    """Return the user's name, for the audit trail, or None."""
    with suppress(OSError, KeyError):  # a user without a name, as in many containers
        return getpass.getuser()
    return None


def resolve_url(given: str | None) -> str:
    """Return the URL that was given, or that of the embedded server that runs in its default directory.

    Raises:
        InvalidArgumentError: there is neither, or what was given is empty, as where a script's variable is not set:
            whoever means the embedded server gives nothing.
    """
    field = "database_url"
    if given is None:
        given, field = os.environ.get(URL_VARIABLE), URL_VARIABLE  # typer takes an empty one for none
    if given is not None:
        if given.strip():
            return given
        raise InvalidArgumentError(
            field,
            'is empty: give a URL ("postgresql://" takes all of it from libpq\'s PG* variables), or leave'
            f" --database-url and {URL_VARIABLE} out for the embedded server",
        )
    server = EmbeddedServer(default_data_directory())
    url = server.status().url
    if url is None:
        raise InvalidArgumentError(
            "--database-url",
            f'is not given: use it or {URL_VARIABLE}, or start the embedded server with "commandbus db start"',
        )
    note(f"using the embedded server in {server.data_directory}")
    return url


def read_data(text: str) -> dict[str, Any]:
    """Return the data of a command, from JSON; "-" reads stdin.

    Raises:
        InvalidArgumentError: it is empty, no JSON, or no object.
    """
    given = sys.stdin.buffer.read() if text == "-" else text
    if not given.strip():  # a shell variable that is not set, a file that was not written
        raise InvalidArgumentError("data", "is empty; write {} for no data")
    data = parse_json(given, "data")
    if not isinstance(data, dict):
        raise InvalidArgumentError("data", "must be a JSON object")
    return data


def read_span(after: str | None, before: str | None) -> tuple[datetime | None, datetime | None]:
    """Return the times that --after and --before mean.

    Raises:
        InvalidArgumentError: one means none, or there is nothing between them.
    """
    begin = None if after is None else parse_time(after, "after")
    end = None if before is None else parse_time(before, "before")
    if begin is not None and end is not None and begin >= end:
        raise InvalidArgumentError("after", "must be earlier than --before")
    return begin, end


def known_domain(pool: CommandBusPool, domain: str) -> str:
    """Return *domain* when something of it is in the database.

    Raises:
        QueueNotFoundError: there is nothing: it is a slip of the pen, and no empty list.
    """
    if check_domain(domain) not in PostgresMaintenance(pool).list_domains():
        raise QueueNotFoundError(f'there is no domain "{domain}": "commandbus queue list" names all')
    return domain


@contextmanager
def open_pool(given_url: str | None) -> Iterator[CommandBusPool]:
    """Give a small pool for one command.

    Raises:
        InvalidArgumentError: there is no URL, it cannot be read, or a variable breaks its limit.
        DatabaseUnavailableError, SchemaError: the database cannot be used.
    """
    url = resolve_url(given_url)
    check_settings()
    with CommandBusPool(database_url=url, pool_min_size=0, pool_max_size=2) as pool:
        yield pool
