"""Whether there are connections enough for the workers that run, or are meant to."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import LiteralString

from commandbus.cli.checks.check import Check, ok, problem, warning
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
        listens: each process has one more connection for LISTEN.
    """

    processes: int
    pool_size: int
    listens: bool

    @property
    def connections(self) -> int:
        """How many they may need together."""
        return self.processes * (self.pool_size + OWN_CONNECTIONS + self.listens)


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
    need = plan.connections
    each = need // plan.processes
    words = f"{plan.processes} processes with up to {each} connections each need {need}"
    facts = {"processes": plan.processes, "connections_each": each, "needed": need, "available": available}
    if is_pooled:
        run = f"in PgBouncer: max_client_conn of at least {need}, and see SHOW POOLS for cl_waiting"
        return warning("connection budget", f"{words}, of PgBouncer's, whose limits this cannot see", run, **facts)
    if need > available:
        run = f"fewer processes, a lower COMMANDBUS_POOL_MAX_SIZE, or max_connections raised by {need - available}"
        return problem("connection budget", f"{words}, and others leave them {available}", run, **facts)
    return ok("connection budget", f"{words}, and others leave them {available}", **facts)
