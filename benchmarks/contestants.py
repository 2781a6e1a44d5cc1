"""What is measured: bare PGMQ through psycopg, and commandbus. One action runs in one process of its own.

    python contestants.py bare|bus setup|one|bulk|pace|work '{"url": ..., ...}'

``setup``, ``bulk`` and ``pace`` print one JSON line. ``one`` prints READY, and SENT with the seconds of a turn for each
line it reads. ``work`` prints READY after its imports, waits for a line, prints FIRST at the
first handler and HANDLED after the last, each with the monotonic clock in nanoseconds, and never ends by itself.
"""

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol
from uuid import UUID, uuid4

import psycopg
from pgmq.install import install_pgmq_from_sql

from commandbus import Command, CommandBusPool, HandlerContext, HandlerRegistry, SendRequest, Worker
from commandbus.migrate import migrate
from commandbus.sync.bus import CommandBus as SyncBus
from commandbus.sync.pool import CommandBusPool as SyncPool

SET = 1_000
BARE_READ = 100  # as the reference measurements
BUS_CONCURRENCY = 1_000


def payload(number: int, sent_at: int = 0) -> dict[str, Any]:
    """Return about 100 bytes of JSON, the same for both."""
    return {"i": number, "t": sent_at, "customer": f"c-{number:08d}", "note": "x" * 36, "amount": 125.5}


class Hook:
    """Called by every handler: counts, and tells the driver of the first and the last; keeps latencies."""

    def __init__(self, count: int, latency_file: str | None) -> None:
        self._count = count
        self._seen = 0
        self._file = os.open(latency_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if latency_file else None

    def __call__(self, sent_at: int) -> None:
        """Count one job; *sent_at* is when its send began."""
        self._seen += 1
        if self._seen == 1:
            tell(f"FIRST {time.monotonic_ns()}")
        if self._file is not None:
            os.write(self._file, b"%d\n" % (time.monotonic_ns() - sent_at))
        if self._seen == self._count:
            tell(f"HANDLED {time.monotonic_ns()}")


def tell(line: str) -> None:
    """Print a line for the driver."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Contestant(Protocol):
    """The same work, done one way."""

    REMAINING: str  # SQL: is there anything that is not done and stored?

    def setup(self, url: str) -> None:
        """Make the schema in an empty database."""

    def sender(
        self, url: str
    ) -> tuple[Callable[[UUID, dict[str, Any]], object], Callable[[Sequence[dict[str, Any]]], object]]:
        """Return what sends one job in one commit, and what sends a set of jobs."""

    def work(self, url: str, hook: Hook, *, listen: bool) -> None:
        """Handle jobs for ever."""


class Bare:
    """PGMQ's functions and nothing else: read, delete."""

    REMAINING = "select exists (select from pgmq.q_bench)"

    def setup(self, url: str) -> None:
        """Make one queue, with PGMQ's own trigger for wake-ups."""
        with psycopg.connect(url, autocommit=True) as connection:
            install_pgmq_from_sql(conn=connection)
            connection.execute("select pgmq.create('bench')")

    def sender(
        self, url: str
    ) -> tuple[Callable[[UUID, dict[str, Any]], object], Callable[[Sequence[dict[str, Any]]], object]]:
        """Return pgmq.send and pgmq.send_batch."""
        connection = psycopg.connect(url, autocommit=True)

        def one(_: UUID, job: dict[str, Any]) -> object:
            return connection.execute("select pgmq.send('bench', %s::jsonb)", (json.dumps(job),)).fetchone()

        def many(jobs: Sequence[dict[str, Any]]) -> object:
            return connection.execute(
                "select * from pgmq.send_batch('bench', %s::jsonb[])", ([json.dumps(job) for job in jobs],)
            ).fetchall()

        return one, many

    def work(self, url: str, hook: Hook, *, listen: bool) -> None:
        """Read in sets and delete each set after its handlers."""
        connection = psycopg.connect(url, autocommit=True)
        if listen:
            connection.execute("select pgmq.enable_notify_insert('bench', 0)")
            connection.execute('listen "pgmq.q_bench.INSERT"')
        read = "select msg_id, message from pgmq.read('bench', 60, %s)"
        delete = "select count(*) from pgmq.delete('bench', %s::bigint[])"
        while True:
            rows = connection.execute(read, (BARE_READ,)).fetchall()
            if not rows:
                for _ in connection.notifies(timeout=1.0, stop_after=1):
                    pass
                continue
            for _, job in rows:
                hook(job["t"])
            connection.execute(delete, ([msg_id for msg_id, _ in rows],)).fetchone()


class Bus:
    """commandbus as its users have it: everything durable, audited and leased."""

    REMAINING = (
        "select exists (select from pgmq.q_bench__commands)"
        " or exists (select from commandbus.command where status <> 'COMPLETED')"
    )

    def setup(self, url: str) -> None:
        """Migrate, and make one domain."""
        migrate(url)
        with SyncPool(database_url=url) as pool:
            SyncBus(pool).create_domain("bench")

    def sender(
        self, url: str
    ) -> tuple[Callable[[UUID, dict[str, Any]], object], Callable[[Sequence[dict[str, Any]]], object]]:
        """Return the bus's send and send_batch, of the twin without an event loop as the other side has none."""
        pool = SyncPool(database_url=url)
        pool.open()
        bus = SyncBus(pool)

        def one(command_id: UUID, job: dict[str, Any]) -> object:
            return bus.send("bench", "Noop", command_id, job)

        def many(jobs: Sequence[dict[str, Any]]) -> object:
            return bus.send_batch([SendRequest("bench", "Noop", uuid4(), job) for job in jobs])

        return one, many

    def work(self, url: str, hook: Hook, *, listen: bool) -> None:
        """Run a worker."""
        registry = HandlerRegistry()

        @registry.handler("bench", "Noop")
        async def noop(command: Command, _: HandlerContext) -> None:
            hook(command.data["t"])

        async def run() -> None:
            async with CommandBusPool(database_url=url) as pool:
                await Worker(pool, "bench", registry, visibility_timeout=60).run(
                    concurrency=BUS_CONCURRENCY, use_notify=listen
                )

        asyncio.run(run())


CONTESTANTS: dict[str, Contestant] = {"bare": Bare(), "bus": Bus()}


def sets(count: int) -> Iterator[list[dict[str, Any]]]:
    """Yield *count* jobs in sets."""
    for start in range(0, count, SET):
        yield [payload(i) for i in range(start, min(start + SET, count))]


def send_one_by_one(contestant: Contestant, url: str, count: int) -> None:
    """For each line from the driver, tell the seconds that *count* sends take, one after the other."""
    one, _ = contestant.sender(url)
    for i in range(20):
        one(uuid4(), payload(i))
    tell("READY")
    for _ in sys.stdin:
        jobs = [(uuid4(), payload(i)) for i in range(count)]  # what a sender has before it sends
        start = time.monotonic()
        for command_id, job in jobs:
            one(command_id, job)
        tell(f"SENT {time.monotonic() - start}")


def send_in_sets(contestant: Contestant, url: str, count: int) -> float:
    """Return the seconds that sending *count* jobs in sets takes."""
    _, many = contestant.sender(url)
    start = time.monotonic()
    for jobs in sets(count):
        many(jobs)
    return time.monotonic() - start


def send_paced(contestant: Contestant, url: str, count: int, interval: float) -> float:
    """Send one job every *interval* seconds; return the seconds it took."""
    one, _ = contestant.sender(url)
    start = time.monotonic()
    for i in range(count):
        time.sleep(max(0.0, start + i * interval - time.monotonic()))
        one(uuid4(), payload(i, time.monotonic_ns()))
    return time.monotonic() - start


def main() -> None:
    """Run one action."""
    contestant, action, options = CONTESTANTS[sys.argv[1]], sys.argv[2], json.loads(sys.argv[3])
    url = options["url"]
    if action == "work":
        gc.collect()
        gc.freeze()  # as `commandbus worker` does
        gc.set_threshold(10_000)
        tell("READY")
        sys.stdin.readline()
        contestant.work(url, Hook(options["count"], options["latency_file"]), listen=options["listen"])
        return
    seconds = 0.0
    if action == "setup":
        contestant.setup(url)
    elif action == "one":
        send_one_by_one(contestant, url, options["count"])
    elif action == "bulk":
        seconds = send_in_sets(contestant, url, options["count"])
    else:
        seconds = send_paced(contestant, url, options["count"], options["interval"])
    tell(json.dumps({"seconds": seconds}))
    sys.stdout.flush()
    os._exit(0)  # connections are closed by their end


if __name__ == "__main__":
    main()
