"""The books after a fault: everything that must hold once the queues are drained, one letter per rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from uuid import UUID

ENDS = "array['COMPLETED', 'BUSINESS_RULE_FAILED', 'OPERATOR_CANCEL', 'OPERATOR_COMPLETE']"
FINAL = "array['COMPLETED', 'FAILED', 'CANCELED']"

# The life of a command: (state, event) → state. F: failed, not decided yet; X: exhausted, not parked yet.
LIFE = {
    ("", "SENT"): "PENDING",
    ("PENDING", "RECEIVED"): "IN_PROGRESS",
    ("PENDING", "FAILED"): "F",  # its message was tampered with
    ("PENDING", "RETRY_EXHAUSTED"): "X",
    ("IN_PROGRESS", "RECEIVED"): "IN_PROGRESS",  # the lease ran out
    ("IN_PROGRESS", "RELEASED"): "PENDING",
    ("IN_PROGRESS", "COMPLETED"): "COMPLETED",
    ("IN_PROGRESS", "FAILED"): "F",
    ("IN_PROGRESS", "RETRY_EXHAUSTED"): "X",  # crashed
    ("F", "RETRY_SCHEDULED"): "PENDING",
    ("F", "BUSINESS_RULE_FAILED"): "FAILED",
    ("F", "RETRY_EXHAUSTED"): "X",
    ("F", "MOVED_TO_TSQ"): "IN_TROUBLESHOOTING_QUEUE",
    ("X", "MOVED_TO_TSQ"): "IN_TROUBLESHOOTING_QUEUE",
    ("IN_TROUBLESHOOTING_QUEUE", "OPERATOR_RETRY"): "PENDING",
    ("IN_TROUBLESHOOTING_QUEUE", "OPERATOR_CANCEL"): "CANCELED",
    ("IN_TROUBLESHOOTING_QUEUE", "OPERATOR_COMPLETE"): "COMPLETED",
}

# Each statement returns what breaks its rule.
RULES = {
    "D: not exactly one end for a final command, or one for another": f"""
        select c.command_id, c.status, count(a.audit_id)
        from commandbus.command c
        left join commandbus.audit a
            on a.command_id = c.command_id and a.domain = c.domain and a.event_type = any ({ENDS})
        group by c.command_id, c.domain, c.status
        having count(a.audit_id) <> (c.status = any ({FINAL}))::int
    """,
    "E: not exactly one effect for a completed command, or one for another": """
        select c.command_id, c.status, count(e.command_id)
        from commandbus.command c
        left join public.effect e on e.command_id = c.command_id
        where c.command_type like '%effect'
        group by c.command_id, c.domain, c.status
        having count(e.command_id) <> (c.status = 'COMPLETED')::int
    """,
    "R: not exactly one reply for a final command that asked, or one for another": f"""
        select c.command_id, c.status, count(r.message)
        from commandbus.command c
        left join (
            select q.message from pgmq.q_pay__replies q union all select u.message from commandbus.undelivered_reply u
        ) r on r.message ->> 'command_id' = c.command_id::text
        group by c.command_id, c.domain, c.status, c.reply_queue
        having count(r.message) <> (c.status = any ({FINAL}) and c.reply_queue <> '')::int
    """,
    "A: more attempts than allowed": """
        select c.command_id, c.attempts, c.max_attempts, count(a.audit_id)
        from commandbus.command c
        left join commandbus.audit a on a.command_id = c.command_id and a.domain = c.domain
        group by c.command_id, c.domain, c.attempts, c.max_attempts
        having c.attempts > c.max_attempts
            or count(*) filter (where a.event_type = 'RECEIVED') - count(*) filter (where a.event_type = 'RELEASED')
                > c.max_attempts * (1 + count(*) filter (where a.event_type = 'OPERATOR_RETRY'))
    """,
    "S: a command that nothing will ever deliver": """
        select c.command_id, c.status
        from commandbus.command c
        where c.status in ('PENDING', 'IN_PROGRESS')
            and not exists (select from pgmq.q_pay__commands q where q.msg_id = c.msg_id)
            and not exists (select from commandbus.scheduled s where s.command_id = c.command_id)
    """,
    "S: a message, or a wait, without a command that needs it": """
        select q.msg_id::text from pgmq.q_pay__commands q
        where not exists (
            select from commandbus.command c where c.msg_id = q.msg_id and c.status in ('PENDING', 'IN_PROGRESS'))
        union all
        select s.command_id::text from commandbus.scheduled s
        where not exists (
            select from commandbus.command c where c.command_id = s.command_id and c.status = 'PENDING')
    """,
    "B: counters that differ from a recount": f"""
        select b.batch_id, b.status, b.total_count, count(c.command_id)
        from commandbus.batch b
        left join commandbus.command c on c.batch_id = b.batch_id and c.domain = b.domain
        group by b.batch_id, b.domain
        having array[b.total_count, b.completed_count, b.failed_count, b.canceled_count, b.in_troubleshooting_count]
            <> array[
                count(c.command_id), count(*) filter (where c.status = 'COMPLETED'),
                count(*) filter (where c.status = 'FAILED'), count(*) filter (where c.status = 'CANCELED'),
                count(*) filter (where c.status = 'IN_TROUBLESHOOTING_QUEUE')]::int[]
            or (b.completed_at is not null) <> (count(*) filter (where c.status = any ({FINAL})) = b.total_count)
            or b.completed_at < max(c.finished_at)
    """,
    "B: not exactly one completion event for a complete batch, or one for another": """
        select b.batch_id, b.status, count(a.audit_id)
        from commandbus.batch b
        left join commandbus.audit a on a.command_id = b.batch_id and a.event_type = 'BATCH_COMPLETED'
        group by b.batch_id, b.domain, b.completed_at, b.status
        having count(a.audit_id) <> (b.completed_at is not null)::int
    """,
}


@dataclass
class Ledger:
    """What a sender knows about its own sends.

    Attributes:
        acknowledged: sent, and told so.
        unknown: tried, and not told what became of it.
    """

    acknowledged: set[UUID] = field(default_factory=set)
    unknown: set[UUID] = field(default_factory=set)


def broken_rules(url: str, ledger: Ledger) -> dict[str, list[Any]]:
    """Return the rules that do not hold in a database, with what breaks them: none, if all is well."""
    with psycopg.connect(url, autocommit=True) as connection:
        found: dict[str, list[Any]] = {
            rule: connection.execute(statement.encode()).fetchall() for rule, statement in RULES.items()
        }
        statuses: dict[UUID, str] = dict(
            connection.execute("select command_id, status from commandbus.command").fetchall()
        )
        effects = {command_id for (command_id,) in connection.execute("select command_id from public.effect")}
        trails = connection.execute(
            "select command_id, array_agg(event_type order by audit_id) from commandbus.audit"
            " where event_type <> 'STALE_SETTLE' and event_type not like 'BATCH%' group by command_id"
        ).fetchall()
    found["L: acknowledged and lost"] = sorted(ledger.acknowledged - statuses.keys())
    found["G: there, or with an effect, and never sent"] = sorted(
        (statuses.keys() | effects) - ledger.acknowledged - ledger.unknown
    )
    found["T: not a path of a command's life"] = [
        (command_id, events, statuses.get(command_id))
        for command_id, events in trails
        if _end_of(events) != statuses.get(command_id)
    ]
    return {rule: offenders for rule, offenders in found.items() if offenders}


def undecided(url: str) -> int:
    """Return how many commands are neither final nor with an operator."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "select count(*) from commandbus.command where status in ('PENDING', 'IN_PROGRESS')"
        ).fetchone()
    return int(found[0]) if found else 0


def _end_of(events: list[str]) -> str | None:
    state = ""
    for event in events:
        following = LIFE.get((state, event))
        if following is None:
            return f"{event} while {state or 'not sent'}"
        state = following
    return state
