"""Where in the user's own code an error came from."""

import inspect
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import CodeType
from typing import Any

_PACKAGE = Path(__file__).parents[1]
_OTHERS = (
    str(_PACKAGE) + "/",
    *(sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    "<",  # code without a file, such as that which other packages make
)
_MOST_CAUSES = 10  # they may go in a circle


def place_of(error: BaseException, handler: Callable[..., Any] | None = None) -> str | None:
    """Return ``file:line`` of the innermost frame of the user's code, or else of the handler, or None.

    The user's code is what belongs to no installed package, nor to Python or commandbus; and the handler's own file,
    wherever that is. An error that never was in it, such as a timeout, has a cause that was; of a group of errors, the
    first one tells.
    """
    code = None if handler is None else _code_of(handler)
    own = "" if code is None else code.co_filename
    for one in islice(_causes(error), _MOST_CAUSES):
        for frame, line in reversed(list(traceback.walk_tb(one.__traceback__))):
            file = frame.f_code.co_filename
            if file == own or not file.startswith(_OTHERS):
                return f"{file}:{line}"
    return None if code is None else f"{own}:{code.co_firstlineno}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and what caused it, each time after the first of the errors that it is a group of."""
    while error is not None:
        first = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if first is not error:
            yield first
        yield error
        error = error.__context__ if error.__cause__ is None else error.__cause__


def _code_of(handler: Callable[..., Any]) -> CodeType | None:
    """Return the code of a function, a method, a partial or an object that can be called; None when written in C."""
    function = inspect.unwrap(handler)
    function = getattr(function, "func", function)
    if not inspect.isroutine(function):
        function = type(function).__call__
    return getattr(function, "__code__", None)
