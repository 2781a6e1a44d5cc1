"""A release and the schemas around its own: it works on the next one, and refuses what is newer or older."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from commandbus import CommandBus, CommandBusPool
from commandbus.errors import MigrationError, SchemaTooNewError
from commandbus.migrate import MigrationState, info, migrate, packaged_directory
from tests.integration.live import DOMAIN, make_worker, registry_of, running

if TYPE_CHECKING:
    from pathlib import Path

# What a migration may do: add, and keep whatever the release before it calls.
NEXT = """
alter table commandbus.command add column note text;
create or replace function commandbus.schema_version() returns int language sql immutable
set search_path = pg_catalog, pg_temp as $$ select {} $$;
"""


@pytest.fixture
def newer_files(tmp_path: Path) -> Path:
    """The library's files, and those of a later release."""
    copy = shutil.copytree(packaged_directory(), tmp_path / "migrations")
    (copy / "V003__notes.sql").write_text(NEXT.format(2))
    return copy


async def test_a_release_works_on_the_next_schema(empty_database_url: str, newer_files: Path) -> None:
    migrate(empty_database_url, directories=newer_files)
    async with CommandBusPool(database_url=empty_database_url) as pool:
        bus = CommandBus(pool)
        await bus.create_domain(DOMAIN)
        async with running(make_worker(pool, registry_of(double=lambda command, _: command.data["n"] * 2))):
            assert await bus.call(DOMAIN, "double", {"n": 21}, timeout=10) == 42


async def test_a_release_refuses_the_schema_after_the_next(empty_database_url: str, newer_files: Path) -> None:
    (newer_files / "V004__more.sql").write_text(NEXT.replace("note", "more").format(3))
    migrate(empty_database_url, directories=newer_files)
    with pytest.raises(SchemaTooNewError, match="has version 3; this release works on versions 1 and 2"):
        async with CommandBusPool(database_url=empty_database_url):
            pass


def test_a_release_migrates_no_newer_database(empty_database_url: str, newer_files: Path) -> None:
    migrate(empty_database_url, directories=newer_files)
    with pytest.raises(MigrationError, match="newer than this installation: it has version 003, versions 001 to 002"):
        migrate(empty_database_url)
    assert info(empty_database_url)[-1].state is MigrationState.UNKNOWN
