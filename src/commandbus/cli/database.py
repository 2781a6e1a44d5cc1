"""`commandbus db …`: the embedded server."""

import os
from pathlib import Path
from typing import Annotated

import typer

from commandbus.cli.options import AsJson, examples
from commandbus.cli.output import print_facts, print_json, row_of
from commandbus.cli.problem import Problem
from commandbus.embedded import EmbeddedServer, EmbeddedStatus, default_data_directory, psql_path

app = typer.Typer(help="The embedded PostgreSQL.", no_args_is_help=True, rich_markup_mode=None)

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Data directory; by default .commandbus/postgres.", metavar="DIRECTORY"),
]
Database = Annotated[str, typer.Option("--database", help="The database.", metavar="NAME")]


def _server(data: Path | None) -> EmbeddedServer:
    return EmbeddedServer(data or default_data_directory())


def _print_status(status: EmbeddedStatus, as_json: bool) -> None:
    row = row_of(status)
    if as_json:
        print_json(row)
    else:
        print_facts(row)


@app.command(epilog=examples("db start", "db start --data /var/lib/app/postgres"))
def start(data: Data = None, as_json: AsJson = False) -> None:
    """Start the embedded server, making its data first; nothing happens when it runs."""
    _print_status(_server(data).start().status(), as_json)


@app.command(epilog=examples("db stop"))
def stop(data: Data = None, as_json: AsJson = False) -> None:
    """Stop the embedded server; its data stay. Nothing happens when it is not running."""
    server = _server(data)
    server.stop()
    _print_status(server.status(), as_json)


@app.command(epilog=examples("db status --json"))
def status(data: Data = None, as_json: AsJson = False) -> None:
    """Tell whether the embedded server runs. Exit code 1 when it does not."""
    found = _server(data).status()
    _print_status(found, as_json)
    if not found.running:
        raise typer.Exit(1)


@app.command(epilog=examples("db url", "db url --database app"))
def url(data: Data = None, database: Database = "postgres", as_json: AsJson = False) -> None:
    """Print the URL of the running embedded server."""
    found = _server(data).url(database)
    if as_json:
        print_json({"url": found})
    else:
        typer.echo(found)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["--help"]},
    epilog=examples("db psql", 'db psql -c "select * from commandbus.batch"'),
)
def psql(context: typer.Context, data: Data = None, database: Database = "postgres") -> None:
    """Run psql on the embedded server; all other arguments are psql's."""
    program = psql_path()
    found = _server(data).url(database)
    try:
        os.execv(program, [str(program), "-d", found, *context.args])  # noqa: S606  (there is no shell in between)
    except OSError as error:
        raise Problem(f"psql cannot be run: {error.strerror}") from None
