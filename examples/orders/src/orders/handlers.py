"""What the shop's workers do: `commandbus worker orders.handlers:registry --domain orders`."""

from pydantic import BaseModel

from commandbus import BusinessRuleException, HandlerContext, HandlerRegistry, PermanentCommandError

registry = HandlerRegistry()


class Reservation(BaseModel):
    """How much of what."""

    article: str
    quantity: int


@registry.handler("orders", "ReserveGoods", transactional=True)
async def reserve_goods(wanted: Reservation, context: HandlerContext) -> dict[str, int]:
    """Take the goods from the stock and mark the order, in the transaction that completes the command."""
    connection = context.connection
    cursor = await connection.execute(
        "select available from shop.stock where article = %s for update", (wanted.article,)
    )
    row = await cursor.fetchone()
    if row is None:
        raise PermanentCommandError("UNKNOWN_ARTICLE", "the stock has no such article")
    left = row[0] - wanted.quantity
    if left < 0:
        raise BusinessRuleException("OUT_OF_STOCK", "there are not enough")
    await connection.execute("update shop.stock set available = %s where article = %s", (left, wanted.article))
    await connection.execute("update shop.orders set state = 'reserved' where order_id = %s", (context.command_id,))
    return {"left": left}
