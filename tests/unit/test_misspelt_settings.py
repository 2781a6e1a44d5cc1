"""Which COMMANDBUS_* variables are told as slips of the pen."""

import re
from pathlib import Path

import pytest

from commandbus.cli.variables import CONSOLE, misspelt_settings
from commandbus.console import ConsoleSettings
from commandbus.errors import InvalidArgumentError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("COMMANDBUS_POOL_MAXSIZE", "COMMANDBUS_POOL_MAX_SIZE"),
        ("COMMANDBUS_DATABASE_URI", "COMMANDBUS_DATABASE_URL"),
        ("COMMANDBUS_DB_URL", "COMMANDBUS_DATABASE_URL"),
        ("COMMANDBUS_PG_BOUNCER", "COMMANDBUS_PGBOUNCER"),
        ("COMMANDBUS_KEEP_AUDIT", "COMMANDBUS_KEEP_AUDIT_DAYS"),
        ("COMMANDBUS_EMBEDDED_DIR", "COMMANDBUS_EMBEDDED_DIRECTORY"),
        ("commandbus_pool_maxsize", "COMMANDBUS_POOL_MAX_SIZE"),
    ],
)
def test_a_slip_of_the_pen_is_told_with_what_was_meant(wrong: str, meant: str) -> None:
    assert misspelt_settings([wrong]) == {wrong: meant}


@pytest.mark.parametrize("name", ["COMMANDBUS_LOG_LEVEL", "COMMANDBUS_SECRET_KEY", "COMMANDBUS_", "DATABASE_URI", ""])
def test_variables_of_other_programs_are_left_alone(name: str) -> None:
    assert misspelt_settings([name]) == {}


def test_no_variable_that_is_documented_or_read_is_taken_for_a_slip() -> None:
    places = [ROOT / name for name in ("README.md", "Makefile", "docker-compose.yml", ".ci/run", "CONTRIBUTING.md")]
    places += [path for part in ("docs", "src", "benchmarks") for path in (ROOT / part).rglob("*.[mp][dy]")]
    places += [ROOT / "tests" / "support.py", ROOT / "tests" / "conftest.py"]
    names = {name for path in places for name in re.findall(r"COMMANDBUS_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())}
    assert {"COMMANDBUS_POOL_MAX_SIZE", "COMMANDBUS_REQUIRE_ALL", "COMMANDBUS_HANDLERS_DIRECTORY"} <= names
    assert misspelt_settings(names) == {}


def test_the_consoles_settings_are_known_too() -> None:
    assert {name.upper() for name in ConsoleSettings.model_fields} == set(CONSOLE)
    slips = misspelt_settings(["COMMANDBUS_CONSOLE_OPERATORTOKEN", "COMMANDBUS_CONSOLE_VEIWER_TOKEN"])
    assert set(slips.values()) == {"COMMANDBUS_CONSOLE_OPERATOR_TOKEN", "COMMANDBUS_CONSOLE_VIEWER_TOKEN"}


def test_an_empty_token_does_not_open_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMANDBUS_CONSOLE_OPERATOR_TOKEN", "")
    with pytest.raises(InvalidArgumentError, match="operator_token"):
        ConsoleSettings.load()
