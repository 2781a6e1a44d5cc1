"""Pages before large tables: each reads by index, no more than it shows or what waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from commandbus.console import ConsoleSettings, create_app
from commandbus.console.recent import EXTENSION
from commandbus.sync import CommandBusPool
from tests.integration.console.large import fill_for_pages, pages
from tests.integration.sql_helpers import Bus, open_bus
from tests.integration.test_sql_plans import TABLES

if TYPE_CHECKING:
    from tests.support import Server

pytestmark = pytest.mark.direct("it looks at what one connection did")

COMMANDS = 100_000
# A search by text or type looks at 15,000 commands at a time; what waits, a tenth, is counted for several numbers.
MOST_READ = 31_000
# The audit is read by summaries of its pages, in pieces: see test_sql_plans.py. Each page that a summary names counts
# as ten entries, for every piece that is tried; how many there are depends on how fast the fill was.
MOST_AUDIT = 250_000
# Here all scheduled commands are of one domain, which counts them; messages are counted up to 10,000, in any order.
LARGE = [table for table in TABLES if table not in ("commandbus.scheduled", "pgmq.q_pay__commands")]

READ = """
select relname || ' sequentially' as name, seq_scan as count from pg_stat_user_tables
where relid = any(%(tables)s::text[]::regclass[]) and n_live_tup > 1000
union all
select indexrelname, idx_tup_read from pg_stat_user_indexes
"""


def most_of(name: str) -> int:
    """Return how much one page may read."""
    if name.endswith("sequentially"):
        return 0
    return MOST_AUDIT if name.startswith("audit") else MOST_READ


def read_by(bus: Bus, pool: CommandBusPool) -> dict[str, int]:
    """Return what was read so far, the pool's one connection included."""
    with pool.connection() as connection:
        connection.execute("select pg_catalog.pg_stat_force_next_flush()")
    bus.run("select pg_stat_force_next_flush()")
    with bus.connection.transaction():
        bus.run("select pg_stat_clear_snapshot()")
        rows: list[dict[str, Any]] = bus.connection.execute(READ, {"tables": LARGE}).fetchall()
    return {row["name"]: row["count"] for row in rows}


def test_no_page_reads_a_large_table_from_end_to_end_nor_many_entries_of_an_index(
    server: Server, template_database: str
) -> None:
    with server.database(template_database) as url, open_bus(url) as bus:
        world = fill_for_pages(bus, COMMANDS)
        with CommandBusPool(database_url=url, pool_min_size=1, pool_max_size=1) as pool:
            app = create_app(pool, settings=ConsoleSettings.load())
            client, wrong = app.test_client(), {}
            looked_at = list(pages(app, bus, world))
            for path in looked_at:
                before = read_by(bus, pool)
                app.extensions[EXTENSION].forget()
                assert client.get(path).status_code == 200, path
                after = read_by(bus, pool)
                read = {name: after[name] - before.get(name, 0) for name in after}
                too_much = {name: count for name, count in read.items() if count > most_of(name)}
                if too_much:
                    wrong[path] = too_much
    assert len(looked_at) > 40
    assert wrong == {}
