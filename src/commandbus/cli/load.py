"""Find the registry that a command line names."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from commandbus.errors import InvalidArgumentError
from commandbus.handlers import HandlerRegistry


def load_registry(target: str, domain: str | None = None) -> HandlerRegistry:
    """Import ``package.module:name`` and return the registry that it is, or that it returns when called.

    The current directory is looked at first. What the module itself raises passes. With *domain*, it must have a
    handler of it.

    Raises:
        InvalidArgumentError: there is no such module or name, it is no registry, or has nothing for *domain*.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise InvalidArgumentError("target", "must be MODULE:NAME, such as app.handlers:registry")
    found = _find(module_name, name)
    if not isinstance(found, HandlerRegistry) and callable(found):
        found = _call(found, target)
    if not isinstance(found, HandlerRegistry):
        raise InvalidArgumentError("target", f"{target} is no HandlerRegistry and no function that returns one")
    domains = sorted({known for known, _ in found.registered_handlers()})
    if domain is not None and domain not in domains:
        known = f"for {', '.join(domains)} only" if domains else "at all"
        raise InvalidArgumentError("domain", f'{target} has no handler for "{domain}": it has handlers {known}')
    return found


def _call(make: Callable[..., object], target: str) -> object:
    try:
        inspect.signature(make).bind()
    except (TypeError, ValueError):  # it needs arguments, or does not say
        raise InvalidArgumentError("target", f"{target} is no function that can be called without arguments") from None
    return make()


def _find(module_name: str, name: str) -> object:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks something itself
        raise InvalidArgumentError("target", f'there is no module "{error.name}"') from None
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise InvalidArgumentError("target", f'module "{module_name}" has no "{name}"') from None
    return found
