"""`commandbus status`, `message` and `audit`: one command's state, data and story, and what happened to all."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import typer

from commandbus.cli.options import (
    After,
    AsJson,
    Before,
    CommandId,
    DatabaseUrl,
    Domain,
    Limit,
    examples,
    known_domain,
    open_pool,
    read_span,
)
from commandbus.cli.output import note, print_facts, print_json, print_rows, row_of
from commandbus.cli.problem import BAD_INPUT, Problem
from commandbus.errors import CommandNotFoundError, InvalidOperationError
from commandbus.models import AuditEvent
from commandbus.payload import MAX_PAGE, read_event_key, write_event_key
from commandbus.sync.bus import CommandBus

_ID = "6f1c0a52-7f0e-4b1e-9d55-0d8f5f3f6a11"
STATUS_EXAMPLES = examples(f"status payments {_ID}")
MESSAGE_EXAMPLES = examples(f"message payments {_ID}")
AUDIT_EXAMPLES = examples(
    f"audit {_ID}", "audit --domain payments --event OPERATOR_CANCEL --after 7d", f"audit --correlation-id {_ID}"
)
_COLUMNS = ("timestamp", "domain", "event_type", "details")


def status(domain: Domain, command_id: CommandId, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Show a command's state, without its data."""
    with open_pool(database_url) as pool:
        command = CommandBus(pool).get_command(domain, command_id)
    if command is None:
        raise CommandNotFoundError(domain, command_id)
    if as_json:
        print_json(command)
    else:
        print_facts(row_of(command))


def message(domain: Domain, command_id: CommandId, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Show the data of a command and where they are: of one that is over only PGMQ's archive may still have them."""
    with open_pool(database_url) as pool:
        bus = CommandBus(pool)
        if not bus.command_exists(domain, command_id):
            raise CommandNotFoundError(domain, command_id)
        found = bus.get_message(domain, command_id, exact=True)
    if found is None:
        raise InvalidOperationError(f"the message of command {command_id} is not kept any more")
    if as_json:
        print_json(found)
    else:
        print_facts(row_of(found))


def audit(
    command_id: Annotated[
        UUID | None, typer.Argument(help="Of this command or batch; of all when left out.", metavar="COMMAND_ID")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="Only of this domain.", metavar="DOMAIN")] = None,
    event_type: Annotated[
        str | None, typer.Option("--event", help="Only of this kind, such as MOVED_TO_TSQ.", metavar="EVENT")
    ] = None,
    after: After = None,
    before: Before = None,
    correlation_id: Annotated[UUID | None, typer.Option(help="Of all commands of a conversation.")] = None,
    start: Annotated[
        str | None,
        typer.Option(help="Go on behind the last one before: its timestamp, _ and its audit_id.", metavar="KEY"),
    ] = None,
    limit: Limit = 100,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Tell what happened: to a command, a batch or a conversation, oldest first; or to all, newest first."""
    if command_id is not None and correlation_id is not None:
        raise Problem("say either the command or the conversation", BAD_INPUT)
    if (command_id or correlation_id) and (event_type or after or before or start):
        raise Problem(
            "--event, --after, --before and --start are for all: a command or a conversation has one story", BAD_INPUT
        )
    begin, end = read_span(after, before)
    end, before_id = _place(start, end)
    with open_pool(database_url) as pool:
        bus = CommandBus(pool)
        if correlation_id is not None:
            found = _of_conversation(bus, domain, correlation_id)
        elif command_id is not None:
            found = bus.get_audit_trail(command_id, domain, exact=True)
        else:
            chosen = None if domain is None else known_domain(pool, domain)
            found = bus.query_audit(
                chosen, event_type, after=begin, before=end, before_id=before_id, limit=limit, exact=True
            )
            if len(found) == limit:
                note(f"the first {limit:,}: there may be more, go on with --start {write_event_key(found[-1])}")
    one = command_id or correlation_id
    if one is not None and not found:
        raise CommandNotFoundError(domain, one, f"nothing is known of {one}")
    if as_json:
        print_json(found)
    else:
        print_rows([row_of(event) for event in found], _COLUMNS if command_id else ("command_id", *_COLUMNS))


def _place(start: str | None, end: datetime | None) -> tuple[datetime | None, int | None]:
    """Return before which time, and at that very time before which event, the list goes on."""
    if start is None:
        return end, None
    at, audit_id = read_event_key(start, "start")
    return (at, audit_id) if end is None or at < end else (end, None)


def _of_conversation(bus: CommandBus, domain: str | None, correlation_id: UUID) -> list[AuditEvent]:
    """Return what happened to the newest commands of a conversation, oldest first."""
    page = bus.find_commands(domain=domain, correlation_id=correlation_id, limit=MAX_PAGE)
    if page.next_key is not None:
        note(f"of the newest {MAX_PAGE:,} commands of the conversation: there may be more")
    events = [
        event
        for command in page.commands
        for event in bus.get_audit_trail(command.command_id, command.domain, exact=True)
    ]
    return sorted(events, key=lambda event: event.audit_id)
