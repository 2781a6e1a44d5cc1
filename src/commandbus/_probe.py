"""What must be true of a server before commandbus uses it: one look at its catalogs, and the verdict."""

from dataclasses import dataclass

from commandbus.errors import (
    NotMigratedError,
    PgmqMissingError,
    PgmqTooOldError,
    ReadOnlyServerError,
    SchemaError,
    SchemaTooNewError,
    ServerTooOldError,
)

OLDEST_SERVER = 150_000
# A migration keeps for one version what the release before it calls. So a release works on the schema it was made for
# and on the next one: a deployment migrates first, while programs of the release before still run and restart.
OWN_SCHEMA = 1
NEWEST_SCHEMA = OWN_SCHEMA + 1

# Only pg_catalog is read, which every role may do: names are looked up as text, not resolved.
PROBE = """
    select
        pg_catalog.current_setting('server_version_num')::int as server_version,
        pg_catalog.pg_is_in_recovery() as is_replica,
        pg_catalog.current_setting('transaction_read_only')::boolean as is_read_only,
        pg_catalog.current_setting('transaction_isolation') as isolation,
        current_user::text as role,
        pg_catalog.current_database()::text as database,
        pg_catalog.current_setting('search_path') as search_path,
        coalesce(pg_catalog.current_schemas(false)::text[], '{}') as visible_schemas,
        coalesce(
            (select e.extversion from pg_catalog.pg_extension e where e.extname = 'pgmq'),
            (
                select pg_catalog.substring(pg_catalog.obj_description(t.oid, 'pg_type'), '^PGMQ ([0-9.]+)$')
                from pg_catalog.pg_type t
                join pg_catalog.pg_namespace n on n.oid = t.typnamespace
                where n.nspname = 'pgmq' and t.typname = 'message_record'
            )
        ) as pgmq_version,
        exists (
            select from pg_catalog.pg_type t
            join pg_catalog.pg_namespace n on n.oid = t.typnamespace
            where n.nspname = 'pgmq' and t.typname = 'message_record'
        ) as has_pgmq,
        exists (
            select from pg_catalog.pg_attribute a
            join pg_catalog.pg_class c on c.oid = a.attrelid
            join pg_catalog.pg_namespace n on n.oid = c.relnamespace
            where n.nspname = 'pgmq' and c.relname = 'message_record' and a.attname = 'last_read_at'
        ) as has_recent_pgmq,
        exists (
            select from pg_catalog.pg_class c
            join pg_catalog.pg_namespace n on n.oid = c.relnamespace
            where n.nspname = 'commandbus' and c.relname = 'command'
        ) as has_command_table,
        (
            select pg_catalog.has_schema_privilege(n.oid, 'usage')
                and pg_catalog.has_function_privilege(p.oid, 'execute')
            from pg_catalog.pg_proc p
            join pg_catalog.pg_namespace n on n.oid = p.pronamespace
            where n.nspname = 'commandbus' and p.proname = 'schema_version' and p.pronargs = 0
        ) as may_use_schema
"""
SCHEMA_VERSION = "select commandbus.schema_version() as version"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server is and has.

    Attributes:
        server_version: as ``server_version_num``: 180004 is 18.4.
        is_replica: it replays another server's log.
        is_read_only: new transactions cannot write.
        isolation: default isolation of transactions, in lower case.
        role: the connected user.
        database: the connected database.
        search_path: of the session, as it was set.
        visible_schemas: schemas on the session's search path that exist and may be used, in order.
        pgmq_version: of the extension, or of the SQL that `commandbus migrate` installed; None when others installed
            PGMQ's SQL, or it is missing.
        has_pgmq: PGMQ is there.
        has_recent_pgmq: and it is 1.10 or newer.
        has_command_table: schema ``commandbus`` has its main table.
        may_use_schema: the role may call its functions; None when there are none.
    """

    server_version: int
    is_replica: bool
    is_read_only: bool
    isolation: str
    role: str
    database: str
    search_path: str
    visible_schemas: list[str]
    pgmq_version: str | None
    has_pgmq: bool
    has_recent_pgmq: bool
    has_command_table: bool
    may_use_schema: bool | None


def check_server(facts: ServerFacts) -> None:
    """Refuse a server that commandbus cannot work with.

    Raises:
        ServerTooOldError: PostgreSQL is older than 15.
        ReadOnlyServerError: it is a replica, or read-only for this role.
        PgmqMissingError: PGMQ is not installed.
        PgmqTooOldError: PGMQ is older than 1.10.
        NotMigratedError: schema ``commandbus`` is missing or incomplete.
        SchemaError: the role has no rights on it.
    """
    database = f'database "{facts.database}"'
    if facts.server_version < OLDEST_SERVER:
        raise ServerTooOldError(f"the server is PostgreSQL {facts.server_version // 10_000}; 15 or newer is needed")
    if facts.is_replica:
        raise ReadOnlyServerError(
            "the server is a replica: connect to the primary, or name all hosts and add target_session_attrs=read-write"
        )
    if facts.is_read_only:
        raise ReadOnlyServerError(
            f'transactions of role "{facts.role}" in {database} are read-only:'
            " default_transaction_read_only must be off"
        )
    if not facts.has_pgmq:
        raise PgmqMissingError(f"{database} has no PGMQ: run `commandbus migrate`")
    if not facts.has_recent_pgmq:
        raise PgmqTooOldError(
            f"{database} has PGMQ {facts.pgmq_version or 'of an old version'}; 1.10 or newer is needed:"
            " update the extension"
        )
    if not facts.has_command_table or facts.may_use_schema is None:
        raise NotMigratedError(f"{database} is not migrated: run `commandbus migrate`")
    if not facts.may_use_schema:
        raise SchemaError(
            f'role "{facts.role}" may not use schema commandbus in {database}:'
            " run `commandbus grant`, and make it a member of one of its roles"
        )


def check_schema_version(version: int) -> None:
    """Refuse a schema that this code does not work on: any but its own version and the next one.

    Raises:
        NotMigratedError: it is older.
        SchemaTooNewError: it is newer by two or more.
    """
    found = f"schema commandbus has version {version}; this release works on versions {OWN_SCHEMA} and {NEWEST_SCHEMA}"
    if version < OWN_SCHEMA:
        raise NotMigratedError(f"{found}: run `commandbus migrate`")
    if version > NEWEST_SCHEMA:
        raise SchemaTooNewError(f"{found}: update commandbus")
