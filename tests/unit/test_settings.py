"""Settings from the environment, their limits, and their silence about passwords."""

import os

import pytest
from pydantic import ValidationError

from commandbus.errors import InvalidArgumentError
from commandbus.settings import CommandBusSettings

URL = "postgresql://app:S3CRET@db.example/app"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.upper().startswith("COMMANDBUS_")]:
        monkeypatch.delenv(name)


def test_defaults() -> None:
    settings = CommandBusSettings.load()

    assert settings.database_url.get_secret_value() == ""
    assert settings.search_path == "commandbus, pgmq, public"
    assert (settings.pool_min_size, settings.pool_max_size, settings.pool_timeout) == (1, 10, 10)
    assert (settings.keepalives_idle, settings.keepalives_interval, settings.keepalives_count) == (5, 2, 3)
    assert (settings.max_payload_bytes, settings.default_max_attempts, settings.notify) == (262_144, 3, True)


def test_environment_is_read_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMANDBUS_DATABASE_URL", URL)
    monkeypatch.setenv("COMMANDBUS_POOL_MAX_SIZE", "7")
    monkeypatch.setenv("COMMANDBUS_PGBOUNCER", "true")
    monkeypatch.setenv("COMMANDBUS_STATEMENT_TIMEOUT", "")

    settings = CommandBusSettings.load(pgbouncer=False)

    assert settings.database_url.get_secret_value() == URL
    assert (settings.pool_max_size, settings.pgbouncer, settings.statement_timeout) == (7, False, None)


def test_other_variables_of_the_program_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMANDBUS_EMBEDDED_DIRECTORY", "/elsewhere")

    assert CommandBusSettings.load().pool_max_size == 10


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pool_min_size", -1, "greater than or equal to 0"),
        ("pool_max_size", 0, "greater than or equal to 1"),
        ("pool_timeout", 0, "greater than 0"),
        ("pool_timeout", float("nan"), "must be"),
        ("connect_timeout", 1, "greater than or equal to 2"),
        ("statement_timeout", 0, "greater than or equal to 0.001"),
        ("max_payload_bytes", 1_023, "greater than or equal to 1024"),
        ("max_payload_bytes", 67_108_865, "less than or equal to 67108864"),
        ("default_max_attempts", 1_001, "less than or equal to 1000"),
        ("search_path", "public; drop", "must be names of schemas"),
        ("search_path", "", "must be names of schemas"),
        ("application_name", "a\n", "must not contain control characters"),
        ("application_name", "", "at least 1 character"),
        ("database_url", 7, "valid string"),
        ("no_such_setting", 1, "there is no such setting"),
    ],
)
def test_bad_value_is_refused_by_name(name: str, value: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        CommandBusSettings.load(**{name: value})

    assert caught.value.field == name


def test_a_bool_is_no_number() -> None:
    for name in ("keep_audit_days", "pool_max_size", "pool_timeout"):
        with pytest.raises(InvalidArgumentError, match=f"{name}: must not be a bool"):
            CommandBusSettings.load(**{name: True})


def test_bad_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMANDBUS_POOL_MAX_SIZE", "many")

    with pytest.raises(InvalidArgumentError, match="pool_max_size: must be a valid integer"):
        CommandBusSettings.load()


@pytest.mark.parametrize(
    "values",
    [{"pool_min_size": 5, "pool_max_size": 4}, {"pgbouncer": True, "statement_timeout": 5}],
)
def test_values_that_exclude_each_other_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError, match="settings: "):
        CommandBusSettings.load(**values)


def test_search_path_may_quote_names() -> None:
    assert CommandBusSettings.load(search_path='commandbus,"$user" , public').search_path == (
        'commandbus, "$user", public'
    )


def test_replace_keeps_the_rest() -> None:
    settings = CommandBusSettings.load(database_url=URL, pool_max_size=5).replace(pool_timeout=3)

    assert settings.database_url.get_secret_value() == URL
    assert (settings.pool_max_size, settings.pool_timeout) == (5, 3)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        CommandBusSettings.load().notify = False  # type: ignore[misc]  # wrong on purpose


def test_url_is_never_shown() -> None:
    settings = CommandBusSettings.load(database_url=URL, listen_database_url=URL)
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    with pytest.raises(ValidationError) as caught:
        CommandBusSettings(database_url=[URL])

    assert "S3CRET" not in shown + str(caught.value)
