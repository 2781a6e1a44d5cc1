"""Whether a notification really arrives, and whether the server's queue of them is drained."""

import time
from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

from psycopg import sql

from commandbus.doctor.check import Check, ok, problem, warning
from commandbus.errors import DatabaseUnavailableError
from commandbus.sync.pool import CommandBusPool

_PATIENCE = 5.0  # seconds for a notification
_HALF = 0.5  # of the server's queue for notifications


def check_listening(pool: CommandBusPool) -> Iterator[Check]:
    """Send a notification to ourselves: a pooler in between would swallow it without an error."""
    yield _check_delivery(pool)
    with pool.connection() as connection:
        ((usage,),) = connection.execute("select pg_catalog.pg_notification_queue_usage()").fetchall()
        yield judge_usage(usage)


def judge_usage(usage: float) -> Check:
    """Return the verdict on the server's queue for notifications, of which *usage*, 0 to 1, is in use."""
    words = f"{usage:.0%} of the server's queue for notifications is in use"
    if usage > _HALF:
        run = "end the session that listens and stays in a transaction: the oldest xact_start in pg_stat_activity"
        return warning("notifications", f"{words}: when it is full, no send can commit", run, usage=usage)
    return ok("notifications", words, usage=usage)


def _check_delivery(pool: CommandBusPool) -> Check:
    if not pool.can_listen:
        return ok("LISTEN", pool.restrictions["LISTEN"])
    channel = f"commandbus:doctor-{uuid4()}"
    try:
        connection = pool.listen_connection()
    except DatabaseUnavailableError as error:
        variable = "COMMANDBUS_LISTEN_DATABASE_URL" if pool.settings.listen_database_url else "COMMANDBUS_DATABASE_URL"
        return problem("LISTEN", f"{variable}: {error}", f"correct {variable}: until then workers poll only")
    with closing(connection) as listener:
        listener.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        started = time.monotonic()
        with pool.connection() as connection:
            connection.execute("select pg_catalog.pg_notify(%s, '')", (channel,))
        arrived = list(listener.notifies(timeout=_PATIENCE, stop_after=1))
    if not arrived:
        return warning(
            "LISTEN",
            f"no notification arrived within {_PATIENCE:g} s, as through a pooler: workers poll only",
            "set COMMANDBUS_LISTEN_DATABASE_URL to the server itself, and COMMANDBUS_PGBOUNCER=true for PgBouncer",
        )
    milliseconds = (time.monotonic() - started) * 1000
    return ok("LISTEN", f"delivered in {milliseconds:.0f} ms", milliseconds=round(milliseconds, 1))
