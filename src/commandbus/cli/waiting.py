"""The rows of `commandbus tsq list`, also for those who may not see payloads."""

from typing import Any

from psycopg.errors import InsufficientPrivilege

from commandbus.cli.output import note, row_of
from commandbus.models import CommandMetadata, CommandStatus, PageKey
from commandbus.sync.bus import CommandBus
from commandbus.sync.pool import CommandBusPool
from commandbus.sync.troubleshooting import TroubleshootingQueue

_PAGE = 1_000


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
            items = tsq.list_all_troubleshooting(command_type, limit, offset, exact=True)
        else:
            items = tsq.list_troubleshooting(domain, command_type, limit, offset, exact=True)
    except InsufficientPrivilege:
        if with_payload:
            raise
        note("newest first: only operators see what waits the longest")
        found = _find(CommandBus(pool), domain, command_type, limit + offset)
        return [row_of(command, without=("status", "msg_id")) for command in found[offset:]]
    return [row_of(item, without=() if with_payload else ("payload",)) for item in items]


def _find(bus: CommandBus, domain: str | None, command_type: str | None, most: int) -> list[CommandMetadata]:
    found: list[CommandMetadata] = []
    start: PageKey | None = None
    while len(found) < most:
        page = bus.find_commands(
            domain=domain,
            command_type=command_type,
            status=CommandStatus.IN_TROUBLESHOOTING_QUEUE,
            start=start,
            limit=min(_PAGE, most - len(found)),
        )
        found += page.commands
        start = page.next_key
        if start is None:
            break
    return found
