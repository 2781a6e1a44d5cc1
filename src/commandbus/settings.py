"""Settings of a program that uses commandbus, from arguments and COMMANDBUS_* environment variables."""

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from commandbus.errors import InvalidArgumentError
from commandbus.payload import MAX_PAYLOAD_BYTES, in_our_words
from commandbus.retry import MAX_ATTEMPTS

MAX_DAYS = 36_500  # that anything is kept
_SCHEMA = re.compile(r'[A-Za-z_][A-Za-z0-9_$]{0,62}|"[^"\x00]{1,63}"')


def _check_search_path(path: str) -> str:
    names = [name.strip() for name in path.split(",")]
    if not all(_SCHEMA.fullmatch(name) for name in names):
        raise ValueError("must be names of schemas, separated by commas")
    return ", ".join(names)


def _check_storable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not contain control characters")
    return text


class EnvironmentSettings(BaseSettings):
    """Fields that arguments or environment variables give; immutable, and wrong ones are refused in one sentence."""

    model_config = SettingsConfigDict(
        env_prefix="COMMANDBUS_",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bools_for_numbers(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("must not be a bool")
        return value

    @classmethod
    def load(cls, **overrides: Any) -> Self:  # noqa: ANN401  (whatever the fields take)
        """Return settings from the environment and *overrides*, which win.

        Raises:
            InvalidArgumentError: a value breaks its limit, or there is no such setting; the field is named.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            field = ".".join(map(str, problem["loc"])) or "settings"
            raise InvalidArgumentError(field, _sentence(problem["type"], problem["msg"])) from None
        except SettingsError:
            raise InvalidArgumentError("settings", "a COMMANDBUS_* variable cannot be read") from None

    def replace(self, **overrides: Any) -> Self:  # noqa: ANN401  (whatever the fields take)
        """Return the same settings but for *overrides*.

        Raises:
            InvalidArgumentError: as `load`.
        """
        return type(self).load(**{name: getattr(self, name) for name in type(self).model_fields} | overrides)


class CommandBusSettings(EnvironmentSettings):
    """How to reach the database and what to do by default. Immutable; its repr shows no URL.

    Each field can be set by an environment variable: COMMANDBUS_ and its name in capitals. Arguments win.

    Attributes:
        database_url: a PostgreSQL URL or connection string; what it leaves out, libpq's PG* variables give.
        listen_database_url: a direct way to the server for LISTEN, past PgBouncer; None to use database_url.
        search_path: of the sessions, for handlers' convenience; commandbus itself does not depend on it.
        pgbouncer: the way goes through PgBouncer: no startup options, no prepared statements.
        application_name: as shown in pg_stat_activity.
        pool_min_size: connections kept open, from 0.
        pool_max_size: most connections, from 1 and at least pool_min_size.
        pool_timeout: seconds to wait for a free connection.
        connect_timeout: seconds for one attempt to connect, whole, from 2 (libpq's least).
        statement_timeout: seconds after which the server ends a statement; None for the server's own.
        keepalives_idle: seconds of silence before TCP asks whether the server is there.
        keepalives_interval: seconds between such questions.
        keepalives_count: questions without answer until the connection counts as dead.
        tcp_user_timeout_ms: milliseconds that sent data may stay unacknowledged.
        notify: wake idle workers by NOTIFY; without it they poll only.
        max_payload_bytes: largest JSON text of a command's data or result, 1 KiB to 64 MiB.
        default_max_attempts: for commands sent without their own, 1 to 1,000.
        maintain: let workers make the audit's partitions, and remove what need not be kept.
        keep_commands_days: how long ended commands, batches and redrives are kept, 1 to 36,500; None for ever.
        keep_payloads_days: how long the payloads of ended commands that an operator had to look at are kept.
        keep_audit_days: how long the audit is kept, by whole months.
        keep_archives_days: how long messages in PGMQ's archives are kept.
        keep_replies_days: how long replies wait to be taken.
    """

    database_url: SecretStr = SecretStr("")
    listen_database_url: SecretStr | None = None
    search_path: Annotated[str, AfterValidator(_check_search_path)] = "commandbus, pgmq, public"
    pgbouncer: bool = False
    application_name: Annotated[str, Field(min_length=1, max_length=63), AfterValidator(_check_storable)] = "commandbus"
    pool_min_size: int = Field(default=1, ge=0, le=1_000)
    pool_max_size: int = Field(default=10, ge=1, le=1_000)
    pool_timeout: float = Field(default=10.0, gt=0, le=86_400)
    connect_timeout: int = Field(default=10, ge=2, le=3_600)
    statement_timeout: float | None = Field(default=None, ge=0.001, le=86_400)
    keepalives_idle: int = Field(default=5, ge=1, le=86_400)
    keepalives_interval: int = Field(default=2, ge=1, le=86_400)
    keepalives_count: int = Field(default=3, ge=1, le=100)
    tcp_user_timeout_ms: int = Field(default=10_000, ge=0, le=86_400_000)
    notify: bool = True
    max_payload_bytes: int = Field(default=MAX_PAYLOAD_BYTES, ge=1_024, le=67_108_864)
    default_max_attempts: int = Field(default=3, ge=1, le=MAX_ATTEMPTS)
    maintain: bool = True
    keep_commands_days: int | None = Field(default=None, ge=1, le=MAX_DAYS)
    keep_payloads_days: int | None = Field(default=None, ge=1, le=MAX_DAYS)
    keep_audit_days: int | None = Field(default=None, ge=1, le=MAX_DAYS)
    keep_archives_days: int | None = Field(default=None, ge=1, le=MAX_DAYS)
    keep_replies_days: int | None = Field(default=None, ge=1, le=MAX_DAYS)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.pool_max_size < self.pool_min_size:
            raise ValueError("pool_max_size must be at least pool_min_size")
        if self.pgbouncer and self.statement_timeout is not None:
            raise ValueError("statement_timeout cannot be set through PgBouncer: set it for the role or the database")
        return self


def _sentence(kind: str, message: str) -> str:
    """Return pydantic's finding in our words."""
    if kind == "extra_forbidden":
        return "there is no such setting"
    return in_our_words(message)
