"""What the shop's web server calls."""

from uuid import UUID, uuid4

from commandbus import CommandBus, CommandBusPool

DOMAIN = "orders"


async def place_order(pool: CommandBusPool, article: str, quantity: int) -> UUID:
    """Store an order and ask for its goods: both happen, or neither."""
    order_id = uuid4()
    async with pool.connection() as connection, connection.transaction():
        await CommandBus(pool).send(
            DOMAIN, "ReserveGoods", order_id, {"article": article, "quantity": quantity}, conn=connection
        )
        await connection.execute(
            "insert into shop.orders (order_id, article, quantity) values (%s, %s, %s)", (order_id, article, quantity)
        )
    return order_id
