"""`commandbus migrate …`: the schema of any server, and the history that it shares with Flyway."""

import os
from typing import Annotated

import typer

from commandbus import migrate as migrations
from commandbus._interrupt import INTERRUPTED
from commandbus.cli.options import AsJson, DatabaseUrl, examples, resolve_url
from commandbus.cli.output import note, print_json, print_rows, row_of
from commandbus.cli.problem import BAD_INPUT, Problem
from commandbus.errors import InvalidArgumentError, MigrationError
from commandbus.migrate import Migration, MigrationPlan

VARIABLE = "FLYWAY_PLACEHOLDERS_"  # and the placeholder's name, as Flyway reads it
SWITCH = "FLYWAY_PLACEHOLDER_REPLACEMENT"

app = typer.Typer(
    help="Bring a database to the schema of this version; nothing happens when it has it.",
    epilog=examples("migrate", "migrate --dry-run", "migrate --sql > pending.sql", "migrate info --json"),
    invoke_without_command=True,
    rich_markup_mode=None,
)

Directory = Annotated[
    str | None, typer.Option(help="Where the files are; by default the library's own.", metavar="DIRECTORY")
]
WithE2e = Annotated[bool, typer.Option("--with-e2e", help="Also the files for tests.")]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "--placeholder",
        help=f"A value for ${{NAME}} in files; also {VARIABLE}NAME. Repeatable.",
        metavar="NAME=VALUE",
    ),
]
Off = Annotated[bool, typer.Option("--no-placeholders", help=f"Leave ${{...}} in files alone; also {SWITCH}=false.")]


@app.callback()
def migrate(
    context: typer.Context,
    with_e2e: WithE2e = False,
    target: Annotated[str | None, typer.Option(help="Last version to apply.", metavar="VERSION")] = None,
    directory: Directory = None,
    placeholder: Given = None,
    no_placeholders: Off = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be applied.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Only print what would be run, as a script for psql.")] = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Apply what is pending."""
    if context.invoked_subcommand is not None:
        _refuse_misplaced(context)
        return
    if sql and as_json:
        raise Problem("--sql prints a script, not JSON: leave out --json", BAD_INPUT)
    url = resolve_url(database_url)
    values = _placeholders(placeholder, no_placeholders)
    if dry_run or sql:
        _show(
            migrations.plan(url, directories=directory, target=target, with_e2e=with_e2e, placeholders=values),
            sql=sql,
            as_json=as_json,
        )
        return
    try:
        result = migrations.migrate(
            url, directories=directory, target=target, with_e2e=with_e2e, placeholders=values, on_progress=_tell
        )
    except KeyboardInterrupt:
        raise Problem("interrupted; what was not finished is undone", INTERRUPTED) from None
    applied = [migration.script for migration in result.applied]
    if applied and migrations.roles_of(url) is not None:
        note('the schema was given to roles: run "commandbus grant" again')
    if as_json:
        skipped = [migration.script for migration in result.skipped]
        print_json({"applied": applied, "skipped": skipped, "installed_pgmq": result.installed_pgmq})
        return
    if result.installed_pgmq:
        typer.echo(f"installed PGMQ {result.installed_pgmq}")
    typer.echo(f"applied {', '.join(applied)}" if applied else "nothing to apply")


def _show(planned: MigrationPlan, *, sql: bool, as_json: bool) -> None:
    pending = [migration.script for migration in planned.migrations]
    if sql:
        typer.echo(planned.sql, nl=False)
    elif as_json:
        print_json({"pending": pending, "installs_pgmq": planned.installs_pgmq})
    else:
        if planned.installs_pgmq:
            typer.echo(f"would install PGMQ {planned.installs_pgmq}")
        typer.echo(f"would apply {', '.join(pending)}" if pending else "nothing to apply")


def _tell(migration: Migration, seconds: float) -> None:
    note(f"{migration.script}: {seconds:.2f} s")


def _refuse_misplaced(context: typer.Context) -> None:
    """An option before the subcommand would be read and forgotten."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.replace("as_json", "json").replace("_", "-")
            raise Problem(f'write --{option} after "migrate {context.invoked_subcommand}"', BAD_INPUT)


def _placeholders(given: list[str] | None, off: bool) -> dict[str, str] | None:
    """Return the values from the environment and, before those, from the command line; None for no replacement."""
    if off or os.environ.get(SWITCH, "").lower() == "false":
        return None
    found = {name.removeprefix(VARIABLE): value for name, value in os.environ.items() if name.startswith(VARIABLE)}
    values = {name.lower(): value for name, value in found.items()}
    for option in given or []:
        name, equals, value = option.partition("=")
        if not name or not equals:
            raise InvalidArgumentError("placeholder", "must be a name, an equals sign and a value: name=value")
        values[name.lower()] = value
    return values


@app.command(epilog=examples("migrate info", "migrate info --json"))
def info(
    with_e2e: WithE2e = False,
    directory: Directory = None,
    placeholder: Given = None,
    no_placeholders: Off = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the migrations and how each stands in the database."""
    values = _placeholders(placeholder, no_placeholders)
    found = migrations.info(resolve_url(database_url), directories=directory, with_e2e=with_e2e, placeholders=values)
    if as_json:
        print_json(found)
    else:
        columns = ("version", "description", "type", "state", "installed_on", "checksum")
        print_rows([row_of(row) for row in found], columns)


@app.command(epilog=examples("migrate validate"))
def validate(
    with_e2e: WithE2e = False,
    directory: Directory = None,
    placeholder: Given = None,
    no_placeholders: Off = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make sure that the database has exactly what the files say. Exit code 1 names each problem."""
    values = _placeholders(placeholder, no_placeholders)
    url = resolve_url(database_url)
    try:
        found = migrations.validate(url, directories=directory, with_e2e=with_e2e, placeholders=values)
    except MigrationError as error:
        raise Problem("\n".join(error.problems), problems=error.problems) from None
    if as_json:
        print_json({"problems": [], "migrations": found})
    else:
        typer.echo("the database has what the files say")


@app.command(epilog=examples("migrate baseline --version 1", 'migrate baseline --version 0 --description "before us"'))
def baseline(
    version: Annotated[str, typer.Option(help="Last version the database has already; 0 for none.", metavar="VERSION")],
    description: Annotated[str | None, typer.Option(help="What the history says of it.", metavar="TEXT")] = None,
    directory: Directory = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Begin the history of a database that was made by other means; none of its migrations is run."""
    url = resolve_url(database_url)
    if description is None:
        written = migrations.baseline(url, version=version, directories=directory)
    else:
        written = migrations.baseline(url, version=version, description=description, directories=directory)
    if as_json:
        print_json({"version": version, "written": written})
    else:
        typer.echo(
            f"the history begins after version {version}" if written else "the history has this baseline already"
        )


@app.command(epilog=examples("migrate repair"))
def repair(
    directory: Directory = None,
    placeholder: Given = None,
    no_placeholders: Off = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make the history agree with the files, without running any: failed rows, missing files, changed checksums."""
    values = _placeholders(placeholder, no_placeholders)
    result = migrations.repair(resolve_url(database_url), directories=directory, placeholders=values)
    if as_json:
        print_json(row_of(result))
        return
    changes = [f"{what} {', '.join(scripts)}" for what, scripts in row_of(result).items() if scripts]
    typer.echo("\n".join(changes) or "nothing to repair")
