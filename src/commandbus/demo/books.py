"""Recounts, straight from the tables, what the functions of the library said; and measures."""

from collections.abc import Sequence
from typing import Any, LiteralString

from psycopg import Connection
from psycopg.rows import class_row

from commandbus.demo.plan import BOOK_PAYMENT, DOMAIN, Plan
from commandbus.demo.report import Check, Figures
from commandbus.models import BatchMetadata

STATUSES: LiteralString = "select status, count(*) from commandbus.command where domain = %s group by status"

EVENTS: LiteralString = """
    select event_type, count(*) from commandbus.audit
    where domain = %s and event_type not in ('RECEIVED', 'RELEASED', 'FAILED')
    group by event_type
"""

NOT_ENDED_ONCE: LiteralString = """
    select count(*) from (
        select from commandbus.command c
        left join commandbus.audit a
            on a.command_id = c.command_id and a.domain = c.domain
            and a.event_type in ('COMPLETED', 'BUSINESS_RULE_FAILED', 'OPERATOR_CANCEL', 'OPERATOR_COMPLETE')
        where c.domain = %s
        group by c.command_id
        having count(a.audit_id) <> 1
    ) as wrong
"""

# Every completed payment must be booked once, and nothing else at all.
MISBOOKED: LiteralString = """
    select count(*)
    from (select command_id from commandbus.command
          where domain = %s and command_type = %s and status = 'COMPLETED') c
    full join (select command_id, count(*) as times from commandbus_demo.effect group by command_id) e
        using (command_id)
    where c.command_id is null or e.times is distinct from 1
"""

# A payload is archived while its command waits for the operator, and stays when that one gives it up.
ARCHIVED: LiteralString = "select count(*) from commandbus.payload_archive where domain = %s"

UNDELIVERED: LiteralString = "select count(*) from commandbus.undelivered_reply"

FIGURES: LiteralString = """
    with ended as (
        select c.status, c.created_at, c.finished_at
        from commandbus.command c
        where c.domain = %(domain)s and c.finished_at is not null
            and not exists (
                select from commandbus.audit a
                where a.command_id = c.command_id and a.domain = c.domain and a.event_type = 'MOVED_TO_TSQ')
    ), whole as (
        select count(*) as commands, extract(epoch from max(finished_at) - min(created_at))::float8 as seconds
        from ended
    ), latency as (
        select percentile_cont(array[0.5, 0.95, 0.99, 1])
            within group (order by extract(epoch from finished_at - created_at)::float8) as p
        from ended
        where status = 'COMPLETED'
    )
    select seconds, commands / seconds as per_second,
        p[1] as latency_p50, p[2] as latency_p95, p[3] as latency_p99, p[4] as latency_max
    from whole, latency
"""


def check_books(connection: Connection[Any], plan: Plan, batch: BatchMetadata) -> list[Check]:
    """Return every comparison of the plan with the tables, and of the batch's counters with a recount."""
    expected = plan.expected_statuses()
    statuses = dict(connection.execute(STATUSES, (DOMAIN,)).fetchall())
    counters = {
        "CANCELED": batch.canceled_count,
        "COMPLETED": batch.completed_count,
        "FAILED": batch.failed_count,
    }
    return [
        Check("commands by status", expected, statuses),
        Check("counters of the batch", expected, counters),
        Check("commands of the batch", len(plan.commands), batch.total_count),
        Check("audit events", plan.expected_events(), dict(connection.execute(EVENTS, (DOMAIN,)).fetchall())),
        Check("commands without exactly one end", 0, _number(connection, NOT_ENDED_ONCE, (DOMAIN,))),
        Check("payments not booked exactly once", 0, _number(connection, MISBOOKED, (DOMAIN, BOOK_PAYMENT))),
        Check("payloads kept of canceled commands", expected["CANCELED"], _number(connection, ARCHIVED, (DOMAIN,))),
        Check("replies that could not be delivered", 0, _number(connection, UNDELIVERED)),
    ]


def measure(connection: Connection[Any]) -> Figures:
    """Return throughput and latency of the commands that needed no operator."""
    with connection.cursor(row_factory=class_row(Figures)) as cursor:
        found = cursor.execute(FIGURES, {"domain": DOMAIN}).fetchone()
    assert found is not None  # noqa: S101  (an aggregate has one row)
    return found


def _number(connection: Connection[Any], query: LiteralString, parameters: Sequence[object] = ()) -> int:
    ((number,),) = connection.execute(query, parameters).fetchall()
    return int(number)
