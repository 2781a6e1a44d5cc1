"""The SQL functions as tests call them: one connection, named arguments, rows as dictionaries."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Row = dict[str, Any]

DOMAIN = "pay"
QUEUE = "pay__commands"
REPLIES = "pay__replies"


class Bus:
    """One autocommit connection to a migrated database, and words for what tests do and look at.

    Args:
        url: the database.
        search_path: the session's path; the functions must not care.
    """

    def __init__(self, url: str, search_path: str | None = None) -> None:
        self.url = url
        self.connection = psycopg.connect(url, autocommit=True, row_factory=dict_row, prepare_threshold=None)
        # A test that deadlocks with itself fails, it does not hang.
        self.connection.execute("select pg_catalog.set_config('lock_timeout', '20s', false)")
        if search_path is not None:
            self.connection.execute("select pg_catalog.set_config('search_path', %s, false)", [search_path])

    def rows(self, statement: str, *parameters: object) -> list[Row]:
        """Return the rows of a statement."""
        with self._safe_for(statement):
            return self.connection.execute(statement, parameters or None).fetchall()

    def value(self, statement: str, *parameters: object) -> Any:
        """Return the first column of the only row."""
        (row,) = self.rows(statement, *parameters)
        return next(iter(row.values()))

    def run(self, statement: str, *parameters: object) -> int:
        """Execute a statement and return how many rows it touched."""
        with self._safe_for(statement):
            return self.connection.execute(statement, parameters or None).rowcount

    @contextmanager
    def _safe_for(self, statement: str) -> Iterator[None]:
        """Give PGMQ's own functions, which look names up in the session's path, one without traps."""
        if "select pgmq." not in statement and "from pgmq.s" not in statement:
            yield
            return
        with self.connection.transaction():
            self.connection.execute("set local search_path = pg_catalog")
            yield

    def call(self, function: str, **arguments: object) -> list[Row]:
        """Return the rows of ``commandbus.<function>(p_<name> => <argument>, ...)``."""
        named = sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(f"p_{name}"), sql.Placeholder(name)) for name in arguments
        )
        statement = sql.SQL("select * from commandbus.{}({})").format(sql.Identifier(function), named)
        return self.connection.execute(statement, arguments).fetchall()

    def result(self, function: str, **arguments: object) -> Any:
        """Return the only value of a function."""
        (row,) = self.call(function, **arguments)
        (value,) = row.values()
        return value

    def create_domain(self, domain: str = DOMAIN) -> None:
        """Make a domain's queues."""
        self.call("sp_create_domain", domain=domain)

    def send(
        self, *command_ids: UUID, domain: str = DOMAIN, kind: str = "charge", **options: object
    ) -> dict[UUID, int]:
        """Send commands with ``{"n": <place>}`` as data; return their msg_ids."""
        data = [Jsonb({"n": n}) for n, _ in enumerate(command_ids)]
        arguments: dict[str, object] = {"command_types": [kind] * len(command_ids), "data": data, **options}
        rows = self.call("sp_send_commands", domain=domain, command_ids=list(command_ids), **arguments)
        return {row["command_id"]: row["msg_id"] for row in rows}

    def send_new(self, count: int = 1, **options: Any) -> list[UUID]:
        """Send new commands, return their ids in the order of the queue."""
        command_ids = new_ids(count)
        self.send(*command_ids, **options)
        return command_ids

    def receive(self, limit: int = 100, timeout: int = 30, domain: str = DOMAIN) -> list[Row]:
        """Lease commands."""
        return self.call("sp_receive_commands", domain=domain, limit=limit, visibility_timeout=timeout)

    def settle(
        self, received: Sequence[Row], *outcomes: str, domain: str = DOMAIN, **options: object
    ) -> dict[UUID, str]:
        """End attempts, all by the one outcome or each by its own; return the verdicts on those not settled."""
        rows = self.call(
            "sp_settle_commands",
            domain=domain,
            command_ids=[row["command_id"] for row in received],
            msg_ids=[row["msg_id"] for row in received],
            read_cts=[row["read_ct"] for row in received],
            outcomes=list(outcomes) if len(outcomes) > 1 else list(outcomes) * len(received),
            **options,
        )
        return {row["command_id"]: row["verdict"] for row in rows}

    def park(self, count: int = 1, **options: Any) -> list[UUID]:
        """Send commands and move them to the TSQ; nothing else may be waiting."""
        command_ids = self.send_new(count, **options)
        received = self.receive(limit=max(count, 1), domain=options.get("domain", DOMAIN))
        self.settle(received, "TROUBLESHOOT", domain=options.get("domain", DOMAIN), **errors(count, "PERMANENT"))
        return command_ids

    def create_batch(self, domain: str = DOMAIN, **options: object) -> UUID:
        """Make an empty batch."""
        return UUID(str(self.result("sp_create_batch", domain=domain, batch_id=uuid4(), **options)))

    def command(self, command_id: UUID, domain: str = DOMAIN) -> Row:
        """Return a command's row."""
        (row,) = self.call("get_command", domain=domain, command_id=command_id)
        return row

    def status(self, command_id: UUID, domain: str = DOMAIN) -> str:
        """Return a command's status."""
        return str(self.command(command_id, domain)["status"])

    def batch(self, batch_id: UUID, domain: str = DOMAIN) -> Row:
        """Return a batch's row."""
        (row,) = self.call("get_batch", domain=domain, batch_id=batch_id)
        return row

    def counts(self, batch_id: UUID) -> tuple[int, ...]:
        """Return total, completed, failed, canceled, in troubleshooting."""
        row = self.batch(batch_id)
        names = ("total", "completed", "failed", "canceled", "in_troubleshooting")
        return tuple(row[f"{name}_count"] for name in names)

    def trail(self, command_id: UUID) -> list[Row]:
        """Return the audit rows of a command or batch, oldest first."""
        return self.call("get_audit_trail", command_id=command_id)

    def events(self, command_id: UUID) -> list[str]:
        """Return the audit events of a command or batch, oldest first."""
        return [row["event_type"] for row in self.trail(command_id)]

    def queue(self, queue: str = QUEUE) -> list[Row]:
        """Return the messages of a queue, whether visible or not."""
        return self.rows(f"select msg_id, read_ct, vt, message from pgmq.q_{queue} order by msg_id")

    def archived(self, queue: str = QUEUE) -> list[Row]:
        """Return the messages of PGMQ's archive, as text: some are none that Python can decode."""
        return self.rows(f"select msg_id, message::text from pgmq.a_{queue} order by msg_id")

    def replies(self, queue: str = REPLIES) -> list[Row]:
        """Return the bodies of a reply queue."""
        return [row["message"] for row in self.queue(queue)]

    def scheduled(self, command_id: UUID) -> list[Row]:
        """Return the row of a command that waits for its next attempt, if it does."""
        return self.rows("select * from commandbus.scheduled where command_id = %s", command_id)

    def payload(self, command_id: UUID, domain: str = DOMAIN) -> list[Row]:
        """Return the archived message of a command, if there is one."""
        return self.call("get_payload", domain=domain, command_id=command_id)

    def expire_leases(self, queue: str = QUEUE) -> None:
        """Let every lease run out."""
        self.run(f"update pgmq.q_{queue} set vt = clock_timestamp() - interval '1 second'")

    def make_retries_due(self) -> None:
        """End every wait for a next attempt."""
        self.run("update commandbus.scheduled set due_at = clock_timestamp() - interval '1 second'")

    def enqueue_by_hand(self, message: object, queue: str = QUEUE) -> int:
        """Put a message into a queue behind the library's back; a string is JSON text. Return its msg_id."""
        body = message if message is None or isinstance(message, str) else Jsonb(message)
        return int(self.value(f"insert into pgmq.q_{queue} (vt, message) values (now(), %s) returning msg_id", body))

    def everything(self) -> list[Row]:
        """Return all that the library stores, to see that a call changed nothing."""
        tables = ["command", "batch", "audit", "payload_archive", "scheduled", "undelivered_reply"]
        names = [f"commandbus.{table}" for table in tables] + [f"pgmq.q_{QUEUE}", f"pgmq.q_{REPLIES}"]
        union = " union all ".join(f"select '{name}' as place, to_jsonb(t) as content from {name} t" for name in names)
        return self.rows(f"{union} order by 1, 2")

    def wait_until_blocked(self, seconds: float = 10) -> None:
        """Return as soon as another connection to this database waits for a lock."""
        deadline = time.monotonic() + seconds
        waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        while not self.rows(waiting):
            assert time.monotonic() < deadline, "the other connection never waited"
            time.sleep(0.002)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def send_one(bus: Bus, **arguments: object) -> int:
    """Send one command by the function for one."""
    defaults: dict[str, object] = {
        "domain": DOMAIN,
        "command_id": uuid4(),
        "command_type": "charge",
        "data": Jsonb({"n": 0}),
    }
    return int(bus.result("sp_send_command", **{**defaults, **arguments}))


def send_own(bus: Bus, **arguments: object) -> int:
    """Send one command by its domain's own function."""
    defaults: dict[str, object] = {"command_id": uuid4(), "command_type": "charge", "data": Jsonb({"n": 0})}
    domain = arguments.pop("domain", DOMAIN)
    return int(bus.result(f"send_to_{domain}", **{**defaults, **arguments}))


def send_set(bus: Bus, **arguments: object) -> int:
    """Send one command by the function for sets, with the same arguments; an optional one becomes an array."""
    singles = {"command_id": uuid4(), "command_type": "charge", "data": Jsonb({"n": 0}), **arguments}
    plurals = {
        "command_id": "command_ids",
        "command_type": "command_types",
        "correlation_id": "correlation_ids",
        "reply_queue": "reply_queues",
    }
    lists = ("command_id", "command_type", "data", "correlation_id", "reply_queue", "max_attempts")
    named = {plurals.get(name, name): [value] if name in lists else value for name, value in singles.items()}
    (row,) = bus.call("sp_send_commands", **{"domain": DOMAIN, **named})
    return int(row["msg_id"])


@contextmanager
def open_bus(url: str, search_path: str | None = None) -> Iterator[Bus]:
    """Give a connection, closed afterwards."""
    bus = Bus(url, search_path)
    try:
        yield bus
    finally:
        bus.close()


@contextmanager
def refusal(sqlstate: str, match: str | None = None) -> Iterator[None]:
    """Expect the block to be refused by this SQLSTATE, with a message that matches."""
    with pytest.raises(psycopg.Error, match=match) as caught:
        yield
    assert caught.value.sqlstate == sqlstate


def new_ids(count: int) -> list[UUID]:
    """Return fresh command ids."""
    return [uuid4() for _ in range(count)]


def errors(count: int, kind: str, reason: str | None = None, delay: float | None = None) -> dict[str, Any]:
    """Return the arguments of a settle that describe *count* failed attempts."""
    return {
        "error_types": [kind] * count,
        "error_codes": ["E_TEST"] * count,
        "error_msgs": ["it did not work"] * count,
        "reasons": [reason or kind] * count,
        "delays": [delay] * count,
    }


def in_parallel(url: str, work: Callable[[Bus, int], Any], workers: int) -> list[Any]:
    """Run ``work(bus, number)`` in threads, each on a connection of its own; return the results in order."""

    def run(number: int) -> Any:
        with open_bus(url) as bus:
            return work(bus, number)

    with ThreadPoolExecutor(workers) as threads:
        return list(threads.map(run, range(workers)))


@contextmanager
def in_thread(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Start *work* in a thread and give its future; it has ended when the block has."""
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(work)


def json_text(text: str) -> Jsonb:
    """Return JSON that Python would not write like this."""
    return Jsonb(text, dumps=str)


def ids_of(rows: Iterable[Row]) -> list[UUID]:
    """Return the command ids of rows, in order."""
    return [row["command_id"] for row in rows]
