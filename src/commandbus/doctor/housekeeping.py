"""What keeps tables small: autovacuum, nobody who holds it back, and partitions of the audit."""

from collections.abc import Iterator
from typing import Any, LiteralString

from psycopg import Connection

from commandbus.doctor.check import Check, ok, problem, warning
from commandbus.migrate.drift import read_snapshot
from commandbus.sync.pool import CommandBusPool
from commandbus.sync.repositories import PgmqClient

_OLD = 300.0  # seconds; a longer transaction keeps dead rows of queues from being removed

# Dead rows must stay while somebody in this database may still see them: sessions with a snapshot or an own
# transaction, and prepared transactions, which have no session.
_OLDEST: LiteralString = """
    select who, application, seconds
    from (
        select 'pid ' || a.pid as who, a.application_name as application,
            extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds
        from pg_catalog.pg_stat_activity a
        where a.datname = current_database() and a.pid <> pg_backend_pid() and a.xact_start is not null
            and (a.backend_xmin is not null or a.backend_xid is not null)
            and a.backend_type is distinct from 'autovacuum worker'
        union all
        select 'prepared transaction ' || p.gid, p.owner, extract(epoch from clock_timestamp() - p.prepared)::float8
        from pg_catalog.pg_prepared_xacts p
        where p.database = current_database()
    ) holders
    order by seconds desc
    limit 1
"""
_MAY_SEE: LiteralString = "select pg_catalog.pg_has_role('pg_read_all_stats', 'usage')"
_OPTIONS: LiteralString = """
    select c.relname, coalesce(c.reloptions, '{}')
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'pgmq' and c.relname = any (%s)
"""
# As sp_make_partitions names it, and whether this role may look for rows that no month took.
_AUDIT: LiteralString = """
    select month.name,
        exists (
            select from pg_catalog.pg_inherits i
            join pg_catalog.pg_class c on c.oid = i.inhrelid
            where i.inhparent = 'commandbus.audit'::regclass and c.relname = month.name),
        has_table_privilege('commandbus.audit_default', 'select')
    from to_char(now() at time zone 'UTC' + interval '1 month', '"audit_y"YYYY"m"MM') month(name)
"""
_HAS_STRAYS: LiteralString = "select exists (select from commandbus.audit_default)"


def check_housekeeping(pool: CommandBusPool) -> Iterator[Check]:
    """Look at transactions that are too old, at autovacuum, and at the audit's partitions."""
    domains = PgmqClient(pool).list_domains()
    with pool.connection() as connection:
        yield _check_oldest(connection, pool.server.role)
        yield _check_autovacuum(connection, domains)
        yield _check_partitions(connection)


def _check_oldest(connection: Connection[Any], role: str) -> Check:
    ((may_see,),) = connection.execute(_MAY_SEE).fetchall()
    if not may_see:
        return warning(
            "oldest transaction",
            f'not known: role "{role}" cannot see the sessions of others',
            f'grant pg_read_all_stats to "{role}" (pg_monitor would also let it read messages)',
        )
    rows = connection.execute(_OLDEST).fetchall()
    if not rows:
        return ok("oldest transaction", "nobody holds back vacuum", seconds=0.0)
    return judge_oldest(*rows[0])


def judge_oldest(who: str, application: str, seconds: float) -> Check:
    """Return the verdict on the oldest transaction that holds back vacuum.

    Args:
        who: "pid <number>" or "prepared transaction <name>".
        application: its application_name, or the role that prepared it.
        seconds: its age.
    """
    words = f'{who} ("{application}") is in a transaction since {seconds:.0f} s'
    facts = {"seconds": round(seconds, 1), "who": who, "application": application}
    if seconds <= _OLD:
        return ok("oldest transaction", words, **facts)
    found = f"{words}: dead rows of queues cannot be removed, and receiving becomes slow"
    run = f"select pg_terminate_backend({who.removeprefix('pid ')}), and set idle_in_transaction_session_timeout"
    if not who.startswith("pid "):
        run = "commit prepared or rollback prepared, by its name"
    return warning("oldest transaction", found, run, **facts)


def _check_autovacuum(connection: Connection[Any], domains: list[str]) -> Check:
    ((setting,),) = connection.execute("select pg_catalog.current_setting('autovacuum')").fetchall()
    if setting != "on":
        return problem("autovacuum", "is off: queues will grow without end", "alter system set autovacuum = on")
    snapshot = read_snapshot()
    wanted = {table: options for domain in domains for table, options in snapshot.queue_options_of(domain).items()}
    found = dict(connection.execute(_OPTIONS, (list(wanted),)).fetchall())
    lacking = {table: [o for o in options if o not in found.get(table, options)] for table, options in wanted.items()}
    statements = [f"alter table pgmq.{table} set ({', '.join(lacks)})" for table, lacks in lacking.items() if lacks]
    if statements:
        words = f"{len(statements)} of {len(wanted)} queue tables lack settings that sp_create_domain gives"
        return warning("autovacuum", words, "; ".join(statements), statements=statements)
    return ok("autovacuum", f"is on; {len(wanted)} queue tables have their settings", tables=len(wanted))


def _check_partitions(connection: Connection[Any]) -> Check:
    ((name, is_made, may_read),) = connection.execute(_AUDIT).fetchall()
    has_strays = None  # not known
    if may_read:
        ((has_strays,),) = connection.execute(_HAS_STRAYS).fetchall()
    facts = {"next_month": is_made, "rows_in_default": has_strays}
    if not is_made:
        found = f"next month's, {name}, is missing: its events would go to audit_default and be removed row by row"
        return warning(
            "audit partitions", found, "commandbus maintain, at least monthly; workers do so hourly", **facts
        )
    if has_strays:
        found = "audit_default has rows, of months that had no partition: they are removed row by row, by their age"
        return warning("audit partitions", found, "commandbus maintain --keep-audit DAYS", **facts)
    looked = "audit_default is empty" if may_read else "audit_default cannot be looked into by this role"
    return ok("audit partitions", f"next month's is there; {looked}", **facts)
