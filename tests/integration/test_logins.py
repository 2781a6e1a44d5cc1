"""Senders, workers and operators as logins that may call functions only, through whole lives of commands."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege
from pydantic import BaseModel

from commandbus import (
    AuditEventType,
    BatchStatus,
    Command,
    CommandBus,
    CommandBusPool,
    CommandStatus,
    HandlerContext,
    Maintenance,
    PermanentCommandError,
    TransientCommandError,
    TroubleshootingQueue,
)
from commandbus.migrate import grant, packaged_directory, verify
from tests.cli_process import Cli
from tests.integration.granted import login
from tests.integration.live import DOMAIN, REPLIES, batch_commands, make_worker, registry_of, running, send, until
from tests.integration.sql_helpers import open_bus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from commandbus.migrate import RoleNames


class Order(BaseModel):
    """What the handlers take."""

    n: int = 0


@pytest.fixture
def url(names: RoleNames, database_url: str) -> str:
    """A granted database without any domain, and with a table of the application's own."""
    grant(database_url, **asdict(names))
    with psycopg.connect(database_url) as connection:
        connection.execute("create schema shop; create table shop.ledger (n int); grant usage on schema shop to public")
        connection.execute("grant insert, select on shop.ledger to public")
    return database_url


@pytest.fixture
async def app(url: str, names: RoleNames) -> AsyncIterator[CommandBusPool]:
    """What a sender or a worker has."""
    async with CommandBusPool(database_url=login(url, names.app)) as pool:
        yield pool


@pytest.fixture
async def operator(url: str, names: RoleNames) -> AsyncIterator[TroubleshootingQueue]:
    """What an operator has."""
    async with CommandBusPool(database_url=login(url, names.operator)) as pool:
        yield TroubleshootingQueue(pool)


async def charge(_: Order, __: HandlerContext) -> str:
    """End well."""
    return "charged"


async def write(order: Order, context: HandlerContext) -> None:
    """Write into the application's own table, together with the completion."""
    await context.connection.execute("insert into shop.ledger values (%s)", (order.n,))


async def fail_once(_: Command, context: HandlerContext) -> str:
    """Need a second attempt."""
    if context.attempt == 1:
        raise TransientCommandError("LATER", "not yet")
    return "at last"


async def refuse(_: Command, __: HandlerContext) -> None:
    """Need an operator."""
    raise PermanentCommandError("BROKEN", "no")


async def test_commands_live_their_whole_lives(url: str, app: CommandBusPool, operator: TroubleshootingQueue) -> None:
    bus = CommandBus(app)
    registry = registry_of(charge=charge, later=fail_once, refuse=refuse)
    registry.register(DOMAIN, "write", write, transactional=True)
    worker = make_worker(app, registry)
    async with running(worker):  # which makes the domain
        assert await bus.call(DOMAIN, "charge", {"n": 1}, timeout=10) == "charged"
        assert await bus.call(DOMAIN, "later", {}, timeout=10) == "at last"
        assert await bus.call(DOMAIN, "write", {"n": 42}, timeout=10) is None
        batch = await bus.create_batch(DOMAIN, batch_commands(20), on_complete=REPLIES)
        assert (await bus.wait_for_batch(DOMAIN, batch.batch_id, timeout=10)).status is BatchStatus.COMPLETED
        refused = [await send(bus, "refuse", {"n": n}) for n in range(3)]

        async def all_wait() -> bool:
            return await operator.count_troubleshooting(DOMAIN) == 3

        async def is_again_refused() -> bool:
            trail = await bus.get_audit_trail(refused[2])
            return [event.event_type for event in trail].count(AuditEventType.MOVED_TO_TSQ) == 2

        await until(all_wait)
        items = {item.command_id: item.payload for item in await operator.list_troubleshooting(DOMAIN)}
        assert items == {command_id: {"n": n} for n, command_id in enumerate(refused)}
        await operator.operator_cancel(DOMAIN, refused[0], "closed", operator="ann")
        await operator.operator_complete(DOMAIN, refused[1], {"by": "hand"}, operator="ann")
        await operator.operator_retry(DOMAIN, refused[2], operator="ann")
        await until(is_again_refused)
    with psycopg.connect(url) as owner:
        assert owner.execute("select n from shop.ledger").fetchall() == [(42,)]
    found = [await bus.get_command(DOMAIN, command_id) for command_id in refused[:2]]
    assert [one.status for one in found if one] == [CommandStatus.CANCELED, CommandStatus.COMPLETED]
    assert verify(url) == []


async def test_each_is_refused_the_others_part(
    url: str, names: RoleNames, app: CommandBusPool, operator: TroubleshootingQueue
) -> None:
    bus = CommandBus(app)
    await bus.create_domain(DOMAIN)
    command_id = await send(bus)
    with pytest.raises(InsufficientPrivilege):
        await TroubleshootingQueue(app).list_troubleshooting(DOMAIN)
    with pytest.raises(InsufficientPrivilege):
        await TroubleshootingQueue(app).operator_retry(DOMAIN, command_id)
    async with CommandBusPool(database_url=login(url, names.readonly)) as readonly:
        reader = CommandBus(readonly)
        found = await reader.get_command(DOMAIN, command_id)
        assert found is not None
        assert [one.command_id for one in await reader.query_commands(domain=DOMAIN)] == [command_id]
        assert [event.event_type for event in await reader.get_audit_trail(command_id)] == ["SENT"]
        with pytest.raises(InsufficientPrivilege):
            await reader.send(DOMAIN, "charge", uuid4(), {})
        with pytest.raises(InsufficientPrivilege):
            await TroubleshootingQueue(readonly).list_troubleshooting(DOMAIN)
    assert await operator.count_troubleshooting(DOMAIN) == 0


async def test_a_worker_makes_partitions_but_only_an_operator_removes_the_past(
    url: str, names: RoleNames, app: CommandBusPool
) -> None:
    bus = CommandBus(app)
    await bus.create_domain(DOMAIN)
    with psycopg.connect(url, autocommit=True) as owner:
        for (table,) in owner.execute("select relname from pg_class where relname ~ '^audit_y....m..$'").fetchall():
            owner.execute(f"drop table commandbus.{table}".encode())
    assert len((await Maintenance(app).run()).partitions_made) > 1
    keeping: dict[str, Any] = {
        "keep_commands_days": 1,
        "keep_audit_days": 1,
        "keep_archives_days": 1,
        "keep_replies_days": 1,
    }
    with pytest.raises(InsufficientPrivilege):
        await Maintenance(app, app.settings.replace(**keeping)).run()
    async with CommandBusPool(database_url=login(url, names.operator), **keeping) as operators:
        assert (await Maintenance(operators).run()).is_complete
    assert verify(url) == []


async def test_a_worker_that_may_not_remove_the_past_says_so_once(
    url: str, names: RoleNames, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("commandbus.worker.housekeeping._FIRST", (0.0, 0.0))
    monkeypatch.setattr("commandbus.worker.housekeeping._INTERVAL", 0.01)
    with psycopg.connect(url, autocommit=True) as owner:
        (table,) = (
            owner.execute("select max(relname) from pg_class where relname ~ '^audit_y....m..$'").fetchone() or ()
        )

        async def made() -> bool:
            return owner.execute("select to_regclass(%s)", [f"commandbus.{table}"]).fetchone() != (None,)

        async with (
            CommandBusPool(database_url=login(url, names.app), keep_commands_days=1) as pool,
            running(make_worker(pool, registry_of())),
        ):
            for _ in range(2):  # it goes on making partitions, hour by hour
                owner.execute(f"drop table commandbus.{table}".encode())
                await until(made)
    told = [record for record in caplog.records if "nothing old is removed here" in record.message]
    assert [(record.levelname, record.__dict__["refused"]) for record in told] == [
        ("WARNING", "permission denied for function sp_prune_commands")
    ]
    assert "commandbus_operator" in told[0].message
    assert "maintenance failed, trying again later" not in caplog.messages


@pytest.mark.parametrize(
    ("user", "command", "said"),
    [
        (
            "app",
            ("tsq", "list", DOMAIN, "--payload"),
            "list_troubleshooting (42501); connect as a member of commandbus_operator,",
        ),
        ("readonly", ("send", DOMAIN, "charge", "{}"), "(42501); connect as a member of commandbus_app,"),
        ("readonly", ("queue", "create", "x"), "connect as a member of commandbus_app or commandbus_operator,"),
        ("app", ("migrate", "info"), "_history (42501); connect as the role that migrated before, which owns"),
        ("operator", ("send", DOMAIN, "charge", "{}"), "(42501); connect as a member of commandbus_app,"),
        (
            "app",
            ("maintain", "--keep-audit", "1"),
            "sp_prune_audit (42501); connect as a member of commandbus_operator,",
        ),
    ],
)
def test_a_refusal_says_who_may(
    url: str, names: RoleNames, tmp_path: Path, user: str, command: tuple[str, ...], said: str
) -> None:
    grant(url)
    with psycopg.connect(url) as owner:
        owner.execute("select commandbus.sp_create_domain(%s)", [DOMAIN])
    refused = Cli(tmp_path, login(url, asdict(names)[user])).refusal(*command, code=1)
    assert said in refused
    assert len(refused.splitlines()) == 1


def test_who_sees_no_payloads_lists_what_waits_without_them(url: str, names: RoleNames, tmp_path: Path) -> None:
    with open_bus(url) as bus:
        bus.create_domain()
        bus.park(3)
        waiting = bus.rows("select command_id::text from commandbus.list_waiting()")
        bus.send_new()
    for user in (names.operator, names.app, names.readonly):
        cli = Cli(tmp_path, login(url, user))
        whole = cli.json("tsq", "list")
        assert [row["command_id"] for row in whole] == [row["command_id"] for row in waiting]
        assert cli.json("tsq", "list", "pay", "--limit", 1, "--offset", 1) == whole[1:2]
        assert cli.json("tsq", "list", "--type", "Nothing") == []
        assert "payload" not in whole[0]
        header = cli.text("tsq", "list").splitlines()[0].split()
        assert header[:3] + header[-1:] == ["domain", "command_id", "command_type", "updated_at"]


def test_a_member_of_the_owner_migrates_once_the_history_is_the_owners(
    url: str, names: RoleNames, tmp_path: Path
) -> None:
    files = tmp_path / "files"
    shutil.copytree(packaged_directory(), files)
    (files / "V3__more.sql").write_text(
        "create table commandbus.more (n int);\nalter table commandbus.batch alter column name set statistics 50;\n"
    )
    cli = Cli(tmp_path, login(url, names.owner))
    said = cli.refusal("migrate", "--directory", files, code=1)
    assert "_history (42501); connect as the role that migrated before" in said
    with psycopg.connect(url) as superuser:
        superuser.execute(
            sql.SQL("alter table public.flyway_schema_history owner to {}").format(sql.Identifier(names.owner))
        )
    assert cli.json("migrate", "--directory", files)["applied"] == ["V3__more.sql"]
    (files / "V4__other.sql").write_text("set role pg_monitor;\n")
    said = cli.refusal("migrate", "--directory", files, code=1)
    assert '"pg_monitor" (42501); connect as a role that may do this, or as a superuser' in said


def test_a_partition_of_somebody_elses_leads_to_grant(url: str, names: RoleNames, tmp_path: Path) -> None:
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("create table commandbus.audit_y2001m01 (like commandbus.audit including defaults)")
        owner.execute(
            "alter table commandbus.audit attach partition commandbus.audit_y2001m01"
            " for values from ('2001-01-01 00:00Z') to ('2001-02-01 00:00Z')"
        )
    cli = Cli(tmp_path, login(url, names.operator))
    refused = cli.refusal("maintain", "--keep-audit", "30", code=1)
    assert "audit_y2001m01" in refused
    assert '"commandbus grant"' in refused
    grant(url)
    assert cli.json("maintain", "--keep-audit", "30")["partitions_dropped"] == ["audit_y2001m01"]
