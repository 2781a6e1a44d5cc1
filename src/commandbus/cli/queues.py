"""`commandbus queue …`: the queues of domains."""

import typer

from commandbus.cli.options import (
    AnyDomain,
    AsJson,
    DatabaseUrl,
    Domain,
    Operator,
    Reason,
    examples,
    known_domain,
    login,
    open_pool,
)
from commandbus.cli.output import print_json, print_rows, row_of
from commandbus.sync.operations import Operations
from commandbus.sync.repositories import PgmqClient

app = typer.Typer(help="The queues of domains.", no_args_is_help=True, rich_markup_mode=None)

_PAUSE = ("paused_at", "paused_by")


@app.command(epilog=examples("queue create payments"))
def create(domain: Domain, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Make a domain's command queue and reply queue; nothing happens when they are there."""
    with open_pool(database_url) as pool:
        is_new = PgmqClient(pool).create_domain(domain)
    if as_json:
        print_json({"domain": domain, "created": is_new})
    else:
        typer.echo(f"{domain}: {'created' if is_new else 'was there already'}")


@app.command("list", epilog=examples("queue list"))
def list_(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """List the domains that have queues."""
    with open_pool(database_url) as pool:
        domains = PgmqClient(pool).list_domains()
    if as_json:
        print_json(domains)
    else:
        print_rows([{"domain": domain} for domain in domains])


@app.command(epilog=examples("queue stats", "queue stats payments --json"))
def stats(domain: AnyDomain = None, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Count what is in the command queues now."""
    with open_pool(database_url) as pool:
        queues = PgmqClient(pool)
        domains = [domain] if domain else queues.list_domains()
        rows = [{"domain": name} | row_of(queues.metrics(name)) for name in domains]
        held = {one.domain: one for one in Operations(pool).overview(domain)}
    rows = [row | {name: getattr(held.get(row["domain"]), name, None) for name in _PAUSE} for row in rows]
    if as_json:
        print_json(rows)
    else:
        print_rows([{name: row[name] for name in row if name != "queue_name"} for row in rows])


@app.command(epilog=examples("queue pause payments --reason 'the bank is away'"))
def pause(
    domain: Domain,
    reason: Reason = None,
    operator: Operator = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Let no worker have a domain's commands until "queue resume"; what runs goes on, what is sent waits."""
    with open_pool(database_url) as pool:
        is_new = Operations(pool).pause(domain, operator or login(), reason)
    if as_json:
        print_json({"domain": domain, "paused": is_new})
    else:
        typer.echo(f"{domain}: {'paused' if is_new else 'was paused already'}")


@app.command(epilog=examples("queue resume payments"))
def resume(
    domain: Domain,
    reason: Reason = None,
    operator: Operator = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Let workers have a domain's commands again."""
    with open_pool(database_url) as pool:
        was_paused = Operations(pool).resume(known_domain(pool, domain), operator or login(), reason)
    if as_json:
        print_json({"domain": domain, "resumed": was_paused})
    else:
        typer.echo(f"{domain}: {'resumed' if was_paused else 'was not paused'}")
