"""The pydantic model that a handler's first parameter asks for."""

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from commandbus.errors import InvalidArgumentError, InvalidPayloadError
from commandbus.models import Command
from commandbus.payload import describe_validation_error


def payload_model(fn: Callable[..., Any]) -> type[BaseModel] | None:
    """Return the pydantic model that the first parameter of *fn* is annotated with, or None."""
    try:
        signature = inspect.signature(fn)
    except (ValueError, NameError):  # written in C, or annotated with names that exist for type checkers only
        return None
    try:
        signature.bind(None, None)
    except TypeError:
        raise InvalidArgumentError("fn", "must take two positional arguments: (command, context)") from None
    written = next(iter(signature.parameters.values())).annotation
    found = _resolve(written, fn) if isinstance(written, str) else written
    if get_origin(found) is Annotated:
        found = get_args(found)[0]
    if isinstance(found, type) and issubclass(found, BaseModel):
        return found
    if found in (inspect.Parameter.empty, Any) or (isinstance(found, type) and issubclass(Command, found)):
        return None
    if found is None and str(written).rpartition(".")[2] == Command.__name__:
        return None  # imported for type checkers only
    name = written if isinstance(written, str) else getattr(written, "__name__", written)
    reason = "which does not exist at run time" if found is None else "which is neither a pydantic model nor Command"
    raise InvalidArgumentError(
        "fn", f"{getattr(fn, '__qualname__', fn)}: its first parameter is annotated with {name}, {reason}"
    )


def _resolve(annotation: str, fn: Callable[..., Any]) -> object:
    """Return what the text of an annotation stands for, or None where it cannot be known.

    It is resolved alone: another annotation of *fn* may name what exists for type checkers only.
    """
    function = inspect.unwrap(fn)
    function = getattr(function, "func", function)
    namespace = getattr(function, "__globals__", {})
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"it": annotation}), namespace).get("it")
    except (NameError, TypeError, AttributeError, SyntaxError):
        return None


def to_model(model: type[BaseModel], data: object) -> BaseModel:
    """Return *data* as the model.

    Raises:
        InvalidPayloadError: it does not fit; the text names fields, never values.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InvalidPayloadError(
            f"the data does not fit {model.__name__}: {describe_validation_error(error, model)}"
        ) from None
