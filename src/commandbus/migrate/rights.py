"""Who owns what and who may do what: as it is, as it should be, and the statements in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString, NamedTuple

from psycopg import sql

from commandbus.migrate.catalog import read_domains
from commandbus.migrate.connection import select
from commandbus.migrate.difference import Difference, Finding
from commandbus.migrate.roles import RoleNames, callers, is_internal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

KINDS = frozenset({"owner", "security", "grant", "role"})
"""The kinds of differences that are about rights."""

PUBLIC = "PUBLIC"
PGMQS_READER = "pg_monitor"  # PGMQ itself lets it read the queues

# Schema commandbus, the queues of domains, and what of PGMQ the functions need. Schemas come first: who shall own
# something must be allowed to create there.
_LIVE: LiteralString = """
    with relations as (
        select c.*, n.nspname, format('%%I.%%I', n.nspname, c.relname) as quoted
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and n.nspname = 'commandbus'
            or n.nspname = 'pgmq' and c.relkind in ('r', 'p')
                and (c.relname = 'meta'
                    or substring(c.relname from '^[qa]_(.*)__(?:commands|replies)$') = any (%s::text[]))
    ), objects as (
        select 1 as place, 'schema' as kind, n.nspname, n.nspname as name, null as col,
            quote_ident(n.nspname) as quoted, n.nspowner as owner, false as is_definer, false as follows,
            coalesce(n.nspacl, acldefault('n', n.nspowner)) as acl
        from pg_namespace n
        where n.nspname in ('commandbus', 'pgmq')
        union all
        select 2, case r.relkind when 'S' then 'sequence' else 'table' end, r.nspname, r.relname, null, r.quoted,
            r.relowner, false,
            exists (
                select from pg_depend d
                where d.classid = 'pg_class'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
                    and d.deptype in ('a', 'i') and r.relkind = 'S'
            ),
            coalesce(r.relacl, acldefault(case r.relkind when 'S' then 's' else 'r' end::"char", r.relowner))
        from relations r
        union all
        select 3, 'column', r.nspname, r.relname, a.attname, r.quoted, r.relowner, false, true, a.attacl
        from relations r
        join pg_attribute a on a.attrelid = r.oid and a.attacl is not null and not a.attisdropped
        union all
        select 4, case p.prokind when 'p' then 'procedure' else 'function' end, n.nspname, p.proname, null,
            format('%%I.%%I(%%s)', n.nspname, p.proname, oidvectortypes(p.proargtypes)), p.proowner, p.prosecdef, false,
            coalesce(p.proacl, acldefault('f', p.proowner))
        from pg_proc p
        join pg_namespace n on n.oid = p.pronamespace
        where n.nspname in ('commandbus', 'pgmq')
    )
    select o.kind, o.nspname, o.name, o.col, o.quoted, pg_get_userbyid(o.owner), o.is_definer, o.follows,
        (
            select jsonb_agg(jsonb_build_array(coalesce(r.rolname, 'PUBLIC'), e.privilege_type))
            from aclexplode(o.acl) e
            left join pg_roles r on r.oid = e.grantee
            where e.grantee <> o.owner
        )
    from objects o
    order by o.place, o.quoted, o.col
"""


class Grant(NamedTuple):
    """One privilege of one role, or of PUBLIC."""

    role: str
    privilege: str


@dataclass(frozen=True, slots=True)
class Live:
    """One object as it is.

    Attributes:
        column: only of a column that somebody has rights on.
        quoted: the object's name as SQL, a function's with the types of its arguments, a column's that of its table.
        follows: it has the owner of the table that it belongs to.
        grants: to others than its owner.
    """

    kind: str
    schema: str
    name: str
    column: str | None
    quoted: str
    owner: str
    is_definer: bool
    follows: bool
    grants: frozenset[Grant]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One object as it should be.

    Attributes:
        owner: None for whoever it is.
        is_definer: a function runs with its owner's rights; None for whatever it does.
        grants: that there must be.
        refused: roles that must have no other grants; None for all but those tolerated.
        tolerated: roles whose grants are their own affair.
    """

    owner: str | None = None
    is_definer: bool | None = None
    grants: frozenset[Grant] = frozenset()
    refused: frozenset[str] | None = None
    tolerated: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Step:
    """One difference, and the statement that ends it."""

    difference: Difference
    statement: sql.Composed


def steps(connection: Connection[Any], names: RoleNames | None, former_owner: str | None = None) -> list[Step]:
    """Return what lies between the rights in a database and those of its roles, in the order to execute it.

    Use it where nothing but pg_catalog is on the search_path.

    Args:
        names: None where nobody but the owners shall have any right, as the migrations leave it.
        former_owner: the owner's role of before, which needs nothing of PGMQ any more.
    """
    return [step for live in _read(connection) for step in _steps_for(live, _wanted(live, names, former_owner))]


def _read(connection: Connection[Any]) -> list[Live]:
    return [Live(*(*row[:-1], _grants(row[-1]))) for row in select(connection, _LIVE, (read_domains(connection),))]


def _grants(pairs: list[tuple[str, str]] | None) -> frozenset[Grant]:
    return frozenset(Grant(role, privilege) for role, privilege in pairs or ())


def _wanted(live: Live, names: RoleNames | None, former_owner: str | None) -> Wanted:
    is_function = live.kind in ("function", "procedure")
    if names is None:
        nobody = frozenset[str]() if live.schema == "pgmq" else None
        return Wanted(is_definer=False if is_function and nobody is None else None, refused=nobody)
    users = frozenset({names.app, names.operator, names.readonly})
    if live.schema == "pgmq":
        refused = users if former_owner in (None, names.owner) else users | {former_owner or ""}
        return _wanted_of_pgmq(live, names.owner, refused)
    if live.kind == "schema":
        own = {Grant(names.owner, "USAGE"), Grant(names.owner, "CREATE")}
        return Wanted(grants=frozenset({*own, *(Grant(user, "USAGE") for user in users)}))
    if is_function:
        may = frozenset(Grant(names[role], "EXECUTE") for role in callers(live.name))
        return Wanted(names.owner, not is_internal(live.name), may)
    return Wanted(owner=names.owner)


def _wanted_of_pgmq(live: Live, owner: str, refused: frozenset[str]) -> Wanted:
    """Return what PGMQ's objects must be like: its queues for domains are ours, all else it shares with others."""
    needs: tuple[str, ...] = ()
    match live.kind:
        case "schema":
            needs = ("USAGE", "CREATE")
        case "table" | "column" if live.name != "meta":
            return Wanted(owner, tolerated=frozenset({PGMQS_READER}))
        case "table":
            needs = ("SELECT", "INSERT")
        case "function" | "procedure" if Grant(PUBLIC, "EXECUTE") not in live.grants:
            needs = ("EXECUTE",)
    return Wanted(grants=frozenset(Grant(owner, need) for need in needs), refused=refused)


def _steps_for(live: Live, wanted: Wanted) -> Iterator[Step]:
    target = sql.SQL("{} {}").format(_trusted(live.kind), _trusted(live.quoted))
    if wanted.owner not in (None, live.owner) and not live.follows:
        owner = sql.Identifier(wanted.owner or "")
        yield Step(
            _changed("owner", live, live.owner, wanted.owner), sql.SQL("alter {} owner to {}").format(target, owner)
        )
    if wanted.is_definer not in (None, live.is_definer):
        runs = "definer" if wanted.is_definer else "invoker"
        is_now = "invoker" if wanted.is_definer else "definer"
        statement = sql.SQL("alter {} security {}").format(target, _trusted(runs))
        yield Step(_changed("security", live, is_now, runs), statement)
    owners = {live.owner, wanted.owner}
    for grant in sorted(live.grants - wanted.grants):
        is_refused = grant.role not in wanted.tolerated if wanted.refused is None else grant.role in wanted.refused
        if is_refused and grant.role not in owners:
            yield _step(live, grant, Finding.UNEXPECTED)
    for grant in sorted(wanted.grants - live.grants):
        if grant.role != live.owner:
            yield _step(live, grant, Finding.MISSING)


def _step(live: Live, grant: Grant, finding: Finding) -> Step:
    privilege: sql.Composable = _trusted(grant.privilege)
    if live.column is not None:
        privilege = sql.SQL("{} ({})").format(privilege, sql.Identifier(live.column))
    kind = "table" if live.kind == "column" else live.kind
    pattern = "grant {} on {} {} to {}" if finding is Finding.MISSING else "revoke {} on {} {} from {}"
    role = sql.SQL("public") if grant.role == PUBLIC else sql.Identifier(grant.role)
    statement = sql.SQL(pattern).format(privilege, _trusted(kind), _trusted(live.quoted), role)
    column = f" column {live.column}" if live.column is not None else ""
    detail = f"{grant.privilege} to {grant.role}"
    return Step(Difference(finding, "grant", f"on {kind} {live.quoted}{column}", detail), statement)


def _changed(kind: str, live: Live, is_now: str, should: str | None) -> Difference:
    return Difference(Finding.CHANGED, kind, f"of {live.kind} {live.quoted}", f"is {is_now}, should be {should}")


def _trusted(text: str) -> sql.SQL:
    """Return words that the server quoted itself, and its own words, as they are."""
    return sql.SQL(text)
