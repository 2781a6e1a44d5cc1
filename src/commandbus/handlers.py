"""Which function runs for which command, and what it is given besides the command."""

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from pydantic import BaseModel

from commandbus._payload_models import payload_model, to_model
from commandbus.errors import (
    HandlerAlreadyRegisteredError,
    HandlerNotFoundError,
    InvalidArgumentError,
    InvalidOperationError,
)
from commandbus.models import Command, Lease
from commandbus.payload import check_command_type, check_domain, check_timeout

if TYPE_CHECKING:
    from psycopg import AsyncConnection

# fn(command, context) or fn(model, context), plain or async; the result is any JSON value.
HandlerFn = Callable[[Any, "HandlerContext"], Any]
# Keeps a lease for so many seconds from now.
Extender = Callable[[Lease, float], Awaitable[None]]
F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__commandbus_handler__"


@dataclass(slots=True)
class HandlerContext:
    """What a handler is given besides its command.

    Attributes:
        command: the command as it was sent.
        attempt: number of this attempt, from 1.
        max_attempts: the command's limit.
        msg_id: the message that delivered it.
        batch_id: its batch, or None.
    """

    command: Command
    attempt: int
    max_attempts: int
    msg_id: int
    batch_id: UUID | None = None
    transaction: "AsyncConnection[Any] | None" = field(default=None, repr=False)
    lease: Lease | None = field(default=None, repr=False)
    extender: Extender | None = field(default=None, repr=False)

    @property
    def command_id(self) -> UUID:
        """The command's id."""
        return self.command.command_id

    @property
    def connection(self) -> "AsyncConnection[Any]":
        """The open transaction that ends with the command: what is written here counts once, or not at all.

        A handler must not end it: one that runs ``commit`` or ``rollback`` leaves its command to an operator.

        Raises:
            InvalidOperationError: the handler was registered without ``transactional=True``.
        """
        if self.transaction is None:
            raise InvalidOperationError(
                "this handler has no connection: register it with transactional=True to get one"
            )
        return self.transaction

    async def extend_visibility(self, seconds: float) -> None:
        """Keep the command from being delivered again for *seconds* from now; a lease is never made shorter.

        Workers do this by themselves while a handler runs; it helps before a long call that blocks the loop.

        Args:
            seconds: 1 to 86,400.

        Raises:
            InvalidArgumentError: *seconds* is out of range.
            InvalidOperationError: nobody holds a lease, as in a test without a worker.
            StaleLeaseError: the lease is lost; the handler should stop.
        """
        check_timeout(seconds, "seconds", 1)
        if self.lease is None or self.extender is None:
            raise InvalidOperationError("this context has no lease to extend: it was not made by a worker")
        await self.extender(self.lease, seconds)


@dataclass(frozen=True, slots=True)
class Registration:
    """A handler and how it is called.

    Attributes:
        domain: the commands' domain.
        command_type: the commands' type.
        fn: the function.
        is_async: whether it is a coroutine function; others run in a thread.
        transactional: whether it is given a connection whose transaction completes the command.
        payload_model: the pydantic model that takes the place of the command, or None.
    """

    domain: str
    command_type: str
    fn: HandlerFn
    is_async: bool
    transactional: bool = False
    payload_model: type[BaseModel] | None = None

    async def run(self, command: Command, context: HandlerContext, executor: Executor | None = None) -> object:
        """Return what the handler returns; its exceptions pass.

        Args:
            command: the command.
            context: what it is given besides.
            executor: whose threads run a plain ``def``; the loop's own when None.

        Raises:
            InvalidPayloadError: the command's data does not fit the handler's model.
        """
        argument = command if self.payload_model is None else to_model(self.payload_model, command.data)
        if self.is_async:
            return await self.fn(argument, context)
        run = partial(contextvars.copy_context().run, _call_plain, self.fn, argument, context)
        result = await asyncio.get_running_loop().run_in_executor(executor, run)
        return await result if inspect.isawaitable(result) else result


class HandlerRegistry:
    """The handlers of a program, one for each (domain, command_type)."""

    def __init__(self) -> None:
        self._registrations: dict[tuple[str, str], Registration] = {}

    def register(self, domain: str, command_type: str, fn: HandlerFn, *, transactional: bool = False) -> None:
        """Let *fn* run for commands of this type.

        Args:
            domain: a domain name.
            command_type: 1 to 200 characters.
            fn: called with (command, context). If its first parameter is annotated with a pydantic model, it
                is given that model, made from the command's data. A plain ``def`` runs in a thread.
            transactional: give *fn* ``context.connection``; only for ``async def``.

        Raises:
            HandlerAlreadyRegisteredError: this type has a handler.
            InvalidArgumentError: a name breaks its limits, or *fn* cannot be called as described.
        """
        self._add([_make_registration(domain, command_type, fn, transactional)])

    def handler(self, domain: str, command_type: str, *, transactional: bool = False) -> Callable[[F], F]:
        """Return a decorator that registers a function and leaves it as it is. Arguments as in `register`."""

        def decorate(fn: F) -> F:
            self.register(domain, command_type, fn, transactional=transactional)
            return fn

        return decorate

    def register_instance(self, instance: object) -> list[tuple[str, str]]:
        """Register all methods of *instance* that the free decorator `handler` marks, or none of them.

        Returns:
            The (domain, command_type) pairs that were registered, in the order of the methods' names.

        Raises:
            HandlerAlreadyRegisteredError: one of them has a handler.
            InvalidArgumentError: a method cannot be called as `register` describes.
        """
        found = [
            _make_registration(domain, command_type, getattr(instance, name), transactional)
            for name, member in inspect.getmembers_static(type(instance))
            for domain, command_type, transactional in getattr(member, _MARK, ())
        ]
        self._add(found)
        return [(r.domain, r.command_type) for r in found]

    def get(self, domain: str, command_type: str) -> HandlerFn | None:
        """Return the function for commands of this type, or None."""
        registration = self.registration(domain, command_type)
        return None if registration is None else registration.fn

    def get_or_raise(self, domain: str, command_type: str) -> HandlerFn:
        """Return the function for commands of this type.

        Raises:
            HandlerNotFoundError: there is none.
        """
        return self._registration_or_raise(domain, command_type).fn

    def registration(self, domain: str, command_type: str) -> Registration | None:
        """Return how commands of this type are handled, or None."""
        return self._registrations.get((domain, command_type))

    def check(self, domain: str, command_type: str, data: Any) -> None:  # noqa: ANN401  (any JSON)
        """Raise when *data* does not fit the model that the command's handler asks for.

        Raises:
            HandlerNotFoundError: there is no such handler.
            InvalidPayloadError: it does not fit.
        """
        model = self._registration_or_raise(domain, command_type).payload_model
        if model is not None:
            to_model(model, data)

    def has_handler(self, domain: str, command_type: str) -> bool:
        """Return whether commands of this type have a handler."""
        return (domain, command_type) in self._registrations

    def registered_handlers(self) -> list[tuple[str, str]]:
        """Return the (domain, command_type) pairs that have a handler, in the order of their registration."""
        return list(self._registrations)

    def clear(self) -> None:
        """Forget all handlers."""
        self._registrations.clear()

    async def dispatch(self, command: Command, context: HandlerContext) -> object:
        """Run the command's handler and return what it returns; its exceptions pass.

        Raises:
            HandlerNotFoundError: there is none.
            InvalidPayloadError: the command's data does not fit the handler's model.
        """
        return await self._registration_or_raise(command.domain, command.command_type).run(command, context)

    def _registration_or_raise(self, domain: str, command_type: str) -> Registration:
        registration = self.registration(domain, command_type)
        if registration is None:
            raise HandlerNotFoundError(domain, command_type)
        return registration

    def _add(self, registrations: list[Registration]) -> None:
        added: dict[tuple[str, str], Registration] = {}
        for registration in registrations:
            key = (registration.domain, registration.command_type)
            if key in self._registrations or key in added:
                raise HandlerAlreadyRegisteredError(*key)
            added[key] = registration
        self._registrations.update(added)


def handler(domain: str, command_type: str, *, transactional: bool = False) -> Callable[[F], F]:
    """Return a decorator that marks a method for `HandlerRegistry.register_instance`. It can be repeated."""

    def decorate(fn: F) -> F:
        setattr(fn, _MARK, (*getattr(fn, _MARK, ()), (domain, command_type, transactional)))
        return fn

    return decorate


def _make_registration(domain: str, command_type: str, fn: HandlerFn, transactional: bool) -> Registration:
    check_domain(domain)
    check_command_type(command_type)
    if not callable(fn):
        raise InvalidArgumentError("fn", "must be a function of (command, context)")
    if any(f(fn) for f in (inspect.isclass, inspect.isgeneratorfunction, inspect.isasyncgenfunction)):
        raise InvalidArgumentError("fn", "must be a function that returns its result, not a class or generator")
    is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)
    if transactional and not is_async:
        raise InvalidArgumentError(
            "transactional", "needs an async def handler: a plain def cannot use an async connection"
        )
    return Registration(domain, command_type, fn, is_async, transactional, payload_model(fn))


def _call_plain(fn: HandlerFn, argument: object, context: HandlerContext) -> object:
    """Call a plain handler; a StopIteration would be lost on its way out of the thread."""
    try:
        return fn(argument, context)
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration") from error
