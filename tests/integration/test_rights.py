"""Least privilege: who may call what, from one table; and every table is out of reach."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from commandbus.migrate import RoleNames, grant, verify
from commandbus.migrate.roles import MAY_CALL
from tests.integration.sql_helpers import DOMAIN, Bus, open_bus

if TYPE_CHECKING:
    from collections.abc import Iterator


# Who may call each function. A new function fails the test below until somebody decides, here and in migrate/roles.py.
MATRIX = {
    "schema_version": "app operator readonly",
    "sp_create_domain": "app operator",
    "sp_create_batch": "app",
    "sp_send_commands": "app",
    "sp_send_command": "app",
    "send_to_pay": "app",
    "sp_receive_commands": "app",
    "sp_receive_command": "app",
    "sp_warm_up": "app",
    "sp_extend_leases": "app",
    "sp_settle_commands": "app",
    "sp_finish_command": "app",
    "sp_start_batch": "app",
    "sp_update_batch_counters": "operator",
    "sp_take_replies": "app",
    "sp_operator_retry": "operator",
    "sp_operator_cancel": "operator",
    "sp_operator_complete": "operator",
    "sp_tsq_retry": "operator",
    "sp_tsq_cancel": "operator",
    "sp_tsq_complete": "operator",
    "sp_park_lost": "operator",
    "sp_make_partitions": "app operator",
    "sp_prune_throughput": "app operator",
    "sp_drop_partitions": "operator",
    "sp_prune_audit": "operator",
    "sp_prune_commands": "operator",
    "sp_prune_payloads": "operator",
    "sp_prune_batches": "operator",
    "sp_prune_redrives": "operator",
    "sp_prune_archives": "operator",
    "sp_prune_replies": "operator",
    "list_troubleshooting": "operator",
    "get_payload": "operator",
    "list_waiting": "app operator readonly",
    "list_troubleshooting_ids": "app operator readonly",
    "count_troubleshooting": "app operator readonly",
    "get_command": "app operator readonly",
    "query_commands": "app operator readonly",
    "get_audit_trail": "app operator readonly",
    "query_audit": "app operator readonly",
    "log_event": "app operator",
    "get_batch": "app operator readonly",
    "list_batches": "app operator readonly",
    "list_batch_commands": "app operator readonly",
    "find_domains": "app operator readonly",
    "find_by_id": "app operator readonly",
    "list_domains": "app operator readonly",
    "list_known_domains": "app operator readonly",
    "domain_metrics": "app operator readonly",
    "queue_create": "app",
    "queue_send": "app",
    "queue_read": "app",
    "queue_delete": "app",
    "queue_archive": "app",
    "queue_set_vt": "app",
    "queue_notify": "app",
    "find_commands": "app operator readonly",
    "get_message": "operator",
    "sp_operator_edit": "operator",
    "list_failure_groups": "app operator readonly",
    "sp_start_redrive": "operator",
    "sp_control_redrive": "operator",
    "sp_step_redrives": "app",
    "list_redrives": "app operator readonly",
    "get_redrive": "app operator readonly",
    "sp_pause_domain": "operator",
    "sp_resume_domain": "operator",
    "sp_worker_beat": "app",
    "sp_worker_gone": "app",
    "list_workers": "app operator readonly",
    "list_leases": "app operator readonly",
    "list_throughput": "app operator readonly",
    "overview": "app operator readonly",
}
USERS = ("app", "operator", "readonly", "stranger")


@pytest.fixture
def url(names: RoleNames, database_url: str) -> str:
    """A database whose domain was there before the grant."""
    with open_bus(database_url) as bus:
        bus.create_domain()
    grant(database_url, **asdict(names))
    return database_url


@pytest.fixture
def bus(url: str, names: RoleNames) -> Iterator[Bus]:
    """A connection of the superuser, who may take every role; there is one that nothing was granted to."""
    with open_bus(url) as found, found.connection.transaction(force_rollback=True):
        found.connection.execute(sql.SQL("create role {}").format(sql.Identifier(role_of("stranger", names))))
        yield found


def role_of(user: str, names: RoleNames) -> str:
    """Return the name of a role in the database."""
    return names.owner.replace("owner", "stranger") if user == "stranger" else asdict(names)[user]


def is_allowed(bus: Bus, role: str, statement: sql.Composed) -> bool:
    """Say whether a role may execute a statement, which is undone; any other refusal counts as allowed."""
    try:
        with bus.connection.transaction(force_rollback=True):
            bus.connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
            bus.connection.execute(statement)
    except InsufficientPrivilege:
        return False
    except psycopg.Error:
        pass
    return True


def calls(bus: Bus, schema: str) -> dict[str, sql.Composed]:
    """Return for each function of a schema a call with nothing but nulls."""
    rows = bus.rows(
        "select proname as name, oid::text as key, array(select format_type(t, null) from unnest(proargtypes::oid[]) t)"
        " as types from pg_proc where pronamespace = %s::regnamespace and prorettype <> 'trigger'::regtype",
        schema,
    )
    return {
        f"{row['name']} {row['key']}": sql.SQL("select from {}({})").format(
            sql.Identifier(schema, row["name"]),
            sql.SQL(", ").join(sql.SQL("null::{}").format(sql.SQL(kind)) for kind in row["types"]),
        )
        for row in rows
    }


def test_each_role_may_call_what_the_table_says_and_nothing_else(bus: Bus, names: RoleNames) -> None:
    found: dict[str, str] = {}
    for key, call in calls(bus, "commandbus").items():
        found[key.split()[0]] = " ".join(user for user in USERS if is_allowed(bus, role_of(user, names), call))
    internal = {name for name in found if name.startswith("_")}
    assert {name: found[name] for name in internal} == dict.fromkeys(internal, "")
    assert {name: found[name] for name in found if name not in internal} == MATRIX


def test_no_function_of_pgmq_can_be_called(bus: Bus, names: RoleNames) -> None:
    functions = calls(bus, "pgmq")
    assert len(functions) > 30
    assert [
        (user, key) for key, call in functions.items() for user in USERS if is_allowed(bus, role_of(user, names), call)
    ] == []


def test_no_table_or_sequence_can_be_touched(bus: Bus, names: RoleNames) -> None:
    relations = bus.rows(
        "select n.nspname, c.relname, c.relkind = 'S' as is_sequence from pg_class c"
        " join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname in ('commandbus', 'pgmq') and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')"
    )
    assert {("commandbus", "command"), ("pgmq", "q_pay__commands"), ("pgmq", "meta")} <= {
        (row["nspname"], row["relname"]) for row in relations
    }
    for row in relations:
        name = sql.Identifier(row["nspname"], row["relname"])
        patterns = ["select from {}"]
        if not row["is_sequence"]:
            patterns += ["insert into {} default values", "delete from {}", "truncate {}", "lock {} in share mode"]
        allowed = [
            (user, row["relname"], pattern)
            for user in USERS
            for pattern in patterns
            if is_allowed(bus, role_of(user, names), sql.SQL(pattern).format(name))
        ]
        assert allowed == []


def test_nobody_but_the_owner_can_create_anything(bus: Bus, names: RoleNames) -> None:
    for schema in ("commandbus", "pgmq"):
        statement = sql.SQL("create table {} (x int)").format(sql.Identifier(schema, "mine"))
        assert [user for user in USERS if is_allowed(bus, role_of(user, names), statement)] == []


def test_functions_that_run_with_the_owners_rights_pin_their_path(bus: Bus) -> None:
    rows = bus.rows(
        "select proname, prosecdef, 'search_path=pg_catalog, pg_temp' = any (proconfig) as is_pinned, rolsuper"
        " from pg_proc p join pg_roles r on r.oid = p.proowner where pronamespace = 'commandbus'::regnamespace"
    )
    assert {row["proname"] for row in rows if row["prosecdef"]} == set(MATRIX)
    assert all(row["is_pinned"] and not row["rolsuper"] for row in rows)


def test_a_domain_made_later_has_the_same_rights(url: str, bus: Bus, names: RoleNames) -> None:
    with open_bus(url) as app:
        app.connection.execute(sql.SQL("set role {}").format(sql.Identifier(names.app)))
        app.create_domain("later")
        assert app.result("sp_create_domain", domain="later") is False
    later = {key.split()[0]: call for key, call in calls(bus, "commandbus").items() if "later" in key}
    allowed = {
        name: " ".join(user for user in USERS if is_allowed(bus, role_of(user, names), call))
        for name, call in later.items()
    }
    assert allowed == {"send_to_later": MATRIX["send_to_pay"], "_read_from_later": ""}
    assert verify(url) == []


def test_the_table_of_the_package_lists_no_function_that_is_not_there() -> None:
    assert set(MAY_CALL) == set(MATRIX) - {f"send_to_{DOMAIN}"}
