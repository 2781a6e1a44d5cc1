"""`commandbus demo`: the whole story on a server of its own."""

from typing import Annotated

import typer

from commandbus.cli.options import AsJson, examples
from commandbus.cli.output import print_json, row_of
from commandbus.cli.problem import BAD_INPUT, Problem
from commandbus.demo import MOST_COMMANDS, print_report, run_console, run_demo
from commandbus.payload import check_count

EXAMPLES = examples("demo", "demo --commands 2000 --processes 1", "demo --keep", "demo --console")
_MOST_PROCESSES = 16


def demo(
    commands: Annotated[int, typer.Option(help="Commands to send.", metavar="N")] = 10_000,
    processes: Annotated[int, typer.Option(help="Worker processes.", metavar="N")] = 2,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server and its data for a look.")] = False,
    console: Annotated[
        bool, typer.Option("--console", help="Instead, let a shop go on by itself, and serve the console on it.")
    ] = False,
    port: Annotated[int | None, typer.Option(help="Of the console, by default 8080.", metavar="N")] = None,
    as_json: AsJson = False,
) -> None:
    """Start a scratch PostgreSQL, let thousands of commands run and fail, repair them, and check the books.

    Exit code 1 when a number is off. Nothing is left behind, unless --keep says so.
    """
    if console:
        _serve(port, keep, as_json)
        return
    if port is not None:
        raise Problem("--port is the console's: add --console", BAD_INPUT)
    check_count(commands, "commands", 100, MOST_COMMANDS)
    check_count(processes, "processes", 1, _MOST_PROCESSES)
    report = run_demo(commands, processes, keep=keep)
    if as_json:
        print_json(row_of(report) | {"is_right": report.is_right})
    else:
        print_report(report)
    if not report.is_right:
        raise typer.Exit(1)


def _serve(port: int | None, keep: bool, as_json: bool) -> None:
    if keep or as_json:
        raise Problem(f"--console has no {'--keep' if keep else '--json'}: its data is gone when it ends", BAD_INPUT)
    try:
        run_console(port)
    except ModuleNotFoundError as error:
        raise Problem(f"the console needs {error.name}: pip install 'commandbus-pg[console]'") from None
