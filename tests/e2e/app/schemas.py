"""What forms and the API take and give: the only place where the demo's limits stand."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003  (pydantic reads the annotations)
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID  # noqa: TC003  (as above)

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from commandbus import CommandBusError, CommandStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

MOST_COMMANDS = 100_000
PAGE = 50

_adapters: dict[type[Any], TypeAdapter[Any]] = {}  # each takes a while to make


class RefusedError(CommandBusError):
    """What somebody typed breaks a limit.

    Attributes:
        errors: one sentence per field; the key "" is about all of it.
    """

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{field or 'request'}: {sentence}" for field, sentence in errors.items()))
        self.errors = dict(errors)


class BehaviorType(StrEnum):
    """What the handler of a test command does."""

    SUCCESS = "success"
    FAIL_PERMANENT = "fail_permanent"
    FAIL_TRANSIENT = "fail_transient"
    FAIL_TRANSIENT_THEN_SUCCEED = "fail_transient_then_succeed"
    TIMEOUT = "timeout"


class Schema(BaseModel):
    """A record with known fields only."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


ExecutionTime = Annotated[int, Field(ge=0, le=3_600_000)]
Attempts = Annotated[int, Field(ge=1, le=1_000)]


class Behavior(Schema):
    """How the handler of one test command behaves; times are in milliseconds."""

    type: BehaviorType
    execution_time_ms: ExecutionTime = 0
    error_code: str | None = Field(default=None, min_length=1, max_length=100, pattern=r"^[\x20-\x7e]+$")
    error_message: str | None = Field(default=None, min_length=1, max_length=2_000, pattern=r"^[^\x00]*$")
    transient_failures: int = Field(default=1, ge=1, le=1_000)


class NewTestCommand(Schema):
    """A test command to be sent; without max_attempts it has those of the retry settings."""

    behavior: Behavior
    payload: dict[str, Any] = {}
    max_attempts: Attempts | None = None


class TestCommandChange(Schema):
    """How a test command that has not ended shall behave from its next attempt on."""

    __test__ = False

    behavior: Behavior


class TestCommandOut(Schema):
    """A test command: how it shall behave, and what came of it. Without status its command is gone."""

    __test__ = False

    id: int
    command_id: UUID
    behavior: dict[str, Any]
    payload: dict[str, Any]
    status: CommandStatus | None
    attempts: int
    max_attempts: int | None
    error_code: str | None
    error_message: str | None
    result: dict[str, Any] | None
    created_at: datetime
    processed_at: datetime | None


class TestCommandQuery(Schema):
    """Which test commands, newest first; *before* is the id of the last one seen."""

    __test__ = False

    behavior: BehaviorType | None = None
    status: CommandStatus | None = None
    before: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = None
    limit: Annotated[int, Field(ge=1, le=1_000)] = PAGE


class TestCommandPage(Schema):
    """Some test commands; *next_before* leads to older ones."""

    __test__ = False

    test_commands: list[TestCommandOut]
    next_before: int | None


class Mix(Schema):
    """How many of a hundred commands behave how."""

    success: Annotated[int, Field(ge=0, le=100)] = 0
    fail_permanent: Annotated[int, Field(ge=0, le=100)] = 0
    fail_transient: Annotated[int, Field(ge=0, le=100)] = 0
    fail_transient_then_succeed: Annotated[int, Field(ge=0, le=100)] = 0
    timeout: Annotated[int, Field(ge=0, le=100)] = 0

    @model_validator(mode="after")
    def _check_sum(self) -> Mix:
        if (total := sum(self.parts().values())) != 100:
            raise ValueError(f"must add up to 100 percent, not {total}")
        return self

    def parts(self) -> dict[BehaviorType, int]:
        """Return the percentages."""
        return {kind: getattr(self, kind) for kind in BehaviorType}


class NewRun(Schema):
    """Many test commands at once."""

    count: int = Field(ge=1, le=MOST_COMMANDS)
    mix: Mix
    execution_time_ms: ExecutionTime = 0
    max_attempts: Attempts | None = None


class RunProgress(Schema):
    """How far a run is. *processed* are the commands that ended, or wait for an operator."""

    run_id: UUID
    started_at: datetime
    total: int
    generated: int
    processed: int
    completed: int
    failed: int
    canceled: int
    in_troubleshooting: int
    error: str | None
    is_done: bool


class RunList(Schema):
    """The runs since the application started, newest first."""

    runs: list[RunProgress]


class Deleted(Schema):
    """How many test commands were deleted."""

    deleted: int


class Errors(Schema):
    """What is wrong, by field."""

    errors: dict[str, str]


class Error(Schema):
    """What is wrong: problem details (RFC 9457), *detail* in a sentence."""

    title: str
    status: int
    detail: str


def adapter(kind: type[T]) -> TypeAdapter[T]:
    """Return what reads and writes records of this kind."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def read(kind: type[T], values: Mapping[str, object]) -> T:
    """Return the record that texts make: of a form, or of a query string.

    Raises:
        RefusedError: they make none.
    """
    try:
        return adapter(kind).validate_python(values)
    except ValidationError as error:
        raise RefusedError(_sentences(error)) from None


def read_json(kind: type[T], text: bytes) -> T:
    """Return the record that a JSON text is; numbers must be numbers.

    Raises:
        RefusedError: it is none.
    """
    try:
        return adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise RefusedError(_sentences(error)) from None


def _sentences(error: ValidationError) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in error.errors(include_url=False, include_context=False, include_input=False):
        found.setdefault(".".join(map(str, one["loc"])), _sentence(one["type"], one["msg"]))
    return found


def _sentence(kind: str, message: str) -> str:
    """Return pydantic's finding in the words of the console."""
    known = {
        "missing": "is missing",
        "extra_forbidden": "there is no such field",
        "json_invalid": "must be JSON",
        "int_parsing": "must be an integer",
        "float_parsing": "must be a number",
        "string_pattern_mismatch": "has characters that cannot be stored",
    }
    text = message.removeprefix("Value error, ").replace("Input should be", "must be", 1)
    return known.get(kind, text[:1].lower() + text[1:])
