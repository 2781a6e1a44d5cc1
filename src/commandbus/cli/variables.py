"""COMMANDBUS_* variables: which one gave a setting, and which look like settings and are none."""

import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from commandbus.errors import InvalidArgumentError
from commandbus.settings import CommandBusSettings

_PREFIX = "COMMANDBUS_"
CONSOLE = (
    "HOST",
    "PORT",
    "VIEWER_TOKEN",
    "OPERATOR_TOKEN",
    "USER_HEADER",
    "TRUSTED_PROXIES",
    "OPERATORS",
    "HOSTS",
    "HTTPS",
    "SECRET_KEY",
    "SESSION_HOURS",
    "IDLE_MINUTES",
    "THREADS",
    "MAX_STREAMS",
)  # of ConsoleSettings, which cannot be imported without the extra
_KNOWN = (
    "EMBEDDED_DIRECTORY",
    "OPERATOR",
    *(name.upper() for name in CommandBusSettings.model_fields),
    *(f"CONSOLE_{name}" for name in CONSOLE),
)
# Of docker-compose.yml and the project's tests, which resemble a setting. Others do not, and anybody may have some.
_OTHERS = ("HANDLERS_DIRECTORY", "TEST_DATABASE_URL")
_LIKENESS = 0.65  # of 1: a wrong letter leaves about 0.9, a missing word 0.7


def variable_of(setting: str) -> str | None:
    """Return the variable that gives a setting of ours or of the console, as it is spelt, or None where none does.

    Args:
        setting: a field's name.
    """
    names = {_PREFIX + setting.upper(), f"{_PREFIX}CONSOLE_{setting.upper()}"} & {_PREFIX + name for name in _KNOWN}
    return next((variable for variable, value in os.environ.items() if value and variable.upper() in names), None)


def with_variables(text: str) -> str:
    """Return a text with the names of variables in place of those of the settings."""
    settings = "|".join(name for name in CommandBusSettings.model_fields if "_" in name)
    return re.sub(rf"\b(?:{settings})\b", lambda name: _PREFIX + name[0].upper(), text)


def check_settings() -> None:
    """Refuse variables that break a limit, also where a command has a value of its own and would not read them.

    Raises:
        InvalidArgumentError: one does. What does not fit together is no matter here: the command may change it.
    """
    try:
        CommandBusSettings.load()
    except InvalidArgumentError as error:
        if error.field in CommandBusSettings.model_fields:
            raise


def misspelt_settings(variables: Iterable[str]) -> Mapping[str, str]:
    """Return the variables that nothing reads and that resemble a setting, each with what was probably meant.

    Args:
        variables: names from the environment, ours and all others.
    """
    found = {}
    for variable in sorted(variables):
        name = variable.upper().removeprefix(_PREFIX)
        if not variable.upper().startswith(_PREFIX) or name in _KNOWN or name in _OTHERS:
            continue
        alike = [known for known in _KNOWN if known.startswith("CONSOLE_") == name.startswith("CONSOLE_")]
        if meant := get_close_matches(name, alike, n=1, cutoff=_LIKENESS):
            found[variable] = _PREFIX + meant[0]
    return found
