"""The audit's partitions: made ahead, emptied and dropped, and searched, without holding anybody up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest

from commandbus import (
    AuditEventType,
    CommandBus,
    CommandBusPool,
    InvalidArgumentError,
)
from tests.integration.growth import age, make_partition, month, partitions, run
from tests.integration.sql_helpers import DOMAIN, Bus, open_bus, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sql(database_url: str) -> Iterator[Bus]:
    """Give a connection to the test's database, its domain made."""
    with open_bus(database_url) as found:
        found.create_domain()
        yield found


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


async def test_a_search_may_begin_at_any_time(bus: CommandBus, sql: Bus) -> None:
    sql.send_new(2)
    far = datetime(9999, 12, 31, tzinfo=UTC)
    assert len(await bus.query_audit(before=far)) == 2
    assert len(await bus.query_audit(event_type="SENT", before=far)) == 2
    assert await bus.query_audit(before=datetime(1999, 1, 1, tzinfo=UTC)) == []
