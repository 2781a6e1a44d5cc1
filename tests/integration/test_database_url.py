"""One rule for database URLs at every door of the command line, and of Python."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import make_conninfo

from commandbus.errors import (
    AuthenticationFailedError,
    CommandBusError,
    DatabaseNotFoundError,
    DatabaseUnavailableError,
    InvalidArgumentError,
)
from commandbus.migrate import migrate, verify
from commandbus.sync import CommandBusPool
from tests.cli_process import COMMAND, Cli, environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ID = "6f1c0a52-7f0e-4b1e-9d55-0d8f5f3f6a11"
COMMANDS = {
    "migrate": ("migrate",),
    "migrate info": ("migrate", "info"),
    "migrate repair": ("migrate", "repair"),
    "verify": ("verify",),
    "grant": ("grant",),
    "doctor": ("doctor",),
    "doctor for workers": ("doctor", "--processes", "2"),
    "worker": ("worker", "commandbus.demo.handlers:registry", "--domain", "demo"),
    "workers": ("worker", "commandbus.demo.handlers:registry", "--domain", "demo", "--processes", "2"),
    "send": ("send", "pay", "Charge"),
    "status": ("status", "pay", ID),
    "tsq list": ("tsq", "list"),
    "maintain": ("maintain",),
}
SECRET = "sesam"  # noqa: S105  (nobody's)
MALFORMED = [
    f"postgresql://app:{SECRET}@x@127.0.0.1:1/app",
    f"postgresql://app:{SECRET}@127.0.0.1:99999/app",
    f"postgresql://app:{SECRET}@127.0.0.1:1/app?connect_timeout=abc",
    f"postgresql://app:{SECRET}@127.0.0.1:1/app?keepalives_idle=abc",
    f"postgresql://app:{SECRET}@127.0.0.1:1/app?sslmode=abc",
    f"postgresql://app:{SECRET}@127.0.0.1:1/app?target_session_attrs=abc",
    f"postgresql://app:{SECRET}@127.0.0.1:1/app?nosuch=1",
    f"postgresql://app:{SECRET}%ff@127.0.0.1:1/app",
    f"postgresql://app:{SECRET}\udcff@127.0.0.1:1/app",  # a byte that is no UTF-8, as Python reads it
]
UNREACHABLE = f"postgresql://app:{SECRET}@127.0.0.1:1/app"
DOORS: list[Callable[[str], object]] = [migrate, verify, lambda url: CommandBusPool(database_url=url).open()]


@pytest.fixture
def lost(tmp_path: Path) -> Cli:
    """The command line without any database."""
    return Cli(tmp_path, None)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_ends_with_2_for_a_malformed_url_and_with_1_for_a_server_out_of_reach(
    lost: Cli, command: tuple[str, ...]
) -> None:
    said = lost.refusal(*command, "--database-url", f"{UNREACHABLE}?connect_timeout=abc", code=2)
    assert said == "commandbus: --database-url: must have a whole number as connect_timeout\n"
    done = lost(*command, "--database-url", UNREACHABLE)
    assert done.returncode == 1
    told = done.stdout if command[0] == "doctor" else done.stderr
    assert "the database cannot be reached: " in told
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("command", [("migrate",), ("queue", "list")], ids=" ".join)
@pytest.mark.parametrize("url", MALFORMED, ids=ascii)
def test_a_malformed_url_is_one_sentence_without_the_password(lost: Cli, command: tuple[str, ...], url: str) -> None:
    said = lost.refusal(*command, "--database-url", url, code=2)
    assert said.startswith("commandbus: --database-url: ")
    assert said.count("\n") == 1
    assert SECRET not in said


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_url_is_no_way_to_ask_for_the_embedded_server(lost: Cli, empty: str) -> None:
    expected = (
        'is empty: give a URL ("postgresql://" takes all of it from libpq\'s PG* variables),'
        " or leave --database-url and COMMANDBUS_DATABASE_URL out for the embedded server\n"
    )
    assert lost.refusal("queue", "list", "--database-url", empty, code=2) == f"commandbus: --database-url: {expected}"
    assert lost.refusal("migrate", "--database-url", empty, code=2) == f"commandbus: --database-url: {expected}"
    done = subprocess.run(
        [*COMMAND, "queue", "list"],
        cwd=lost.directory,
        env=environment(None) | {"COMMANDBUS_DATABASE_URL": empty},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        f"commandbus: COMMANDBUS_DATABASE_URL: {expected}",
    )


@pytest.mark.direct("what a pooler says of a database or role that is not there is its own")
@pytest.mark.parametrize("door", DOORS, ids=["migrate", "verify", "pool"])
def test_what_trying_again_will_not_mend_is_told_apart_by_every_door(
    direct_url: str, door: Callable[[str], object]
) -> None:
    def failure(**parts: str) -> CommandBusError:
        with pytest.raises(DatabaseUnavailableError) as caught:
            door(make_conninfo(direct_url, **parts))
        return caught.value

    nobody, nowhere = failure(user="nobody_at_all"), failure(dbname="no_such_database")
    assert type(nobody) is AuthenticationFailedError
    assert type(nowhere) is DatabaseNotFoundError
    assert 'database "no_such_database" does not exist' in str(nowhere)
    assert type(failure(host="127.0.0.1", port="1")) is DatabaseUnavailableError


@pytest.mark.parametrize("door", DOORS, ids=["migrate", "verify", "pool"])
@pytest.mark.parametrize("url", MALFORMED, ids=ascii)
def test_every_door_of_python_refuses_a_malformed_url_before_it_connects(
    url: str, door: Callable[[str], object]
) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^database_url: ") as caught:
        door(url)
    assert SECRET not in repr(caught.value)
    assert caught.value.__context__ is None
