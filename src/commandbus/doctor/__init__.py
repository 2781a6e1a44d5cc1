"""Is a database fit, and is it healthy? For `commandbus doctor` and the console: one subject per file.

Each check is a sentence with a verdict.
"""

from collections.abc import Iterator

from commandbus.doctor.check import Check, Status
from commandbus.doctor.commands import check_commands
from commandbus.doctor.connections import Plan, check_connections
from commandbus.doctor.housekeeping import check_housekeeping
from commandbus.doctor.listening import check_listening
from commandbus.doctor.server import check_schema, check_server
from commandbus.sync.pool import CommandBusPool

__all__ = ["Check", "Plan", "Status", "examine"]


def examine(pool: CommandBusPool, url: str, plan: Plan | None) -> Iterator[Check]:
    """Look at everything, the most basic first.

    Args:
        pool: open.
        url: where it leads to.
        plan: the workers that are meant to run; None for those that do.
    """
    yield from check_server(pool, url)
    yield from check_schema(pool, url)
    yield from check_connections(pool, plan)
    yield from check_listening(pool)
    yield from check_housekeeping(pool)
    yield from check_commands(pool)
