"""Growth: the audit's partitions, and what is removed after which time, without holding anybody up."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from commandbus import (
    AuditEventType,
    BatchCommand,
    CommandBus,
    CommandBusPool,
    HandlerRegistry,
    InvalidArgumentError,
    Maintenance,
    MaintenanceReport,
    PermanentCommandError,
    PostgresMaintenance,
    Worker,
)
from commandbus.sync import Maintenance as SyncMaintenance
from tests.cli_process import Cli
from tests.integration.live import until
from tests.integration.sql_helpers import DOMAIN, Bus, open_bus, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from commandbus.sync import CommandBusPool as SyncCommandBusPool

OLD = "now() - interval '100 days'"
KEEP_90 = {"keep_commands_days": 90, "keep_archives_days": 90, "keep_replies_days": 90}


@pytest.fixture
def sql(database_url: str) -> Iterator[Bus]:
    """Give a connection to the test's database, its domain made."""
    with open_bus(database_url) as found:
        found.create_domain()
        yield found


def partitions(sql: Bus) -> set[str]:
    """Return the names of the audit's partitions."""
    rows = sql.rows(
        "select inhrelid::regclass::text as name from pg_inherits where inhparent = 'commandbus.audit'::regclass"
    )
    return {row["name"].removeprefix("commandbus.") for row in rows}


def month(ahead: int = 0) -> str:
    """Return the name of the partition of this month of UTC, or of a later or earlier one."""
    months = datetime.now(UTC).year * 12 + datetime.now(UTC).month - 1 + ahead
    return f"audit_y{months // 12}m{months % 12 + 1:02}"


def make_partition(sql: Bus, ahead: int) -> str:
    """Make a partition of another month, with one row in it; return its name."""
    name = month(ahead)
    first = f"date_trunc('month', now() at time zone 'UTC') at time zone 'UTC' + interval '{ahead} months'"
    (span,) = sql.rows(f"select ({first})::text as low, ({first} + interval '1 month')::text as high")
    sql.run(f"create table commandbus.{name} (like commandbus.audit including defaults)")
    sql.run(
        f"alter table commandbus.audit attach partition commandbus.{name}"
        f" for values from ('{span['low']}') to ('{span['high']}')"
    )
    sql.run(
        "insert into commandbus.audit (ts, domain, command_id, event_type)"
        f" values ('{span['low']}', 'pay', gen_random_uuid(), 'SENT')"
    )
    return name


async def run(pool: CommandBusPool, **keep: int) -> MaintenanceReport:
    """Maintain the database, keeping what is named for so many days and everything else for ever."""
    return await Maintenance(pool, pool.settings.replace(**keep)).run()


def age(sql: Bus, *command_ids: UUID) -> None:
    """Let commands have been sent, and have ended if they have, long ago."""
    sql.run(
        f"update commandbus.command set created_at = {OLD},"
        f" finished_at = case when finished_at is not null then {OLD} end where command_id = any(%s)",
        list(command_ids),
    )


def test_a_migrated_database_has_partitions_for_this_month_and_three_more(sql: Bus) -> None:
    assert partitions(sql) == {"audit_default", *(month(ahead) for ahead in range(4))}
    sql.send_new(3)
    assert sql.value(f"select count(*) from commandbus.{month()}") == 3
    assert sql.value("select count(*) from commandbus.audit_default") == 0


def test_partitions_are_made_once_and_have_the_indexes_of_all(sql: Bus) -> None:
    assert sql.result("sp_make_partitions", months_ahead=5) == [month(4), month(5)]
    assert sql.result("sp_make_partitions", months_ahead=5) == []
    found = sql.rows("select tablename, count(*) as n from pg_indexes where tablename ~ '^audit_' group by tablename")
    assert {row["n"] for row in found} == {4}
    assert len(found) == 7


def test_a_month_whose_rows_are_in_the_default_partition_stays_there(sql: Bus) -> None:
    sql.run(
        "insert into commandbus.audit (ts, domain, command_id, event_type)"
        " values (now() + interval '5 months', 'pay', gen_random_uuid(), 'SENT')"
    )
    assert sql.result("sp_make_partitions", months_ahead=6) == [month(4), month(6)]


def test_a_partition_is_made_while_a_transaction_that_wrote_to_the_audit_is_open(sql: Bus, database_url: str) -> None:
    with open_bus(database_url) as sender, sender.connection.transaction():
        sender.send_new(1)
        assert sql.result("sp_make_partitions", months_ahead=4) == [month(4)]


OLDER_THAN_30_DAYS = "select commandbus.sp_drop_partitions(now() - interval '30 days') as names"


def drop_partitions(sql: Bus, statement: str = OLDER_THAN_30_DAYS) -> list[str]:
    """Take all steps of forgetting the audit; return what each did."""
    done: list[str] = []
    while names := sql.rows(statement)[0]["names"]:
        done += names
    return done


def test_a_month_is_emptied_while_a_transaction_that_has_sent_is_open_and_dropped_after_it(
    sql: Bus, database_url: str
) -> None:
    old = make_partition(sql, -3)
    with open_bus(database_url) as sender, sender.connection.transaction():
        sender.send_new(1)  # holds the audit, so that it cannot be changed
        assert sql.rows(OLDER_THAN_30_DAYS) == [{"names": [old]}]
        assert sql.value(f"select count(*) from commandbus.{old}") == 0
        with refusal("55P03", "nothing was dropped"):
            sql.rows(OLDER_THAN_30_DAYS)
    assert drop_partitions(sql) == [old]
    assert old not in partitions(sql)


def test_a_month_that_is_being_read_stops_neither_the_other_months_nor_any_sender(sql: Bus, database_url: str) -> None:
    old = [make_partition(sql, -5), make_partition(sql, -4), make_partition(sql, -3)]
    with (
        open_bus(database_url) as reader,
        open_bus(database_url) as sender,
        ThreadPoolExecutor() as threads,
        reader.connection.transaction(),
    ):
        reader.rows(f"select * from commandbus.{old[1]}")
        # A step that keeps the lock on the audit while it waits for the reader would hold a sender for 1.5 seconds.
        sender.run("set lock_timeout = '1s'")
        dropping = threads.submit(drop_until_refused, sql)
        while not dropping.done():
            sender.send_new(1)
        assert dropping.result() == [old[0], old[2], old[0], old[2]]
    assert drop_partitions(sql) == [old[1], old[1]]


def drop_until_refused(sql: Bus) -> list[str]:
    """Take all steps that can be taken while a month is being read; return what each did."""
    done: list[str] = []
    with suppress(psycopg.errors.LockNotAvailable):
        while names := sql.rows(OLDER_THAN_30_DAYS)[0]["names"]:
            done += names
    return done


def test_a_month_goes_when_all_of_it_is_old_enough(sql: Bus) -> None:
    old, younger = make_partition(sql, -2), make_partition(sql, -1)
    sql.run(
        "insert into commandbus.audit (ts, domain, command_id, event_type)"
        " select now() - interval '20 years', 'pay', gen_random_uuid(), 'SENT' from generate_series(1, 3)"
    )
    month_and_a_day = "date_trunc('month', now() at time zone 'UTC') at time zone 'UTC' - interval '27 days'"
    assert drop_partitions(sql, f"select commandbus.sp_drop_partitions({month_and_a_day}) as names") == [old, old]
    assert younger in partitions(sql)
    assert sql.value("select commandbus.sp_prune_audit(now() - interval '1 year', 2)") == 2
    assert sql.value("select commandbus.sp_prune_audit(now() - interval '1 year', 2)") == 1
    assert sql.value("select count(*) from commandbus.audit_default") == 0


@pytest.mark.parametrize(
    "call",
    [
        "sp_make_partitions(13)",
        "sp_make_partitions(-1)",
        "sp_drop_partitions(now() + interval '1 hour')",
        "sp_prune_commands(now() + interval '1 hour')",
        "sp_prune_commands(now(), p_limit => 0)",
        "sp_prune_commands(now(), p_limit => null)",
        "sp_prune_audit(now() + interval '1 hour')",
        "sp_prune_payloads(now(), p_limit => -1)",
        "sp_prune_batches('pay', now() + interval '1 hour')",
        "sp_prune_batches('Pay', now())",
        "sp_prune_archives('pay', null)",
        "sp_prune_replies('pay', null)",
    ],
)
def test_bad_arguments_are_refused(sql: Bus, call: str) -> None:
    with refusal("CB007"):
        sql.rows(f"select * from commandbus.{call}")


def test_only_what_has_ended_long_ago_goes(sql: Bus) -> None:
    done, failed, parked, waiting, young = sql.send_new(5)
    received = sql.receive(limit=3)
    sql.settle(received, "COMPLETED", "FAILED", "TROUBLESHOOT")
    age(sql, done, failed, parked, waiting)
    (row,) = sql.rows("select * from commandbus.sp_prune_commands(now() - interval '90 days')")
    assert row == {"deleted": 2, "last_at": None, "last_id": None}
    assert {r["command_id"] for r in sql.rows("select command_id from commandbus.command")} == {parked, waiting, young}
    assert sql.value("select count(*) from commandbus.payload_archive") == 1  # of the one that waits for an operator
    assert len(sql.trail(done)) == 3  # the audit has a time of its own


def test_the_walk_goes_on_where_it_stopped_past_commands_that_have_not_ended(sql: Bus) -> None:
    ids = sql.send_new(10)
    sql.settle(sql.receive(limit=4), *["COMPLETED"] * 4)
    age(sql, *ids)
    deleted = 0
    last: tuple[str | None, str | None] = ("-infinity", "00000000-0000-0000-0000-000000000000")
    for _ in range(4):
        (row,) = sql.rows(
            "select deleted, last_at::text, last_id::text from commandbus.sp_prune_commands("
            "now() - interval '90 days', %s::timestamptz, %s::uuid, 3)",
            *last,
        )
        deleted += row["deleted"]
        last = (row["last_at"], row["last_id"])
    assert last == (None, None)
    assert deleted == 4


def test_a_batch_goes_as_a_whole_and_only_when_it_is_complete(sql: Bus) -> None:
    complete, growing = sql.create_batch(), sql.create_batch()
    sql.send_new(3, batch_id=complete)
    sql.settle(sql.receive(), *["COMPLETED"] * 3)
    ended = sql.send_new(2, batch_id=growing)
    sql.settle(sql.receive(limit=1), "COMPLETED")
    age(sql, *ended, *[r["command_id"] for r in sql.rows("select command_id from commandbus.command")])
    sql.run(
        f"update commandbus.batch set created_at = {OLD},"
        f" completed_at = case when completed_at is not null then {OLD} end"
    )

    assert sql.rows("select deleted from commandbus.sp_prune_commands(now() - interval '90 days')") == [{"deleted": 0}]
    assert sql.rows("select commandbus.sp_prune_batches('pay', now() - interval '90 days') as n") == [{"n": 4}]
    assert {r["batch_id"] for r in sql.rows("select batch_id from commandbus.batch")} == {growing}
    assert sql.value("select count(*) from commandbus.command") == 2


async def test_replies_and_archives_go_by_their_own_time(pool: CommandBusPool, sql: Bus) -> None:
    for _ in range(2):
        sql.run("insert into pgmq.q_pay__replies (enqueued_at, vt, message) values (" + OLD + ", now(), '{}')")
        sql.run(
            "insert into pgmq.a_pay__commands (msg_id, archived_at, vt, message) values"
            " ((random() * 1e9)::bigint, " + OLD + ", now(), '{}')"
        )
    sql.run("insert into pgmq.q_pay__replies (vt, message) values (now(), '{}')")
    sql.run(
        "insert into commandbus.undelivered_reply (queue_name, message, created_at)"
        " values ('pay__replies', '{}', " + OLD + ")"
    )
    assert (await run(pool, keep_replies_days=90)).deleted == {"replies": 3}
    assert (await run(pool, keep_archives_days=90)).deleted == {"archives": 2}
    assert sql.value("select count(*) from pgmq.q_pay__replies") == 1


async def test_by_default_nothing_is_ever_removed(pool: CommandBusPool, sql: Bus) -> None:
    old = make_partition(sql, -30)
    (done,) = sql.send_new()
    sql.settle(sql.receive(), "COMPLETED")
    age(sql, done)
    report = await run(pool)
    assert report == MaintenanceReport()
    assert old in partitions(sql)
    assert sql.command(done)["status"] == "COMPLETED"


async def test_whoever_is_second_leaves_it_to_the_first(pool: CommandBusPool, sql: Bus) -> None:
    with sql.connection.transaction():
        assert sql.result("sp_make_partitions") == []
        assert (await run(pool, **KEEP_90)).is_complete is False
    assert (await run(pool, **KEEP_90)).is_complete is True


async def test_twenty_at_once_remove_everything_once_while_commands_flow(pool: CommandBusPool, sql: Bus) -> None:
    registry = HandlerRegistry()

    @registry.handler(DOMAIN, "charge")
    async def charge(command: Any, _: Any) -> None:
        if command.data["n"] % 10 == 0:
            raise PermanentCommandError("NO", "no")

    old = sql.send_new(300)
    sql.settle(sql.receive(limit=300), *["COMPLETED"] * 300)
    age(sql, *old)
    bus, worker = CommandBus(pool), Worker(pool, DOMAIN, registry)
    working = asyncio.create_task(worker.run(concurrency=20, poll_interval=0.05))
    commands = [BatchCommand("charge", uuid4(), {"n": n}) for n in range(200)]
    batch = await bus.create_batch(DOMAIN, commands)
    reports = await asyncio.gather(*(run(pool, **KEEP_90, keep_audit_days=30) for _ in range(20)))
    await until(lambda: _ended(bus, batch.batch_id))
    await worker.stop()
    await working
    assert sum(report.deleted.get("commands", 0) for report in reports) == 300
    assert sql.value("select count(*) from commandbus.command") == 200


async def _ended(bus: CommandBus, batch_id: UUID) -> bool:
    batch = await bus.get_batch(DOMAIN, batch_id)
    return batch is not None and batch.completed_count == 180 and batch.in_troubleshooting_count == 20


def test_the_twin_does_the_same(sync_pool: SyncCommandBusPool, sql: Bus) -> None:
    sql.run(f"drop table commandbus.{month(3)}")
    seen: list[tuple[str, int]] = []
    (done,) = sql.send_new()
    sql.settle(sql.receive(), "COMPLETED")
    age(sql, done)
    report = SyncMaintenance(sync_pool, sync_pool.settings.replace(keep_commands_days=90)).run(
        lambda kind, rows: seen.append((kind, rows))
    )
    assert report.partitions_made == [month(3)]
    assert seen == [("commands", 1)]


async def test_a_worker_makes_partitions_soon_after_its_start(
    pool: CommandBusPool, sql: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commandbus.worker.housekeeping._FIRST", (0.0, 0.1))
    sql.run(f"drop table commandbus.{month(2)}")
    worker = Worker(pool, DOMAIN)
    working = asyncio.create_task(worker.run())
    await until(lambda: _has(sql, month(2)))
    await worker.stop()
    await working


async def _has(sql: Bus, name: str) -> bool:
    return name in partitions(sql)


def test_the_command_line_says_what_it_removed(database_url: str, sql: Bus, tmp_path: Path) -> None:
    cli = Cli(tmp_path, database_url)
    (done,) = sql.send_new()
    sql.settle(sql.receive(), "COMPLETED")
    age(sql, done)
    sql.run(f"drop table commandbus.{month(3)}")
    found = cli.json("maintain", "--keep-commands", "90")
    assert found == {
        "partitions_made": [month(3)],
        "partitions_dropped": [],
        "deleted": {"commands": 1, "batches": 0},
        "is_complete": True,
    }
    assert "keep_commands_days" in cli.refusal("maintain", "--keep-commands", "0", code=2)


async def test_settings_out_of_range_are_refused(pool: CommandBusPool) -> None:
    for days in (0, -1, 36_501):
        with pytest.raises(InvalidArgumentError, match="keep_audit_days"):
            pool.settings.replace(keep_audit_days=days)


async def test_the_audit_is_searched_newest_first_page_by_page(bus: CommandBus, sql: Bus) -> None:
    ids = sql.send_new(30)
    sql.run(
        "insert into commandbus.audit (ts, domain, command_id, event_type)"
        " select now() - n * n * interval '1 hour', 'pay', gen_random_uuid(), 'SENT' from generate_series(1, 30) n"
    )
    expected = [
        row["audit_id"] for row in sql.rows("select audit_id from commandbus.audit order by ts desc, audit_id desc")
    ]
    found: list[int] = []
    page = await bus.query_audit(DOMAIN, limit=7)
    while page:
        found += [event.audit_id for event in page]
        page = await bus.query_audit(DOMAIN, before=page[-1].timestamp, before_id=page[-1].audit_id, limit=7)
    assert found == expected
    assert {event.command_id for event in await bus.query_audit(limit=30)} == set(ids)


async def test_the_audit_is_searched_by_kind_and_time(bus: CommandBus, sql: Bus) -> None:
    sql.send_new(4)
    sql.settle(sql.receive(), "COMPLETED", "FAILED", "TROUBLESHOOT", "COMPLETED")
    moved = await bus.query_audit(event_type=AuditEventType.MOVED_TO_TSQ)
    assert [event.event_type for event in moved] == [AuditEventType.MOVED_TO_TSQ]
    assert len(await bus.query_audit(event_type="SENT", limit=3)) == 3
    assert await bus.query_audit(after=datetime.now(UTC) + timedelta(minutes=1)) == []
    assert await bus.query_audit("ship") == []
    with pytest.raises(InvalidArgumentError, match="before_id"):
        await bus.query_audit(before_id=3)


async def test_a_conversation_is_found_by_its_correlation_id(bus: CommandBus) -> None:
    first, second, other = uuid4(), uuid4(), uuid4()
    await bus.send(DOMAIN, "charge", first, {})
    await bus.send(DOMAIN, "charge", second, {}, correlation_id=first)
    await bus.send(DOMAIN, "charge", other, {}, correlation_id=uuid4())
    found = await bus.query_commands(correlation_id=first)
    assert {command.command_id for command in found} == {first, second}


async def test_reading_old_audit_for_long_holds_up_nothing_but_that_month(pool: CommandBusPool, sql: Bus) -> None:
    old = make_partition(sql, -3)
    (done,) = sql.send_new()
    sql.settle(sql.receive(), "COMPLETED")
    age(sql, done)
    with sql.connection.transaction():
        sql.rows(f"select * from commandbus.{old}")
        report = await run(pool, keep_audit_days=30, keep_commands_days=90)
        assert (report.is_complete, report.partitions_dropped, report.deleted["commands"]) == (False, [], 1)
    assert (await run(pool, keep_audit_days=30)).partitions_dropped == [old]


async def test_payloads_of_what_an_operator_ended_go_by_their_own_time(pool: CommandBusPool, sql: Bus) -> None:
    canceled, waiting = sql.park(2)
    sql.call("sp_operator_cancel", domain=DOMAIN, command_ids=[canceled], reason="no")
    sql.run(f"update commandbus.payload_archive set archived_at = {OLD}")
    assert (await run(pool, keep_payloads_days=90)).deleted == {"payloads": 1}
    assert sql.rows("select command_id from commandbus.payload_archive") == [{"command_id": waiting}]


async def test_what_is_left_of_a_domain_without_queues_goes_too(pool: CommandBusPool, sql: Bus) -> None:
    batch_id = sql.create_batch()
    sql.send_new(2, batch_id=batch_id)
    sql.settle(sql.receive(), *["COMPLETED"] * 2)
    sql.run(f"update commandbus.batch set created_at = {OLD}, completed_at = {OLD}")
    for queue in ("pay__commands", "pay__replies"):
        sql.rows("select pgmq.drop_queue(%s)", queue)
    assert (await run(pool, keep_commands_days=90)).deleted == {"commands": 0, "batches": 3}


def test_a_reply_that_somebody_takes_is_not_waited_for(sql: Bus, database_url: str) -> None:
    sql.run(
        "insert into pgmq.q_pay__replies (enqueued_at, vt, message)"
        f" select {OLD}, now(), '{{}}' from generate_series(1, 3)"
    )
    with open_bus(database_url) as taker, taker.connection.transaction():
        taker.run("delete from pgmq.q_pay__replies where msg_id = 1")
        assert sql.value("select commandbus.sp_prune_replies('pay', now() - interval '90 days')") == 2


@pytest.mark.parametrize("style", ["SQL, DMY", "German", "Postgres, DMY", "ISO, MDY"])
@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Asia/Shanghai", "America/St_Johns"])
def test_partitions_begin_with_a_month_of_utc_in_any_session(sql: Bus, style: str, zone: str) -> None:
    sql.rows("select set_config('datestyle', %s, false), set_config('timezone', %s, false)", style, zone)
    assert sql.result("sp_make_partitions", months_ahead=5) == [month(4), month(5)]
    sql.rows("select set_config('datestyle', 'ISO', false), set_config('timezone', 'UTC', false)")
    bounds = sql.rows(
        "select pg_get_expr(relpartbound, oid) as b from pg_class where relispartition and relname ~ '^audit_y.*[0-9]$'"
    )
    assert all(bound["b"].count("-01 00:00:00+00'") == 2 for bound in bounds)


async def test_an_idempotent_send_that_races_with_a_prune_is_stored_or_found(pool: CommandBusPool, sql: Bus) -> None:
    bus, ids = CommandBus(pool), sql.send_new(100)
    sql.settle(sql.receive(limit=100), *["COMPLETED"] * 100)
    pruning = True

    async def prune() -> None:
        maintenance = PostgresMaintenance(pool)
        while pruning:
            sql.run(
                f"update commandbus.command set created_at = {OLD}, status = 'COMPLETED', attempts = 1,"
                f" finished_at = {OLD} where finished_at is null or created_at > {OLD}"
            )
            await maintenance.prune_commands(90)

    async def resend() -> int:
        sent = 0
        for _ in range(4):
            for command_id in ids:
                sent += (await bus.send(DOMAIN, "charge", command_id, {}, idempotent=True)).command_id == command_id
        return sent

    pruner = asyncio.create_task(prune())
    try:
        assert await asyncio.gather(*(resend() for _ in range(5))) == [400] * 5
    finally:
        pruning = False
        await pruner
    sql.run("update commandbus.command set status = 'PENDING', finished_at = null")


async def test_a_search_may_begin_at_any_time(bus: CommandBus, sql: Bus) -> None:
    sql.send_new(2)
    far = datetime(9999, 12, 31, tzinfo=UTC)
    assert len(await bus.query_audit(before=far)) == 2
    assert len(await bus.query_audit(event_type="SENT", before=far)) == 2
    assert await bus.query_audit(before=datetime(1999, 1, 1, tzinfo=UTC)) == []


@pytest.mark.counters_off
async def test_a_batch_whose_counters_lie_is_not_removed_while_a_command_of_it_waits(
    pool: CommandBusPool, sql: Bus
) -> None:
    batch_id = sql.create_batch()
    (waiting,) = sql.send_new(1, batch_id=batch_id)
    sql.run(f"update commandbus.command set created_at = {OLD}")
    sql.run(
        f"update commandbus.batch set created_at = {OLD}, completed_at = {OLD},"
        " status = 'COMPLETED', completed_count = 1"
    )
    assert (await run(pool, keep_commands_days=90)).deleted == {"commands": 0, "batches": 0}
    assert sql.status(waiting) == "PENDING"
