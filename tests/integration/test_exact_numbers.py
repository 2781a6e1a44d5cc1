"""Numbers with more digits than floats keep: PostgreSQL keeps them, and who asks for them gets them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest

from commandbus import InvalidArgumentError, JsonNumber, PostgresPayloadArchive, TroubleshootingQueue
from tests.integration.live import DOMAIN, park, rows
from tests.integration.sql_helpers import open_bus
from tests.json_numbers import LARGEST, ODD_NUMBERS, TOO_LONG

if TYPE_CHECKING:
    from commandbus import CommandBus, CommandBusPool

STORED = '{"kept": 1.000000000000000000001, "price": 0.10}'
GIVE = "update commandbus.payload_archive set message = pg_catalog.jsonb_set(message, '{data}', %s::jsonb)"


def test_the_server_keeps_the_numbers_that_we_take_and_no_others(direct_url: str) -> None:
    with open_bus(direct_url) as bus:
        for number, digits in {**ODD_NUMBERS, LARGEST: LARGEST}.items():
            assert bus.value("select %s::jsonb::text", number) == JsonNumber(number).digits == digits
        for number in TOO_LONG:
            with pytest.raises(psycopg.errors.NumericValueOutOfRange):
                bus.value("select %s::jsonb::text", number)
            with pytest.raises(InvalidArgumentError):
                JsonNumber(number)


async def test_a_payload_is_edited_without_touching_the_digits_of_the_rest(
    bus: CommandBus, pool: CommandBusPool, direct_url: str
) -> None:
    (command_id,) = await park(bus, pool)
    with open_bus(direct_url) as sql:
        sql.run(GIVE, STORED)
    tsq, archive = TroubleshootingQueue(pool), PostgresPayloadArchive(pool)
    message = await bus.get_message(DOMAIN, command_id, exact=True)
    assert message is not None
    (item,) = await tsq.list_troubleshooting(DOMAIN, exact=True)
    (same,) = await tsq.list_all_troubleshooting(exact=True)
    archived = await archive.get(DOMAIN, command_id, exact=True)
    assert archived is not None
    kept, price = JsonNumber("1.000000000000000000001"), JsonNumber("0.10")
    assert message.data == item.payload == same.payload == archived["data"] == {"kept": kept, "price": price}
    assert message.data["price"].digits == "0.10"

    await tsq.edit_and_retry(DOMAIN, command_id, message.data | {"price": JsonNumber("25.50")})
    assert await rows(pool, "select (message -> 'data')::text from pgmq.q_pay__commands") == [
        ('{"kept": 1.000000000000000000001, "price": 25.50}',)
    ]
    for events in (
        await bus.get_audit_trail(command_id, exact=True),
        await bus.query_audit(DOMAIN, "OPERATOR_EDIT", exact=True),
    ):
        (edited,) = [event.details for event in events if event.event_type == "OPERATOR_EDIT"]
        assert (edited["before"]["kept"], edited["after"]["kept"]) == (kept, kept)
        assert (edited["before"]["price"].digits, edited["after"]["price"].digits) == ("0.10", "25.50")


async def test_who_does_not_ask_gets_numbers_of_python(bus: CommandBus, pool: CommandBusPool, direct_url: str) -> None:
    (command_id,) = await park(bus, pool)
    with open_bus(direct_url) as sql:
        sql.run(GIVE, STORED)
    message = await bus.get_message(DOMAIN, command_id)
    (item,) = await TroubleshootingQueue(pool).list_troubleshooting(DOMAIN)
    assert message is not None
    assert json.dumps(message.data) == json.dumps(item.payload) == '{"kept": 1.0, "price": 0.1}'


async def test_an_exact_number_is_sent_as_it_is(bus: CommandBus, pool: CommandBusPool) -> None:
    await bus.send(DOMAIN, "charge", uuid4(), {"price": JsonNumber("0.1000000000000000055")})
    assert await rows(pool, "select (message -> 'data')::text from pgmq.q_pay__commands") == [
        ('{"price": 0.1000000000000000055}',)
    ]
