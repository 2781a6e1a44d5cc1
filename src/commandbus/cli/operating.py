"""`commandbus overview`, `workers` and `find`: the running system, and its commands."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from commandbus.cli.options import AnyDomain, AsJson, DatabaseUrl, Limit, examples, known_domain, open_pool
from commandbus.cli.output import note, print_json, print_rows, row_of
from commandbus.models import CommandMetadata, CommandStatus, PageKey
from commandbus.sync.bus import CommandBus
from commandbus.sync.operations import Operations

OVERVIEW_EXAMPLES = examples("overview", "overview payments --json")
WORKERS_EXAMPLES = examples("workers", "workers payments")
FIND_EXAMPLES = examples(
    "find --text 'no such account'", "find payments --status FAILED --type DebitAccount --limit 100 --json"
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
Time = Annotated[datetime | None, typer.Option(help="A time; UTC unless it says otherwise.", metavar="TIME")]


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
    after: Time = None,
    before: Time = None,
    limit: Limit = 50,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Find commands, newest first."""
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
                created_after=_aware(after),
                created_before=_aware(before),
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


def _aware(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time
