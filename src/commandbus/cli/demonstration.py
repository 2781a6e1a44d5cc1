"""`commandbus demo`: the whole story on a server of its own."""

from typing import Annotated

import typer

from commandbus.cli.options import AsJson, examples
from commandbus.cli.output import print_json, row_of
from commandbus.demo import MOST_COMMANDS, print_report, run_demo
from commandbus.payload import check_count

EXAMPLES = examples("demo", "demo --commands 2000 --processes 1", "demo --keep")
_MOST_PROCESSES = 16


def demo(
    commands: Annotated[int, typer.Option(help="Commands to send.", metavar="N")] = 10_000,
    processes: Annotated[int, typer.Option(help="Worker processes.", metavar="N")] = 2,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server and its data for a look.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a scratch PostgreSQL, let thousands of commands run and fail, repair them, and check the books.

    Exit code 1 when a number is off. Nothing is left behind, unless --keep says so.
    """
    check_count(commands, "commands", 100, MOST_COMMANDS)
    check_count(processes, "processes", 1, _MOST_PROCESSES)
    report = run_demo(commands, processes, keep=keep)
    if as_json:
        print_json(row_of(report) | {"is_right": report.is_right})
    else:
        print_report(report)
    if not report.is_right:
        raise typer.Exit(1)
