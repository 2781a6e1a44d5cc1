"""Growth: what is removed after which time, by whom, and what never is."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from psycopg_pool import AsyncConnectionPool

from commandbus import (
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
from commandbus.worker.housekeeping import keep_house
from tests.cli_process import Cli
from tests.integration.growth import OLD, age, make_partition, month, partitions, run
from tests.integration.live import until
from tests.integration.sql_helpers import DOMAIN, Bus, open_bus, refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from psycopg import AsyncConnection

    from commandbus.sync import CommandBusPool as SyncCommandBusPool

KEEP_90 = {"keep_commands_days": 90, "keep_archives_days": 90, "keep_replies_days": 90}


@pytest.fixture
def sql(database_url: str) -> Iterator[Bus]:
    """Give a connection to the test's database, its domain made."""
    with open_bus(database_url) as found:
        found.create_domain()
        yield found


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


def test_a_redrive_goes_in_bounded_steps_and_only_when_it_has_ended(sql: Bus) -> None:
    sql.park(5)
    selection = {"domain": "pay", "command_ids": None, "failure_key": None, "rate": 1}
    running, ended = (sql.result("sp_start_redrive", **selection) for _ in range(2))
    sql.call("sp_control_redrive", redrive_id=ended, action="STOP")
    sql.run(f"update commandbus.redrive set created_at = {OLD}, finished_at = finished_at - interval '100 days'")
    yesterday = sql.value("select now() - interval '1 day'")
    assert [sql.result("sp_prune_redrives", before=yesterday, limit=2) for _ in range(4)] == [2, 2, 2, 0]
    assert [row["redrive_id"] for row in sql.call("list_redrives")] == [running]
    assert sql.value("select count(*) from commandbus.redrive_item") == 5


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


@pytest.mark.parametrize(
    "call",
    [
        "sp_make_partitions()",
        "sp_drop_partitions(now())",
        "sp_prune_audit(now())",
        "sp_prune_commands(now())",
        "sp_prune_payloads(now())",
        "sp_prune_batches('pay', now())",
        "sp_prune_archives('pay', now())",
        "sp_prune_replies('pay', now())",
    ],
)
def test_each_step_is_for_one_at_a_time(sql: Bus, database_url: str, call: str) -> None:
    with open_bus(database_url) as first, first.connection.transaction():
        first.result("sp_make_partitions")
        assert [value for row in sql.rows(f"select * from commandbus.{call}") for value in row.values()] in ([], [None])
    assert next(value for row in sql.rows(f"select * from commandbus.{call}") for value in row.values()) is not None


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
        "deleted": {"commands": 1, "redrives": 0, "batches": 0},
        "is_complete": True,
    }
    assert "--keep-commands: must be an integer from 1" in cli.refusal("maintain", "--keep-commands", "0", code=2)


def test_a_dry_run_tells_what_would_go_and_undoes_it(database_url: str, sql: Bus, tmp_path: Path) -> None:
    cli = Cli(tmp_path, database_url)
    old = [make_partition(sql, -5), make_partition(sql, -4)]
    sql.run(f"drop table commandbus.{month(3)}")
    batch_id = sql.create_batch()
    sql.send_new(2, batch_id=batch_id)
    sql.send_new(3)
    sql.settle(sql.receive(), *["COMPLETED"] * 5)
    sql.run(f"update commandbus.command set created_at = {OLD}, finished_at = {OLD}")
    sql.run(f"update commandbus.batch set created_at = {OLD}, completed_at = {OLD}")
    options = ("--keep-commands", "30", "--keep-audit", "30")
    planned = cli.json("maintain", *options, "--dry-run")
    assert planned == {
        "partitions_made": [month(3)],
        "partitions_dropped": old,
        "deleted": {"audit": 0, "commands": 3, "redrives": 0, "batches": 3},
        "is_complete": True,
    }
    assert sql.value("select count(*) from commandbus.command") == 5
    assert sql.value(f"select count(*) from commandbus.{old[0]}") == 1
    assert partitions(sql) >= set(old)
    assert month(3) not in partitions(sql)
    words = cli.text("maintain", *options, "--dry-run").splitlines()
    assert words[0].split() == ["partitions", "would", "be", "made", month(3)]
    assert words[3].split() == ["rows", "of", "commands", "would", "be", "removed", "3"]
    assert cli.json("maintain", *options) == planned
    assert sql.value("select count(*) from commandbus.command") == 0


def test_a_dry_run_counts_one_step_only(database_url: str, sql: Bus, tmp_path: Path) -> None:
    sql.run(
        "insert into commandbus.audit_default (ts, domain, command_id, event_type)"
        " select now() - interval '20 years', 'pay', gen_random_uuid(), 'SENT' from generate_series(1, 10001)"
    )
    cli = Cli(tmp_path, database_url)
    said = cli.text("maintain", "--keep-audit", "30", "--dry-run")
    assert "rows of audit would be removed  10,000 or more" in said
    assert "rows of audit removed  10,001" in cli.text("maintain", "--keep-audit", "30")


async def test_a_dry_run_takes_one_step_of_a_walk_and_names_all_old_partitions(pool: CommandBusPool, sql: Bus) -> None:
    old = [make_partition(sql, -5), make_partition(sql, -4)]
    sql.run(
        "insert into commandbus.payload_archive (domain, command_id, message, archived_at)"
        f" select 'pay', gen_random_uuid(), '{{}}', {OLD} + n * interval '1 ms' from generate_series(1, 10001) n"
    )
    settings = pool.settings.replace(keep_payloads_days=30, keep_audit_days=30)
    report = await Maintenance(pool, settings).run(dry_run=True)
    assert (report.deleted["payloads"], report.partitions_dropped) == (10_000, old)
    assert sql.value("select count(*) from commandbus.payload_archive") == 10_001
    report = await Maintenance(pool, settings).run()
    assert (report.deleted["payloads"], report.partitions_dropped) == (10_001, old)


def test_a_dry_run_beside_somebody_who_maintains_says_so(database_url: str, sql: Bus, tmp_path: Path) -> None:
    with sql.connection.transaction():
        sql.result("sp_make_partitions")
        done = Cli(tmp_path, database_url)("maintain", "--dry-run")
    assert (done.returncode, "another session is in the way" in done.stdout) == (1, True)


def test_nothing_to_do_is_told_without_an_empty_line(database_url: str, tmp_path: Path) -> None:
    done = Cli(tmp_path, database_url)("maintain")
    assert (done.stdout.splitlines(), done.stderr) == (
        ["partitions made     none", "partitions dropped  none"],
        "",
    )


class UnreliablePool(AsyncConnectionPool[Any]):
    """A pool of a machine that has no file descriptors left, for the first calls."""

    calls = 0

    @asynccontextmanager
    async def connection(self, timeout: float | None = None) -> AsyncIterator[AsyncConnection[Any]]:
        """Give a connection, or fail."""
        self.calls += 1
        if self.calls <= 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        async with super().connection(timeout) as connection:
            yield connection


async def test_housekeeping_outlives_what_the_machine_refuses(
    database_url: str, sql: Bus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("commandbus.worker.housekeeping._FIRST", (0.0, 0.0))
    monkeypatch.setattr("commandbus.worker.housekeeping._INTERVAL", 0.01)
    sql.run(f"drop table commandbus.{month(2)}")
    async with UnreliablePool(database_url, kwargs={"autocommit": True}, open=False) as pool:
        task = asyncio.create_task(keep_house(Maintenance(pool)))
        await until(lambda: _has(sql, month(2)))
        assert not task.done()
        task.cancel()
        await asyncio.wait({task})
    assert caplog.messages.count("maintenance failed, trying again later") == 2


async def test_settings_out_of_range_are_refused(pool: CommandBusPool) -> None:
    for days in (0, -1, 36_501):
        with pytest.raises(InvalidArgumentError, match="keep_audit_days"):
            pool.settings.replace(keep_audit_days=days)


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
    assert (await run(pool, keep_commands_days=90)).deleted == {"commands": 0, "redrives": 0, "batches": 3}


def test_a_reply_that_somebody_takes_is_not_waited_for(sql: Bus, database_url: str) -> None:
    sql.run(
        "insert into pgmq.q_pay__replies (enqueued_at, vt, message)"
        f" select {OLD}, now(), '{{}}' from generate_series(1, 3)"
    )
    with open_bus(database_url) as taker, taker.connection.transaction():
        taker.run("delete from pgmq.q_pay__replies where msg_id = 1")
        assert sql.value("select commandbus.sp_prune_replies('pay', now() - interval '90 days')") == 2


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
    assert (await run(pool, keep_commands_days=90)).deleted == {"commands": 0, "redrives": 0, "batches": 0}
    assert sql.status(waiting) == "PENDING"
