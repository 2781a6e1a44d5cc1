"""Every public door against values it must refuse: an error of ours that names the field, and no SQL at all.

The pool is never opened, so whatever gets past its door fails with another error.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from commandbus import (
    BatchCommand,
    CommandBus,
    CommandBusPool,
    CommandBusSettings,
    HandlerRegistry,
    InvalidArgumentError,
    InvalidOperationError,
    Maintenance,
    PgmqClient,
    RetryPolicy,
    SendRequest,
    TroubleshootingQueue,
    Worker,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "S3CRET"  # noqa: S105  (a canary: no error repeats what it refuses)
ID = UUID("00000000-0000-0000-0000-000000000001")

NO_DOMAINS: list[Any] = [
    "", "A", "Pay", "a b", 'a"; drop table x; --', "a'", "a" * 38, "é", "1a", "_a", "a-b", "a.b", "a\n", "a\0",
    "\ud800", "\uff41", "a" * 300, SECRET, None, 5, b"a", ["a"], ("a",), True, object(),
]  # fmt: skip
NO_QUEUES: list[Any] = ["", "Q", "a b", 'q"', "é", "a" * 48, "a\n", "a\0", None, 5, b"a"]
NO_REPLY_QUEUES: list[Any] = [*NO_QUEUES, "pay__commands", "__replies", "pay__replies ", "a" * 38 + "__replies"]
NO_TYPES: list[Any] = ["", "x" * 201, "a\0", "a\nb", "\ud800", None, 5, b"a", ["a"]]
NO_IDS: list[Any] = [None, "", 0, 1, "abc", "0" * 32, f"{{{ID}}}", f"urn:uuid:{ID}", f"{ID} ", b"x" * 16, ["a"]]
NO_COUNTS: list[Any] = [0, -1, True, 1.0, "1", None, float("nan"), 10**30, [1]]
NO_SECONDS: list[Any] = [-1, True, "1", None, float("nan"), float("inf"), 10**30, [1]]
NO_TIMES: list[Any] = [datetime(2026, 1, 1), "2026-01-01", 5, datetime.now(UTC).date()]  # noqa: DTZ001  (without a zone on purpose)
NO_TEXTS: list[Any] = ["", "a\0", "\ud800", 5, b"a", "x" * 3000]

CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE


def nested(levels: int) -> dict[str, Any]:
    """Return an object of that many levels."""
    inner: dict[str, Any] = {}
    for _ in range(levels - 1):
        inner = {"a": inner}
    return inner


NO_VALUES: list[Any] = [
    {"a": float("nan")}, {"a": float("-inf")}, {"a": SECRET + "\0"}, {"\0": 1}, {"a": "\ud800"}, {"a": {1}},
    {"a": b"x"}, {"a": object()}, CYCLE, nested(65), {"a": "x" * 262_144}, {"a": 10**5000}, {1: 2}, {"a": {None: 1}},
    {"a": datetime(2026, 1, 1)}, {"a": 1j},  # noqa: DTZ001  (without a zone on purpose)
]  # fmt: skip
NO_POOLS: list[Any] = [None, "postgresql:///app", object()]
NO_DATA: list[Any] = [*NO_VALUES, None, [], "text", 5, b"x", object()]


@dataclass
class Doors:
    """Everything public, on a pool that cannot reach anything."""

    bus: CommandBus
    tsq: TroubleshootingQueue
    worker: Worker
    queues: PgmqClient
    registry: HandlerRegistry
    pool: CommandBusPool


@pytest.fixture
async def doors() -> Doors:
    """All doors."""
    pool = CommandBusPool(database_url=f"postgresql://nobody:{SECRET}@127.0.0.1:1/nowhere")
    return Doors(
        CommandBus(pool),
        TroubleshootingQueue(pool),
        Worker(pool, "pay"),
        PgmqClient(pool),
        HandlerRegistry(),
        pool,
    )


def request(**fields: Any) -> list[SendRequest]:
    """Return two requests, the second with these fields."""
    good = {"domain": "pay", "command_type": "charge", "command_id": ID, "data": {}}
    return [SendRequest("pay", "charge", uuid4(), {}), SendRequest(**{**good, **fields})]


def command(**fields: Any) -> list[BatchCommand]:
    """Return two commands of a batch, the second with these fields."""
    good = {"command_type": "charge", "command_id": ID, "data": {}}
    return [BatchCommand("charge", uuid4(), {}), BatchCommand(**{**good, **fields})]


def some(values: list[Any]) -> list[Any]:
    """Return the values of which None is not the default."""
    return [value for value in values if value is not None]


DOORS: list[tuple[str, str, list[Any], Callable[[Doors, Any], object]]] = [
    ("create_domain", "domain", NO_DOMAINS, lambda d, x: d.bus.create_domain(x)),
    ("send", "domain", NO_DOMAINS, lambda d, x: d.bus.send(x, "t", ID, {})),
    ("send", "command_type", NO_TYPES, lambda d, x: d.bus.send("pay", x, ID, {})),
    ("send", "command_id", NO_IDS, lambda d, x: d.bus.send("pay", "t", x, {})),
    ("send", "data", NO_DATA, lambda d, x: d.bus.send("pay", "t", ID, x)),
    ("send", "correlation_id", some(NO_IDS), lambda d, x: d.bus.send("pay", "t", ID, {}, x)),
    ("send", "reply_to", some(NO_REPLY_QUEUES), lambda d, x: d.bus.send("pay", "t", ID, {}, reply_to=x)),
    ("send", "max_attempts", [*some(NO_COUNTS), 1001], lambda d, x: d.bus.send("pay", "t", ID, {}, max_attempts=x)),
    ("send", "batch_id", some(NO_IDS), lambda d, x: d.bus.send("pay", "t", ID, {}, batch_id=x)),
    ("send", "conn", [5, "conn", object()], lambda d, x: d.bus.send("pay", "t", ID, {}, conn=x)),
    ("send_batch", "requests", [None, [], (), 5, "ab", [None], [5], ["pay"], {}], lambda d, x: d.bus.send_batch(x)),
    ("send_batch", "requests[1]", NO_IDS, lambda d, x: d.bus.send_batch(request(command_id=x))),
    ("send_batch", "requests[1]", NO_DATA, lambda d, x: d.bus.send_batch(request(data=x))),
    ("send_batch", "requests[1].domain", NO_DOMAINS, lambda d, x: d.bus.send_batch(request(domain=x))),
    ("send_batch", "requests[1].batch_id", some(NO_IDS), lambda d, x: d.bus.send_batch(request(batch_id=x))),
    ("send_batch", "chunk_size", [*NO_COUNTS, 10_001], lambda d, x: d.bus.send_batch(request(), x)),
    ("send_batch", "conn", [5, object()], lambda d, x: d.bus.send_batch(request(), 1, conn=x)),
    ("create_batch", "domain", NO_DOMAINS, lambda d, x: d.bus.create_batch(x, command())),
    ("create_batch", "commands", [None, [], 5, "ab", [5], [None]], lambda d, x: d.bus.create_batch("pay", x)),
    ("create_batch", "commands[1]", NO_TYPES, lambda d, x: d.bus.create_batch("pay", command(command_type=x))),
    ("create_batch", "commands[1]", NO_DATA, lambda d, x: d.bus.create_batch("pay", command(data=x))),
    ("create_batch", "batch_id", some(NO_IDS), lambda d, x: d.bus.create_batch("pay", command(), batch_id=x)),
    ("create_batch", "name", NO_TEXTS, lambda d, x: d.bus.create_batch("pay", command(), name=x)),
    ("create_batch", "custom_data", some(NO_DATA), lambda d, x: d.bus.create_batch("pay", command(), custom_data=x)),
    (
        "create_batch",
        "on_complete",
        some(NO_REPLY_QUEUES),
        lambda d, x: d.bus.create_batch("pay", command(), on_complete=x),
    ),
    ("create_batch", "conn", [5, object()], lambda d, x: d.bus.create_batch("pay", command(), conn=x)),
    ("call", "domain", NO_DOMAINS, lambda d, x: d.bus.call(x, "t", {})),
    ("call", "timeout", NO_SECONDS, lambda d, x: d.bus.call("pay", "t", {}, timeout=x)),
    ("call", "command_id", some(NO_IDS), lambda d, x: d.bus.call("pay", "t", {}, command_id=x)),
    ("call", "reply_to", some(NO_REPLY_QUEUES), lambda d, x: d.bus.call("pay", "t", {}, reply_to=x)),
    ("wait_for_reply", "queue", NO_REPLY_QUEUES, lambda d, x: d.bus.wait_for_reply(x, ID)),
    ("wait_for_reply", "command_id", NO_IDS, lambda d, x: d.bus.wait_for_reply("pay__replies", x)),
    ("wait_for_reply", "timeout", NO_SECONDS, lambda d, x: d.bus.wait_for_reply("pay__replies", ID, timeout=x)),
    ("wait_for_reply", "domain", some(NO_DOMAINS), lambda d, x: d.bus.wait_for_reply("a__replies", ID, domain=x)),
    ("wait_for_batch", "domain", NO_DOMAINS, lambda d, x: d.bus.wait_for_batch(x, ID)),
    ("wait_for_batch", "batch_id", NO_IDS, lambda d, x: d.bus.wait_for_batch("pay", x)),
    ("wait_for_batch", "timeout", NO_SECONDS, lambda d, x: d.bus.wait_for_batch("pay", ID, timeout=x)),
    ("get_batch", "batch_id", NO_IDS, lambda d, x: d.bus.get_batch("pay", x)),
    ("list_batches", "domain", some(NO_DOMAINS), lambda d, x: d.bus.list_batches(x)),
    ("list_batches", "status", ["", "DONE", 5], lambda d, x: d.bus.list_batches("pay", status=x)),
    ("list_batches", "limit", [*NO_COUNTS, 1001], lambda d, x: d.bus.list_batches("pay", limit=x)),
    ("list_batch_commands", "status", ["", "pending", 5], lambda d, x: d.bus.list_batch_commands("pay", ID, status=x)),
    ("list_batch_commands", "offset", NO_COUNTS[1:], lambda d, x: d.bus.list_batch_commands("pay", ID, offset=x)),
    ("get_command", "domain", NO_DOMAINS, lambda d, x: d.bus.get_command(x, ID)),
    ("command_exists", "command_id", NO_IDS, lambda d, x: d.bus.command_exists("pay", x)),
    ("query_commands", "status", ["", "DONE", 5, []], lambda d, x: d.bus.query_commands(x)),
    ("query_commands", "domain", some(NO_DOMAINS), lambda d, x: d.bus.query_commands(domain=x)),
    ("query_commands", "command_type", some(NO_TYPES), lambda d, x: d.bus.query_commands(command_type=x)),
    ("query_commands", "created_after", NO_TIMES, lambda d, x: d.bus.query_commands(created_after=x)),
    ("query_commands", "created_before", NO_TIMES, lambda d, x: d.bus.query_commands(created_before=x)),
    ("query_commands", "limit", [*NO_COUNTS, 1001], lambda d, x: d.bus.query_commands(limit=x)),
    ("query_commands", "offset", NO_COUNTS[1:], lambda d, x: d.bus.query_commands(offset=x)),
    (
        "find_by_id",
        "beginning",
        [None, "", 7, "abcdef1", "abcdefgh", "a" * 33, f"{ID} "],
        lambda d, x: d.bus.find_by_id(x),
    ),
    ("find_by_id", "limit", [*NO_COUNTS, 1001], lambda d, x: d.bus.find_by_id("abcdef12", x)),
    ("get_audit_trail", "command_id", NO_IDS, lambda d, x: d.bus.get_audit_trail(x)),
    ("get_audit_trail", "domain", some(NO_DOMAINS), lambda d, x: d.bus.get_audit_trail(ID, x)),
    ("CommandBus", "default_max_attempts", some(NO_COUNTS), lambda d, x: CommandBus(d.pool, x)),
    ("list_troubleshooting", "domain", NO_DOMAINS, lambda d, x: d.tsq.list_troubleshooting(x)),
    ("list_troubleshooting", "limit", NO_COUNTS, lambda d, x: d.tsq.list_troubleshooting("pay", limit=x)),
    ("list_all_troubleshooting", "command_type", some(NO_TYPES), lambda d, x: d.tsq.list_all_troubleshooting(x)),
    ("count_troubleshooting", "domain", some(NO_DOMAINS), lambda d, x: d.tsq.count_troubleshooting(x)),
    ("list_command_ids", "domain", NO_DOMAINS, lambda d, x: d.tsq.list_command_ids(x)),
    ("get_command_domain", "command_id", NO_IDS, lambda d, x: d.tsq.get_command_domain(x)),
    ("operator_retry", "domain", NO_DOMAINS, lambda d, x: d.tsq.operator_retry(x, ID)),
    ("operator_retry", "command_id", NO_IDS, lambda d, x: d.tsq.operator_retry("pay", x)),
    ("operator_retry", "operator", NO_TEXTS, lambda d, x: d.tsq.operator_retry("pay", ID, x)),
    ("operator_cancel", "reason", [*NO_TEXTS, None], lambda d, x: d.tsq.operator_cancel("pay", ID, x)),
    ("operator_complete", "result_data", NO_VALUES, lambda d, x: d.tsq.operator_complete("pay", ID, x)),
    ("retry_many", "command_ids", [None, [], 5, {}], lambda d, x: d.tsq.retry_many("pay", x)),
    ("retry_many", "command_ids", [[ID] * 10_001], lambda d, x: d.tsq.retry_many("pay", x)),
    ("cancel_many", "command_id", [[x] for x in NO_IDS], lambda d, x: d.tsq.cancel_many("pay", x, "why")),
    ("CommandBus", "pool", NO_POOLS, lambda _, x: CommandBus(x)),
    ("TroubleshootingQueue", "pool", NO_POOLS, lambda _, x: TroubleshootingQueue(x)),
    ("Maintenance", "pool", NO_POOLS, lambda _, x: Maintenance(x)),
    ("Worker", "pool", NO_POOLS, lambda _, x: Worker(x, "pay")),
    ("Worker", "registry", [5, {}, object()], lambda d, x: Worker(d.pool, "pay", x)),
    ("Worker", "retry_policy", [5, (1, 2)], lambda d, x: Worker(d.pool, "pay", retry_policy=x)),
    ("Worker", "domain", NO_DOMAINS, lambda d, x: Worker(d.pool, x)),
    ("Worker", "visibility_timeout", NO_COUNTS, lambda d, x: Worker(d.pool, "pay", visibility_timeout=x)),
    ("run", "concurrency", [*NO_COUNTS, 10_001], lambda d, x: d.worker.run(x)),
    ("run in batches", "batch_size", [*NO_COUNTS, 1_001], lambda d, x: d.worker.run(batch_size=x)),
    ("run", "poll_interval", [*NO_SECONDS, 0], lambda d, x: d.worker.run(1, x)),
    ("receive", "batch_size", [*NO_COUNTS, 10_001], lambda d, x: d.worker.receive(x)),
    ("receive", "visibility_timeout", some(NO_COUNTS), lambda d, x: d.worker.receive(1, x)),
    ("stop", "timeout", some(NO_SECONDS), lambda d, x: d.worker.stop(x)),
    ("register", "domain", NO_DOMAINS, lambda d, x: d.registry.register(x, "t", lambda *_: None)),
    ("register", "command_type", NO_TYPES, lambda d, x: d.registry.register("pay", x, lambda *_: None)),
    ("register", "fn", [None, 5, int, lambda: 1, lambda a: a], lambda d, x: d.registry.register("pay", "t", x)),
    ("create_queue", "queue", NO_QUEUES, lambda d, x: d.queues.create_queue(x)),
    ("queue send", "queue", NO_QUEUES, lambda d, x: d.queues.send(x, {})),
    ("queue send", "message", NO_VALUES, lambda d, x: d.queues.send("q", x)),
    ("queue send", "delay", NO_COUNTS[1:], lambda d, x: d.queues.send("q", {}, x)),
    ("queue send_batch", "messages", [None, [], 5], lambda d, x: d.queues.send_batch("q", x)),
    ("queue read", "queue", NO_QUEUES, lambda d, x: d.queues.read(x)),
    ("queue read", "batch_size", NO_COUNTS, lambda d, x: d.queues.read("q", batch_size=x)),
    ("queue read", "visibility_timeout", NO_COUNTS[1:], lambda d, x: d.queues.read("q", x)),
    ("queue delete", "msg_id", NO_COUNTS, lambda d, x: d.queues.delete("q", x)),
    ("queue archive", "queue", NO_QUEUES, lambda d, x: d.queues.archive(x, 1)),
    ("queue set_vt", "seconds", NO_COUNTS[1:], lambda d, x: d.queues.set_vt("q", 1, x)),
    ("queue notify", "queue", NO_QUEUES, lambda d, x: d.queues.notify(x)),
    ("metrics", "domain", NO_DOMAINS, lambda d, x: d.queues.metrics(x)),
    ("take_replies", "queue", NO_REPLY_QUEUES, lambda d, x: d.queues.take_replies(x, [ID])),
    ("take_replies", "command_ids", [None, 5], lambda d, x: d.queues.take_replies("a__replies", x)),
    ("take_replies", "command_id", [[x] for x in NO_IDS], lambda d, x: d.queues.take_replies("a__replies", x)),
    ("RetryPolicy", "max_attempts", [*NO_COUNTS, 1001], lambda _, x: RetryPolicy(max_attempts=x)),
    ("RetryPolicy", "backoff_schedule", [[], None, 5, "12", ["1"]], lambda _, x: RetryPolicy(backoff_schedule=x)),
    ("RetryPolicy", "backoff_schedule", [[x] for x in NO_SECONDS], lambda _, x: RetryPolicy(backoff_schedule=x)),
    ("RetryPolicy", "jitter", [*NO_SECONDS, 1.1], lambda _, x: RetryPolicy(jitter=x)),
    ("settings", "pool_max_size", [0, -1, 1001, "many", SECRET], lambda _, x: CommandBusSettings.load(pool_max_size=x)),
    ("settings", "max_payload_bytes", [0, 10**9, SECRET], lambda _, x: CommandBusSettings.load(max_payload_bytes=x)),
    ("settings", "pool_timeout", [0, -1, float("nan")], lambda _, x: CommandBusPool(pool_timeout=x)),
    ("settings", "search_path", ["", "a;b", 'a"', 5], lambda _, x: CommandBusPool(search_path=x)),
    ("settings", "no_such_thing", [1], lambda _, x: CommandBusPool(no_such_thing=x)),
]


@pytest.mark.parametrize(
    ("field", "values", "call"), [d[1:] for d in DOORS], ids=[f"{name}-{field}" for name, field, *_ in DOORS]
)
async def test_the_door_refuses(
    doors: Doors, field: str, values: list[Any], call: Callable[[Doors, Any], object]
) -> None:
    for number, value in enumerate(values):
        with pytest.raises(InvalidArgumentError) as caught:
            await finished(call(doors, value))
        assert caught.value.field == field, f"value {number}"
        assert str(caught.value).startswith(f"{field}: ")
        assert len(str(caught.value)) < 300
        assert SECRET not in str(caught.value)
        assert SECRET not in repr(caught.value)


async def finished(result: object) -> None:
    """Wait for a coroutine; whatever else it was has been done already."""
    if inspect.isawaitable(result):
        await result


@pytest.mark.parametrize(
    "call",
    [
        lambda d: d.bus.send("pay", "charge", ID, {}),
        lambda d: d.bus.send_batch(request(domain="ship")),
        lambda d: d.bus.create_batch("pay", command()),
        lambda d: d.bus.get_command("pay", ID),
        lambda d: d.tsq.operator_retry("pay", ID),
        lambda d: d.worker.receive(),
        lambda d: d.queues.send("q", {}),
    ],
)
async def test_what_is_good_gets_as_far_as_the_pool_that_is_not_open(
    doors: Doors, call: Callable[[Doors], Any]
) -> None:
    with pytest.raises(InvalidOperationError, match="pool is not open"):
        await call(doors)


@pytest.fixture(autouse=True)
def no_database_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take settings from arguments only."""
    monkeypatch.delenv("COMMANDBUS_DATABASE_URL", raising=False)
