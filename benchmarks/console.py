"""How long the server works at each page of the console, with many commands in the database.

    python -m benchmarks.console              1,000,000 commands, about three minutes; exits 1 above the limit
    python -m benchmarks.console 10000        fewer

Every page is asked for five times, each time by a console that has forgotten what it looked up before. The time is
that of the whole request, database included; the median counts. On a machine that does other things as well, look at
the fastest.
"""

import statistics
import sys
import time

from flask import Flask
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tests.integration.console.large import fill_for_pages, pages
from tests.integration.sql_helpers import open_bus

from commandbus.console import ConsoleSettings, create_app
from commandbus.console.recent import EXTENSION
from commandbus.migrate import migrate
from commandbus.sync import CommandBusPool
from commandbus.testing import temporary_server

COMMANDS = 1_000_000
LIMIT = 300.0  # milliseconds
ROUNDS = 5


def measure(app: Flask, path: str) -> float:
    """Return the milliseconds of one page."""
    app.extensions[EXTENSION].forget()
    began = time.perf_counter()
    answer = app.test_client().get(path)
    took = (time.perf_counter() - began) * 1_000
    assert answer.status_code == 200, (path, answer.status_code)
    return took


def main() -> int:
    """Fill, measure, print; return 1 when a page takes too long."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COMMANDS
    out = Console()
    with temporary_server() as server, server.database() as url:
        migrate(url)
        with open_bus(url) as bus, CommandBusPool(database_url=url) as pool:
            with out.status(f"making {count:,} commands"):
                world = fill_for_pages(bus, count)
            app = create_app(pool, settings=ConsoleSettings.load())
            found = list(pages(app, bus, world))
            took: dict[str, list[float]] = {}
            for path in track(found, "measuring", console=out, transient=True):
                measure(app, path)  # templates are compiled and connections made once
                took[path] = sorted(measure(app, path) for _ in range(ROUNDS))
    median = {path: statistics.median(some) for path, some in took.items()}
    table = Table(
        "page", "ms", "fastest", "of the limit", title=f"{count:,} commands, median of {ROUNDS}, limit {LIMIT:.0f} ms"
    )
    for path, milliseconds in sorted(median.items(), key=lambda item: -item[1]):
        style = "red" if milliseconds > LIMIT else None
        table.add_row(path, f"{milliseconds:.0f}", f"{took[path][0]:.0f}", f"{milliseconds / LIMIT:.2f}", style=style)
    out.print(table)
    return int(max(median.values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
