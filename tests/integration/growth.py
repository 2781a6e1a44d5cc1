"""What the tests of growth share: partitions of other months, and commands of long ago."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from commandbus import (
    CommandBusPool,
    Maintenance,
    MaintenanceReport,
)

if TYPE_CHECKING:
    from uuid import UUID

    from tests.integration.sql_helpers import Bus

OLD = "now() - interval '100 days'"


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
