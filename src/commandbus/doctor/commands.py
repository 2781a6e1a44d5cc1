"""What the domains hold, and commands that nobody can ever run."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, LiteralString

from psycopg import Connection, sql
from psycopg.errors import QueryCanceled

from commandbus.doctor.check import Check, ok, problem, warning
from commandbus.sync.pool import CommandBusPool
from commandbus.sync.repositories import PgmqClient
from commandbus.sync.troubleshooting import TroubleshootingQueue

_MOST_PAGES = 12_500  # of the table of commands that are read: 100 MB, about 200,000 commands
_MOST_OPEN = 50_000  # unfinished commands among them that are looked up
_MOST_SECONDS = 10
_EXAMPLES = 3

_MAY_LOOK: LiteralString = """
    select coalesce(bool_and(pg_catalog.has_schema_privilege(n.oid, 'usage')
        and pg_catalog.has_table_privilege(c.oid, 'select')), true)
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'commandbus' and c.relname in ('command', 'scheduled')
        or n.nspname = 'pgmq' and c.relname = any (%s)
"""
_PAGES: LiteralString = """
    select greatest(pg_catalog.pg_relation_size('commandbus.command') / current_setting('block_size')::bigint, 1)
"""
# One statement sees one moment, in which a command that can run has its message or its place in the schedule. The
# minute is for workers in other languages, who delete a message and finish its command in two steps.
_STUCK: LiteralString = """
    with unfinished as materialized (
        select c.domain, c.command_id, c.msg_id
        from commandbus.command c tablesample system ({percent})
        where c.status in ('PENDING', 'IN_PROGRESS') and c.updated_at < clock_timestamp() - interval '1 minute'
        limit {most}
    )
    select u.domain, u.command_id::text
    from unfinished u
    where not {has_message}
        and not exists (
            select from commandbus.scheduled s where s.command_id = u.command_id and s.domain = u.domain
        )
"""


def check_commands(pool: CommandBusPool) -> Iterator[Check]:
    """Count what waits in each domain, and look for commands that wait for nothing."""
    queues, tsq = PgmqClient(pool), TroubleshootingQueue(pool)
    domains = queues.list_domains()
    for domain in domains:
        metrics, parked = queues.metrics(domain), tsq.count_troubleshooting(domain)
        words = f"{metrics.length} queued, {metrics.scheduled} to be retried, {parked} waiting for an operator"
        yield ok(f"domain {domain}", words, in_troubleshooting=parked, **asdict(metrics))
    with pool.connection() as connection:
        yield _check_stuck(connection, domains)


def _check_stuck(connection: Connection[Any], domains: Sequence[str]) -> Check:
    tables = [f"q_{domain}__commands" for domain in domains]
    ((may_look,),) = connection.execute(_MAY_LOOK, (tables,)).fetchall()
    if not may_look:
        return warning(
            "stuck commands",
            "not looked for: this role may not read the tables",
            "run it as their owner or a superuser",
        )
    try:
        stuck, percent = _find_stuck(connection, domains)
    except QueryCanceled:
        found = f"not known: looking for them took longer than {_MOST_SECONDS} s"
        return warning("stuck commands", found, "run it again when the server is less busy")
    share = "" if percent == 100 else f" in {percent:.2g}% of the table"
    facts = {"at_least": len(stuck), "looked_at_percent": round(percent, 3)}
    if not stuck:
        return ok("stuck commands", f"none found{share}", **facts)
    examples = ", ".join(f"{domain} {command_id}" for domain, command_id in stuck[:_EXAMPLES])
    return problem(
        "stuck commands",
        f"at least {len(stuck)} have neither a message nor a retry and will never run{share}, such as {examples}",
        "; ".join(f"commandbus tsq park-lost {domain} --older-than 60" for domain in sorted({d for d, _ in stuck})),
        examples=stuck[:_EXAMPLES],
        **facts,
    )


def _find_stuck(connection: Connection[Any], domains: Sequence[str]) -> tuple[list[tuple[str, str]], float]:
    """Return commands without message or retry, and how much of the table was looked at, in percent."""
    with connection.transaction():
        connection.execute("select pg_catalog.set_config('statement_timeout', %s, true)", (f"{_MOST_SECONDS}s",))
        ((pages,),) = connection.execute(_PAGES).fetchall()
        percent = min(100.0, 100.0 * _MOST_PAGES / pages)
        cases = [
            sql.SQL("when {} then exists (select from {} q where q.msg_id = u.msg_id)").format(
                sql.Literal(domain), sql.Identifier("pgmq", f"q_{domain}__commands")
            )
            for domain in domains
        ]
        has_message = sql.SQL("case u.domain {} else false end").format(sql.SQL(" ").join(cases))
        statement = sql.SQL(_STUCK).format(
            percent=sql.Literal(percent),
            most=sql.Literal(_MOST_OPEN),
            has_message=has_message if cases else sql.SQL("false"),
        )
        return connection.execute(statement).fetchall(), percent
