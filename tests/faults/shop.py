"""A database under fault: worker processes that can be stopped and killed, and a sender that keeps a ledger."""

from __future__ import annotations

import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg

from commandbus.sync import BatchCommand, CommandBus, CommandBusError, CommandBusPool
from tests.cli_process import COMMAND, environment, wait_for
from tests.faults.handlers import DOMAIN, TABLES
from tests.faults.invariants import Ledger, broken_rules, undecided

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
REPLIES = f"{DOMAIN}__replies"


class Shop:
    """Everything one test needs.

    Args:
        url: a migrated database.
        log: where the worker processes write what they log.
    """

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.log = log
        self.ledger = Ledger()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(TABLES)
        self.pool = CommandBusPool(database_url=url)
        self.pool.open()
        self.bus = CommandBus(self.pool)
        self.bus.create_domain(DOMAIN)

    def send(self, kind: str, data: dict[str, Any] | None = None, **options: Any) -> UUID:
        """Send a command that asks for a reply; note what is known about it."""
        command_id = uuid4()
        self.ledger.unknown.add(command_id)
        self.bus.send(DOMAIN, kind, command_id, data or {}, reply_to=REPLIES, **options)
        self.ledger.acknowledged.add(command_id)
        return command_id

    def create_batch(self, kind: str, **options: Any) -> UUID:
        """Make a batch of one command; note it."""
        command = BatchCommand(kind, uuid4(), {}, reply_to=REPLIES, **options)
        self.ledger.acknowledged.add(command.command_id)
        return self.bus.create_batch(DOMAIN, [command]).batch_id

    def try_to_send(self, kind: str, **options: Any) -> None:
        """Send a command; that it fails is only a fact for the ledger."""
        try:
            self.send(kind, **options)
        except CommandBusError:
            return

    @contextmanager
    def worker(self, *, visibility_timeout: int = 1, concurrency: int = 4) -> Iterator[subprocess.Popen[bytes]]:
        """Give a worker process; killed at the end if it still runs."""
        options = {
            "--domain": DOMAIN,
            "--concurrency": concurrency,
            "--poll-interval": 0.1,
            "--visibility-timeout": visibility_timeout,
            "--retry-delays": 0,
            "--grace": 10,
        }
        words = [str(word) for option in options.items() for word in option]
        command = [*COMMAND, "worker", "tests.faults.handlers:registry", *words]
        with (
            self.log.open("ab") as log,
            subprocess.Popen(command, cwd=ROOT, env=environment(self.url), stdout=log, stderr=log) as process,
        ):
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGCONT)
                    process.kill()

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, on a connection of its own."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return [] if cursor.description is None else cursor.fetchall()

    def wait_for_mark(self, command_id: UUID, attempt: int) -> int:
        """Return the process that began an attempt, as soon as it has."""
        found: list[tuple[Any, ...]] = []

        def has_begun() -> bool:
            statement = "select pid from public.mark where command_id = %s and attempt = %s"
            found[:] = self.rows(statement, command_id, attempt)
            return bool(found)

        wait_for(has_begun)
        return int(found[0][0])

    def wait_for_status(self, command_id: UUID, status: str) -> None:
        """Return when a command has a status."""
        statement = "select status from commandbus.command where command_id = %s"
        wait_for(lambda: self.rows(statement, command_id) == [(status,)])

    def events(self, command_id: UUID) -> list[str]:
        """Return a command's audit events, oldest first."""
        return [str(event.event_type) for event in self.bus.get_audit_trail(command_id)]

    def effects(self) -> int:
        """Return how many effects there are."""
        return int(self.rows("select count(*) from public.effect")[0][0])

    def wait_for_effects(self, more: int) -> None:
        """Return when there are so many effects more than now."""
        goal = self.effects() + more
        wait_for(lambda: self.effects() >= goal)

    def stop(self, *processes: subprocess.Popen[bytes]) -> None:
        """End workers by SIGTERM; they must do so cleanly and in time."""
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            assert process.wait(15) == 0, self.log.read_text()

    def drain(self, seconds: float = 40) -> None:
        """Return when every command is final or with an operator."""
        wait_for(lambda: undecided(self.url) == 0, seconds)

    def check(self) -> None:
        """Fail unless every rule holds."""
        assert broken_rules(self.url, self.ledger) == {}, self.log.read_text()[-4000:]
