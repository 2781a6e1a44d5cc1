"""`commandbus status` and `commandbus audit`: one command's state and story."""

from typing import Annotated

import typer

from commandbus.cli.options import AsJson, CommandId, DatabaseUrl, Domain, examples, open_pool
from commandbus.cli.output import print_facts, print_json, print_rows, row_of
from commandbus.errors import CommandNotFoundError
from commandbus.sync.bus import CommandBus

STATUS_EXAMPLES = examples("status payments 6f1c0a52-7f0e-4b1e-9d55-0d8f5f3f6a11")
AUDIT_EXAMPLES = examples("audit 6f1c0a52-7f0e-4b1e-9d55-0d8f5f3f6a11")


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


def audit(
    command_id: CommandId,
    domain: Annotated[str | None, typer.Option(help="Only of this domain.", metavar="DOMAIN")] = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Tell what happened to a command, or to a batch, oldest first."""
    with open_pool(database_url) as pool:
        trail = CommandBus(pool).get_audit_trail(command_id, domain)
    if not trail:
        raise CommandNotFoundError(domain, command_id, f"nothing is known of {command_id}")
    if as_json:
        print_json(trail)
    else:
        print_rows([row_of(event) for event in trail], ("timestamp", "domain", "event_type", "details"))
