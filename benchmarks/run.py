"""Measures commandbus beside bare PGMQ, in one run, on an embedded PostgreSQL with default settings.

    make bench                            about five minutes
    COMMANDBUS_BENCH_SMOKE=1 make bench   seconds; shows that it works, measures nothing

Three rounds, the contestants by turns; medians; ratios to bare PGMQ. Each phase begins on a fresh database, vacuumed
and checkpointed. A drain's clock runs from the first handler's start until nothing unfinished is left in the store.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from commandbus.embedded import EmbeddedServer
from contestants import CONTESTANTS

SMOKE = bool(os.environ.get("COMMANDBUS_BENCH_SMOKE"))
ROUNDS = 1 if SMOKE else int(os.environ.get("COMMANDBUS_BENCH_ROUNDS", "3"))
DRAIN = 3_000 if SMOKE else int(os.environ.get("COMMANDBUS_BENCH_JOBS", "200000"))
ONE = 100 if SMOKE else 500  # per slice
SLICES = 2 if SMOKE else 20
PACED = 50 if SMOKE else 300
INTERVAL = 0.01
LONGEST_DRAIN = 180.0

Result = dict[str, float]
Phase = Callable[[list[str]], dict[str, Result]]


class Bench:
    """One server, and measurements on it."""

    def __init__(self, server: EmbeddedServer, scratch: Path) -> None:
        self._server = server
        self._scratch = scratch

    def one(self, names: list[str]) -> dict[str, Result]:
        """Return sends per second, each its own commit, one after the other.

        The contestants take turns of a fraction of a second, so that a slow moment of the machine meets them all.
        """
        with ExitStack() as stack:
            senders = {
                name: stack.enter_context(self._sender(name, stack.enter_context(self._database(name))))
                for name in names
            }
            seconds = dict.fromkeys(names, 0.0)
            for turn in range(SLICES):
                for name in names if turn % 2 == 0 else reversed(names):
                    say(senders[name], "GO")
                    seconds[name] += float(read_line(senders[name], "SENT"))
        return {name: {"per_second": SLICES * ONE / seconds[name]} for name in names}

    def drain(self, name: str) -> Result:
        """Return bulk sends per second, then jobs per second and CPU of one worker that empties the queue."""
        with self._database(name) as url:
            bulk = DRAIN / self._call(name, "bulk", url, count=DRAIN)
            settle(url)
            cpu = self._server_cpu()
            with self._worker(name, url, DRAIN) as worker:
                first = int(read_line(worker, "FIRST"))
                read_line(worker, "HANDLED")
                with psycopg.connect(url, autocommit=True) as connection:
                    end = wait_until_empty(connection, CONTESTANTS[name].REMAINING)
                cpu = self._server_cpu() - cpu + cpu_seconds(psutil.Process(worker.pid))
            seconds = end - first / 1e9
            return {"bulk": bulk, "per_second": DRAIN / seconds, "cpu_ms": cpu / DRAIN * 1e3}

    def latency(self, name: str) -> Result:
        """Return milliseconds from the start of a send to the start of its handler, with an idle worker."""
        file = self._scratch / "latencies"
        file.unlink(missing_ok=True)
        with self._database(name) as url:
            settle(url)
            with self._worker(name, url, PACED, file) as worker:
                time.sleep(0.5 if SMOKE else 3.0)
                self._call(name, "pace", url, count=PACED, interval=INTERVAL)
                read_line(worker, "FIRST")
                read_line(worker, "HANDLED")
            values = sorted(int(line) / 1e6 for line in file.read_text().split())
        return {"p50": values[len(values) // 2], "p99": values[int(len(values) * 0.99)]}

    @contextmanager
    def _database(self, name: str) -> Iterator[str]:
        database = f"bench_{name}"
        self._server.drop_database(database)
        url = self._server.create_database(database)
        self._call(name, "setup", url)
        settle(url)
        yield url
        self._server.drop_database(database)

    def _call(self, name: str, action: str, url: str, **options: float) -> float:
        done = subprocess.run(
            [*command(name, action), json.dumps({"url": url, **options})],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{name} {action}: {done.stderr[-2000:]}")
        return float(json.loads(done.stdout.splitlines()[-1])["seconds"])

    @contextmanager
    def _worker(
        self, name: str, url: str, count: int, latency_file: Path | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        options = {
            "url": url,
            "count": count,
            "listen": latency_file is not None,
            "latency_file": latency_file and str(latency_file),
        }
        worker = subprocess.Popen(
            [*command(name, "work"), json.dumps(options)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with ended(worker):
            read_line(worker, "READY")
            say(worker, "GO")
            yield worker

    @contextmanager
    def _sender(self, name: str, url: str) -> Iterator[subprocess.Popen[str]]:
        options = json.dumps({"url": url, "count": ONE})
        sender = subprocess.Popen(
            [*command(name, "one"), options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with ended(sender):
            read_line(sender, "READY")
            yield sender

    def _server_cpu(self) -> float:
        pid = self._server.status().pid
        assert pid is not None
        return cpu_seconds(psutil.Process(pid))


def command(name: str, action: str) -> list[str]:
    """Return how one action is started."""
    return [sys.executable, str(Path(__file__).with_name("contestants.py")), name, action]


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """End a process when the block ends."""
    try:
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def say(process: subprocess.Popen[str], word: str) -> None:
    """Write a line to a process."""
    assert process.stdin is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()


def read_line(worker: subprocess.Popen[str], word: str) -> str:
    """Return what follows *word* on the worker's next line."""
    assert worker.stdout is not None
    line = worker.stdout.readline().split()
    if not line or line[0] != word:
        raise RuntimeError(f"worker said {line} in place of {word}")
    return " ".join(line[1:])


def wait_until_empty(connection: psycopg.Connection[Any], remaining: str) -> float:
    """Return the monotonic time at which nothing was left to do."""
    deadline = time.monotonic() + LONGEST_DRAIN
    while time.monotonic() < deadline:
        row = connection.execute(remaining).fetchone()
        if row == (False,):
            return time.monotonic()
        time.sleep(0.003)
    raise TimeoutError("the drain did not end")


def settle(url: str) -> None:
    """Give everyone the same start: statistics present, nothing dirty."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum analyze")
        connection.execute("checkpoint")


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process and all its descendants, ended ones included."""
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def measure(bench: Bench) -> dict[str, dict[str, list[Result]]]:
    """Return the results of every phase and contestant, one per round."""

    def by_turns(run: Callable[[str], Result]) -> Phase:
        return lambda names: {name: run(name) for name in names}

    phases = {"one": bench.one, "drain": by_turns(bench.drain), "latency": by_turns(bench.latency)}
    results: dict[str, dict[str, list[Result]]] = {phase: {name: [] for name in CONTESTANTS} for phase in phases}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("measuring", total=ROUNDS * len(phases))
        for turn in range(ROUNDS):
            names = list(CONTESTANTS) if turn % 2 == 0 else list(CONTESTANTS)[::-1]
            for phase, run in phases.items():
                progress.update(task, description=f"round {turn + 1}: {phase}")
                for name, result in run(names).items():
                    results[phase][name].append(result)
                progress.advance(task)
    return results


def report(results: dict[str, dict[str, list[Result]]]) -> list[dict[str, Any]]:
    """Return one row per figure: medians of both, their ratio, the floor and the goal."""

    def median(phase: str, name: str, key: str) -> float:
        return statistics.median(result[key] for result in results[phase][name])

    rows = []
    for title, phase, key, floor, goal in (
        ("drain, 1 worker, jobs/s", "drain", "per_second", 0.6, 1.0),
        ("one send, one commit, /s", "one", "per_second", 0.85, 1.0),
        ("bulk send, /s", "drain", "bulk", 0.5, 0.8),
        ("idle latency p50, ms", "latency", "p50", 1.5, 1.1),
        ("idle latency p99, ms", "latency", "p99", 2.0, 1.5),
        ("CPU per command, ms", "drain", "cpu_ms", None, None),
    ):
        bare, bus = median(phase, "bare", key), median(phase, "bus", key)
        rows.append({"figure": title, "bare": bare, "bus": bus, "ratio": bus / bare, "floor": floor, "goal": goal})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(title=f"medians of {ROUNDS}, {DRAIN:,} commands per drain")
    for column in ("", "bare PGMQ", "commandbus", "ratio", "floor", "goal"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        digits = 0 if row["bare"] > 100 else 3
        limits = ["" if row[k] is None else f"{row[k]} x" for k in ("floor", "goal")]
        table.add_row(
            row["figure"], f"{row['bare']:,.{digits}f}", f"{row['bus']:,.{digits}f}", f"{row['ratio']:.2f}", *limits
        )
    Console(width=100).print(table)


def main() -> None:
    """Measure, print the table, and write all results beside it as JSON if a file is named."""
    with tempfile.TemporaryDirectory(prefix="commandbus-bench-", ignore_cleanup_errors=True) as scratch:
        Path(scratch).chmod(0o755)
        server = EmbeddedServer(Path(scratch) / "postgres").start()
        try:
            results = measure(Bench(server, Path(scratch)))
        finally:
            server.destroy()
    rows = report(results)
    show(rows)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps({"rows": rows, "results": results}, indent=1))


if __name__ == "__main__":
    main()
