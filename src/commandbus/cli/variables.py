"""COMMANDBUS_* variables that look like settings and are none: a slip of the pen is told, not passed over."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

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
