"""`commandbus grant`: what it changes, what it leaves, and who may run it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from commandbus.errors import InvalidArgumentError, MigrationError, NotMigratedError
from commandbus.migrate import RoleNames, grant, migrate, verify
from tests.cli_process import Cli
from tests.integration.sql_helpers import open_bus

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import Server


@pytest.fixture
def url(names: RoleNames, database_url: str) -> str:
    """A database with a domain; the names come first, so that the roles outlive it."""
    assert names
    with open_bus(database_url) as bus:
        bus.create_domain()
    return database_url


def run(url: str, statement: str, *roles: str) -> None:
    """Execute a statement, with names of roles."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, roles)))


def lines(url: str) -> list[str]:
    """Return what verify says."""
    return list(map(str, verify(url)))


def test_it_is_verified_and_repeating_it_does_nothing(url: str, names: RoleNames) -> None:
    done = grant(url, **asdict(names))
    assert done.statements[0] == f'create role "{names.owner}" nologin'
    assert lines(url) == []
    again = grant(url)
    assert (again.names, again.statements) == (names, ())


def test_a_dry_run_changes_nothing_and_its_statements_are_all_it_takes(url: str, names: RoleNames) -> None:
    planned = grant(url, dry_run=True, **asdict(names))
    assert lines(url) == []
    assert grant(url, dry_run=True, **asdict(names)) == planned
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in planned.statements:
            connection.execute(statement.encode())
    assert lines(url) == []
    assert grant(url).statements == ()


def test_rights_given_by_hand_are_taken_away(url: str, names: RoleNames) -> None:
    run(url, "create role {}", names.app)
    run(url, "grant usage on schema commandbus, pgmq to {}", names.app)
    run(url, "grant all on all tables in schema commandbus to {}", names.app)
    run(url, "grant all on all tables in schema pgmq to {}", names.app)
    run(url, "grant all on all functions in schema commandbus to public")
    run(url, "grant select (status) on commandbus.batch to {}", names.app)
    grant(url, **asdict(names))
    assert lines(url) == []
    with psycopg.connect(url) as connection:
        query = (
            "select has_table_privilege(%s, 'commandbus.command', 'select'), has_schema_privilege(%s, 'pgmq', 'usage')"
        )
        assert connection.execute(query, [names.app, names.app]).fetchone() == (False, False)


def test_other_names_replace_the_first_ones(url: str, names: RoleNames) -> None:
    grant(url, **asdict(names))
    renamed = replace(names, app=names.app.replace("app", "shop"))
    assert grant(url, app=renamed.app).names == renamed
    assert lines(url) == []
    with psycopg.connect(url) as connection:
        query = "select has_schema_privilege(%s, 'commandbus', 'usage')"
        assert connection.execute(query, [names.app]).fetchone() == (False,)


def test_another_owner_leaves_the_first_one_nothing(url: str, names: RoleNames) -> None:
    grant(url, **asdict(names))
    renamed = replace(names, owner=names.owner.replace("owner", "heir"))
    planned = grant(url, owner=renamed.owner, dry_run=True)
    assert grant(url, owner=renamed.owner) == planned
    assert lines(url) == []
    with psycopg.connect(url) as connection:
        held = connection.execute(
            "select count(*) from pg_shdepend where refclassid = 'pg_authid'::regclass and refobjid = %s::regrole"
            " and dbid = (select oid from pg_database where datname = current_database())",
            [f'"{names.owner}"'],
        ).fetchone()
        assert held == (0,)
    assert grant(url).statements == ()


def test_queues_of_somebody_elses_are_left_alone(url: str, names: RoleNames) -> None:
    tables = [f"{kind}_{queue}" for kind in "qa" for queue in ("billing__commands", "crm__replies", "pay_x__replies")]
    for table in tables[:3]:
        run(url, f"select pgmq.create('{table.removeprefix('q_')}')")
    run(url, "grant select on pgmq.q_billing__commands to pg_checkpoint")
    grant(url, **asdict(names))
    assert lines(url) == []
    with psycopg.connect(url) as connection:
        query = "select distinct tableowner::text from pg_tables where schemaname = 'pgmq' and tablename = any (%s)"
        me = connection.info.user
        assert connection.execute(query, [tables]).fetchall() == [(me,)]
        assert connection.execute(query, [["q_pay__commands", "a_pay__replies"]]).fetchall() == [(names.owner,)]
        query = "select has_table_privilege('pg_checkpoint', 'pgmq.q_billing__commands', 'select')"
        assert connection.execute(query).fetchone() == (True,)


def test_what_a_later_migration_leaves_open_is_named_and_mended(url: str, names: RoleNames) -> None:
    grant(url, **asdict(names))
    run(
        url,
        "create or replace function commandbus.schema_version() returns int language sql immutable"
        " set search_path = pg_catalog, pg_temp as $$ select 1 $$",
    )
    run(url, "alter table commandbus.batch owner to current_user")
    run(url, "grant execute on function commandbus.list_domains() to public")
    run(url, "revoke execute on function commandbus.get_batch(text, uuid) from {}", names.app)
    me = conninfo_to_dict(url).get("user", "postgres")
    assert set(lines(url)) == {
        "changed security of function commandbus.schema_version(): is invoker, should be definer",
        f"changed owner of table commandbus.batch: is {me}, should be {names.owner}",
        f"missing grant on function commandbus.get_batch(text, uuid): EXECUTE to {names.app}",
        "unexpected grant on function commandbus.list_domains(): EXECUTE to PUBLIC",
    }
    assert len(grant(url).statements) == 4
    assert lines(url) == []


def test_the_owner_of_everything_needs_no_superuser(server: Server, names: RoleNames, empty_database_url: str) -> None:
    migrator = names.owner.replace("owner", "migrator")
    run(empty_database_url, "create role {} login createrole", migrator)
    database = server.database_name(empty_database_url)
    run(empty_database_url, "alter database {} owner to {}", database, migrator)
    run(empty_database_url, "grant create on schema public to {}", migrator)
    url = make_conninfo(empty_database_url, user=migrator)
    migrate(url)
    grant(url, **asdict(names))
    assert lines(url) == []
    run(url, "create function commandbus.later() returns int language sql as 'select 1'")
    run(url, "alter table commandbus.command add note text")
    assert "unexpected function commandbus.later()" in lines(url)
    with open_bus(url) as bus:
        bus.connection.execute(sql.SQL("set role {}").format(sql.Identifier(names.owner)))
        bus.create_domain("made_by_owner")


def test_who_may_not_do_it_is_told_and_nothing_is_changed(url: str, names: RoleNames) -> None:
    run(url, "create role {} login", names.app)
    nobody = make_conninfo(url, user=names.app)
    with pytest.raises(MigrationError, match=r"create role .* permission denied.* run it as a superuser"):
        grant(nobody, **asdict(names))
    for name in (names.owner, names.operator, names.readonly):
        run(url, "create role {}", name)
    with pytest.raises(MigrationError, match="run it as a superuser"):
        grant(nobody, **asdict(names))
    assert lines(url) == []


def test_a_right_that_one_may_not_give_away_is_told(url: str, names: RoleNames) -> None:
    grant(url, **asdict(names))
    migrator = names.owner.replace("owner", "migrator")
    run(url, "create role {} login in role {}", migrator, names.owner)
    run(url, "grant usage on schema pgmq to public")
    run(url, "revoke usage on schema pgmq from {}", names.owner)
    missing = f"missing grant on schema pgmq: USAGE to {names.owner}"
    with pytest.raises(MigrationError, match=f"{missing} could not be mended; nothing was changed"):
        grant(make_conninfo(url, user=migrator))
    assert lines(url) == [missing]


def test_a_busy_table_is_not_waited_for_long(url: str, names: RoleNames) -> None:
    with psycopg.connect(url) as busy:
        busy.execute("select from commandbus.command for update")
        with pytest.raises(MigrationError, match="too busy now: nothing was changed"):
            grant(url, **asdict(names))
    assert lines(url) == []


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({"owner": "pg_database_owner"}, "owner: must not be"),
        ({"app": "public"}, "app: must not be"),
        ({"app": "same", "operator": "same"}, "four different names"),
        ({"readonly": ""}, "readonly: must be"),
        ({"app": "x" * 64}, "app: must be"),
        ({"owner": "postgres"}, "functions would run as a superuser"),
    ],
)
def test_names_that_cannot_be_used_are_refused(url: str, roles: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        grant(url, dry_run=True, **roles)


@pytest.mark.parametrize("role", ["app", "operator", "readonly"])
def test_a_role_that_has_the_owners_rights_anyway_is_refused(url: str, names: RoleNames, role: str) -> None:
    member = sql.Identifier(asdict(names)[role])
    with psycopg.connect(url, autocommit=True) as connection:
        grant(connection, **asdict(names))
        connection.execute(sql.SQL("grant {} to {}").format(sql.Identifier(names.owner), member))
        with pytest.raises(InvalidArgumentError, match=f"{role}: must not be"):
            grant(connection)
        connection.execute(sql.SQL("revoke {} from {}").format(sql.Identifier(names.owner), member))
    with pytest.raises(InvalidArgumentError, match=f"{role}: must not be"):
        grant(url, **{**asdict(names), role: "postgres"})


@pytest.mark.parametrize("role", ["app", "operator", "readonly"])
def test_a_role_that_became_mightier_than_granted_is_named(url: str, names: RoleNames, role: str) -> None:
    name = asdict(names)[role]
    with pytest.raises(InvalidArgumentError, match=f'{role}: must not be "postgres": is a superuser'):
        grant(url, **{**asdict(names), role: "postgres"})  # also where the owner is yet to be made
    grant(url, **asdict(names))
    run(url, "grant {} to {}", names.owner, name)
    assert lines(url) == [f'changed role {name}: has the rights of "{names.owner}"']
    run(url, "revoke {} from {}", names.owner, name)
    run(url, "alter role {} superuser", name)
    assert lines(url) == [f"changed role {name}: is a superuser"]
    run(url, "alter role {} nosuperuser", name)
    assert lines(url) == []


def test_an_owner_who_became_a_superuser_is_named(url: str, names: RoleNames) -> None:
    grant(url, **asdict(names))
    run(url, "alter role {} superuser", names.owner)
    assert lines(url) == [f"changed role {names.owner}: functions would run as a superuser"]


def test_there_must_be_a_schema(empty_database_url: str) -> None:
    with pytest.raises(NotMigratedError, match="run `commandbus migrate`"):
        grant(empty_database_url)


def test_the_command_line_prints_statements_or_executes_them(url: str, names: RoleNames, tmp_path: Path) -> None:
    cli = Cli(tmp_path, url)
    options = [word for role, name in asdict(names).items() for word in (f"--{role}", name)]
    script = cli.text("grant", *options, "--dry-run")
    assert script.splitlines()[0] == f'create role "{names.owner}" nologin;'
    assert json.loads(cli.text("grant", *options, "--sql", "--json"))["executed"] is False
    done = cli.json("grant", *options)
    assert (done["roles"], done["executed"]) == (asdict(names), True)
    assert [f"{statement};" for statement in done["statements"]] == script.splitlines()
    assert cli.text("grant") == "nothing to do\n"
    assert cli.text("verify") == "the database is as the migrations make it\n"
    assert "app: must be" in cli.refusal("grant", "--app", "", code=2)
