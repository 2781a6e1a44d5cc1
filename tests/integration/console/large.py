"""The console's pages before a large database: what to fill it with, and every page to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from commandbus import PageKey
from commandbus.payload import write_key
from tests.integration.console.browser import World, routes
from tests.integration.sql_helpers import DOMAIN, Bus
from tests.integration.test_sql_plans import fill

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask

# A week of 50 domains, as it is kept, half the histograms in use.
PAST = """
insert into commandbus.throughput (domain, seconds, at, completed, enqueued, depth, oldest_at, waits, runs)
select case d when 1 then 'pay' else 'other_' || d end, p.seconds,
    date_bin(make_interval(secs => p.seconds), now(), '2000-01-01 00:00:00+00') - n * make_interval(secs => p.seconds),
    500, 510, 100, now(), array_fill(9::bigint, array[12]), array_fill(9::bigint, array[12])
from generate_series(1, 50) d, commandbus._pieces() p,
    generate_series(0, (extract(epoch from p.kept) / p.seconds)::int) n
order by 3
"""
WORKERS = """
insert into commandbus.worker (worker_id, domain, host, pid, concurrency, in_flight)
select gen_random_uuid(), 'pay', 'host-' || n, n, 50, 10 from generate_series(1, 20) n
"""

FILTERS = {
    "/commands": (
        "status=IN_TROUBLESHOOTING_QUEUE", "status=COMPLETED", "domain=pay", "type=charge", "type=nowhere",
        "after=1h", "before=1m", "text=nowhere", "status=COMPLETED&text=nowhere",
        "correlation=00000000-0000-0000-0000-000000000007", "batch={batch_id}", "group={group}", "limit=500",
    ),
    "/troubleshooting": ("domain=pay",),
    "/troubleshooting/commands": (
        "domain=pay", "domain=pay&group={group}", "type=charge",
        "domain=pay&start={place}", "start={place}",
    ),
    "/batches": ("domain=pay", "status=COMPLETED", "domain=pay&offset=900"),
    "/batches/{domain}/{batch_id}": ("status=COMPLETED",),
    "/audit": ("domain=pay", "event=COMPLETED", "domain=pay&event=OPERATOR_CANCEL", "after=1h", "before=1m"),
    "/redrives": ("domain=pay",),
    "/redrives/new": ("domain=pay", "group=pay/{group}"),
    "/commands/{domain}/{command_id}": ("payload=on",),
    "/": ("span=24h", "span=7d", "domain=pay&span=1h"),
    "/queues/{domain}": ("span=6h",),
}  # fmt: skip
# An examination on demand takes as long as it says; files and streams are no pages.
_NOT_THESE = ("/api/", "/live/", "/static/", "/login", "/go")


def fill_for_pages(bus: Bus, count: int) -> World:
    """Insert *count* commands and all that pages show of them; analyzed, as autovacuum would leave it."""
    bus.create_domain()
    fill(bus, count)
    bus.run(PAST)
    bus.run(WORKERS)
    redrive_all(bus)
    bus.run("vacuum analyze")
    (row,) = bus.rows("select command_id, batch_id from commandbus.command where attention_at is not null limit 1")
    redrive = bus.value("select redrive_id from commandbus.redrive")
    return World([row["command_id"]], batches=[row["batch_id"]], redrives=[redrive])


def redrive_all(bus: Bus) -> None:
    """Let a redrive have queued everything that can wait, and workers have counted a tenth of what became of it."""
    waiting = bus.value("select count(*) from commandbus.command where failure_key is not null")
    bus.call("sp_start_redrive", domain=DOMAIN, command_ids=None, failure_key=None, rate=1)
    # More than waits now: the commands of other states stand for those that ended since.
    bus.run(
        "insert into commandbus.redrive_item (redrive_id, command_id, position)"
        " select r.redrive_id, c.command_id, r.total_count + row_number() over ()"
        " from commandbus.redrive r, commandbus.command c where c.failure_key is null limit %s",
        100_000 - waiting,
    )
    bus.run(
        "update commandbus.redrive_item set sent_at = now(), outcome = case when position % 10 = 0 then 'COMPLETED' end"
    )
    bus.run(
        "update commandbus.redrive r set total_count = n.n, sent_count = n.n, completed_count = n.ended,"
        " status = 'COMPLETED', finished_at = now()"
        " from (select count(*) as n, count(outcome) as ended from commandbus.redrive_item) n"
    )


def pages(app: Flask, bus: Bus, world: World) -> Iterator[str]:
    """Give the address of every page, alone and with each of its filters."""
    group = bus.value("select failure_key from commandbus.command where command_id = %s", world.parked[0])
    (late,) = bus.rows(
        "select attention_at, command_id from commandbus.command where failure_key is not null"
        " order by 1, 2 offset 5000 limit 1"
    )
    place = quote(write_key(PageKey(late["attention_at"], late["command_id"])))
    values = {
        "domain": DOMAIN, "command_id": world.parked[0], "batch_id": world.batches[0], "group": group, "place": place,
    }  # fmt: skip
    filters = {path.format(**values): [one.format(**values) for one in some] for path, some in FILTERS.items()}
    found = sorted({path for _, path, _ in routes(app, world, "GET") if not path.startswith(_NOT_THESE)})
    assert filters.keys() <= set(found)
    for path in found:
        yield path
        yield from (f"{path}?{one}" for one in filters.get(path, ()))
