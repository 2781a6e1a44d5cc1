"""The verdict on a server, for the kinds of servers that tests do not have."""

from dataclasses import replace

import pytest

from commandbus import errors
from commandbus._probe import OLDEST_SERVER, OWN_SCHEMA, ServerFacts, check_schema_version, check_server
from commandbus.migrate import SCHEMA_VERSION, connection, discover, packaged_directory

GOOD = ServerFacts(
    server_version=180_004,
    is_replica=False,
    is_read_only=False,
    isolation="read committed",
    role="app",
    database="shop",
    search_path="public",
    visible_schemas=["public"],
    pgmq_version="1.13.0",
    has_pgmq=True,
    has_recent_pgmq=True,
    has_command_table=True,
    may_use_schema=True,
)


def test_good_server_is_taken() -> None:
    check_server(GOOD)


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"server_version": 140_011}, errors.ServerTooOldError, "the server is PostgreSQL 14; 15 or newer is needed"),
        ({"is_replica": True, "is_read_only": True}, errors.ReadOnlyServerError, "the server is a replica"),
        ({"is_read_only": True}, errors.ReadOnlyServerError, 'role "app" in database "shop" are read-only'),
        ({"has_pgmq": False, "has_recent_pgmq": False}, errors.PgmqMissingError, "run `commandbus migrate`"),
        ({"has_recent_pgmq": False, "pgmq_version": "1.5.1"}, errors.PgmqTooOldError, "has PGMQ 1.5.1"),
        ({"has_recent_pgmq": False, "pgmq_version": None}, errors.PgmqTooOldError, "PGMQ of an old version"),
        ({"has_command_table": False}, errors.NotMigratedError, "run `commandbus migrate`"),
        ({"may_use_schema": None}, errors.NotMigratedError, "run `commandbus migrate`"),
        ({"may_use_schema": False}, errors.SchemaError, 'role "app" may not use schema commandbus'),
    ],
)
def test_other_servers_are_refused(changes: dict[str, object], kind: type[Exception], text: str) -> None:
    with pytest.raises(errors.SchemaError) as caught:
        check_server(replace(GOOD, **changes))  # type: ignore[arg-type]  # each case changes other fields

    assert type(caught.value) is kind
    assert text in str(caught.value)


def test_a_release_works_on_its_own_schema_and_on_the_next() -> None:
    check_schema_version(OWN_SCHEMA)
    check_schema_version(OWN_SCHEMA + 1)
    with pytest.raises(errors.SchemaTooNewError, match="has version 3; this release works on versions 1 and 2: update"):
        check_schema_version(OWN_SCHEMA + 2)
    with pytest.raises(errors.NotMigratedError, match=r"has version 0; .* run `commandbus migrate`"):
        check_schema_version(OWN_SCHEMA - 1)


def test_migrations_run_on_the_servers_that_programs_take() -> None:
    assert connection.OLDEST_SERVER * 10_000 == OLDEST_SERVER


def test_the_schemas_version_counts_the_librarys_own_migrations() -> None:
    own = [found for found in discover(packaged_directory()) if found.version is not None and not found.is_e2e]
    assert len(own) == OWN_SCHEMA
    assert own[-1].version == SCHEMA_VERSION
