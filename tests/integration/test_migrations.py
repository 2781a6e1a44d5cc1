"""What V001 and V002 must leave in a database (F010, S046, S047), read back from the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
import pytest

from commandbus.migrate import discover, info, migrate, packaged_directory, validate

if TYPE_CHECKING:
    from collections.abc import Iterator

Connection = psycopg.Connection[tuple[Any, ...]]

PROCEDURES = {
    "sp_receive_command",
    "sp_finish_command",
    "sp_start_batch",
    "sp_update_batch_counters",
    "sp_tsq_complete",
    "sp_tsq_cancel",
    "sp_tsq_retry",
}
# Column: type, NOT NULL, default; as the requirement lists them.
COMMAND_COLUMNS = {
    "domain": ("text", True, None),
    "queue_name": ("text", True, None),
    "msg_id": ("bigint", False, None),
    "command_id": ("uuid", True, None),
    "command_type": ("text", True, None),
    "status": ("text", True, None),
    "attempts": ("integer", True, "0"),
    "max_attempts": ("integer", True, None),
    "lease_expires_at": ("timestamp with time zone", False, None),
    "last_error_type": ("text", False, None),
    "last_error_code": ("text", False, None),
    "last_error_msg": ("text", False, None),
    "created_at": ("timestamp with time zone", True, "now()"),
    "updated_at": ("timestamp with time zone", True, "now()"),
    "reply_queue": ("text", True, "''::text"),
    "correlation_id": ("uuid", False, None),
    "batch_id": ("uuid", False, None),
}
BATCH_COLUMNS = {
    "domain": ("text", True, None),
    "batch_id": ("uuid", True, None),
    "name": ("text", False, None),
    "custom_data": ("jsonb", False, None),
    "status": ("text", True, "'PENDING'::text"),
    "total_count": ("integer", True, "0"),
    "completed_count": ("integer", True, "0"),
    "canceled_count": ("integer", True, "0"),
    "in_troubleshooting_count": ("integer", True, "0"),
    "created_at": ("timestamp with time zone", True, "now()"),
    "started_at": ("timestamp with time zone", False, None),
    "completed_at": ("timestamp with time zone", False, None),
}
TEST_COMMAND_COLUMNS = {
    "id": ("integer", True, "nextval('e2e.test_command_id_seq'::regclass)"),
    "command_id": ("uuid", True, None),
    "payload": ("jsonb", True, "'{}'::jsonb"),
    "behavior": ("jsonb", True, None),
    "created_at": ("timestamp with time zone", False, "now()"),
    "processed_at": ("timestamp with time zone", False, None),
    "attempts": ("integer", False, "0"),
    "result": ("jsonb", False, None),
}


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    """Read the migrated database."""
    with psycopg.connect(database_url, autocommit=True) as found:
        yield found


def names(connection: Connection, statement: LiteralString, *parameters: object) -> set[str]:
    """Return the first column of a query."""
    return {row[0] for row in connection.execute(statement, parameters)}


def tables(connection: Connection, schema: str) -> set[str]:
    """Return the tables of a schema."""
    return names(connection, "select tablename from pg_tables where schemaname = %s", schema)


def columns(connection: Connection, table: str) -> dict[str, tuple[str, bool, str | None]]:
    """Return type, NOT NULL and default of each column."""
    rows = connection.execute(
        "select attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)"
        " from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum"
        " where attrelid = %s::text::regclass and attnum > 0 and not attisdropped",
        (table,),
    )
    return {name: (kind, not_null, default) for name, kind, not_null, default in rows}


def constraints(connection: Connection, table: str, kind: str) -> list[str]:
    """Return the definitions of a table's constraints of a kind: p(rimary), f(oreign), u(nique), c(heck)."""
    rows = connection.execute(
        "select pg_get_constraintdef(oid) from pg_constraint"
        ' where conrelid = %s::text::regclass and contype = %s::text::"char"',
        (table, kind),
    )
    return [definition for (definition,) in rows]


def index_columns(connection: Connection, table: str) -> set[str]:
    """Return the first column of every index of a table."""
    return names(
        connection,
        "select pg_get_indexdef(indexrelid, 1, true) from pg_index where indrelid = %s::text::regclass",
        table,
    )


def test_v001_creates_schema(connection: Connection) -> None:
    assert "commandbus" in names(connection, "select nspname from pg_namespace")


def test_v001_creates_tables(connection: Connection) -> None:
    assert {"command", "batch", "audit", "payload_archive"} <= tables(connection, "commandbus")


def test_v001_creates_stored_procedures(connection: Connection) -> None:
    found = names(connection, "select proname from pg_proc where pronamespace = 'commandbus'::regnamespace")
    assert found >= PROCEDURES


def test_migrations_idempotent(database_url: str) -> None:
    before = info(database_url, with_e2e=True)
    result = migrate(database_url, with_e2e=True)
    assert result.applied == ()
    assert [migration.version for migration in result.skipped] == ["001", "002"]
    assert info(database_url, with_e2e=True) == before


def test_command_table_has_the_required_columns(connection: Connection) -> None:
    found = columns(connection, "commandbus.command")
    assert {name: found.get(name) for name in COMMAND_COLUMNS} == COMMAND_COLUMNS


def test_batch_table_has_the_required_columns(connection: Connection) -> None:
    found = columns(connection, "commandbus.batch")
    assert {name: found.get(name) for name in BATCH_COLUMNS} == BATCH_COLUMNS


def test_batch_primary_key_is_domain_and_batch_id(connection: Connection) -> None:
    assert constraints(connection, "commandbus.batch", "p") == ["PRIMARY KEY (domain, batch_id)"]


def test_command_refers_to_its_batch(connection: Connection) -> None:
    foreign_keys = constraints(connection, "commandbus.command", "f")
    assert any("batch_id) REFERENCES commandbus.batch(domain, batch_id)" in key for key in foreign_keys)


def test_every_foreign_key_has_an_index_on_its_columns(connection: Connection) -> None:
    unindexed = connection.execute(
        "select conname from pg_constraint where contype = 'f' and connamespace = 'commandbus'::regnamespace"
        " and not exists (select from pg_index where indrelid = conrelid"
        "  and (indkey::int2[])[0:cardinality(conkey) - 1] <@ conkey"
        "  and conkey <@ (indkey::int2[])[0:cardinality(conkey) - 1])"
    ).fetchall()
    assert unindexed == []


def test_every_table_has_a_primary_key(connection: Connection) -> None:
    without = connection.execute(
        "select oid::regclass::text from pg_class where relkind = 'r'"
        " and relnamespace in ('commandbus'::regnamespace, 'e2e'::regnamespace)"
        " and not exists (select from pg_constraint where conrelid = pg_class.oid and contype = 'p')"
    ).fetchall()
    assert without == []


def test_every_constraint_has_a_name_of_ours(connection: Connection) -> None:
    # PostgreSQL's own names end so; from 18 on it also names every NOT NULL.
    made_up = connection.execute(
        "select conrelid::regclass::text, conname from pg_constraint"
        " where connamespace in ('commandbus'::regnamespace, 'e2e'::regnamespace)"
        " and contype <> 'n' and conparentid = 0 and conname ~ '_(pkey|key|fkey|check|excl)[0-9]*$'"
    ).fetchall()
    assert made_up == []


def test_every_function_pins_its_search_path(connection: Connection) -> None:
    loose = connection.execute(
        "select oid::regprocedure::text from pg_proc where pronamespace = 'commandbus'::regnamespace"
        " and not ('search_path=pg_catalog, pg_temp' = any (coalesce(proconfig, '{}')))"
    ).fetchall()
    assert loose == []


def test_no_function_may_be_executed_by_public(connection: Connection) -> None:
    open_to_all = connection.execute(
        "select pg_proc.oid::regprocedure::text from pg_proc,"
        " aclexplode(coalesce(proacl, acldefault('f', proowner))) as acl"
        " where pronamespace = 'commandbus'::regnamespace and acl.grantee = 0"
    ).fetchall()
    assert open_to_all == []


def test_v002_creates_e2e_schema(connection: Connection) -> None:
    assert "e2e" in names(connection, "select nspname from pg_namespace")


def test_v002_creates_e2e_tables(connection: Connection) -> None:
    assert tables(connection, "e2e") == {"test_command", "config"}


def test_v002_inserts_default_config(connection: Connection) -> None:
    rows: list[Any] = connection.execute("select key, value from e2e.config").fetchall()
    assert dict(rows) == {
        "worker": {"visibility_timeout": 30, "concurrency": 4, "poll_interval": 1.0, "batch_size": 10},
        "retry": {"max_attempts": 3, "base_delay_ms": 1000, "max_delay_ms": 60000, "backoff_multiplier": 2.0},
    }


def test_test_command_table_has_exactly_the_required_columns(connection: Connection) -> None:
    assert columns(connection, "e2e.test_command") == TEST_COMMAND_COLUMNS
    assert constraints(connection, "e2e.test_command", "p") == ["PRIMARY KEY (id)"]
    assert constraints(connection, "e2e.test_command", "u") == ["UNIQUE (command_id)"]
    assert {"command_id", "created_at"} <= index_columns(connection, "e2e.test_command")


def test_the_e2e_schema_is_optional(empty_database_url: str) -> None:
    migrate(empty_database_url)
    validate(empty_database_url)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        assert "e2e" not in names(connection, "select nspname from pg_namespace")
        functions = connection.execute(
            "select count(*) from pg_proc where pronamespace = 'commandbus'::regnamespace and prosrc ~ 'e2e\\.'"
        ).fetchone()
    assert functions == (0,)


def test_the_e2e_schema_can_be_added_later(empty_database_url: str) -> None:
    migrate(empty_database_url)
    result = migrate(empty_database_url, with_e2e=True)
    assert [migration.version for migration in result.applied] == ["002"]


def test_the_schema_does_not_depend_on_the_sessions_search_path(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("set search_path = ''")
        migrate(connection, with_e2e=True)
        assert tables(connection, "e2e") == {"test_command", "config"}
        assert connection.execute("show search_path").fetchone() == ('""',)


def test_migrations_are_flyways_too() -> None:
    # Flyway and our runner replace ${name}, and nobody should have to give values for the library's own files.
    assert [migration.script for migration in discover(packaged_directory()) if "${" in migration.text] == []
