"""The sync twin: the same names, the same answers, without an event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

import commandbus
from commandbus import Worker, sync
from commandbus.sync import (
    BatchCommand,
    CommandBus,
    CommandBusPool,
    CommandCanceledError,
    CommandFailedError,
    CommandStatus,
    DuplicateCommandError,
    InvalidArgumentError,
    InvalidOperationError,
    PgmqClient,
    PostgresAuditLogger,
    PostgresBatchRepository,
    PostgresPayloadArchive,
    QueueNotFoundError,
    ReplyTimeoutError,
    SendRequest,
    TroubleshootingQueue,
)
from tests.integration.live import registry_of, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from commandbus import Command, HandlerContext

TWINS = [
    "CommandBus",
    "CommandBusPool",
    "TroubleshootingQueue",
    "Maintenance",
    "Operations",
    "Redrives",
    "PostgresOperations",
    "PostgresRedrives",
    "PgmqClient",
    "PostgresAuditLogger",
    "PostgresBatchRepository",
    "PostgresCommandRepository",
    "PostgresPayloadArchive",
    "PostgresMaintenance",
]


@pytest.fixture
def bus(sync_pool: CommandBusPool) -> CommandBus:
    """A bus whose domain is made."""
    made = CommandBus(sync_pool)
    assert made.create_domain("pay") is True
    return made


async def charge(command: Command, _: HandlerContext) -> object:
    """Do as the command says."""
    match command.data.get("then"):
        case "refuse":
            raise commandbus.BusinessRuleException("NO", "not allowed")
        case "break":
            raise commandbus.PermanentCommandError("BROKEN", "cannot work")
    return command.data


@pytest.fixture
def worker(bus: CommandBus, database_url: str) -> Iterator[None]:
    """A worker in a thread with a loop of its own, as in another process."""
    assert bus is not None
    begun, stop = threading.Event(), threading.Event()

    async def work() -> None:
        async with commandbus.CommandBusPool(database_url=database_url) as pool:
            one = Worker(pool, "pay", registry_of(charge=charge))
            run = asyncio.create_task(one.run(4, 0.05))

            async def has_begun() -> bool:
                return one.is_running

            async def is_told() -> bool:
                return stop.is_set()

            await until(has_begun)
            begun.set()
            await until(is_told, 60)
            await one.stop()
            await run

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(asyncio.run, work())
        try:
            assert begun.wait(15)
            yield
        finally:
            stop.set()
            running.result(15)


def send(bus: CommandBus, data: dict[str, Any] | None = None, **options: Any) -> UUID:
    """Send one command, return its id."""
    command_id = options.pop("command_id", None) or uuid4()
    bus.send("pay", "charge", command_id, data or {}, **options)
    return command_id


def wait_for_status(bus: CommandBus, command_id: UUID, wanted: str) -> None:
    """Return when a command has a status."""
    deadline = time.monotonic() + 15
    while True:
        command = bus.get_command("pay", command_id)
        if command is not None and command.status == wanted:
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_public_method_has_its_twin_with_the_same_parameters() -> None:
    for name in TWINS:
        written, printed = getattr(commandbus, name), getattr(sync, name)
        assert printed.__module__.startswith("commandbus.sync.")
        for method, function in inspect.getmembers(written, inspect.isfunction):
            if not method.startswith("_") and function.__module__.startswith("commandbus."):
                twin = getattr(printed, method)
                assert not inspect.iscoroutinefunction(twin)
                assert list(inspect.signature(twin).parameters) == list(inspect.signature(function).parameters)


def test_everything_exported_is_there_and_models_and_errors_are_the_same_objects() -> None:
    for name in sync.__all__:
        assert hasattr(sync, name)
        if name not in TWINS:
            assert getattr(sync, name) is getattr(commandbus, name)


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("kind", ["plain", "dict rows", "pool"])
def test_a_send_is_sent_if_and_only_if_the_callers_transaction_commits(
    bus: CommandBus, sync_pool: CommandBusPool, database_url: str, kind: str, commits: bool
) -> None:
    ids = [uuid4() for _ in range(4)]

    def send_all(connection: psycopg.Connection[Any]) -> None:
        bus.send("pay", "charge", ids[0], {}, conn=connection)
        bus.send_batch([SendRequest("pay", "charge", i, {}) for i in ids[1:3]], chunk_size=1, conn=connection)
        bus.create_batch("pay", [BatchCommand("charge", ids[3], {})], conn=connection)

    if kind == "pool":
        with sync_pool.connection() as own, own.transaction(force_rollback=not commits):
            send_all(own)
            assert not bus.command_exists("pay", ids[0])
    else:
        connect: Any = psycopg.Connection[Any].connect
        with connect(database_url, **({"row_factory": dict_row} if kind == "dict rows" else {})) as connection:
            send_all(connection)
            assert not bus.command_exists("pay", ids[3])
            (connection.commit if commits else connection.rollback)()
    assert [bus.command_exists("pay", command_id) for command_id in ids] == [commits] * 4


def test_call_returns_or_raises_what_became_of_the_command(
    bus: CommandBus, sync_pool: CommandBusPool, worker: None
) -> None:
    assert worker is None
    assert bus.call("pay", "charge", {"n": 1}, timeout=10) == {"n": 1}
    with pytest.raises(CommandFailedError, match="not allowed"):
        bus.call("pay", "charge", {"then": "refuse"}, timeout=10)
    with pytest.raises(ReplyTimeoutError) as late:
        bus.call("pay", "charge", {"then": "break"}, timeout=0)
    command_id = late.value.command_id
    assert command_id is not None
    wait_for_status(bus, command_id, CommandStatus.IN_TROUBLESHOOTING_QUEUE)
    TroubleshootingQueue(sync_pool).operator_cancel("pay", command_id, "given up")
    assert bus.wait_for_reply("pay__replies", command_id).error_message == "given up"
    assert issubclass(CommandCanceledError, commandbus.CommandBusError)


def test_batches_are_made_waited_for_and_told(bus: CommandBus, worker: None) -> None:
    assert worker is None
    told: list[Any] = []
    arrived = threading.Event()

    def tell(batch: Any) -> None:
        told.append(batch)
        arrived.set()

    made = bus.create_batch("pay", [BatchCommand("charge", uuid4(), {}) for _ in range(5)], on_complete=tell)
    batch = bus.wait_for_batch("pay", made.batch_id)
    assert arrived.wait(10)
    assert (batch.completed_count, told[0].batch_id) == (5, made.batch_id)
    assert len(bus.list_batch_commands("pay", made.batch_id)) == 5
    assert [listed.batch_id for listed in bus.list_batches("pay")] == [made.batch_id]
    with pytest.raises(InvalidOperationError):
        send(bus, batch_id=made.batch_id)


def test_operators_verdicts(bus: CommandBus, sync_pool: CommandBusPool, worker: None) -> None:
    assert worker is None
    tsq = TroubleshootingQueue(sync_pool)
    ids = [send(bus, {"then": "break"}) for _ in range(3)]
    for command_id in ids:
        wait_for_status(bus, command_id, CommandStatus.IN_TROUBLESHOOTING_QUEUE)
    assert sorted(tsq.list_command_ids("pay")) == sorted(ids)
    assert (tsq.count_troubleshooting(), tsq.list_domains()) == (3, ["pay"])
    message = PostgresPayloadArchive(sync_pool).get("pay", ids[0])
    assert message is not None
    assert message["data"] == {"then": "break"}
    tsq.operator_complete("pay", ids[0], "done")
    assert tsq.operator_retry("pay", ids[1]) > 0
    wait_for_status(bus, ids[1], CommandStatus.IN_TROUBLESHOOTING_QUEUE)
    with pytest.raises(InvalidOperationError, match="COMPLETED"):
        tsq.operator_retry("pay", ids[0])
    verdicts = tsq.cancel_many("pay", ids, "no")
    assert sorted(str(one.refusal) for one in verdicts) == ["COMPLETED", "None", "None"]


def test_queries_and_repositories(bus: CommandBus, sync_pool: CommandBusPool) -> None:
    command_id = send(bus)
    assert [command.command_id for command in bus.query_commands()] == [command_id]
    PostgresAuditLogger(sync_pool).log("pay", command_id, "NOTE")
    assert [event.event_type for event in bus.get_audit_trail(command_id)] == ["SENT", "NOTE"]
    assert PostgresBatchRepository(sync_pool).list("pay") == []
    queues = PgmqClient(sync_pool)
    queues.create_queue("plain")
    assert [m.msg_id for m in queues.read("plain", batch_size=5)] == []
    sent = queues.send("plain", {"n": 1})
    assert [(m.msg_id, m.message) for m in queues.read("plain")] == [(sent, {"n": 1})]
    assert queues.delete("plain", sent)
    assert queues.metrics("pay").length == 1


def test_what_is_refused_is_refused_in_the_same_words(bus: CommandBus) -> None:
    command_id = send(bus)
    with pytest.raises(DuplicateCommandError, match=str(command_id)):
        send(bus, command_id=command_id)
    with pytest.raises(QueueNotFoundError):
        bus.send("nowhere", "charge", uuid4(), {})
    with pytest.raises(InvalidArgumentError, match="domain"):
        bus.send("Pay", "charge", uuid4(), {})
    with pytest.raises(InvalidArgumentError, match=r"psycopg\.Connection"):
        bus.send("pay", "charge", uuid4(), {}, conn=object())  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(InvalidOperationError, match="not open"):
        CommandBus(CommandBusPool(database_url="postgresql:///nowhere")).get_command("pay", command_id)


def test_of_16_threads_that_send_the_same_ids_one_sends_each(bus: CommandBus) -> None:
    ids = [uuid4() for _ in range(40)]

    def send_all(_: int) -> int:
        sent = 0
        for command_id in ids:
            try:
                send(bus, command_id=command_id)
                sent += 1
            except DuplicateCommandError:
                continue
        return sent

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(send_all, range(16))) == 40
    assert len(bus.query_commands()) == 40
