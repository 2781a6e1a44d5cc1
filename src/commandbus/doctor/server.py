"""The server, its clock and its defaults; the schema and who was given it."""

import time
from collections.abc import Iterator

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from commandbus.doctor.check import Check, ok, problem, warning
from commandbus.migrate import SCHEMA_VERSION, roles_of, verify
from commandbus.migrate.history import has_history
from commandbus.migrate.rights import KINDS
from commandbus.payload import counted
from commandbus.sync.pool import CommandBusPool

_FEWEST_LINES = 3  # differences that are shown
_CLOCK_TOLERANCE = 1.0  # seconds
_LOOKS_AT_THE_CLOCK = 3


def check_server(pool: CommandBusPool, url: str) -> Iterator[Check]:
    """Look at the server that the pool found fit."""
    server = pool.server
    number = f"{server.server_version // 10_000}.{server.server_version % 10_000}"
    role = "replica" if server.is_replica else "primary"
    yield ok(
        "server",
        f'PostgreSQL {number}, {role}, database "{server.database}", role "{server.role}"',
        version=number,
        role=role,
        database=server.database,
        user=server.role,
        visible_schemas=server.visible_schemas,
    )
    for name, instead in pool.restrictions.items():
        if name != "LISTEN":  # has a check of its own
            yield ok(name, instead)
    yield _check_isolation(server.isolation, url)
    yield from _check_strings(url)
    with pool.connection() as connection:
        yield judge_clock(min(_look_at_clock(connection) for _ in range(_LOOKS_AT_THE_CLOCK)))


def _check_isolation(of_pool: str, url: str) -> Check:
    """The pool asks for READ COMMITTED itself, except through PgBouncer; other programs get the default."""
    with psycopg.connect(url, autocommit=True) as connection:
        ((default,),) = connection.execute("select pg_catalog.current_setting('default_transaction_isolation')")
    run = "alter role or alter database ... set default_transaction_isolation = 'read committed'"
    if of_pool != "read committed":
        found = f"transactions of commandbus are {of_pool} and will fail under load"
        return problem("isolation", found, run, pool=of_pool, default=default)
    if default != "read committed":
        found = f"commandbus uses read committed, but the default is {default}: other pools will fail under load"
        return warning("isolation", found, run, pool=of_pool, default=default)
    return ok("isolation", "read committed", pool=of_pool, default=default)


def _check_strings(url: str) -> Iterator[Check]:
    """PGMQ's functions are read anew in each session, by its own settings."""
    with psycopg.connect(url, autocommit=True) as connection:
        ((setting,),) = connection.execute("select pg_catalog.current_setting('standard_conforming_strings')")
    if setting != "on":
        run = "alter role or alter database ... set standard_conforming_strings = on"
        yield warning("strings", "standard_conforming_strings is off: functions of PGMQ will fail", run)


def _look_at_clock(connection: Connection[TupleRow]) -> tuple[float, float]:
    """Return how long the look took, and by how much the server's clock is ahead, both in seconds."""
    began = time.time()
    statement = "select extract(epoch from pg_catalog.clock_timestamp())::float8"
    ((server,),) = connection.execute(statement).fetchall()
    ended = time.time()
    return ended - began, server - (began + ended) / 2


def judge_clock(look: tuple[float, float]) -> Check:
    """Return the verdict on the difference between the clocks.

    Args:
        look: seconds that the look took, which is how uncertain it is, and by which the server is ahead.
    """
    took, ahead = look
    words = f"the server's clock is {abs(ahead):.3f} s {'ahead of' if ahead >= 0 else 'behind'} this machine's"
    words += "; only the server's counts for leases, retries and audit"
    if abs(ahead) - took / 2 > _CLOCK_TOLERANCE:
        run = "synchronise both clocks (NTP), or times in logs will not fit those in the audit"
        return warning("clock", words, run, seconds_ahead=round(ahead, 3))
    return ok("clock", words, seconds_ahead=round(ahead, 3))


def check_schema(pool: CommandBusPool, url: str) -> Iterator[Check]:
    """Compare the schema with the migrations, and tell whose it is."""
    with pool.connection() as connection:
        ((version,),) = connection.execute("select commandbus.schema_version()").fetchall()
    pgmq = pool.server.pgmq_version or "1.10 or newer"
    yield ok("versions", f"schema {version}, PGMQ {pgmq}", schema=version, pgmq=pool.server.pgmq_version)
    if not has_history(url):
        found = "public.flyway_schema_history is gone, so that nothing can be migrated"
        yield warning("history", found, f"commandbus migrate baseline --version {SCHEMA_VERSION}")
    differences = verify(url)
    lines = list(map(str, differences))
    told = "; ".join(lines[:_FEWEST_LINES]) + (" ..." if len(lines) > _FEWEST_LINES else "")
    if not differences:
        yield ok("schema", "as the migrations make it", differences=[])
    elif all(difference.kind in KINDS for difference in differences):
        found = f"{counted(len(lines), 'right')} to be mended: {told}"
        yield warning("schema", found, "commandbus verify, then commandbus grant", differences=lines)
    else:
        found = f"{counted(len(lines), 'difference')} from the migrations: {told}"
        yield problem("schema", found, "commandbus verify", differences=lines)
    names = roles_of(url)
    if names is None:
        yield ok("roles", "not granted: every user needs rights on tables, or owns them; see commandbus grant")
    else:
        yield ok("roles", f"granted to {names.app}, {names.operator} and {names.readonly}", owner=names.owner)
