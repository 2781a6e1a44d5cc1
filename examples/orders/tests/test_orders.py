"""Orders, from the shop's own transaction to what the handler made of them."""

import psycopg
import pytest

from commandbus import CommandBus, CommandBusPool
from commandbus.testing import WorkerFactory
from orders.handlers import registry
from orders.service import place_order


async def value(pool: CommandBusPool, statement: str) -> object:
    async with pool.connection() as connection:
        row = await (await connection.execute(statement)).fetchone()
    return None if row is None else row[0]


async def test_an_order_asks_for_its_goods(shop: CommandBusPool, commandbus_worker: WorkerFactory) -> None:
    order_id = await place_order(shop, "pen", 2)
    (command,) = await commandbus_worker.waiting("orders", "ReserveGoods")
    assert command.command_id == order_id
    assert command.data == {"article": "pen", "quantity": 2}


async def test_an_order_that_cannot_be_stored_asks_for_nothing(
    shop: CommandBusPool, commandbus_worker: WorkerFactory
) -> None:
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        await place_order(shop, "pen", 2**40)
    assert await commandbus_worker.waiting("orders") == []


async def test_goods_are_reserved(shop: CommandBusPool, commandbus_worker: WorkerFactory) -> None:
    order_id = await place_order(shop, "pen", 2)
    ended = await commandbus_worker.drain(registry, "orders")
    assert ended[order_id].status == "COMPLETED"
    assert ended[order_id].result == {"left": 3}
    assert await value(shop, "select available from shop.stock") == 3
    assert await value(shop, "select state from shop.orders") == "reserved"


async def test_nothing_is_taken_when_there_is_too_little(
    shop: CommandBusPool, commandbus_worker: WorkerFactory
) -> None:
    order_id = await place_order(shop, "pen", 6)
    ended = await commandbus_worker.drain(registry, "orders")
    assert ended[order_id].status == "FAILED"
    assert ended[order_id].metadata.last_error_code == "OUT_OF_STOCK"
    assert await value(shop, "select available from shop.stock") == 5


async def test_an_operator_is_asked_about_unknown_articles(
    shop: CommandBusPool, commandbus_worker: WorkerFactory
) -> None:
    order_id = await place_order(shop, "pin", 1)
    ended = await commandbus_worker.drain(registry, "orders", allow_troubleshooting=True)
    assert ended[order_id].status == "IN_TROUBLESHOOTING_QUEUE"


async def test_a_caller_gets_the_answer_of_a_running_worker(
    shop: CommandBusPool, commandbus_worker: WorkerFactory
) -> None:
    await commandbus_worker(registry, "orders")
    answer = await CommandBus(shop).call("orders", "ReserveGoods", {"article": "pen", "quantity": 1}, timeout=10)
    assert answer == {"left": 4}
