"""The verdict on a server, for the kinds of servers that tests do not have."""

from dataclasses import replace

import pytest

from commandbus import errors
from commandbus._probe import ServerFacts, check_schema_version, check_server

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
    check_schema_version(1)


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


def test_newer_schema_is_refused() -> None:
    with pytest.raises(errors.SchemaTooNewError, match="has version 2; this release knows versions up to 1"):
        check_schema_version(2)
