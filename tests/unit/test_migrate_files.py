"""Migration files: names, versions, Flyway's checksum, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from commandbus.errors import MigrationError
from commandbus.migrate import SCHEMA_VERSION, discover, packaged_directory
from commandbus.migrate.connection import LOCK_KEY
from commandbus.migrate.files import checksum, version_order

if TYPE_CHECKING:
    from collections.abc import Callable


def write(directory: Path, *names: str) -> None:
    """Make files that each hold one statement."""
    for name in names:
        (directory / name).write_text("select 1;\n")


def test_files_are_found_in_numeric_order_of_their_versions(tmp_path: Path) -> None:
    write(tmp_path, "V10__ten.sql", "V2__two.sql", "V1_10__later.sql", "V1.9__earlier_one.sql", "R__again.sql")
    (tmp_path / "README.md").write_text("no migration")
    found = [(migration.version, migration.description) for migration in discover(tmp_path)]
    assert found == [("1.9", "earlier one"), ("1.10", "later"), ("2", "two"), ("10", "ten"), (None, "again")]


def test_repeatable_files_come_last_in_the_order_of_their_descriptions(tmp_path: Path) -> None:
    write(tmp_path, "R__views.sql", "R__Zoo.sql", "V9__last.sql", "R__a_b.sql")
    assert [migration.description for migration in discover(tmp_path)] == ["last", "Zoo", "a b", "views"]


def test_directories_below_are_searched_but_for_hidden_ones(tmp_path: Path) -> None:
    for name in ("deep/er", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    write(tmp_path, "V1__a.sql", "deep/er/V2__b.sql", ".hidden/V3__c.sql")
    assert [migration.script for migration in discover(tmp_path)] == ["V1__a.sql", "deep/er/V2__b.sql"]


def test_several_directories_are_one_sequence(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    write(first, "V1__a.sql", "V3__c.sql")
    write(second, "V2__b.sql")
    assert [migration.script for migration in discover([first, str(second)])] == [
        "V1__a.sql",
        "V2__b.sql",
        "V3__c.sql",
    ]


@pytest.mark.parametrize(("one", "same"), [("1", "001"), ("1.0", "1"), ("2_1", "2.1"), ("0", "0.0")])
def test_versions_that_mean_the_same_compare_equal(one: str, same: str) -> None:
    assert version_order(one) == version_order(same)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("123456789", -873187034),  # the check value of CRC-32, 0xCBF43926, as a signed number
        ("123\n456\r\n789\r", -873187034),
        ("\ufeff123456789\n", -873187034),
    ],
)
def test_the_checksum_is_flyways(text: str, expected: int) -> None:
    assert checksum(text) == expected


def test_only_what_ends_a_line_in_java_is_left_out_of_the_checksum() -> None:
    ends = [character for character in "\n\r\v\f\x1c\x85\u2028\u2029" if checksum(f"a{character}b") == checksum("ab")]
    assert ends == ["\n", "\r"]


def test_the_lock_is_flyways() -> None:
    # "Flyway" in ASCII plus Java's hash of '"public"."flyway_schema_history"'.
    assert LOCK_KEY == 77433833903597


def test_descriptions_tell_files_for_tests(tmp_path: Path) -> None:
    write(tmp_path, "V1__e2e.sql", "V2__e2e_schema.sql", "V3__e2eish.sql", "V4__schema_e2e.sql")
    assert [migration.is_e2e for migration in discover(tmp_path)] == [True, True, False, False]


@pytest.mark.parametrize(
    "name",
    [
        "V1_x.sql",
        "V__x.sql",
        "Vx__y.sql",
        "V1__.sql",
        "v1__x.sql",
        "V1..2__x.sql",
        "V1__x.SQL",
        "V8.sql",
        "R__.sql",
        "R1__x.sql",
        "R_x.sql",
        "r__x.sql",
    ],
)
def test_a_malformed_name_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    with pytest.raises(MigrationError, match=r"is not named V<version>__<description>\.sql or R__<description>\.sql"):
        discover(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("U1__x.sql", "an undo migration"),
        ("B2__x.sql", "a baseline migration"),
        ("beforeMigrate.sql", "a callback of Flyway"),
        ("afterEachMigrate__grants.sql", "a callback of Flyway"),
    ],
)
def test_what_flyway_runs_and_the_runner_does_not_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    write(tmp_path, "V1__a.sql", name)
    with pytest.raises(MigrationError, match=f"{name} is {kind}, which commandbus does not run"):
        discover(tmp_path)


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "V1__a.sql", "users.sql", "views.sql", "notes.txt", "Backup.sql", "README.sql", "after.sql")
    assert len(discover(tmp_path)) == 1


@pytest.mark.parametrize("name", ["V1__a.sql.conf", "V2__b.sql.conf", "R__c.sql.conf", "beforeMigrate.sql.conf"])
def test_a_script_configuration_file_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, "V1__a.sql", name)
    with pytest.raises(MigrationError, match=f"{name} is a script configuration file of Flyway"):
        discover(tmp_path)


def test_two_repeatable_files_of_one_description_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "R__a_b.sql", "R__a b.sql")
    with pytest.raises(MigrationError, match="have the same description"):
        discover(tmp_path)


def test_two_files_of_one_version_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "V1__a.sql", "V001__b.sql")
    with pytest.raises(MigrationError, match=r"V001__b\.sql and .*V1__a\.sql have the same version"):
        discover(tmp_path)


def test_a_version_or_description_too_long_for_the_history_is_refused(tmp_path: Path) -> None:
    write(tmp_path, f"V1__{'x' * 201}.sql")
    with pytest.raises(MigrationError, match="description 200"):
        discover(tmp_path)


def test_a_missing_or_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match="nowhere is not a directory"):
        discover(tmp_path / "nowhere")
    with pytest.raises(MigrationError, match="holds no migration"):
        discover(tmp_path)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "V1__a.sql").symlink_to("V1__a.sql")  # a loop, which not even root can read
    with pytest.raises(MigrationError, match="cannot read"):
        discover(tmp_path)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_only_a_regular_file_is_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "V1__a.sql")
    with pytest.raises(MigrationError, match=r"V1__a\.sql is no regular file"):
        discover(tmp_path)


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("select 7;")
    (tmp_path / "V1__a.sql").symlink_to("text")
    assert [migration.text for migration in discover(tmp_path)] == ["select 7;"]


def test_a_nul_character_which_would_cut_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "V3__x.sql").write_bytes(b"create table aa();\n\0create table bb();\n")
    with pytest.raises(MigrationError, match=r"V3__x\.sql line 2: a NUL character"):
        discover(tmp_path)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "V1__a.sql").write_bytes(b"-- caf\xe9")
    with pytest.raises(MigrationError, match="is not UTF-8 at byte 6"):
        discover(tmp_path)


def test_the_packaged_directory_has_what_the_code_needs() -> None:
    migrations = discover(packaged_directory())
    assert SCHEMA_VERSION in [migration.version for migration in migrations]


def test_the_text_of_a_migration_is_not_in_its_repr(tmp_path: Path) -> None:
    write(tmp_path, "V1__a.sql")
    assert "select" not in repr(discover(tmp_path))
