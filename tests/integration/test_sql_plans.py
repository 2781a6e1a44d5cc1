"""What the functions read when the tables are large: rows by index, as many as asked for, whatever the plan's age."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.integration.sql_helpers import DOMAIN, REPLIES, Bus, Row, errors, ids_of, open_bus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from tests.support import Server

pytestmark = pytest.mark.direct("it sets up its session")

SET = 100
# An index entry may be read more than once per row: by an update, its recheck, a unique check, a join.
MOST_READ = 12 * SET

TABLES = (
    "commandbus.command",
    "commandbus.audit",
    "commandbus.payload_archive",
    "commandbus.scheduled",
    "commandbus.redrive_item",
    "pgmq.q_pay__commands",
    "pgmq.q_pay__replies",
)

# Commands 1 to %(count)s of one batch each hundred: the first tenth waits in the queue, the second in the TSQ, the
# third for its next attempt; the others are done and their replies not taken yet.
FILL = """
create or replace function pg_temp.id(n int) returns uuid language sql immutable
as $$ select md5(n::text)::uuid $$;

create temp table made as
select n, pg_temp.id(n) as command_id, pg_temp.id(-n / 100) as batch_id, part,
    (array['PENDING', 'IN_TROUBLESHOOTING_QUEUE', 'PENDING'])[part + 1] as status,
    jsonb_build_object('command_id', pg_temp.id(n), 'command_type', 'charge', 'domain', 'pay', 'data', '{}'::jsonb)
        as message
from (select n, n * 10 / (%(count)s + 1) as part from generate_series(1, %(count)s) n) m;

insert into commandbus.batch (
    domain, batch_id, total_count, completed_count, in_troubleshooting_count, status, completed_at)
select 'pay', batch_id, count(*), count(*) filter (where status is null), count(*) filter (where part = 1),
    case when count(status) = 0 then 'COMPLETED' else 'IN_PROGRESS' end, case when count(status) = 0 then now() end
from made group by batch_id;
insert into commandbus.command (
    domain, queue_name, msg_id, command_id, command_type, status, max_attempts, batch_id, reply_queue, attention_at,
    failure_key, finished_at, created_at)
select 'pay', 'pay__commands', n + 1000, command_id, 'charge', coalesce(status, 'COMPLETED'), 3, batch_id,
    'pay__replies', case when part = 1 then now() - n * interval '1 ms' end,
    case when part = 1 then pg_temp.id(n %% 20) end, case when status is null then now() end,
    now() - n * interval '1 ms'
from made;
insert into commandbus.audit (domain, command_id, event_type)
select 'pay', command_id, event from made, unnest(array['SENT', 'RECEIVED', 'COMPLETED']) event;
insert into commandbus.payload_archive (domain, command_id, message)
select 'pay', command_id, message from made where part = 1;
insert into commandbus.scheduled (domain, command_id, due_at, message)
select 'pay', command_id, now() + interval '1 hour', message from made where part = 2;
insert into pgmq.q_pay__commands (msg_id, vt, message) overriding system value
select n + 1000, now(), message from made where part = 0;
insert into pgmq.q_pay__replies (vt, message)
select now(), message from made where part > 2;
select setval('pgmq.q_pay__commands_msg_id_seq', %(count)s + 1000);
drop table made;
"""


def fill(bus: Bus, count: int) -> None:
    """Insert *count* commands, a multiple of 1,000, with all that belongs to them."""
    bus.run("set synchronous_commit = off")
    bus.run("set session_replication_role = replica")  # the foreign key holds by construction
    for statement in (FILL % {"count": count}).split(";\n"):
        if statement.strip():
            bus.run(statement)
    bus.run("set session_replication_role = origin")


def grow(bus: Bus, count: int) -> None:
    """Let *count* commands be done, wait in the TSQ, for a retry, and in the queue, without any DDL.

    Even a temporary table would make every connection forget its plans.
    """
    bus.run("set synchronous_commit = off")
    bus.run("delete from pgmq.q_pay__commands")
    bus.park(count)
    for outcome in ("COMPLETED", "RETRY"):
        bus.send_new(count, reply_queues=[REPLIES] * count)
        bus.settle(bus.receive(limit=count), outcome, **errors(count, "TRANSIENT", delay=3600))
    bus.run("vacuum pgmq.q_pay__commands, pgmq.q_pay__replies")
    bus.send_new(count)


def the_ids(bus: Bus, where: str) -> list[UUID]:
    """Return a set of command ids, by an SQL condition."""
    return ids_of(bus.rows(f"select command_id from commandbus.command where {where} order by msg_id limit {SET}"))


def waiting(bus: Bus) -> list[UUID]:
    """Return commands of the TSQ."""
    return the_ids(bus, "attention_at is not null and status = 'IN_TROUBLESHOOTING_QUEUE'")


def receive(bus: Bus) -> Callable[[], list[Row]]:
    """Prepare nothing; lease a set."""
    return lambda: bus.receive(limit=SET)


def receive_due(bus: Bus) -> Callable[[], list[Row]]:
    """Let a set of retries come due; lease them."""
    bus.run(
        "update commandbus.scheduled set due_at = now() - interval '1 s' where command_id in"
        f" (select command_id from commandbus.scheduled limit {SET})"
    )
    return lambda: bus.receive(limit=SET)


def receive_tampered(bus: Bus) -> Callable[[], list[Row]]:
    """Change what a set of messages says; lease them."""
    bus.run(
        "update pgmq.q_pay__commands set message = message - 'domain' where msg_id in"
        f" (select msg_id from pgmq.q_pay__commands order by msg_id limit {SET // 5})"
    )
    return lambda: bus.receive(limit=SET // 5)


def settle(outcome: str) -> Callable[[Bus], Callable[[], object]]:
    """Lease a set; end its attempts."""

    def prepare(bus: Bus) -> Callable[[], object]:
        received = bus.receive(limit=SET)
        return lambda: bus.settle(received, outcome, **errors(len(received), "TRANSIENT", delay=60))

    return prepare


def settle_stale(bus: Bus) -> Callable[[], object]:
    """Lease a set twice; end the attempts by the first leases."""
    received = bus.receive(limit=SET)
    bus.expire_leases()
    bus.receive(limit=SET)
    return lambda: bus.settle(received, "COMPLETED")


def extend(bus: Bus) -> Callable[[], list[Row]]:
    """Lease a set; extend the leases."""
    received = bus.receive(limit=SET)
    leases = {f"{name}s": [row[name] for row in received] for name in ("command_id", "msg_id", "read_ct")}
    return lambda: bus.call("sp_extend_leases", domain=DOMAIN, visibility_timeout=60, **leases)


def decide(verb: str) -> Callable[[Bus], Callable[[], list[Row]]]:
    """Find a set in the TSQ; decide on it."""
    more = {"reason": "no"} if verb == "cancel" else {}

    def prepare(bus: Bus) -> Callable[[], list[Row]]:
        ids = waiting(bus)
        return lambda: bus.call(f"sp_operator_{verb}", domain=DOMAIN, command_ids=ids, **more)

    return prepare


def refused(bus: Bus) -> Callable[[], list[Row]]:
    """Find a set that is done; try to retry it."""
    ids = the_ids(bus, "status = 'COMPLETED'")
    return lambda: bus.call("sp_operator_retry", domain=DOMAIN, command_ids=ids)


def take_replies(bus: Bus) -> Callable[[], list[Row]]:
    """Find a set that is done; take its replies."""
    ids = the_ids(bus, "status = 'COMPLETED'")
    return lambda: bus.call("sp_take_replies", queue=REPLIES, command_ids=ids)


def resend(bus: Bus) -> Callable[[], object]:
    """Find a set that was sent; send it again."""
    ids = the_ids(bus, "status = 'COMPLETED'")
    return lambda: bus.send(*ids, idempotent=True)


def look(function: str, per: str = "") -> Callable[[Bus], Callable[[], list[Row]]]:
    """Read by a function that takes a domain, and perhaps the id of a command or batch."""

    def prepare(bus: Bus) -> Callable[[], list[Row]]:
        row = bus.command(waiting(bus)[0])
        more = {per: row[per]} if per else {}
        return lambda: bus.call(function, domain=DOMAIN, **more)

    return prepare


def find_domains(bus: Bus) -> Callable[[], list[Row]]:
    """Find a command; find its domains."""
    (command_id, *_) = waiting(bus)
    return lambda: bus.call("find_domains", command_id=command_id)


def find_by_id(bus: Bus) -> Callable[[], list[Row]]:
    """Find the commands whose ids begin like one's."""
    begins = str(waiting(bus)[0])[:8]
    return lambda: bus.call(
        "find_by_id", **{"from": f"{begins}{'0' * 24}", "until": f"{begins}{'f' * 24}", "limit": 50}
    )


def step_redrive(bus: Bus) -> Callable[[], list[Row]]:
    """Start a redrive of everything that waits, of which a set is due at once; step it."""
    bus.call("sp_start_redrive", domain=DOMAIN, command_ids=None, failure_key=None, rate=SET)
    # What failed long before is not looked for: here that is everything that waits.
    bus.run("update commandbus.redrive set stepped_at = now() - interval '1 s', looked_at = now() + interval '2 min'")
    return lambda: bus.call("sp_step_redrives", domain=DOMAIN)


def everything_sent(bus: Bus) -> UUID:
    """Let a redrive have queued all that waits."""
    redrive_id: UUID = bus.result("sp_start_redrive", domain=DOMAIN, command_ids=None, failure_key=None, rate=SET)
    bus.run("update commandbus.redrive_item set sent_at = now()")
    bus.run(
        "update commandbus.redrive set sent_count = total_count, status = 'COMPLETED', finished_at = now(),"
        " seen_at = now() - interval '1 s'"
    )
    return redrive_id


def list_leases(bus: Bus) -> Callable[[], list[Row]]:
    """Lease a set; list the leases."""
    bus.receive(limit=SET)
    return lambda: bus.call("list_leases", domain=DOMAIN)


def list_late(*, of_all: bool = False) -> Callable[[Bus], Callable[[], list[Row]]]:
    """Find a place in the midst of the TSQ; list the page behind it."""

    def prepare(bus: Bus) -> Callable[[], list[Row]]:
        (row,) = bus.rows(
            "select attention_at as after_at, command_id as after_id from commandbus.command"
            " where failure_key is not null order by 1, 2 offset 5000 limit 1"
        )
        domain = {} if of_all else {"domain": DOMAIN}
        return lambda: bus.call("list_troubleshooting", **domain, **row)

    return prepare


def find(**filters: object) -> Callable[[Bus], Callable[[], list[Row]]]:
    """Find a page of commands."""
    return lambda bus: lambda: bus.call("find_commands", **filters)


def find_in_batch(bus: Bus) -> Callable[[], list[Row]]:
    """Look for a text in a batch."""
    batch_id = bus.command(waiting(bus)[0])["batch_id"]
    return lambda: bus.call("find_commands", batch_id=batch_id, text="nowhere")


CALLS: dict[str, Callable[[Bus], Callable[[], object]]] = {
    "sp_send_commands": lambda bus: lambda: bus.send_new(SET),
    "sp_send_commands again": resend,
    "sp_receive_commands": receive,
    "sp_receive_commands due": receive_due,
    "sp_receive_commands tampered": receive_tampered,
    "sp_settle_commands completed": settle("COMPLETED"),
    "sp_settle_commands retry": settle("RETRY"),
    "sp_settle_commands troubleshoot": settle("TROUBLESHOOT"),
    "sp_settle_commands release": settle("RELEASE"),
    "sp_settle_commands stale": settle_stale,
    "sp_extend_leases": extend,
    "sp_operator_retry": decide("retry"),
    "sp_operator_cancel": decide("cancel"),
    "sp_operator_complete": decide("complete"),
    "sp_operator_retry refused": refused,
    "sp_take_replies": take_replies,
    "list_waiting": look("list_waiting"),
    "list_troubleshooting": look("list_troubleshooting"),
    "list_troubleshooting of all domains": lambda bus: lambda: bus.call("list_troubleshooting"),
    "list_troubleshooting late": list_late(),
    "list_troubleshooting of all domains late": list_late(of_all=True),
    "list_batches of all domains": lambda bus: lambda: bus.call("list_batches"),
    "get_command": look("get_command", "command_id"),
    "get_payload": look("get_payload", "command_id"),
    "get_audit_trail": look("get_audit_trail", "command_id"),
    "list_batch_commands": look("list_batch_commands", "batch_id"),
    "find_domains": find_domains,
    "find_by_id": find_by_id,
    "find_commands": find(),
    "find_commands of a domain": find(domain=DOMAIN),
    "find_commands of what waits": find(status="IN_TROUBLESHOOTING_QUEUE"),
    "find_commands of what waits in a domain": find(status="IN_TROUBLESHOOTING_QUEUE", domain=DOMAIN),
    "find_commands of what failed nowhere": find(status="FAILED", domain="ship"),
    "find_commands of what waits with a text": find(status="IN_TROUBLESHOOTING_QUEUE", text="nowhere", scan=300),
    "find_commands of a batch": look("find_commands", "batch_id"),
    "find_commands of a type that is nowhere": find(command_type="nowhere", scan=300),
    "find_commands with a text": find(text="nowhere", scan=300),
    "find_commands of a batch with a text": find_in_batch,
    "get_message": look("get_message", "command_id"),
    "sp_step_redrives": step_redrive,
    "list_leases": list_leases,
}


def reads(bus: Bus) -> dict[str, int]:
    """Return, for the transaction so far, sequential scans of each table and entries read of each index."""
    partitions = "select inhrelid from pg_inherits where inhparent = any(%s::text[]::regclass[])"
    found = bus.rows(
        "select t || ' sequentially' as name, pg_stat_get_xact_numscans(t)::int as count"
        f" from (select unnest(%s::text[]::regclass[]) union select inhrelid::regclass from ({partitions}) p) as x(t)"
        " where pg_relation_size(t) > 0",  # the audit of another month is empty, and looking at it costs nothing
        list(TABLES),
        list(TABLES),
    )
    found += bus.rows(
        "select indexrelid::regclass::text as name, pg_stat_get_xact_tuples_returned(indexrelid)::int as count"
        f" from pg_index where indrelid = any(%s::text[]::regclass[]) or indrelid in ({partitions})",
        list(TABLES),
        list(TABLES),
    )
    return {row["name"]: row["count"] for row in found}


def too_many_reads(bus: Bus, prepare: Callable[[Bus], Callable[[], object]]) -> dict[str, int]:
    """Make a call that is rolled back; return what it read sequentially, or more of than it may."""
    with bus.connection.transaction(force_rollback=True):
        call = prepare(bus)
        before = reads(bus)
        call()
        after = reads(bus)
    read = {name: after[name] - before.get(name, 0) for name in after}
    return {name: n for name, n in read.items() if n > (0 if name.endswith("sequentially") else MOST_READ)}


@pytest.fixture(scope="module")
def large(server: Server, template_database: str) -> Iterator[Bus]:
    """Give a database with 100,000 commands, analyzed; calls are rolled back."""
    with server.database(template_database) as url, open_bus(url) as bus:
        bus.create_domain()
        fill(bus, 100_000)
        bus.run("analyze")
        bus.run("vacuum commandbus.audit")  # its indexes on time are summaries, which vacuum makes
        yield bus


@pytest.mark.parametrize("name", CALLS)
def test_a_call_reads_by_index_only_what_it_needs(large: Bus, name: str) -> None:
    assert too_many_reads(large, CALLS[name]) == {}


def plan_of(bus: Bus, function: str, statement: str) -> str:
    """Return the plan that a function keeps for the one of its statements that *statement* matches in its source."""
    (source,) = bus.rows(
        "select p.prosrc as text, p.proconfig as settings, p.proargnames as names,"
        " array(select format_type(t, null) from unnest(p.proargtypes) t) as types"
        " from pg_proc p where p.oid = %s::regproc",
        f"commandbus.{function}",
    )
    found = re.search(statement, source["text"], re.DOTALL)
    assert found is not None
    text = re.sub(r"\binto \w+(, \w+)*\n", "\n", found[0])
    names = [*source["names"][: len(source["types"])], "v_now"]
    for number, name in enumerate(names, 1):
        text = re.sub(rf"\b{name}\b", f"${number}", text)
    with bus.connection.transaction(force_rollback=True):
        for setting in source["settings"]:
            name, value = setting.split("=")
            bus.rows("select set_config(%s, %s, true)", name, value)
        bus.run(f"prepare kept ({', '.join([*source['types'], 'timestamptz'])}) as {text}")
        plan = bus.rows(f"explain (costs off) execute kept ({', '.join(['null'] * len(names))})")
        bus.run("deallocate kept")
    return "\n".join(row["QUERY PLAN"] for row in plan)


@pytest.mark.parametrize(
    ("function", "statement"),
    [
        ("_start_commands", r"with started as .* from started(?=;)"),
        ("_end_attempts", r"with done as .* from counted n\n    \) b(?=;)"),
    ],
)
def test_the_plan_of_a_set_looks_each_command_up_by_its_key(large: Bus, function: str, statement: str) -> None:
    plan = plan_of(large, function, statement)
    assert "Index Scan using command_pk on command c" in plan
    assert "Seq Scan" not in plan


def test_counting_the_tsq_reads_the_tsq_only(large: Bus) -> None:
    with large.connection.transaction(force_rollback=True):
        before = reads(large)
        (row,) = large.call("count_troubleshooting", domain=DOMAIN)
        after = reads(large)
    read = {name: after[name] - before[name] for name in after}
    assert row["waiting"] == 10_000
    assert max(read.values()) < 12_000  # with what the other tests rolled back
    assert read["commandbus.command sequentially"] == 0


@pytest.mark.parametrize("function", ["get_redrive", "sp_step_redrives"])
def test_what_became_of_a_large_redrive_is_looked_at_piece_by_piece(large: Bus, function: str) -> None:
    with large.connection.transaction(force_rollback=True):
        redrive_id = everything_sent(large)
        before = reads(large)
        if function == "get_redrive":
            (row,) = large.call(function, redrive_id=redrive_id)
            assert row["again"] == 2_000
        else:
            large.call(function, domain=DOMAIN)
            assert large.value("select failed_count from commandbus.redrive") == 2_000
        after = reads(large)
    read = {name: after[name] - before[name] for name in after}
    assert max(read.values()) <= 6_000  # the items are found, looked up, and checked again by the update
    assert [name for name, n in read.items() if n and name.endswith("sequentially")] == []


def test_a_text_among_what_waits_reads_the_tsq_only(large: Bus) -> None:
    with large.connection.transaction(force_rollback=True):
        before = reads(large)
        assert large.call("find_commands", status="IN_TROUBLESHOOTING_QUEUE", text="nowhere") == []
        after = reads(large)
    read = {name: after[name] - before[name] for name in after}
    assert max(read.values()) < 12_000  # with what the other tests rolled back
    assert read["commandbus.command sequentially"] == 0


def test_what_failed_before_is_not_read_on_the_way_to_what_waits(database_url: str) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        bus.send_new(5_000)
        bus.settle(bus.receive(limit=5_000), "FAILED", **errors(5_000, "BUSINESS_RULE"))
        bus.park(10)
        bus.run("analyze commandbus.command")
        for name in ("list_troubleshooting", "list_troubleshooting of all domains"):
            read = too_many_reads(bus, CALLS[name])
            assert {table for table in read if table.startswith("commandbus.command")} == set()


@pytest.mark.parametrize("domain", ["ship", None])
def test_what_needs_attention_is_found_by_its_index_whatever_the_server_believes(
    database_url: str, domain: str | None
) -> None:
    with open_bus(database_url) as bus:
        bus.run("alter table commandbus.command set (autovacuum_enabled = off)")
        for name in ("ship", DOMAIN):
            bus.create_domain(name)
        bus.send_new(500, domain="ship")
        bus.settle(bus.receive(limit=500, domain="ship"), "FAILED", domain="ship", **errors(500, "BUSINESS_RULE"))
        bus.run("analyze commandbus.command")  # from now on it believes that all commands are failed ones of "ship"
        bus.run("delete from commandbus.command")
        bus.send_new(10_000)
        look = find(status="FAILED") if domain is None else find(status="FAILED", domain=domain)
        assert too_many_reads(bus, look) == {}


def test_grouping_failures_reads_the_tsq_only(large: Bus) -> None:
    with large.connection.transaction(force_rollback=True):
        before = reads(large)
        groups = large.call("list_failure_groups", domain=DOMAIN)
        after = reads(large)
    read = {name: after[name] - before[name] for name in after}
    assert sum(group["waiting"] for group in groups) == 10_000
    assert max(read.values()) < 12_000  # with what the other tests rolled back
    assert read["commandbus.command sequentially"] == 0


def test_a_plan_made_while_the_tables_were_small_is_as_good_when_they_are_large(
    database_url: str,
) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        bus.send_new(5)
        bus.settle(
            bus.receive(),
            "COMPLETED",
            "COMPLETED",
            "RETRY",
            "TROUBLESHOOT",
            "TROUBLESHOOT",
            **errors(5, "TRANSIENT", delay=9),
        )
        bus.send_new(5)
        calls = {name: prepare for name, prepare in CALLS.items() if name.startswith("sp_")}
        for _ in range(7):  # after the fifth call a plan may be kept for good
            for name, prepare in calls.items():
                if not name.startswith("sp_send"):  # it would leave a large table behind, even rolled back
                    too_many_reads(bus, prepare)
        grow(bus, 10_000)
        wrong = {name: too_many_reads(bus, prepare) for name, prepare in calls.items()}
        assert {name: read for name, read in wrong.items() if read} == {}


def test_payloads_of_a_page_are_found_by_their_index_whatever_the_plans_age(database_url: str) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        bus.park(5)
        bus.run("analyze")
        for _ in range(8):
            bus.call("list_troubleshooting")
        grow(bus, 10_000)
        read = too_many_reads(bus, lambda bus: lambda: bus.call("list_troubleshooting"))
        assert {name for name in read if "payload_archive" in name} == set()


@pytest.mark.parametrize("event_type", [None, "SENT", "RECEIVED", "COMPLETED"])
def test_the_audit_is_read_in_small_pieces_behind_a_silence_too(large: Bus, event_type: str | None) -> None:
    with large.connection.transaction(force_rollback=True):
        fetched = (
            "select pg_stat_get_xact_tuples_fetched(inhrelid)::int as rows from pg_inherits"
            " where inhparent = 'commandbus.audit'::regclass"
        )
        before = sum(row["rows"] for row in large.rows(fetched))
        # As if nothing had happened since the fill, which wrote all events of a kind before those of the next.
        newest = large.call("query_audit", domain=DOMAIN, event_type=event_type)
        read = sum(row["rows"] for row in large.rows(fetched)) - before
    assert len(newest) == 100
    assert read < 100_000, "of 300,000"


def test_a_queue_that_was_nearly_empty_at_its_last_analyze_is_still_looked_up_by_its_index(database_url: str) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        bus.send_new(10_000)
        # Its last page is in use, so that the table stays long: the server now expects next to nothing in it.
        bus.run("delete from pgmq.q_pay__commands where msg_id < (select max(msg_id) from pgmq.q_pay__commands)")
        bus.run("vacuum analyze pgmq.q_pay__commands")
        bus.send_new(9_999)
        names = [name for name in CALLS if name.startswith(("sp_receive", "sp_settle", "sp_extend"))]
        wrong = {name: set(too_many_reads(bus, CALLS[name])) & {"pgmq.q_pay__commands_pkey"} for name in names}
        assert {name: read for name, read in wrong.items() if read} == {}


def test_a_healthy_life_updates_its_row_in_place(database_url: str) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        bus.send_new(2000)
        while received := bus.receive(limit=SET):
            bus.settle(received, "COMPLETED")
        bus.run("select pg_stat_force_next_flush()")
        (updates,) = bus.rows(
            "select n_tup_upd as all, n_tup_hot_upd as hot from pg_stat_user_tables"
            " where relid = 'commandbus.command'::regclass"
        )
    assert updates["all"] == 4000
    assert updates["hot"] >= 3600
