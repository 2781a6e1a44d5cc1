"""`commandbus batch …`: commands that are counted together."""

from typing import Annotated

import typer

from commandbus.cli.options import (
    AnyDomain,
    AsJson,
    BatchId,
    DatabaseUrl,
    Domain,
    Limit,
    Offset,
    examples,
    known_domain,
    open_pool,
)
from commandbus.cli.output import note_more, print_facts, print_json, print_rows, row_of
from commandbus.errors import BatchNotFoundError
from commandbus.models import BatchMetadata, BatchStatus, CommandStatus
from commandbus.sync.bus import CommandBus

app = typer.Typer(help="Batches of commands.", no_args_is_help=True, rich_markup_mode=None)

_BATCH = "payments 0b8e2c4e-5f0f-4d5b-8a34-3c8a0e0f7d21"
_BATCH_COLUMNS = (
    "domain",
    "batch_id",
    "name",
    "status",
    "total_count",
    "completed_count",
    "failed_count",
    "canceled_count",
    "in_troubleshooting_count",
    "created_at",
)
_COMMAND_COLUMNS = ("command_id", "command_type", "status", "attempts", "last_error_code", "updated_at")


@app.command("list", epilog=examples("batch list payments", "batch list payments --status IN_PROGRESS --json"))
def list_(
    domain: AnyDomain = None,
    status: Annotated[BatchStatus | None, typer.Option(help="Only these.")] = None,
    limit: Limit = 100,
    offset: Offset = 0,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the batches of a domain, or all, newest first."""
    with open_pool(database_url) as pool:
        chosen = None if domain is None else known_domain(pool, domain)
        batches = CommandBus(pool).list_batches(chosen, status=status, limit=limit, offset=offset)
    note_more(batches, limit, "--limit and --offset")
    rows = [row_of(batch, without=("custom_data",)) for batch in batches]
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, _BATCH_COLUMNS)


@app.command(epilog=examples(f"batch show {_BATCH}"))
def show(domain: Domain, batch_id: BatchId, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Show a batch and its counters."""
    with open_pool(database_url) as pool:
        batch = CommandBus(pool).get_batch(domain, batch_id)
    if batch is None:
        raise BatchNotFoundError(f'batch {batch_id} not found in domain "{domain}"')
    _print(batch, as_json)


@app.command(epilog=examples(f"batch commands {_BATCH} --status FAILED"))
def commands(
    domain: Domain,
    batch_id: BatchId,
    status: Annotated[CommandStatus | None, typer.Option(help="Only these.")] = None,
    limit: Limit = 100,
    offset: Offset = 0,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """List a batch's commands, oldest first."""
    with open_pool(database_url) as pool:
        found = CommandBus(pool).list_batch_commands(domain, batch_id, status=status, limit=limit, offset=offset)
    note_more(found, limit, "--limit and --offset")
    if as_json:
        print_json(found)
    else:
        print_rows([row_of(command) for command in found], _COMMAND_COLUMNS)


@app.command(epilog=examples(f"batch wait {_BATCH} --timeout 600"))
def wait(
    domain: Domain,
    batch_id: BatchId,
    timeout: Annotated[float, typer.Option(help="How long, up to 86,400.", metavar="SECONDS")] = 30.0,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Wait until every command of a batch is completed, failed or canceled. Exit code 1 when that takes too long."""
    with open_pool(database_url) as pool:
        batch = CommandBus(pool).wait_for_batch(domain, batch_id, timeout=timeout)
    _print(batch, as_json)


def _print(batch: BatchMetadata, as_json: bool) -> None:
    row = row_of(batch, without=("custom_data",))
    if as_json:
        print_json(row)
    else:
        print_facts(row)
