"""Errors name what the user typed: an option, or an environment variable, and not the library's argument."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from commandbus.cli.variables import variable_of, with_variables
from commandbus.errors import InvalidArgumentError


class _Spelling:
    """Takes part in a command whose parameters have the names of the library's arguments."""

    def parse_args(self, context: Any, words: list[str]) -> list[str]:  # noqa: ANN401  (typer moves its classes)
        with _as_typed(context):
            return super().parse_args(context, words)  # type: ignore[misc, no-any-return]  # of the class beside it

    def invoke(self, context: Any) -> object:  # noqa: ANN401
        with _as_typed(context):
            return super().invoke(context)  # type: ignore[misc]  # of the class beside it


class _Command(_Spelling, TyperCommand):
    pass


class _Group(_Spelling, TyperGroup):
    pass


def name_as_typed(app: typer.Typer) -> None:
    """Let all commands of a tree do so."""
    app.info.cls = _Group
    for command in app.registered_commands:
        command.cls = _Command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            name_as_typed(group.typer_instance)


@contextmanager
def _as_typed(context: Any) -> Iterator[None]:  # noqa: ANN401
    try:
        yield
    except InvalidArgumentError as error:
        if error.field == "settings":  # which the command line gives as variables only
            raise InvalidArgumentError(error.field, with_variables(error.problem)) from None
        given = (_spelling(context, p) for p in context.command.params if p.name == error.field)
        spelling = next(filter(None, given), None) or variable_of(error.field)
        if spelling is None:
            raise
        raise InvalidArgumentError(spelling, error.problem) from None


def _spelling(context: Any, parameter: Any) -> str:  # noqa: ANN401
    """Return how a value was given, or nothing where it was not, or by its place."""
    source = context.get_parameter_source(parameter.name)
    match None if source is None else source.name:
        case "COMMANDLINE" if parameter.param_type_name == "option":
            return str(max(parameter.opts, key=len))
        case "ENVIRONMENT":
            return str(parameter.envvar)
    return ""
