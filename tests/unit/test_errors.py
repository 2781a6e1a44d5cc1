"""The tree of errors: its documentation, its SQLSTATEs, and that errors survive a pickle."""

import pickle
import re
from typing import Any
from uuid import UUID

import pytest

from commandbus import errors

ID = UUID("9d4c0c1e-54a5-4e39-9a0b-7f7c3f7f1c11")

EXAMPLES = [
    errors.InvalidArgumentError("domain", "must be short"),
    errors.InvalidArgumentError.from_message("domain: must be short"),
    errors.DuplicateCommandError("orders", ID),
    errors.CommandNotFoundError("orders", ID),
    errors.CommandNotFoundError.from_message("command not found"),
    errors.StaleLeaseError("stale"),
    errors.HandlerNotFoundError("orders", "Ship"),
    errors.HandlerAlreadyRegisteredError("orders", "Ship"),
    errors.TransientCommandError("DOWN", "later", {"after": 3}),
    errors.PermanentCommandError("GONE", "never"),
    errors.BusinessRuleException("LIMIT", "too much"),
    errors.InvalidPayloadError("amount: missing"),
    errors.ReplyTimeoutError("no reply in 5 seconds", command_id=ID),
    errors.CommandFailedError(ID, "LIMIT", "too much", {"limit": 5}),
    errors.CommandCanceledError(ID, "asked for"),
    errors.AuthenticationFailedError("wrong password"),
    errors.NotMigratedError("not migrated"),
    errors.MigrationError("refused", "and more", sqlstate="42501"),
    errors.PoolTimeoutError("no connection in 10 seconds"),
]


def all_errors() -> set[type[errors.CommandBusError]]:
    public = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.CommandBusError)}
    return {c for c in public if not c.__name__.startswith("_")}


def public_parent(error: type[errors.CommandBusError]) -> str:
    parents = (c for c in error.__mro__[1:] if issubclass(c, errors.CommandBusError))
    return next(c.__name__ for c in parents if not c.__name__.startswith("_"))


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_error_survives_pickle(error: errors.CommandBusError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own bytes)

    assert type(error) is type(copy)
    assert str(error) == str(copy)
    assert error.args == copy.args
    assert vars(error) == vars(copy)


def test_module_docstring_is_the_tree() -> None:
    parents: dict[int, str] = {-1: "CommandBusError"}
    documented = {"CommandBusError": "Exception"}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"^((?:│   |    )*)[├└]── (\w+)", line):
            depth = len(found[1]) // 4
            parents[depth] = found[2]
            documented[found[2]] = parents[depth - 1]

    actual = {c.__name__: public_parent(c) for c in all_errors() - {errors.CommandBusError}}

    assert actual | {"CommandBusError": "Exception"} == documented


def test_module_docstring_names_the_sqlstates() -> None:
    documented = dict(re.findall(r"(\w+) (?:\(also \w+\))? +(CB\d{3})", errors.__doc__ or ""))

    assert {c.__name__: state for state, c in errors.SQLSTATES.items()} == documented


@pytest.mark.parametrize("state", sorted(errors.SQLSTATES))
def test_sqlstate_gives_its_class_with_the_servers_text(state: str) -> None:
    error = errors.from_sqlstate(state, "domain: said by the server")

    assert type(error) is errors.SQLSTATES[state]
    assert str(error) == "domain: said by the server"


@pytest.mark.parametrize("state", [None, "", "23505", "CB999"])
def test_other_sqlstates_are_not_ours(state: str | None) -> None:
    assert errors.from_sqlstate(state, "text") is None


@pytest.mark.parametrize(
    ("error", "caught_as"),
    [
        (errors.InvalidArgumentError("a", "b"), ValueError),
        (errors.ReplyTimeoutError("late"), TimeoutError),
        (errors.PoolTimeoutError("late"), TimeoutError),
    ],
)
def test_errors_are_what_callers_already_catch(error: Exception, caught_as: type[Exception]) -> None:
    assert isinstance(error, caught_as)
    assert isinstance(error, errors.CommandBusError)


def test_identifying_attributes() -> None:
    duplicate = errors.DuplicateCommandError("orders", ID)
    invalid = errors.InvalidArgumentError("chunk_size", "must be positive")
    unknown = errors.DuplicateCommandError.from_message("exists")

    assert (duplicate.domain, duplicate.command_id) == ("orders", ID)
    assert str(duplicate) == f'command {ID} exists in domain "orders"'
    assert (invalid.field, str(invalid)) == ("chunk_size", "chunk_size: must be positive")
    assert (unknown.domain, unknown.command_id, str(unknown)) == (None, None, "exists")


def test_handler_error_keeps_its_facts_and_hides_details() -> None:
    error = errors.BusinessRuleException("LIMIT", "too much", {"iban": "canary"})

    assert (error.code, error.error_message, error.details) == ("LIMIT", "too much", {"iban": "canary"})
    assert str(error) == "LIMIT: too much"
    assert "canary" not in repr(error)


@pytest.mark.parametrize(
    ("code", "kept"), [("", "TransientCommandError"), ("x" * 101, "x" * 100), (None, "TransientCommandError"), (7, "7")]
)
def test_a_bad_code_does_not_change_what_a_handler_decided(code: Any, kept: str) -> None:
    assert errors.TransientCommandError(code, "text").code == kept


def test_a_bad_argument_has_its_name_and_its_problem_apart() -> None:
    error = errors.InvalidArgumentError("limit", "must be small")
    told = errors.InvalidArgumentError.from_message("limit: must be small")
    assert (str(error), error.field, error.problem) == ("limit: must be small", "limit", "must be small")
    assert (str(told), told.field, told.problem) == ("limit: must be small", "", "limit: must be small")
