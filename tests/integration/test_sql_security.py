"""The functions in a hostile database: whatever the session's path finds first, and whoever calls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.integration.sql_helpers import DOMAIN, QUEUE, REPLIES, Bus, Row, errors, open_bus, refusal

SHIP = "ship"  # a domain whose counters nobody has bent
YESTERDAY = datetime.now(UTC) - timedelta(days=1)

pytestmark = pytest.mark.direct("it sets up its session")

# What a role that may create in schema public could put there; each shadows one of PostgreSQL's own.
FUNCTIONS = (
    "make_interval(secs double precision)",
    "lower(text)",
    "now()",
    "clock_timestamp()",
    "jsonb_build_object(variadic text[])",
    "to_regclass(text)",
    "format(text, variadic text[])",
    "unnest(uuid[])",
    "unnest(anyarray)",
    "cardinality(anyarray)",
    "array_fill(anyelement, integer[])",
    "array_position(anyarray, anyelement)",
    "nextval(regclass)",
    "pg_notify(text, text)",
    "set_config(text, text, boolean)",
    "octet_length(text)",
    "jsonb_typeof(jsonb)",
    "length(text)",
    '"left"(text, integer)',
)
OPERATORS = (
    ("=", "text", "text", "boolean"),
    ("=", "uuid", "uuid", "boolean"),
    ("=", "bigint", "bigint", "boolean"),
    ("<>", "text", "text", "boolean"),
    ("<=", "timestamptz", "timestamptz", "boolean"),
    ("~", "text", "text", "boolean"),
    ("||", "text", "text", "text"),
    ("||", "jsonb", "jsonb", "jsonb"),
    ("->>", "jsonb", "text", "text"),
    ("->", "jsonb", "text", "jsonb"),
    ("+", "timestamptz", "interval", "timestamptz"),
    ("+", "integer", "integer", "integer"),
)
BODY = "language plpgsql as $$ begin raise exception 'hostile code ran'; end $$"


@pytest.fixture
def hostile_url(database_url: str) -> str:
    """Give a database whose schema public holds traps."""
    with open_bus(database_url, "pg_catalog") as owner:
        owner.run("drop schema public cascade")  # there may be other traps in it
        owner.run("create schema public")
        for function in FUNCTIONS:
            result = "setof uuid" if function == "unnest(uuid[])" else "text"
            result = "anyelement" if function == "unnest(anyarray)" else result
            owner.run(f"create function public.{function} returns {result} {BODY}")
        for number, (name, left, right, result) in enumerate(OPERATORS):
            owner.run(f"create function public.trap_{number}({left}, {right}) returns {result} {BODY}")
            owner.run(
                f"create operator public.{name} (leftarg = {left}, rightarg = {right}, function = public.trap_{number})"
            )
        owner.run(f"create function public.trap_step(text, anynonarray) returns text {BODY}")
        owner.run("create aggregate public.array_agg(anynonarray) (sfunc = public.trap_step, stype = text)")
    return database_url


class Recorder(Bus):
    """A connection that remembers which functions were called."""

    def __init__(self, url: str, search_path: str) -> None:
        super().__init__(url, search_path)
        self.called: set[str] = set()

    def call(self, function: str, **arguments: object) -> list[Row]:
        """Call and remember."""
        self.called.add(function)
        return super().call(function, **arguments)


def live(bus: Recorder) -> None:
    """Take commands through every transition, and call every public function."""
    bus.create_domain()
    batch_id = bus.create_batch(completion_queue=REPLIES)
    bus.send_new(5, batch_id=batch_id, reply_queues=[REPLIES] * 5, correlation_ids=[uuid4() for _ in range(5)])
    received = bus.receive()
    assert len(received) == 5
    leases = {f"{name}s": [row[name] for row in received] for name in ("command_id", "msg_id", "read_ct")}
    extended = bus.call("sp_extend_leases", domain=DOMAIN, visibility_timeout=60, **leases)
    assert [row["renewed"] for row in extended] == [True] * 5
    outcomes = ["COMPLETED", "FAILED", "RETRY", "TROUBLESHOOT", "RELEASE"]
    assert bus.settle(received, *outcomes, **errors(5, "TRANSIENT", delay=0)) == {}
    assert set(bus.settle(received[:2], "RETRY", **errors(2, "TRANSIENT", delay=0)).values()) == {"STALE"}
    assert len(bus.receive()) == 2
    parked = received[3]["command_id"]
    for function in (
        "list_troubleshooting",
        "list_waiting",
        "list_troubleshooting_ids",
        "count_troubleshooting",
        "list_batches",
        "domain_metrics",
    ):
        assert len(bus.call(function, domain=DOMAIN)) == 1
    bus.call("get_payload", domain=DOMAIN, command_id=parked)
    bus.call("find_domains", command_id=parked)
    bus.call("find_by_id", **{"from": parked, "until": parked})
    bus.call("query_commands", domain=DOMAIN, status="FAILED", command_type="charge")
    bus.call("list_batch_commands", domain=DOMAIN, batch_id=batch_id)
    bus.call("list_domains")
    bus.call("schema_version")
    bus.call("log_event", domain=DOMAIN, command_id=parked, event_type="NOTED")
    assert len(bus.events(parked)) == 5
    assert bus.call("sp_operator_retry", domain=DOMAIN, command_ids=[parked])[0]["refusal"] is None
    assert bus.counts(batch_id) == (5, 1, 1, 0, 0)
    bus.receive()
    (canceled,) = bus.park()
    assert bus.call("sp_operator_cancel", domain=DOMAIN, command_ids=[canceled], reason="no")[0]["refusal"] is None
    (completed,) = bus.park()
    assert bus.call("sp_operator_complete", domain=DOMAIN, command_ids=[completed])[0]["refusal"] is None
    assert len(bus.call("sp_take_replies", queue=REPLIES, command_ids=[received[0]["command_id"]])) == 1
    live_singly(bus)
    live_with_queues(bus)
    live_long(bus)
    live_operated(bus)


def live_singly(bus: Recorder) -> None:
    """Call the functions for one command, and the counters."""
    batch_id = bus.create_batch()
    bus.call("sp_start_batch", domain=DOMAIN, batch_id=batch_id)
    command_id = uuid4()
    bus.call("sp_send_command", domain=DOMAIN, command_id=command_id, command_type="charge", data=Jsonb({}))
    bus.call("sp_warm_up", domain=DOMAIN)
    bus.call("send_to_pay", command_id=uuid4(), command_type="charge", data=Jsonb({}))
    assert bus.call("sp_receive_command", domain=DOMAIN, command_id=command_id)[0]["status"] == "IN_PROGRESS"
    bus.call("sp_finish_command", domain=DOMAIN, command_id=command_id, status="COMPLETED", event_type="COMPLETED")
    assert bus.status(command_id) == "COMPLETED"
    bus.send_new(3, batch_id=batch_id)
    for _ in range(3):
        bus.call("sp_update_batch_counters", domain=DOMAIN, batch_id=batch_id, update_type="tsq_move")
    for function in ("sp_tsq_retry", "sp_tsq_complete", "sp_tsq_cancel"):
        bus.call(function, domain=DOMAIN, batch_id=batch_id)
    assert bus.counts(batch_id) == (3, 1, 0, 1, 0)


def live_with_queues(bus: Recorder) -> None:
    """Call the functions for plain queues."""
    bus.call("queue_create", queue="plain")
    sent = bus.call("queue_send", queue="plain", messages=[Jsonb({"n": n}) for n in range(3)])
    (first, second, _) = [row["queue_send"] for row in sent]
    assert len(bus.call("queue_read", queue="plain", visibility_timeout=1, limit=10)) == 3
    assert bus.result("queue_set_vt", queue="plain", msg_id=first, seconds=0) is True
    assert bus.result("queue_delete", queue="plain", msg_id=first) is True
    assert bus.result("queue_archive", queue="plain", msg_id=second) is True
    bus.call("queue_notify", queue="plain")


def live_long(bus: Recorder) -> None:
    """Call the functions that look at the past and remove it."""
    assert bus.call("query_audit", event_type="OPERATOR_CANCEL")[0]["domain"] == DOMAIN
    assert len(bus.call("query_audit", domain=DOMAIN, limit=5)) == 5
    past = bus.value("select pg_catalog.now()")
    assert bus.result("sp_prune_throughput") == 0
    assert bus.result("sp_make_partitions", months_ahead=4) is not None
    (lost,) = bus.send_new()
    bus.run("delete from pgmq.q_pay__commands where msg_id operator(pg_catalog.=) %s", bus.command(lost)["msg_id"])
    assert bus.result("sp_park_lost", domain=DOMAIN, before=bus.value("select pg_catalog.now()")) == lost
    assert DOMAIN in {row["list_known_domains"] for row in bus.call("list_known_domains")}
    for function in (
        "sp_drop_partitions",
        "sp_prune_audit",
        "sp_prune_commands",
        "sp_prune_payloads",
        "sp_prune_redrives",
    ):
        bus.call(function, before=past)
    for function in ("sp_prune_batches", "sp_prune_archives", "sp_prune_replies"):
        bus.call(function, domain=DOMAIN, before=past)


def live_operated(bus: Recorder) -> None:
    """Call the functions of those who watch, hold and redrive."""
    bus.create_domain(SHIP)
    worker_id = uuid4()
    assert bus.result("sp_pause_domain", domain=SHIP) is True
    assert bus.result("sp_resume_domain", domain=SHIP) is True
    beat = {"host": "here", "pid": 1, "concurrency": 4, "in_flight": 0, "counts": [1, 0, 0, 0]}
    bus.call("sp_worker_beat", worker_id=worker_id, domain=SHIP, waits=[1], runs=[0, 1], **beat)
    assert len(bus.call("list_workers", domain=SHIP)) == 1
    bus.call("sp_worker_gone", worker_id=worker_id)
    assert bus.call("list_throughput", domain=SHIP, after=YESTERDAY)[-1]["completed"] == 1
    (edited, _) = bus.park(2, domain=SHIP)
    assert bus.call("overview", domain=SHIP)[0]["waiting"] == 2
    assert bus.call("list_failure_groups", domain=SHIP)[0]["waiting"] == 2
    assert len(bus.call("find_commands", text="charge", limit=1)) == 1
    assert bus.call("get_message", domain=SHIP, command_id=edited)[0]["place"] == "TSQ"
    bus.call("sp_operator_edit", domain=SHIP, command_id=edited, data=Jsonb({"n": 9}))
    bus.receive(domain=SHIP)
    assert [row["command_id"] for row in bus.call("list_leases", domain=SHIP)] == [edited]
    selection = {"command_ids": None, "failure_key": None, "rate": 100}
    redrive_id = bus.result("sp_start_redrive", domain=SHIP, **selection)
    bus.call("sp_control_redrive", redrive_id=redrive_id, action="PAUSE")
    bus.call("sp_control_redrive", redrive_id=redrive_id, action="RESUME")
    bus.call("sp_step_redrives", domain=SHIP)
    assert len(bus.call("list_redrives", domain=SHIP)) == 1
    assert len(bus.call("get_redrive", redrive_id=redrive_id)) == 1


def public_functions(bus: Bus) -> set[str]:
    """Return the names of the functions that are meant for callers."""
    rows = bus.rows("select proname from pg_proc where pronamespace = 'commandbus'::regnamespace")
    return {row["proname"] for row in rows if not row["proname"].startswith("_")}


@pytest.mark.counters_off
@pytest.mark.parametrize("search_path", ["public, pg_catalog", "public, commandbus, pgmq, pg_catalog", ""])
def test_every_function_works_whatever_the_session_finds_first(hostile_url: str, search_path: str) -> None:
    bus = Recorder(hostile_url, search_path)
    try:
        live(bus)
        called = bus.called
    finally:
        bus.close()
    with open_bus(hostile_url, "pg_catalog") as owner:
        assert public_functions(owner) - called == {f"send_to_{SHIP}"}, "as send_to_pay, which was called"


def test_the_traps_are_real(hostile_url: str) -> None:
    for statement in (
        "select now()",
        "select lower('x')",
        "select 'a'::text = 'b'::text",
        "select '{}'::jsonb || '{}'::jsonb",
        "select array_agg(1)",
        "select make_interval(secs => 1::float8)",
        "select to_regclass('x'::text)",
    ):
        with open_bus(hostile_url, "public, pg_catalog") as bus, refusal("P0001", "hostile code ran"):
            bus.rows(statement)


def test_temporary_objects_shadow_nothing(database_url: str) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        bus.run("create temp table command (x int)")
        bus.run("create temp table audit (x int)")
        bus.run(f"create function pg_temp.lower(text) returns text {BODY}")
        bus.run(f"create function pg_temp.clock_timestamp() returns timestamptz {BODY}")
        bus.run(f"create function pg_temp.pg_notify(text, text) returns void {BODY}")
        (command_id,) = bus.send_new()
        assert bus.settle(bus.receive(), "COMPLETED") == {}
        assert bus.status(command_id) == "COMPLETED"


def test_public_may_execute_nothing_and_read_nothing(database_url: str) -> None:
    with open_bus(database_url) as bus:
        assert (
            bus.rows(
                "select oid::regprocedure::text from pg_proc"
                " where pronamespace = 'commandbus'::regnamespace and has_function_privilege('public', oid, 'execute')"
            )
            == []
        )
        assert (
            bus.rows(
                "select relname from pg_class where relnamespace = 'commandbus'::regnamespace and relkind in ('r', 'S')"
                " and (relkind = 'r' and has_table_privilege('public', oid, 'select, insert, update, delete')"
                " or relkind = 'S' and has_sequence_privilege('public', oid, 'usage, select, update'))"
            )
            == []
        )
        assert bus.value("select has_schema_privilege('public', 'commandbus', 'usage, create')") is False


def test_a_role_without_grants_is_refused(database_url: str) -> None:
    role = sql.Identifier(f"stranger_{uuid4().hex}")
    with open_bus(database_url) as bus, bus.connection.transaction(force_rollback=True):
        bus.connection.execute(sql.SQL("create role {}").format(role))
        bus.connection.execute(sql.SQL("grant usage on schema commandbus to {}").format(role))
        bus.connection.execute(sql.SQL("set local role {}").format(role))
        for function in ("schema_version", "list_domains"):
            with refusal("42501", "permission denied for function"), bus.connection.transaction():
                bus.call(function)


def test_every_function_pins_its_path_and_runs_as_its_caller(database_url: str) -> None:
    with open_bus(database_url) as bus:
        assert (
            bus.rows(
                "select oid::regprocedure::text from pg_proc where pronamespace = 'commandbus'::regnamespace"
                " and (prosecdef or 'search_path=pg_catalog, pg_temp' <> all(coalesce(proconfig, '{}')))"
            )
            == []
        )


def test_names_with_quotes_reach_no_statement(database_url: str) -> None:
    hostile = ['x"; drop table commandbus.command; --', "x'; select 1; --", "$q$", "%I", "pay__commands; x"]
    with open_bus(database_url) as bus:
        bus.create_domain()
        for name in hostile:
            with pytest.raises(psycopg.Error, match="must match"):
                bus.create_domain(name)
            with pytest.raises(psycopg.Error, match="must match"):
                bus.call("queue_create", queue=name)
            with pytest.raises(psycopg.Error, match="reply_to"):
                bus.send_new(reply_queues=[name])
            (command_id,) = bus.send_new(kind=name)
            (received,) = bus.receive()
            assert received["command_type"] == name
            bus.settle([received], "TROUBLESHOOT", **errors(1, name, name))
            bus.call("sp_operator_cancel", domain=DOMAIN, command_ids=[command_id], reason=name, operator=name)
            assert bus.trail(command_id)[-1]["details"] == {"operator": name, "reason": name}
        assert isinstance(command_id, UUID)
        assert bus.queue(QUEUE) == []


def test_messages_of_commands_are_out_of_reach_of_the_functions_for_plain_queues(database_url: str) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        (command_id,) = bus.send_new()
        for call in (
            f"queue_read('{QUEUE}', 10, 1)",
            f"queue_delete('{QUEUE}', 1)",
            f"queue_archive('{QUEUE}', 1)",
            f"queue_set_vt('{QUEUE}', 1, 60)",
            f"queue_send('{QUEUE}', array['{{}}'::jsonb])",
            "queue_create('x__commands')",
            "queue_create('x__replies')",
        ):
            with refusal("CB007", "queue: "):
                bus.rows(f"select * from commandbus.{call}")
        assert [row["command_id"] for row in bus.receive()] == [command_id]
