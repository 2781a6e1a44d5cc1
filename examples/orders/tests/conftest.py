"""The shop's tables in every test's database, beside those of commandbus."""

from collections.abc import Callable

import pytest

from commandbus import CommandBus, CommandBusPool
from orders.schema import create_tables


@pytest.fixture(scope="session")
def commandbus_template_setup() -> Callable[[str], None]:
    """Runs once, on the database that all tests' databases are copies of."""
    return create_tables


@pytest.fixture
async def shop(commandbus_pool: CommandBusPool) -> CommandBusPool:
    """A shop with five pens in stock."""
    await CommandBus(commandbus_pool).create_domain("orders")
    async with commandbus_pool.connection() as connection:
        await connection.execute("insert into shop.stock values ('pen', 5)")
    return commandbus_pool
