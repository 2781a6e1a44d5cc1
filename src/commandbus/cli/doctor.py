"""`commandbus doctor`: is this database fit, and is it healthy?"""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import typer
from psycopg import sql

from commandbus.cli.options import AsJson, DatabaseUrl, resolve_url
from commandbus.cli.output import print_json, print_rows, row_of
from commandbus.cli.problem import describe
from commandbus.errors import CommandBusError, InvalidArgumentError
from commandbus.sync.pool import CommandBusPool
from commandbus.sync.repositories import PgmqClient
from commandbus.sync.troubleshooting import TroubleshootingQueue

_OLD_TRANSACTION = 300.0  # seconds; a longer one keeps dead queue rows from being removed
_FULL = 0.9  # of the connections
_LISTEN_PATIENCE = 5.0  # seconds for a notification

CONNECTIONS: LiteralString = """
    select count(*)::int, current_setting('max_connections')::int
    from pg_catalog.pg_stat_activity where backend_type = 'client backend'
"""
OLDEST: LiteralString = """
    select coalesce(extract(epoch from max(clock_timestamp() - xact_start)), 0)::float8
    from pg_catalog.pg_stat_activity where pid <> pg_backend_pid() and backend_type = 'client backend'
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. *value* is a number, a text, or a record of them."""

    name: str
    ok: bool
    value: Any


def doctor(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Examine a database: server, versions, visible path, domains, connections, and whether LISTEN works.

    Exit code 1 when something is wrong.
    """
    url = resolve_url(database_url)
    findings = list(_examine(url))
    is_fine = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": is_fine, "findings": findings})
    else:
        print_rows([{"": "ok" if f.ok else "WRONG", "what": f.name, "found": _brief(f.value)} for f in findings])
    if not is_fine:
        raise typer.Exit(1)


def _examine(url: str) -> Iterator[Finding]:
    try:
        with CommandBusPool(database_url=url, pool_min_size=0, pool_max_size=2) as pool:
            yield from _examine_server(pool)
            yield from _examine_domains(pool)
            yield from _examine_load(pool)
            yield from _examine_way(pool)
    except InvalidArgumentError:
        raise
    except (CommandBusError, psycopg.Error) as error:
        yield Finding("database", False, describe(error)["message"])


def _examine_server(pool: CommandBusPool) -> Iterator[Finding]:
    server = pool.server
    yield Finding("database", True, server.database)
    yield Finding("role", True, server.role)
    yield Finding("server version", True, f"{server.server_version // 10_000}.{server.server_version % 10_000}")
    yield Finding("server role", not server.is_replica, "replica" if server.is_replica else "primary")
    yield Finding("pgmq version", True, server.pgmq_version or "1.10 or newer, installed without the extension")
    with pool.connection() as connection:
        ((version,),) = connection.execute("select commandbus.schema_version()").fetchall()
    yield Finding("schema version", True, version)
    yield Finding("visible path", True, ", ".join(server.visible_schemas))
    yield Finding("isolation", server.isolation == "read committed", server.isolation)


def _examine_domains(pool: CommandBusPool) -> Iterator[Finding]:
    queues, tsq = PgmqClient(pool), TroubleshootingQueue(pool)
    for domain in queues.list_domains():
        waiting = {"in_troubleshooting": tsq.count_troubleshooting(domain)}
        yield Finding(f"domain {domain}", True, row_of(queues.metrics(domain), without=("queue_name",)) | waiting)


def _examine_load(pool: CommandBusPool) -> Iterator[Finding]:
    with pool.connection() as connection:
        ((used, most),) = connection.execute(CONNECTIONS).fetchall()
        ((seconds,),) = connection.execute(OLDEST).fetchall()
    yield Finding("oldest transaction, seconds", seconds < _OLD_TRANSACTION, round(seconds, 1))
    yield Finding("connections", used < most * _FULL, {"used": used, "max_connections": most})


def _examine_way(pool: CommandBusPool) -> Iterator[Finding]:
    for name, instead in pool.restrictions.items():
        yield Finding(name, True, instead)
    if pool.can_listen:
        yield _examine_listen(pool)


def _examine_listen(pool: CommandBusPool) -> Finding:
    """Send a notification to ourselves: a pooler in between would swallow it without an error."""
    channel = f"commandbus:doctor-{uuid4()}"
    started = time.monotonic()
    with closing(pool.listen_connection()) as listener:
        listener.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        with pool.connection() as connection:
            connection.execute("select pg_catalog.pg_notify(%s, '')", (channel,))
        arrived = list(listener.notifies(timeout=_LISTEN_PATIENCE, stop_after=1))
    if not arrived:
        return Finding(
            "LISTEN", False, "a notification did not arrive: if a pooler is in between, set COMMANDBUS_PGBOUNCER=true"
        )
    return Finding("LISTEN", True, f"delivered in {(time.monotonic() - started) * 1000:.0f} ms")


def _brief(value: object) -> object:
    """Return a record as text, without what is not there."""
    if not isinstance(value, dict):
        return value
    return ", ".join(
        f"{name} {round(member, 1) if isinstance(member, float) else member}"
        for name, member in value.items()
        if member is not None
    )
