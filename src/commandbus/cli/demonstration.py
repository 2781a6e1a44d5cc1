"""`commandbus demo`: the whole story on a server of its own."""

from collections.abc import Sequence
from typing import Annotated

import typer

from commandbus.cli.options import AsJson, examples
from commandbus.cli.output import print_json, row_of
from commandbus.cli.problem import BAD_INPUT, Problem
from commandbus.demo import MOST_COMMANDS, print_report, run_console, run_demo
from commandbus.payload import check_count

EXAMPLES = examples("demo", "demo --commands 2000 --processes 1", "demo --keep", "demo --console")
_COMMANDS = 10_000
_PROCESSES = 2
_MOST_PROCESSES = 16


def demo(
    commands: Annotated[
        int | None, typer.Option(help=f"Commands to send, by default {_COMMANDS:,}.", metavar="N")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help=f"Worker processes, by default {_PROCESSES}.", metavar="N")
    ] = None,
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
        others = {"--commands": commands is not None, "--processes": processes is not None}
        _serve(port, [name for name, is_given in (others | {"--keep": keep, "--json": as_json}).items() if is_given])
        return
    if port is not None:
        raise Problem("--port is the console's: add --console", BAD_INPUT)
    commands = check_count(_COMMANDS if commands is None else commands, "commands", 100, MOST_COMMANDS)
    processes = check_count(_PROCESSES if processes is None else processes, "processes", 1, _MOST_PROCESSES)
    report = run_demo(commands, processes, keep=keep)
    if as_json:
        print_json(row_of(report) | {"is_right": report.is_right})
    else:
        print_report(report)
    if not report.is_right:
        raise typer.Exit(1)


def _serve(port: int | None, others: Sequence[str]) -> None:
    if others:
        raise Problem(f"--console has no {others[0]}: its shop goes on until it ends, and its data with it", BAD_INPUT)
    try:
        run_console(port)
    except ModuleNotFoundError as error:
        raise Problem(f"the console needs {error.name}: pip install 'commandbus-pg[console]'") from None
