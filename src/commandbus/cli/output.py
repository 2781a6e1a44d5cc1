"""What commands print: one JSON document, or tables and facts for people."""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence, Sized
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from commandbus.payload import counted as counted
from commandbus.payload import write_json

_WIDEST = 10_000  # columns where nobody looks at a screen: nothing is wrapped or cut

Row = Mapping[str, Any]


def open_closed_streams() -> None:
    """Let a stream that this process was started without, as by ``>&-``, be /dev/null.

    Otherwise a connection would get its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  (it stays open)


def results() -> Console:
    """Return what writes to stdout."""
    return Console(width=None if sys.stdout.isatty() else _WIDEST, highlight=False)


def notes() -> Console:
    """Return what writes to stderr."""
    return Console(stderr=True, width=None if sys.stderr.isatty() else _WIDEST, highlight=False)


def wants_json() -> bool:
    """Return whether the command line asks for JSON, also where it cannot be parsed."""
    return "--json" in sys.argv


def note(text: str) -> None:
    """Tell people something that is no result; programs, which asked for JSON, are told errors only."""
    if wants_json():
        return
    notes().print(Text(printable(text)), soft_wrap=True)


def note_more(rows: Sized, limit: int, options: str = "--limit") -> None:
    """Tell people that a list may go on, when it has as many rows as it may, and which *options* show the rest."""
    if len(rows) == limit:
        note(f"the first {limit:,}: there may be more, see {options}")


def printable(text: str) -> str:
    """Return *text* with visible escapes in place of what could steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def row_of(record: Any, *, without: Sequence[str] = ()) -> dict[str, Any]:  # noqa: ANN401  (any of our records)
    """Return a record's fields by name, in their order."""
    if dataclasses.is_dataclass(record):
        names = [field.name for field in dataclasses.fields(record)]
    else:
        names = list(record._fields)
    return {name: getattr(record, name) for name in names if name not in without}


def print_json(value: object) -> None:
    """Print one JSON document; records become objects, ids, times and paths their text."""
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = write_json(value, json.JSONEncoder(default=_to_json, ensure_ascii=not is_unicode), indent=2)
    sys.stdout.write(_without_hidden(text) + "\n")


def error_json(error: Row) -> str:
    """Return the JSON document that goes to stderr for an error."""
    return _without_hidden(json.dumps({"error": error}, default=_to_json))


def _without_hidden(text: str) -> str:
    """Return a JSON text with JSON's own escapes in place of what is not seen, or could steer a terminal."""
    lines = (line if line.isprintable() else "".join(map(_json_escape, line)) for line in text.split("\n"))
    return "\n".join(lines)


def _json_escape(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


def print_rows(rows: Sequence[Row], columns: Sequence[str] | None = None) -> None:
    """Print a table of these columns, by default all of the first row; say so when there are no rows."""
    if not rows:
        note("nothing found")
        return
    columns = columns or list(rows[0])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = all(isinstance(row[column], int | float | None) for row in rows)
        is_id = column.endswith("_id")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=is_id)
    for row in rows:
        table.add_row(*(Text(_cell(row[column])) for column in columns))
    console = results()
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():  # without the blanks that fill the last column
        sys.stdout.write(line.rstrip() + "\n")


def print_facts(facts: Row) -> None:
    """Print names and values, one pair per line."""
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        results().print(Text(f"{name:<{width}}{_cell(value)}"), soft_wrap=True)


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.isoformat(sep=" ", timespec="milliseconds")
        case float():
            return f"{value:,.3f}"
        case dict() | list():
            return printable(write_json(value, json.JSONEncoder(default=_to_json, ensure_ascii=False)))
        case _:
            return printable(str(value))


def _to_json(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if dataclasses.is_dataclass(value):
        return row_of(value)
    return str(value)
