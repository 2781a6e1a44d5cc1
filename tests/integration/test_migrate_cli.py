"""`commandbus migrate …`: what it prints, what it refuses in one sentence, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psycopg
import pytest

from commandbus.migrate import migrate
from tests.cli_process import COMMAND, Cli, environment, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = "postgresql://app:sesam-open@127.0.0.1:1/app"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two versions and a repeatable migration."""
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "V1__first.sql").write_text("create table public.first (id int);\n")
    (directory / "V2__second.sql").write_text("create table public.${second} (id int);\n")
    (directory / "R__view.sql").write_text("create or replace view public.v as select 1 as one;\n")
    return directory


@pytest.fixture
def cli(tmp_path: Path, empty_database_url: str) -> Cli:
    """The command line on an empty database."""
    return Cli(tmp_path, empty_database_url)


def test_migrating_from_the_first_look_to_the_last(cli: Cli, files: Path) -> None:
    given = ("--directory", files, "--placeholder", "second=zweite")
    assert cli.json("migrate", "--dry-run", *given)["pending"] == ["V1__first.sql", "V2__second.sql", "R__view.sql"]
    assert "would apply V1__first.sql, V2__second.sql, R__view.sql" in cli.text("migrate", "--dry-run", *given)
    assert "create table public.zweite (id int);" in cli.text("migrate", "--sql", *given)
    refused = cli("migrate", "validate", *given)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-3:] == [
        'commandbus: V1__first.sql is not applied: run "commandbus migrate"',
        'V2__second.sql is not applied: run "commandbus migrate"',
        'R__view.sql is not applied: run "commandbus migrate"',
    ]
    assert cli.json("migrate", *given)["applied"] == ["V1__first.sql", "V2__second.sql", "R__view.sql"]
    assert cli.text("migrate", *given) == "nothing to apply\n"
    assert cli.json("migrate", "validate", *given)["problems"] == []
    found = cli.json("migrate", "info", *given)
    assert [(row["version"], row["type"], row["state"]) for row in found] == [
        ("1", "SQL", "applied"),
        ("2", "SQL", "applied"),
        (None, "SQL", "applied"),
    ]
    header = cli.text("migrate", "info", *given).splitlines()[0].split()
    assert header == ["version", "description", "type", "state", "installed_on", "checksum"]


def test_a_repair_tells_what_it_changed(cli: Cli, files: Path) -> None:
    given = ("--directory", files)
    cli.text("migrate", *given, "--placeholder", "second=x")
    assert cli.text("migrate", "repair", *given) == "nothing to repair\n"
    (files / "V1__first.sql").write_text("select 1;")
    (files / "R__view.sql").unlink()
    assert "V1__first.sql was changed" in cli.refusal("migrate", *given, code=1)
    assert cli.text("migrate", "repair", *given) == "deleted R__view.sql\nrealigned V1__first.sql\n"
    assert cli.text("migrate", *given) == "nothing to apply\n"


def test_a_baseline_is_written_once(cli: Cli, files: Path) -> None:
    assert "there is no schema commandbus" in cli.refusal("migrate", "baseline", "--version", "1", code=1)
    given = ("--version", "1", "--directory", files)
    assert cli.json("migrate", "baseline", *given) == {"version": "1", "written": True}
    assert cli.text("migrate", "baseline", *given) == "the history has this baseline already\n"
    assert "baseline already: version 1" in cli.refusal("migrate", "baseline", "--version", "2", code=1)
    assert "is not a version" in cli.refusal("migrate", "baseline", "--version", "one", code=2)
    pending = cli.json("migrate", "--dry-run", "--directory", files, "--no-placeholders")["pending"]
    assert pending == ["V2__second.sql", "R__view.sql"]


def test_placeholders_come_from_flyways_variables_too(cli: Cli, files: Path) -> None:
    def script(**variables: str) -> str:
        command = [*COMMAND, "migrate", "--sql", "--directory", str(files)]
        done = subprocess.run(
            command, env=environment(cli.url) | variables, capture_output=True, text=True, check=False
        )
        return done.stdout

    assert "public.dritte" in script(FLYWAY_PLACEHOLDERS_SECOND="dritte")
    assert "public.${second}" in script(FLYWAY_PLACEHOLDER_REPLACEMENT="false")
    assert script() == ""


def test_every_subcommand_explains_itself(cli: Cli) -> None:
    for command in ((), ("info",), ("validate",), ("baseline",), ("repair",)):
        assert "Examples:" in cli.text("migrate", *command, "--help")
    assert "write --directory after" in cli.refusal("migrate", "--directory", ".", "info", code=2)
    assert "leave out --json" in cli.refusal("migrate", "--sql", "--json", code=2)
    assert "must be a name, an equals sign" in cli.refusal("migrate", "--placeholder", "x", code=2)
    assert "No such command" in cli.refusal("migrate", "undo", code=2)


@pytest.mark.parametrize("command", [(), ("--dry-run",), ("info",), ("validate",), ("repair",)])
def test_bad_files_are_refused_in_one_sentence(cli: Cli, files: Path, command: tuple[str, ...]) -> None:
    def refusal() -> str:
        said = cli.refusal("migrate", *command, "--directory", files, code=1)
        assert len(said.splitlines()) == 1
        return said

    def with_file(name: str, text: str = "select 1;") -> str:
        (files / name).write_text(text)
        said = refusal()
        (files / name).unlink()
        return said

    assert "have the same version" in with_file("V01__again.sql")
    assert "is not named V<version>__<description>.sql" in with_file("V3_wrong.sql")
    assert "is an undo migration, which commandbus does not run" in with_file("U1__first.sql")
    assert "is a baseline migration, which commandbus does not run" in with_file("B2__base.sql")
    assert "R__odd.sql line 1: the placeholder ${nobody} has no value" in with_file("R__odd.sql", "-- ${nobody}")
    assert "is not named V<version>__<description>.sql" in with_file("V3__two\nlines.sql")
    assert r"V3__\udcff.sql: the name is not UTF-8" in with_file("V3__\udcff.sql")
    assert "is a script configuration file of Flyway" in with_file("V3__x.sql.conf")
    assert "is not a directory" in cli.refusal("migrate", *command, "--directory", files / "nowhere", code=1)
    assert "directory: is empty" in cli.refusal("migrate", *command, "--directory", "", code=2)


def test_a_syntax_error_is_told_with_file_and_line_and_leaves_nothing(cli: Cli, files: Path) -> None:
    (files / "V1__first.sql").write_text("create table public.first (id int);\n\ncrete table x;\n")
    said = cli.refusal("migrate", "--directory", files, "--no-placeholders", code=1)
    assert said == 'commandbus: V1__first.sql line 3: syntax error at or near "crete" (42601)\n'
    assert cli.json("migrate", "info", "--directory", files, "--no-placeholders")[0]["state"] == "pending"


@pytest.fixture
def readable_files() -> Iterator[Path]:
    """Give a directory of migrations that everybody may read; pytest's own are closed by every run that begins."""
    with TemporaryDirectory() as given:
        Path(given).chmod(0o755)
        yield Path(given)


def test_a_directory_that_may_not_be_read_is_refused(empty_database_url: str, readable_files: Path) -> None:
    closed = readable_files / "closed"
    closed.mkdir()
    closed.chmod(0)
    code = (
        "import os, sys; from commandbus.cli import main;"  # before it may read no more than nobody
        "os.geteuid() == 0 and (os.setgroups([]), os.setgid(65534), os.setuid(65534));"
        "sys.argv = ['commandbus', 'migrate', '--directory', sys.argv[1]]; main()"
    )
    command = [sys.executable, "-c", code, str(readable_files)]
    done = subprocess.run(command, env=environment(empty_database_url), capture_output=True, text=True, check=False)
    closed.chmod(0o700)
    assert (done.returncode, done.stderr) == (1, f"commandbus: cannot read {closed}: Permission denied\n")


def test_no_refusal_shows_a_password(tmp_path: Path, files: Path) -> None:
    nobody = Cli(tmp_path, NOBODY)
    for command in ((), ("--sql",), ("info",), ("validate",), ("baseline", "--version", "1"), ("repair",)):
        options = () if command[:1] == ("baseline",) else ("--directory", files)
        assert "sesam" not in nobody.refusal("migrate", *command, *options, code=1)
        broken = ("--database-url", "postgresql://app:ses%am-open@127.0.0.1/app")
        assert "sesam" not in nobody.refusal("migrate", *command, *broken, *options, code=2).replace("ses%am", "sesam")


def test_problems_are_json_too(cli: Cli, files: Path, empty_database_url: str) -> None:
    migrate(empty_database_url, directories=files, target="1")
    (files / "V1__first.sql").write_text("select 1;")
    done = cli("migrate", "validate", "--json", "--no-placeholders", "--directory", files)
    assert done.returncode == 1
    changed, pending = json.loads(done.stderr)["error"]["problems"]
    assert changed.startswith("V1__first.sql was changed after it was applied")
    assert pending.startswith("V2__second.sql is not applied")


@pytest.mark.direct("it looks at the session that runs the migration")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_interrupted_migration_says_that_it_is_undone(cli: Cli, files: Path, options: tuple[str, ...]) -> None:
    (files / "V2__second.sql").write_text("create table public.second (); select pg_sleep(60);")
    with psycopg.connect(cli.url or "", autocommit=True) as observer:
        asleep = "select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
        with cli.started("migrate", "--directory", files, *options) as process:
            wait_for(lambda: observer.execute(asleep).rowcount == 1)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        (table,) = observer.execute("select to_regclass('public.first')::text, to_regclass('public.second')::text")
    said = (cli.directory / "log").read_text().splitlines()[-1]
    sentence = "interrupted; what was not finished is undone"
    assert (json.loads(said)["error"]["message"] if options else said.removeprefix("commandbus: ")) == sentence
    assert table == ("first", None)
