"""`commandbus overview`, `throughput`, `workers`, `leases` and `find`: the running system, and its commands."""

from typing import Annotated
from uuid import UUID

import typer

from commandbus.cli.options import (
    After,
    AnyDomain,
    AsJson,
    Before,
    DatabaseUrl,
    Domain,
    Limit,
    examples,
    known_domain,
    open_pool,
    read_span,
)
from commandbus.cli.output import note, note_more, print_json, print_rows, row_of
from commandbus.models import CommandMetadata, CommandStatus
from commandbus.payload import read_key, write_key
from commandbus.sync.bus import CommandBus
from commandbus.sync.operations import Operations

OVERVIEW_EXAMPLES = examples("overview", "overview payments --json")
THROUGHPUT_EXAMPLES = examples("throughput", "throughput payments --seconds 604800 --step 3600 --json")
WORKERS_EXAMPLES = examples("workers", "workers payments")
LEASES_EXAMPLES = examples("leases payments", "leases payments --limit 1000 --json")
FIND_EXAMPLES = examples(
    "find --text 'no such account'",
    "find payments --status FAILED --type DebitAccount --after 2h --json",
    "find --id 7d0a41c2",
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
_DONE = ("at", "enqueued", "completed", "failed", "retried", "parked", "depth", "oldest_at")
_STEPS = (10, 30, 60, 180, 600, 3_600)
_MOST_PIECES = 180
_FOUND = ("created_at", "domain", "command_id", "command_type", "status", "attempts", "last_error_code")


def overview(domain: AnyDomain = None, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Show what each domain holds now: what waits, runs, and needs an operator."""
    with open_pool(database_url) as pool:
        found = Operations(pool).overview(None if domain is None else known_domain(pool, domain))
    if as_json:
        print_json(found)
    else:
        print_rows([row_of(one) for one in found], _COLUMNS)


def throughput(
    domain: AnyDomain = None,
    seconds: Annotated[int, typer.Option(help="How far back, 10 to 604,800 seconds.", metavar="N")] = 3_600,
    step: Annotated[
        int | None,
        typer.Option(
            help="Seconds of a piece, a multiple of 10 to 86,400; long ago only whole hours are known.", metavar="N"
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show what workers did lately, oldest first; pieces in which no worker ran are missing.

    --json has also histograms of the times that commands waited for their first attempt, and of those in handlers.
    """
    if step is None:
        step = next((one for one in _STEPS if one * _MOST_PIECES >= seconds), _STEPS[-1])
    with open_pool(database_url) as pool:
        chosen = None if domain is None else known_domain(pool, domain)
        found = Operations(pool).throughput(chosen, seconds=seconds, step=step)
    if as_json:
        print_json(found)
    else:
        print_rows([row_of(one) for one in found], _DONE)


def workers(domain: AnyDomain = None, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """List the workers that were heard of today; one that lives is heard of every 5 seconds."""
    with open_pool(database_url) as pool:
        found = Operations(pool).list_workers(None if domain is None else known_domain(pool, domain))
    if as_json:
        print_json(found)
    else:
        print_rows([row_of(one) for one in found])


def leases(domain: Domain, limit: Limit = 100, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """List the commands that workers have now; the lease that ends first comes first."""
    with open_pool(database_url) as pool:
        found = Operations(pool).list_leases(domain, limit)
    note_more(found, limit)
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
    after: After = None,
    before: Before = None,
    beginning: Annotated[
        str | None,
        typer.Option("--id", help="The beginning of an id, at least 8 digits; with no other filter.", metavar="DIGITS"),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="Go on behind the last one before: its created_at, _ and its command_id.", metavar="KEY"),
    ] = None,
    limit: Limit = 50,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Find commands, newest first; fewer than --limit are all."""
    if beginning is not None:
        if any((domain, status, command_type, text, correlation_id, batch_id, group, after, before, start)):
            raise typer.BadParameter("--id goes with no other filter: it looks in all domains")
        with open_pool(database_url) as pool:
            found = CommandBus(pool).find_by_id(beginning, limit)
        note_more(found, limit)
        _show_found(found, as_json=as_json)
        return
    created_after, created_before = read_span(after, before)
    with open_pool(database_url) as pool:
        bus = CommandBus(pool)
        chosen = None if domain is None else known_domain(pool, domain)
        found = []
        key = None if start is None else read_key(start, "start")
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
                start=key,
                limit=limit - len(found),
            )
            found += page.commands
            key = page.next_key
            if not page.is_cut_short or len(found) >= limit:
                break
    if key is not None:
        note(f"the first {limit:,}: there may be more, go on with --start {write_key(key)}")
    _show_found(found, as_json=as_json)


def _show_found(found: list[CommandMetadata], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        print_rows([row_of(command) for command in found], _FOUND)
