"""`commandbus verify` and `commandbus grant`: is the schema what the migrations made, and who may use it?"""

from dataclasses import asdict
from typing import Annotated

import typer

from commandbus.cli.options import AsJson, DatabaseUrl, examples, resolve_url
from commandbus.cli.output import counted, note, print_json, printable
from commandbus.migrate import grant as grant_roles
from commandbus.migrate import verify as find_differences

VERIFY_EXAMPLES = examples("verify", "verify --json")
GRANT_EXAMPLES = examples("grant --dry-run", "grant", "grant --app shop_app --operator shop_support")


def verify(
    with_e2e: Annotated[
        bool, typer.Option("--with-e2e", help="The tables for tests must be there; else only compared where they are.")
    ] = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Name everything in which a database differs from what the migrations make, one line each.

    Only catalogs are read. Exit code 1 when there is a difference.
    """
    differences = find_differences(resolve_url(database_url), with_e2e=with_e2e)
    if as_json:
        print_json({"ok": not differences, "differences": differences})
    for difference in () if as_json else differences:
        typer.echo(printable(str(difference)))
    if differences:
        note(counted(len(differences), "difference"))
        raise typer.Exit(1)
    if not as_json:
        typer.echo("the database is as the migrations make it")


def _role(purpose: str) -> object:
    return typer.Option(help=f"Role {purpose}; by default as the last time.", metavar="NAME")


def grant(
    owner: Annotated[str | None, _role("that owns everything")] = None,
    app: Annotated[str | None, _role("of senders and workers")] = None,
    operator: Annotated[str | None, _role("of operators, who see payloads")] = None,
    readonly: Annotated[str | None, _role("of dashboards, without payloads")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "--sql", help="Print the statements, change nothing.")] = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Let senders, workers and operators call functions, and nobody touch tables; repeat it after each migration.

    Makes the roles that are missing, without login, and takes every other right on schema commandbus away.
    """
    result = grant_roles(
        resolve_url(database_url), owner=owner, app=app, operator=operator, readonly=readonly, dry_run=dry_run
    )
    if as_json:
        print_json({"roles": asdict(result.names), "statements": result.statements, "executed": not dry_run})
    elif dry_run:
        for statement in result.statements:
            typer.echo(f"{printable(statement)};")
        note(f"{counted(len(result.statements), 'statement')}, not executed")
    else:
        count = len(result.statements)
        typer.echo(f"{counted(count, 'statement')} executed" if count else "nothing to do")
