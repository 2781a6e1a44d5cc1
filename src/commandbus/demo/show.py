"""How the demo looks: bars on a terminal, plain lines elsewhere, and the report."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from commandbus.demo.report import Check, Figures, Report
from commandbus.models import BatchMetadata

_LINE_EVERY = 1.0  # seconds


def say(text: str) -> None:
    """Tell what happens, on stderr."""
    _notes().print(text, markup=False, soft_wrap=True)


class LiveView:
    """A batch's counters while they change: bars on a terminal, else at most one line per second.

    Args:
        total: the commands of the batch.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._last_line = ""
        self._line_at = 0.0
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description:>10}"), BarColumn(), TextColumn("{task.completed:>7,.0f}"))
            self._progress = Progress(*columns, TimeElapsedColumn(), console=_notes())

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, batch: BatchMetadata) -> None:
        """Show the counters as they are now."""
        counters = _counters(batch)
        if self._progress is None:
            self._print_line(counters)
            return
        for name, count in counters.items():
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=self._total)
            self._progress.update(self._tasks[name], completed=count)

    def _print_line(self, counters: dict[str, int]) -> None:
        line = ", ".join(f"{count:,} {name}" for name, count in counters.items())
        is_last = sum(counters.values()) == self._total
        if line != self._last_line and (is_last or time.monotonic() - self._line_at >= _LINE_EVERY):
            self._last_line, self._line_at = line, time.monotonic()
            say(f"of {self._total:,}: {line}")


def print_report(report: Report) -> None:
    """Print a report for people, on stdout."""
    out = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    figures = report.figures
    lines = [
        "",
        f"{report.commands:,} commands, {report.processes} worker processes",
        *(f"  {count:>9,} {status}" for status, count in report.statuses.items()),
        f"  {report.retried:>9,} retried by the operator, {report.canceled:,} of them canceled afterwards",
        "",
        f"{figures.per_second:,.0f} commands per second until the operator stepped in ({figures.seconds:.1f} s)",
        f"from send, all at once, to completion: {_latencies(figures)}",
        "",
        f"the audit trail of command {report.trail[0].command_id}:",
        *(f"  {event.timestamp:%H:%M:%S.%f} {event.event_type}{_reason(event.details)}" for event in report.trail),
        "",
        "the books:",
        *(_check_line(check) for check in report.checks),
        "",
        "all numbers are right" if report.is_right else "NUMBERS ARE WRONG",
    ]
    if report.kept:
        lines += [
            "",
            "the server still runs; look around, then stop it:",
            f"  commandbus db psql --data {report.kept}",
            f"  commandbus db stop --data {report.kept}",
        ]
    out.print("\n".join(lines), markup=False, soft_wrap=True)


def _latencies(figures: Figures) -> str:
    return (
        f"p50 {figures.latency_p50:.2f} s, p95 {figures.latency_p95:.2f} s,"
        f" p99 {figures.latency_p99:.2f} s, longest {figures.latency_max:.2f} s"
    )


def _counters(batch: BatchMetadata) -> dict[str, int]:
    return {
        "completed": batch.completed_count,
        "failed": batch.failed_count,
        "canceled": batch.canceled_count,
        "waiting": batch.in_troubleshooting_count,
    }


def _check_line(check: Check) -> str:
    if check.is_right:
        return f"  right  {check.name}: {_brief(check.found)}"
    return f"  WRONG  {check.name}: expected {_brief(check.expected)}, found {_brief(check.found)}"


def _brief(value: object) -> str:
    match value:
        case int():
            return f"{value:,}"
        case dict():
            return ", ".join(f"{name} {_brief(value[name])}" for name in sorted(value))
        case [only]:
            return _brief(only)
        case _:
            return str(value)


def _reason(details: object) -> str:
    """Return what an event's details say in a few words."""
    if not isinstance(details, dict):
        return ""
    words = [str(details[name]) for name in ("reason", "error_code", "operator") if details.get(name)]
    return f" ({', '.join(words)})" if words else ""


def _notes() -> Console:
    return Console(stderr=True, width=None if sys.stderr.isatty() else 200, highlight=False)
