"""The library's own migrations: by the runner, by Flyway or half by each, the database and history are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from commandbus.migrate import MigrationState, info, validate
from tests.flyway.conftest import Base, packaged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.flyway.tool import CommandLine, Engine, Flyway
    from tests.support import Server


@pytest.fixture(params=["command line", "engine"])
def flyway(request: pytest.FixtureRequest, command_line: CommandLine, engine: Engine) -> Flyway:
    """Each Flyway in turn."""
    return command_line if request.param == "command line" else engine


@pytest.fixture
def by_us(server: Server, flyway: Flyway, tmp_path: Path) -> Iterator[Base]:
    """A database that only the runner has migrated."""
    with server.database() as url:
        base = packaged(url, flyway, tmp_path / "migrations")
        base.ours(with_e2e=True)
        yield base


@pytest.fixture
def by_flyway(server: Server, flyway: Flyway, tmp_path: Path) -> Iterator[Base]:
    """A database for Flyway, with PGMQ and nothing else."""
    with server.database() as url:
        yield packaged(url, flyway, tmp_path / "migrations")


def test_a_database_made_by_the_runner_is_one_made_by_flyway(by_us: Base, by_flyway: Base) -> None:
    by_flyway.theirs("migrate")
    assert by_us.rows() == by_flyway.rows()
    assert by_us.catalog() == by_flyway.catalog()


def test_after_the_runner_flyway_finds_nothing_to_do_or_to_say(by_us: Base) -> None:
    before = by_us.rows()
    by_us.theirs("validate")
    by_us.theirs("migrate")
    assert by_us.theirs("info").states == {"001": "Success", "002": "Success"}
    assert by_us.rows() == before


def test_after_flyway_the_runner_finds_nothing_to_do_or_to_say(by_flyway: Base) -> None:
    by_flyway.theirs("migrate")
    assert by_flyway.ours(with_e2e=True) == []
    validate(by_flyway.url, directories=by_flyway.files)
    found = info(by_flyway.url, directories=by_flyway.files)
    assert {row.state for row in found} == {MigrationState.APPLIED}


def test_each_can_go_on_where_the_other_stopped(server: Server, by_us: Base, by_flyway: Base) -> None:
    by_flyway.theirs("migrate", {"target": "1"})
    assert by_flyway.ours(with_e2e=True) == ["V002__e2e_schema.sql"]
    with server.database() as url:
        half = packaged(url, by_us.flyway, by_us.files)
        half.ours(target="1")
        half.theirs("migrate")
        assert half.rows() == by_flyway.rows() == by_us.rows()
        assert half.catalog() == by_flyway.catalog() == by_us.catalog()
