"""Whether there are connections enough for the workers that run, or are meant to."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import LiteralString

from commandbus.doctor.check import Check, ok, problem, warning
from commandbus.payload import counted
from commandbus.sync.pool import CommandBusPool
from commandbus.worker.connections import OWN_CONNECTIONS

_FULL = 0.9  # of the connections

# Who may not see other users' sessions is told their application_name all the same, but not what they are.
_USED: LiteralString = """
    select
        current_setting('max_connections')::int,
        current_setting('superuser_reserved_connections')::int
            + coalesce(current_setting('reserved_connections', true)::int, 0),
        count(*)::int,
        (count(*) filter (where a.application_name = %s))::int
    from pg_catalog.pg_stat_activity a
    where coalesce(a.backend_type, 'client backend') = 'client backend' and a.usesysid is not null
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """Workers that are meant to run.

    Attributes:
        processes: of all machines together.
        pool_size: most connections of a process's pool for handlers.
        listens: each process has one more connection for LISTEN, past any pooler.
    """

    processes: int
    pool_size: int
    listens: bool


def check_connections(pool: CommandBusPool, plan: Plan | None) -> Iterator[Check]:
    """Count the server's connections, and those that the workers may need."""
    name = pool.settings.application_name
    with pool.connection() as connection:
        ((most, reserved, used, ours),) = connection.execute(_USED, (name,)).fetchall()
    free_for_all = most - reserved
    facts = {"max_connections": most, "reserved": reserved, "used": used, "of_commandbus": ours}
    words = f'{used} of {free_for_all} connections are in use, {ours} by "{name}"'
    run = "raise max_connections, lower COMMANDBUS_POOL_MAX_SIZE, or go through PgBouncer"
    if used >= free_for_all * _FULL:
        yield problem("connections", words, run, **facts)
    else:
        yield ok("connections", words, **facts)
    if plan is not None:
        yield _judge(plan, free_for_all - (used - ours), pool.settings.pgbouncer)


def _judge(plan: Plan, available: int, is_pooled: bool) -> Check:
    each = plan.pool_size + OWN_CONNECTIONS + (plan.listens and not is_pooled)
    need = plan.processes * each
    direct = plan.processes * plan.listens if is_pooled else need
    words = f"{counted(plan.processes, 'process')} with up to {each} connections each need {need}"
    facts = {"processes": plan.processes, "connections_each": each, "needed": need, "available": available}
    if is_pooled:
        facts["to_listen"] = direct
        words += " of PgBouncer's, whose limits this cannot see"
        words += f", and {direct} past it to LISTEN" if direct else ""
    if not is_pooled or direct:
        words += f", and others leave them {available} of the server's"
    if direct > available:
        less = "COMMANDBUS_NOTIFY=false" if is_pooled else "a lower COMMANDBUS_POOL_MAX_SIZE"
        run = f"fewer processes, {less}, or max_connections raised by {direct - available}"
        return problem("connection budget", words, run, **facts)
    if is_pooled:
        run = f"in PgBouncer: max_client_conn of at least {need}, and see SHOW POOLS for cl_waiting"
        return warning("connection budget", words, run, **facts)
    return ok("connection budget", words, **facts)
