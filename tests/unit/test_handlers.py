"""Registration, dispatch, and what a handler is given."""

import functools
import re
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from commandbus import errors
from commandbus.handlers import HandlerContext, HandlerRegistry, handler
from commandbus.models import Command, Lease

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from nowhere import Unknown  # type: ignore[import-not-found]  # missing on purpose

ID = UUID("9d4c0c1e-54a5-4e39-9a0b-7f7c3f7f1c11")


class Ship(BaseModel):
    sku: str
    count: int = 1


def command(data: Any = None, command_type: str = "Ship") -> Command:
    return Command("orders", command_type, ID, {"sku": "a"} if data is None else data, None, None, datetime.now(UTC))


def context(of: Command | None = None, **more: Any) -> HandlerContext:
    return HandlerContext(of or command(), attempt=1, max_attempts=3, msg_id=7, **more)


async def ship(command: Command, context: HandlerContext) -> Any:
    return [command.data, context.attempt]


async def dispatch(registry: HandlerRegistry, of: Command) -> object:
    return await registry.dispatch(of, context(of))


def registry_of(fn: Any, **more: Any) -> HandlerRegistry:
    registry = HandlerRegistry()
    registry.register("orders", "Ship", fn, **more)
    return registry


async def test_async_handler_runs_and_returns() -> None:
    assert await dispatch(registry_of(ship), command()) == [{"sku": "a"}, 1]


async def test_plain_handler_runs_in_a_thread() -> None:
    def plain(command: Command, context: HandlerContext) -> bool:
        return threading.current_thread() is threading.main_thread()

    assert await dispatch(registry_of(plain), command()) is False


async def test_plain_handler_that_returns_an_awaitable_is_awaited() -> None:
    assert await dispatch(registry_of(lambda c, x: ship(c, x)), command()) == [{"sku": "a"}, 1]


async def test_callable_objects_and_partials_are_handlers() -> None:
    class Shipper:
        async def __call__(self, command: Command, context: HandlerContext) -> str:
            return command.command_type

    async def named(name: str, order: Ship, context: HandlerContext) -> str:
        return name + order.sku

    assert await dispatch(registry_of(Shipper(), transactional=True), command()) == "Ship"
    assert await dispatch(registry_of(functools.partial(named, "n")), command()) == "na"


async def test_handlers_exception_passes() -> None:
    async def fail(command: Command, context: HandlerContext) -> None:
        raise errors.PermanentCommandError("GONE", "never")

    with pytest.raises(errors.PermanentCommandError, match="GONE: never"):
        await dispatch(registry_of(fail), command())


async def model_first(order: Ship, context: HandlerContext) -> str:
    return f"{order.sku}{order.count}"


def plain_model_first(order: Ship, context: HandlerContext) -> str:
    return f"{order.sku}{order.count}"


async def written_model_first(order: "Ship", context: "Unknown") -> str:
    return f"{order.sku}{order.count}"


@pytest.mark.parametrize("fn", [model_first, plain_model_first, written_model_first], ids=lambda f: f.__name__)
async def test_handler_of_a_model_is_given_the_model(fn: Any) -> None:
    assert await dispatch(registry_of(fn), command({"sku": "a", "count": 2})) == "a2"


async def test_data_that_does_not_fit_the_model_is_an_invalid_payload() -> None:
    with pytest.raises(errors.InvalidPayloadError) as caught:
        await dispatch(registry_of(model_first), command({"count": "canary"}))

    assert str(caught.value) == "the data does not fit Ship: sku: missing; count: int_parsing"


async def test_a_command_imported_for_type_checkers_only_means_the_command() -> None:
    async def later(it: "Command", context: "Unknown") -> object:
        return it

    sent = command()

    assert await dispatch(registry_of(later), sent) is sent


@pytest.mark.parametrize(
    ("annotation", "why"),
    [
        ("Unknown", "Unknown, which does not exist at run time"),
        ("Ship | None", "neither a pydantic model nor Command"),
        (Ship | None, "neither a pydantic model nor Command"),
        (int, "annotated with int, which is neither"),
        (dict[str, Any], "neither a pydantic model nor Command"),
    ],
)
def test_an_annotation_that_promises_something_else_is_refused(annotation: Any, why: str) -> None:
    async def promised(it: Any, context: Any) -> object:
        return it

    promised.__annotations__["it"] = annotation
    with pytest.raises(errors.InvalidArgumentError, match=re.escape(why)):
        registry_of(promised)


@pytest.mark.parametrize("annotation", [Any, object, "Any", Annotated[Ship, "a note"]])
async def test_other_annotations_are_taken_as_they_are_meant(annotation: Any) -> None:
    async def taken(it: Any, context: Any) -> object:
        return it

    taken.__annotations__["it"] = annotation
    assert type(await dispatch(registry_of(taken), command({"sku": "a", "count": 2}))).__name__ in {"Command", "Ship"}


def test_get_returns_the_function() -> None:
    registry = registry_of(ship)

    assert registry.get("orders", "Ship") is ship
    assert registry.get_or_raise("orders", "Ship") is ship
    assert registry.has_handler("orders", "Ship")
    assert registry.registered_handlers() == [("orders", "Ship")]


async def test_missing_handler() -> None:
    registry = HandlerRegistry()

    assert registry.get("orders", "Ship") is None
    assert registry.registration("orders", "Ship") is None
    assert not registry.has_handler("orders", "Ship")
    with pytest.raises(errors.HandlerNotFoundError, match='no handler for command type "Ship" in domain "orders"'):
        registry.get_or_raise("orders", "Ship")
    with pytest.raises(errors.HandlerNotFoundError):
        await dispatch(registry, command())


def test_second_handler_for_a_type_is_refused() -> None:
    with pytest.raises(errors.HandlerAlreadyRegisteredError):
        registry_of(ship).register("orders", "Ship", ship)


def test_clear_forgets() -> None:
    registry = registry_of(ship)
    registry.clear()

    assert registry.registered_handlers() == []


def test_decorator_registers_and_leaves_the_function() -> None:
    registry = HandlerRegistry()
    decorated = registry.handler("orders", "Ship", transactional=True)(ship)
    registration = registry.registration("orders", "Ship")

    assert decorated is ship
    assert registration is not None
    assert (registration.is_async, registration.transactional, registration.payload_model) == (
        True,
        True,
        None,
    )


async def generator(command: Command, context: HandlerContext) -> "AsyncIterator[int]":
    yield 1


def plain_generator(command: Command, context: HandlerContext) -> "Iterator[int]":
    yield 1


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("Orders", "Ship", ship), "domain"),
        (("orders", "", ship), "command_type"),
        (("orders", "Ship\u200b", ship), "command_type"),
        (("orders", "Ship", None), "fn"),
        (("orders", "Ship", lambda: None), "fn"),
        (("orders", "Ship", lambda a, b, c: None), "fn"),
        (("orders", "Ship", Ship), "fn"),
        (("orders", "Ship", generator), "fn"),
        (("orders", "Ship", plain_generator), "fn"),
    ],
)
def test_register_refuses(arguments: tuple[Any, ...], field: str) -> None:
    with pytest.raises(errors.InvalidArgumentError) as caught:
        HandlerRegistry().register(*arguments)

    assert caught.value.field == field


def test_plain_handler_cannot_be_transactional() -> None:
    with pytest.raises(errors.InvalidArgumentError, match="transactional: needs an async def handler"):
        registry_of(plain_model_first, transactional=True)


class Warehouse:
    def __init__(self) -> None:
        self.seen: list[str] = []

    @property
    def trap(self) -> str:
        raise AssertionError("a property must not be read")

    @handler("orders", "Ship", transactional=True)
    async def ship(self, order: Ship, context: HandlerContext) -> str:
        self.seen.append(order.sku)
        return order.sku

    @handler("orders", "Return")
    @handler("orders", "Refund")
    def give_back(self, command: Command, context: HandlerContext) -> str:
        return command.command_type


async def test_marked_methods_of_an_instance_are_registered() -> None:
    registry, warehouse = HandlerRegistry(), Warehouse()

    assert registry.register_instance(warehouse) == [
        ("orders", "Refund"),
        ("orders", "Return"),
        ("orders", "Ship"),
    ]
    assert await dispatch(registry, command()) == "a"
    assert await dispatch(registry, command(command_type="Return")) == "Return"
    assert warehouse.seen == ["a"]


def test_instance_is_registered_whole_or_not_at_all() -> None:
    registry = registry_of(ship)

    with pytest.raises(errors.HandlerAlreadyRegisteredError):
        registry.register_instance(Warehouse())
    assert registry.registered_handlers() == [("orders", "Ship")]


def test_context_without_transaction_says_how_to_get_one() -> None:
    with pytest.raises(errors.InvalidOperationError, match="transactional=True"):
        _ = context().connection


def test_context_knows_its_command() -> None:
    assert context().command_id == ID
    assert "sku" not in repr(context())


async def test_context_extends_its_lease() -> None:
    asked: list[tuple[Lease, float]] = []

    async def extend(lease: Lease, seconds: float) -> None:
        asked.append((lease, seconds))

    lease = Lease(ID, 7, 1)
    await context(lease=lease, extender=extend).extend_visibility(30)

    assert asked == [(lease, 30)]


@pytest.mark.parametrize("seconds", [0, -1, 86_401, float("nan"), True, "1"])
async def test_context_refuses_a_bad_extension(seconds: float) -> None:
    with pytest.raises(errors.InvalidArgumentError, match="seconds"):
        await context().extend_visibility(seconds)


async def test_context_without_a_worker_has_no_lease() -> None:
    with pytest.raises(errors.InvalidOperationError, match="no lease"):
        await context().extend_visibility(30)
