"""A week of many domains before whoever looks at it for the first time: without reading older rows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.sql_helpers import Bus, open_bus

if TYPE_CHECKING:
    from tests.support import Server

pytestmark = pytest.mark.direct("it looks at what one connection did")

DOMAINS = 200
SPANS = ((900, 10), (3_600, 30), (21_600, 180), (86_400, 600), (604_800, 3_600))

FILL = """
insert into commandbus.throughput (domain, seconds, at, completed, enqueued, depth, oldest_at, waits, runs)
select 'd' || d, p.seconds,
    pg_catalog.date_bin(pg_catalog.make_interval(secs => p.seconds), pg_catalog.now(), '2000-01-01 00:00:00+00')
        - n * pg_catalog.make_interval(secs => p.seconds),
    5, 10, 1, pg_catalog.now(), array_fill(n::bigint, array[14]), array_fill(d::bigint, array[12])
from generate_series(1, %s) d, commandbus._pieces() p,
    generate_series(0, (extract(epoch from p.kept) / p.seconds)::int) n
order by 3
"""


def fetched(bus: Bus) -> int:
    """Return how many rows of throughput this transaction has read."""
    return int(
        bus.value(
            "select pg_stat_get_xact_tuples_returned('commandbus.throughput'::regclass)"
            " + pg_stat_get_xact_tuples_fetched('commandbus.throughput'::regclass)"
        )
    )


@pytest.mark.timeout(300)
def test_a_span_of_any_length_reads_a_few_hundred_rows_per_domain(server: Server, template_database: str) -> None:
    with server.database(template_database) as url, open_bus(url) as bus:
        bus.run("set synchronous_commit = off")
        filled = time.monotonic()
        bus.run(FILL, DOMAINS)
        bus.run("vacuum analyze commandbus.throughput")
        for seconds, step in SPANS:
            with bus.connection.transaction(force_rollback=True):
                before = fetched(bus)
                found = bus.rows(
                    "select * from commandbus.list_throughput("
                    "null, pg_catalog.now() - pg_catalog.make_interval(secs => %s), %s)",
                    seconds,
                    step,
                )
                read = fetched(bus) - before
            begun = int((time.monotonic() - filled) / step) + 1  # pieces that the fill knew nothing of
            assert seconds // step - begun <= len(found) <= seconds // step + 1
            assert {piece["completed"] for piece in found} == {5 * DOMAINS}
            assert sum(found[0]["runs"]) == 12 * DOMAINS * (DOMAINS + 1) // 2
            assert read <= 3 * DOMAINS * (seconds // step + 1), (seconds, read)
