"""The run itself, from the empty server to the checked books."""

import time
from collections import Counter
from uuid import UUID, uuid4

from commandbus.demo.books import check_books, measure
from commandbus.demo.handlers import TABLES
from commandbus.demo.plan import DOMAIN, Fate, Plan, make_plan
from commandbus.demo.report import Check, Report, Waiting
from commandbus.demo.show import LiveView, say
from commandbus.demo.stage import Crew, DemoError, interruptible, scratch_directory, scratch_server, workers
from commandbus.migrate import migrate
from commandbus.models import BatchMetadata
from commandbus.sync.bus import CommandBus
from commandbus.sync.pool import CommandBusPool
from commandbus.sync.repositories import PgmqClient
from commandbus.sync.troubleshooting import TroubleshootingQueue

REPLIES = f"{DOMAIN}__replies"
OPERATOR = "demo"
_LOOK_EVERY = 0.1
_STALLED = 60.0  # seconds without any change
_SET = 1_000


def run_demo(commands: int, processes: int, *, keep: bool = False) -> Report:
    """Run the demo and return its report; progress goes to stderr.

    Args:
        commands: how many to send, 100 to 1,000,000.
        processes: worker processes, from 1.
        keep: leave the server running, with its data.

    Raises:
        EmbeddedServerError: there is no server to be had.
        DemoError: workers ended, or nothing moves any more.
    """
    with interruptible(), scratch_directory(keep) as directory, scratch_server(directory, keep) as server:
        say("migrating")
        url = server.url()
        migrate(url)
        with CommandBusPool(database_url=url, listen_database_url=None, pgbouncer=False) as pool:
            story = _Story(pool, make_plan(commands))
            story.prepare()
            with workers(url, processes, directory / "workers.log") as crew:
                say(f"starting {processes} worker processes")
                crew.wait_until_started(processes)
                story.tell(crew)
                exit_code = crew.stop()
            return story.report(processes, exit_code, str(server.data_directory) if keep else None)


class _Story:
    """One run on a migrated database."""

    def __init__(self, pool: CommandBusPool, plan: Plan) -> None:
        self._pool = pool
        self._plan = plan
        self._bus = CommandBus(pool)
        self._tsq = TroubleshootingQueue(pool)
        self._batch_id = uuid4()
        self._waiting: list[Waiting] = []
        self._retried: list[UUID] = []
        self._canceled: list[UUID] = []

    def prepare(self) -> None:
        """Make the demo's domain and tables."""
        self._bus.create_domain(DOMAIN)
        with self._pool.connection() as connection:
            connection.execute(TABLES)

    def tell(self, crew: Crew) -> None:
        """Send, watch, repair."""
        say(f"sending {len(self._plan.commands):,} commands as one batch")
        self._bus.create_batch(DOMAIN, self._plan.commands, batch_id=self._batch_id, name="demo", on_complete=REPLIES)
        with LiveView(len(self._plan.commands)) as view:
            self._watch(crew, view)
        self._waiting = self._look()
        for found in self._waiting:
            say(f"waiting for an operator: {found.commands:,} {found.command_type}, {found.error_code}")
        self._retry()
        with LiveView(len(self._plan.commands)) as view:
            self._watch(crew, view)
        self._cancel()
        self._bus.wait_for_batch(DOMAIN, self._batch_id, timeout=_STALLED)

    def report(self, processes: int, exit_code: int, kept: str | None) -> Report:
        """Return what happened, and whether all of it is as planned."""
        batch = self._batch()
        with self._pool.connection() as connection:
            checks = check_books(connection, self._plan, batch)
            figures = measure(connection)
        checks.append(Check("exit code of the workers", 0, exit_code))
        checks.append(Check("completion message of the batch", [_essence(batch)], self._take_messages()))
        checks.append(Check("commands that wait for an operator", 0, self._tsq.count_troubleshooting()))
        metrics = PgmqClient(self._pool).metrics(DOMAIN)
        checks.append(Check("commands in the queue or scheduled", 0, metrics.length + metrics.scheduled))
        rescued = next(command for command in self._plan.commands if command.data["fate"] is Fate.LOCKED)
        return Report(
            commands=len(self._plan.commands),
            processes=processes,
            batch_id=self._batch_id,
            waiting=self._waiting,
            retried=len(self._retried),
            canceled=len(self._canceled),
            statuses={
                "COMPLETED": batch.completed_count,
                "FAILED": batch.failed_count,
                "CANCELED": batch.canceled_count,
            },
            figures=figures,
            trail=self._bus.get_audit_trail(rescued.command_id, DOMAIN),
            checks=checks,
            kept=kept,
        )

    def _watch(self, crew: Crew, view: LiveView) -> None:
        """Return when no command is on its way any more: each ended, or waits for the operator."""
        last, changed_at = self._batch(), time.monotonic()
        while True:
            batch = self._batch()
            view.update(batch)
            if _resting(batch) == batch.total_count:
                return
            crew.check()
            if batch != last:
                last, changed_at = batch, time.monotonic()
            elif time.monotonic() - changed_at > _STALLED:
                raise DemoError(f"nothing moved for {_STALLED:g} seconds")
            time.sleep(_LOOK_EVERY)

    def _look(self) -> list[Waiting]:
        """Count what waits by type and reason."""
        found: Counter[tuple[str, str | None]] = Counter()
        while page := self._tsq.list_troubleshooting(DOMAIN, limit=_SET, offset=found.total()):
            found.update((item.command_type, item.last_error_code) for item in page)
        return [Waiting(command_type, code, count) for (command_type, code), count in sorted(found.items())]

    def _retry(self) -> None:
        """Repair what can be repaired, and try everything again."""
        with self._pool.connection() as connection:
            connection.execute("insert into commandbus_demo.unlocking values (%s)", (OPERATOR,))
        say("the operator unlocks the accounts and retries everything that waits")
        ids = self._tsq.list_command_ids(DOMAIN)
        for start in range(0, len(ids), _SET):
            verdicts = self._tsq.retry_many(DOMAIN, ids[start : start + _SET], OPERATOR)
            self._retried += [verdict.command_id for verdict in verdicts if verdict.refusal is None]

    def _cancel(self) -> None:
        """Give up what came back."""
        ids = self._tsq.list_command_ids(DOMAIN)
        say(f"the operator cancels the {len(ids):,} that came back")
        for start in range(0, len(ids), _SET):
            chosen = ids[start : start + _SET]
            verdicts = self._tsq.cancel_many(DOMAIN, chosen, "the account stays closed", OPERATOR)
            self._canceled += [verdict.command_id for verdict in verdicts if verdict.refusal is None]

    def _take_messages(self) -> list[dict[str, object]]:
        """Empty the reply queue; return what its messages say about batches."""
        queues = PgmqClient(self._pool)
        found = []
        while messages := queues.read(REPLIES, batch_size=100):
            for message in messages:
                found.append({name: message.message.get(name) for name in _essence(self._batch())})
                queues.delete(REPLIES, message.msg_id)
        return found

    def _batch(self) -> BatchMetadata:
        batch = self._bus.get_batch(DOMAIN, self._batch_id)
        if batch is None:
            raise DemoError(f"batch {self._batch_id} is gone")
        return batch


def _resting(batch: BatchMetadata) -> int:
    return batch.completed_count + batch.failed_count + batch.canceled_count + batch.in_troubleshooting_count


def _essence(batch: BatchMetadata) -> dict[str, object]:
    """Return what a completion message must say about a batch."""
    return {
        "batch_id": str(batch.batch_id),
        "status": batch.status,
        "total_count": batch.total_count,
        "completed_count": batch.completed_count,
        "failed_count": batch.failed_count,
        "canceled_count": batch.canceled_count,
    }
