"""The rows of `commandbus tsq list`, also for those who may not see payloads."""

from functools import partial
from typing import Any

from psycopg.errors import InsufficientPrivilege

from commandbus.cli.operating import find_up_to
from commandbus.cli.output import note, row_of
from commandbus.models import CommandStatus
from commandbus.sync.bus import CommandBus
from commandbus.sync.pool import CommandBusPool
from commandbus.sync.troubleshooting import TroubleshootingQueue


def list_waiting(
    pool: CommandBusPool, domain: str | None, command_type: str | None, limit: int, offset: int, *, with_payload: bool
) -> list[dict[str, Any]]:
    """Return what waits, longest waiting first; to those who see no payloads, newest first.

    Raises:
        InsufficientPrivilege: payloads are asked for by somebody who may not see them.
    """
    tsq = TroubleshootingQueue(pool)
    try:
        if domain is None:
            items = tsq.list_all_troubleshooting(command_type, limit, offset)
        else:
            items = tsq.list_troubleshooting(domain, command_type, limit, offset)
    except InsufficientPrivilege:
        if with_payload:
            raise
        note("newest first: only operators see what waits the longest")
        look = partial(
            CommandBus(pool).find_commands,
            domain=domain,
            command_type=command_type,
            status=CommandStatus.IN_TROUBLESHOOTING_QUEUE,
        )
        found, _ = find_up_to(limit + offset, look)
        return [row_of(command, without=("status", "msg_id")) for command in found[offset:]]
    return [row_of(item, without=() if with_payload else ("payload",)) for item in items]
