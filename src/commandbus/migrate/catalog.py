"""What a schema holds, read from PostgreSQL's catalogs in words that its versions 15 to 18 share."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any, LiteralString

from commandbus.migrate.connection import SETTINGS, select

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from psycopg import Connection

Properties = dict[str, Any]
Objects = dict[tuple[str, str], Properties]
"""Properties by (kind, name), such as ("column", "commandbus.command.status")."""

# PostgreSQL 18 lists NOT NULL among the constraints; here it is a property of its column in every version.
# Partitions come and go with time: only a default one is an object, the others are compared with their parents.
_RELATIONS: LiteralString = """
    select
        case
            when c.relispartition then 'partition'
            when c.relkind = 'v' then 'view'
            when c.relkind = 'm' then 'materialized view'
            when c.relkind = 'f' then 'foreign table'
            else 'table'
        end,
        n.nspname || '.' || c.relname,
        jsonb_build_object(
            'unlogged', c.relpersistence <> 'p' and not c.relispartition,
            'options', array_to_string(array(select o from unnest(c.reloptions) o order by o), ', '),
            'partition key', pg_get_partkeydef(c.oid),
            'bound', pg_get_expr(c.relpartbound, c.oid),
            'row security', c.relrowsecurity,
            'definition', case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end)
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = %(schema)s and c.relkind in ('r', 'p', 'v', 'm', 'f')
        and (not c.relispartition or pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT')
"""
_COLUMNS: LiteralString = """
    select
        'column',
        n.nspname || '.' || c.relname || '.' || a.attname,
        jsonb_build_object(
            'type', format_type(a.atttypid, a.atttypmod),
            'collation', case when a.attcollation <> t.typcollation then a.attcollation::regcollation::text end,
            'not null', a.attnotnull,
            'default', pg_get_expr(d.adbin, d.adrelid),
            'identity', case a.attidentity when 'a' then 'always' when 'd' then 'by default' end,
            'generated', a.attgenerated <> '')
    from pg_attribute a
    join pg_type t on t.oid = a.atttypid
    join pg_class c on c.oid = a.attrelid
    join pg_namespace n on n.oid = c.relnamespace
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where n.nspname = %(schema)s and c.relkind in ('r', 'p') and not c.relispartition
        and a.attnum > 0 and not a.attisdropped
"""
_CONSTRAINTS: LiteralString = """
    select
        'constraint',
        n.nspname || '.' || c.relname || '.' || k.conname,
        jsonb_build_object(
            'definition', pg_get_constraintdef(k.oid),
            'disabled', exists (select from pg_trigger t where t.tgconstraint = k.oid and t.tgenabled <> 'O'))
    from pg_constraint k
    join pg_class c on c.oid = k.conrelid
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = %(schema)s and not c.relispartition and k.contype in ('c', 'f', 'p', 'u', 'x')
"""
_INDEXES: LiteralString = """
    select
        'index',
        n.nspname || '.' || c.relname || '.' || x.relname,
        jsonb_build_object('definition', pg_get_indexdef(x.oid), 'valid', i.indisvalid)
    from pg_index i
    join pg_class x on x.oid = i.indexrelid
    join pg_class c on c.oid = i.indrelid
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = %(schema)s and not c.relispartition
        and not exists (select from pg_constraint k where k.conindid = x.oid and k.contype in ('p', 'u', 'x'))
"""
_SEQUENCES: LiteralString = """
    select
        'sequence',
        n.nspname || '.' || c.relname,
        jsonb_build_object(
            'type', format_type(s.seqtypid, null), 'start', s.seqstart, 'increment', s.seqincrement,
            'minimum', s.seqmin, 'maximum', s.seqmax, 'cache', s.seqcache, 'cycle', s.seqcycle,
            'column', (
                select o.relname || '.' || a.attname
                from pg_depend d
                join pg_class o on o.oid = d.refobjid
                join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
                where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass
                    and d.deptype in ('a', 'i')
            ))
    from pg_sequence s
    join pg_class c on c.oid = s.seqrelid
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = %(schema)s
"""
_TYPES: LiteralString = """
    select
        'type',
        n.nspname || '.' || t.typname,
        jsonb_build_object(
            'labels', array_to_string(
                array(select e.enumlabel from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder), ', '),
            'base', format_type(nullif(t.typbasetype, 0), t.typtypmod))
    from pg_type t
    join pg_namespace n on n.oid = t.typnamespace
    left join pg_class c on c.oid = t.typrelid
    where n.nspname = %(schema)s and (t.typtype in ('e', 'd', 'r') or c.relkind = 'c')
"""
_FUNCTIONS: LiteralString = """
    select
        case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end,
        n.nspname || '.' || p.proname || '(' || oidvectortypes(p.proargtypes) || ')',
        jsonb_build_object(
            'arguments', pg_get_function_arguments(p.oid),
            'result', pg_get_function_result(p.oid),
            'language', l.lanname,
            'volatility', case p.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
            'strict', p.proisstrict,
            'leakproof', p.proleakproof,
            'parallel', case p.proparallel when 's' then 'safe' when 'r' then 'restricted' else 'unsafe' end,
            'cost', p.procost,
            'rows', p.prorows,
            'settings', array_to_string(array(select s from unnest(p.proconfig) s order by s), '; '),
            'body', replace(p.prosrc, E'\\r', ''))
    from pg_proc p
    join pg_namespace n on n.oid = p.pronamespace
    join pg_language l on l.oid = p.prolang
    where n.nspname = %(schema)s
"""
_HOOKS: LiteralString = """
    select 'trigger', n.nspname || '.' || c.relname || '.' || t.tgname,
        jsonb_build_object('definition', pg_get_triggerdef(t.oid), 'enabled', t.tgenabled)
    from pg_trigger t
    join pg_class c on c.oid = t.tgrelid
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = %(schema)s and not t.tgisinternal and t.tgparentid = 0
    union all
    select 'rule', n.nspname || '.' || c.relname || '.' || r.rulename,
        jsonb_build_object('definition', pg_get_ruledef(r.oid))
    from pg_rewrite r
    join pg_class c on c.oid = r.ev_class
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = %(schema)s and r.rulename <> '_RETURN'
    union all
    select 'policy', n.nspname || '.' || c.relname || '.' || y.polname, '{}'
    from pg_policy y
    join pg_class c on c.oid = y.polrelid
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = %(schema)s
"""
_ALL = (_RELATIONS, _COLUMNS, _CONSTRAINTS, _INDEXES, _SEQUENCES, _TYPES, _FUNCTIONS, _HOOKS)

# One row per partition, for it and its parent: whether it is logged, columns, and constraints and indexes under the
# names that the parent has for them.
_PARTITIONS: LiteralString = """
    with shape as (
        select c.oid, n.nspname || '.' || c.relname as name,
            (
                select jsonb_object_agg('column ' || a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
                    case when a.attnotnull then 'not null' end, 'default ' || pg_get_expr(d.adbin, d.adrelid)))
                from pg_attribute a
                left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
                where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            ) as columns,
            case c.relpersistence when 'u' then '{"unlogged": true}' else '{}' end::jsonb as persistence,
            (
                select coalesce(jsonb_object_agg(
                    'constraint ' || coalesce(o.conname, k.conname), pg_get_constraintdef(k.oid)), '{}')
                from pg_constraint k
                left join pg_constraint o on o.oid = k.conparentid
                where k.conrelid = c.oid and k.contype in ('c', 'f', 'p', 'u', 'x')
            ) as constraints,
            (
                select coalesce(jsonb_object_agg('index ' || x.relname, x.relname), '{}')
                from pg_index i
                join pg_class x on x.oid = i.indexrelid
                where i.indrelid = c.oid
            ) as indexes,
            (
                select coalesce(jsonb_object_agg('index ' || x.relname, x.relname), '{}')
                from pg_index i
                left join pg_inherits h on h.inhrelid = i.indexrelid
                join pg_class x on x.oid = coalesce(h.inhparent, i.indexrelid)
                where i.indrelid = c.oid
            ) as parents_indexes
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = %(schema)s and c.relkind in ('r', 'p')
    )
    select child.name,
        parent.persistence || parent.columns || parent.constraints || parent.indexes,
        child.persistence || child.columns || child.constraints || child.parents_indexes
    from pg_inherits h
    join shape child on child.oid = h.inhrelid
    join shape parent on parent.oid = h.inhparent
"""

# Anybody may call a queue of PGMQ like one of ours. Ours is what sp_create_domain left its marks on: a function of the
# domain's own, or the queue's free space.
_DOMAINS: LiteralString = """
    select substring(p.proname from '^(?:send_to|_read_from)_([a-z][a-z0-9_]{0,36})$')
    from pg_proc p
    join pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'commandbus' and p.proname ~ '^(send_to|_read_from)_[a-z][a-z0-9_]{0,36}$'
    union
    select substring(c.relname from '^q_(.*)__commands$')
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'pgmq' and c.relkind in ('r', 'p') and c.relname ~ '^q_[a-z][a-z0-9_]{0,36}__commands$'
        and c.reloptions @> '{fillfactor=50}'
"""
# Archives may have more indexes, for those who search them. Storage parameters may be tuned: `commandbus doctor` looks.
_QUEUES: LiteralString = """
    with tables as (
        select c.oid, c.relname, c.relpersistence, n.nspname || '.' || c.relname as name
        from unnest(%(domains)s::text[]) d(domain),
            unnest('{q,a}'::text[]) k(prefix),
            unnest('{commands,replies}'::text[]) e(ending),
            pg_class c
            join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'pgmq' and c.relname = k.prefix || '_' || d.domain || '__' || e.ending
    )
    select case when w.relname like 'q%%' then 'queue' else 'archive' end, w.name,
        jsonb_build_object('unlogged', w.relpersistence = 'u')
    from tables w
    union all
    select 'index', w.name || '.' || x.relname,
        jsonb_build_object('definition', pg_get_indexdef(x.oid), 'valid', i.indisvalid)
    from tables w
    join pg_index i on i.indrelid = w.oid
    join pg_class x on x.oid = i.indexrelid
    where w.relname like 'q%%'
    union all
    select 'trigger', w.name || '.' || t.tgname,
        jsonb_build_object('definition', pg_get_triggerdef(t.oid), 'enabled', t.tgenabled)
    from tables w
    join pg_trigger t on t.tgrelid = w.oid
    where not t.tgisinternal
"""


@contextlib.contextmanager
def reading(connection: Connection[Any]) -> Iterator[None]:
    """Show the block the catalogs of one moment, with every name outside of pg_catalog in full.

    Reads and writes go on beside it; a statement that changes a table is waited for, but not for long.
    """
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        connection.execute("set local lock_timeout = '5s'")
        connection.execute("set local search_path = pg_catalog, pg_temp")
        for statement in SETTINGS:
            connection.execute(statement)
        yield


def read_schema(connection: Connection[Any], schema: str) -> Objects:
    """Return the objects of a schema; nothing when it does not exist. Use it within `reading`.

    What is not there is left out of the properties. A function's body is its text.
    """
    return _objects(row for query in _ALL for row in select(connection, query, {"schema": schema}))


def read_partitions(connection: Connection[Any], schema: str) -> list[tuple[str, Properties, Properties]]:
    """Return for each partition of a schema's tables its name, what its parent has, and what it has itself."""
    return [(name, parent, own) for name, parent, own in select(connection, _PARTITIONS, {"schema": schema})]


def read_domains(connection: Connection[Any]) -> list[str]:
    """Return the domains that were made, also those of which something was dropped."""
    return sorted(domain for (domain,) in select(connection, _DOMAINS))


def read_queues(connection: Connection[Any], domains: list[str]) -> Objects:
    """Return these domains' queues and archives that are there, their triggers, and the queues' indexes."""
    return _objects(select(connection, _QUEUES, {"domains": domains}))


def with_hashes(objects: Objects) -> Objects:
    """Return the same objects with a hash in place of each function's body."""
    return {
        key: properties | {"body": hashlib.sha256(properties["body"].encode()).hexdigest()}
        if "body" in properties
        else properties
        for key, properties in objects.items()
    }


def _objects(rows: Iterable[tuple[Any, ...]]) -> Objects:
    return {
        (kind, name): {key: value for key, value in properties.items() if value not in (None, "", False)}
        for kind, name, properties in rows
    }
