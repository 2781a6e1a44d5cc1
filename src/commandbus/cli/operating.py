"""`commandbus overview`, `workers` and `find`: the running system, and its commands."""

from typing import Annotated
from uuid import UUID

import typer

from commandbus.cli.options import AnyDomain, AsJson, DatabaseUrl, Limit, examples, known_domain, open_pool
from commandbus.cli.output import note, print_json, print_rows, row_of
from commandbus.errors import InvalidArgumentError
from commandbus.models import CommandMetadata, CommandStatus, PageKey
from commandbus.payload import parse_time
from commandbus.sync.bus import CommandBus
from commandbus.sync.operations import Operations

OVERVIEW_EXAMPLES = examples("overview", "overview payments --json")
WORKERS_EXAMPLES = examples("workers", "workers payments")
FIND_EXAMPLES = examples(
    "find --text 'no such account'", "find payments --status FAILED --type DebitAccount --after 2h --json"
)
_COLUMNS = (
    "domain",
    "depth",
    "in_flight",
    "scheduled",
    "in_troubleshooting",
    "oldest_at",
    "workers",
    "capacity",
    "paused_at",
    "paused_by",
)
_FOUND = ("created_at", "domain", "command_id", "command_type", "status", "attempts", "last_error_code")


def _time(option: str, what: str) -> object:
    help_ = f"{what}: 2030-01-31T12:00 (UTC, or with a zone), or how long ago: 2h."
    return typer.Option(option, help=help_, metavar="TIME")


def overview(domain: AnyDomain = None, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Show what each domain holds now: what waits, runs, and needs an operator."""
    with open_pool(database_url) as pool:
        found = Operations(pool).overview(None if domain is None else known_domain(pool, domain))
    if as_json:
        print_json(found)
    else:
        print_rows([row_of(one) for one in found], _COLUMNS)


def workers(domain: AnyDomain = None, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """List the workers that were heard of today; one that lives is heard of every 5 seconds."""
    with open_pool(database_url) as pool:
        found = Operations(pool).list_workers(None if domain is None else known_domain(pool, domain))
    if as_json:
        print_json(found)
    else:
        print_rows([row_of(one) for one in found])


def find(
    domain: AnyDomain = None,
    status: Annotated[CommandStatus | None, typer.Option(help="Only these.")] = None,
    command_type: Annotated[str | None, typer.Option("--type", help="Only of this type.", metavar="TYPE")] = None,
    text: Annotated[
        str | None, typer.Option(help="Part of a type or an error, or the beginning of an id.", metavar="TEXT")
    ] = None,
    correlation_id: Annotated[UUID | None, typer.Option(help="Only of this conversation.")] = None,
    batch_id: Annotated[UUID | None, typer.Option(help="Only of this batch.")] = None,
    group: Annotated[UUID | None, typer.Option(help='Only of this group of failures, see "tsq groups".')] = None,
    after: Annotated[str | None, _time("--after", "Only sent from this time on")] = None,
    before: Annotated[str | None, _time("--before", "Only sent before it")] = None,
    limit: Limit = 50,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Find commands, newest first."""
    created_after = None if after is None else parse_time(after, "after")
    created_before = None if before is None else parse_time(before, "before")
    if created_after is not None and created_before is not None and created_after >= created_before:
        raise InvalidArgumentError("after", "must be earlier than --before")
    with open_pool(database_url) as pool:
        bus = CommandBus(pool)
        chosen = None if domain is None else known_domain(pool, domain)
        found: list[CommandMetadata] = []
        start: PageKey | None = None
        while True:
            page = bus.find_commands(
                domain=chosen,
                status=status,
                command_type=command_type,
                text=text,
                correlation_id=correlation_id,
                batch_id=batch_id,
                failure_key=group,
                created_after=created_after,
                created_before=created_before,
                start=start,
                limit=limit - len(found),
            )
            found += page.commands
            start = page.next_key
            if not page.is_cut_short or len(found) >= limit:
                break
    if start is not None:
        note(f"the first {limit:,}: there may be more, see --limit and --before")
    if as_json:
        print_json(found)
    else:
        print_rows([row_of(command) for command in found], _FOUND)
