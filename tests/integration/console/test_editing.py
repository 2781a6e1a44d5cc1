"""Edit and retry: checked by the handler's model, both versions in the audit, shown as a difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel, Field

from commandbus import HandlerRegistry
from commandbus.console import ConsoleSettings, create_app
from commandbus.sync import CommandBus
from tests.integration.console.browser import CANARY, DOMAIN, OPERATOR_TOKEN, TOKENS, Browser
from tests.integration.sql_helpers import open_bus

if TYPE_CHECKING:
    from commandbus import HandlerContext
    from commandbus.sync import CommandBusPool
    from tests.integration.console.browser import World


class Debit(BaseModel):
    """What the handler of the tests asks for."""

    amount: int = Field(gt=0)
    currency: str


async def debit(debit: Debit, context: HandlerContext) -> None:
    """Do nothing."""


@pytest.fixture
def checked(sync_pool: CommandBusPool, world: World) -> Browser:
    """An operator at a console that knows the handlers."""
    registry = HandlerRegistry()
    registry.register(DOMAIN, "DebitAccount", debit)
    app = create_app(sync_pool, settings=ConsoleSettings.load(**TOKENS), registry=registry)
    assert world.parked
    return Browser(app, OPERATOR_TOKEN)


def address(world: World) -> str:
    """Return the address of the form for a command that waits."""
    return f"/commands/{DOMAIN}/{world.parked[0]}/edit"


def test_an_edited_command_is_queued_with_its_new_data_and_both_versions_stay(
    operator: Browser, world: World, sync_pool: CommandBusPool
) -> None:
    page = operator.get(address(world)).text
    assert CANARY in page
    assert "start the console with" in page
    answer = operator.post(address(world), {"data": '{"amount": 7}', "reason": "was wrong"})
    assert answer.headers["Location"] == f"/commands/{DOMAIN}/{world.parked[0]}"
    bus = CommandBus(sync_pool)
    message, command = bus.get_message(DOMAIN, world.parked[0]), bus.get_command(DOMAIN, world.parked[0])
    assert message is not None
    assert command is not None
    assert (message.place, message.data, command.status) == ("QUEUE", {"amount": 7}, "PENDING")
    (event,) = [e for e in bus.get_audit_trail(world.parked[0], DOMAIN) if e.event_type == "OPERATOR_EDIT"]
    assert (event.details["operator"], event.details["reason"], event.details["after"]) == (
        "ada", "was wrong", {"amount": 7},
    )  # fmt: skip
    assert event.details["before"]["secret"] == CANARY
    text = operator.get(answer.headers["Location"]).text
    assert f'tone-danger">-   &#34;secret&#34;: &#34;{CANARY}&#34;' in text
    assert 'tone-success">+   &#34;amount&#34;: 7' in text


@pytest.mark.parametrize(
    ("number", "is_told"),
    [
        ("0.12345678901234567890", True),
        ("-1234567890.1234567891e2", True),
        ("12345678901234567890", False),
        ("123456789012.345", False),
        ("0.1", False),
        ("1e300", False),  # stored as an integer
    ],
)
def test_a_number_with_more_digits_than_are_kept_is_told(
    operator: Browser, viewer: Browser, world: World, direct_url: str, number: str, is_told: bool
) -> None:
    with open_bus(direct_url) as bus:
        statement = "update commandbus.payload_archive set message = jsonb_set(message, '{data}', %s::jsonb)"
        data = f'{{"prices": [{{"a": 1, "b": [{number}]}}], "c": "0.12345678901234567890"}}'
        assert bus.run(f"{statement} where command_id = %s", data, world.parked[0]) == 1
    for browser in (operator, viewer):
        assert ("it is shown rounded" in browser.get(address(world)).text) is is_told


def test_data_that_does_not_fit_the_model_is_refused_field_by_field_and_kept(
    checked: Browser, world: World, sync_pool: CommandBusPool
) -> None:
    before = CommandBus(sync_pool).query_audit(limit=1000)
    assert "It must fit" in checked.get(address(world)).text
    answer = checked.post(address(world), {"data": '{"amount": -7, "kept": "yes"}'})
    assert answer.status_code == 422
    for part in (
        "Input should be greater than 0",
        ">amount<",
        ">currency<",
        "Field required",
        "kept",
        'id="data-wrong"',
    ):
        assert part in answer.text, part
    twin = checked.post(f"/api{address(world)}", {"data": '{"amount": -7}'})
    assert twin.status_code == 422
    assert twin.get_json()["errors"]["data"] == "amount: Input should be greater than 0; currency: Field required"
    assert CommandBus(sync_pool).query_audit(limit=1000) == before
    assert checked.post(address(world), {"data": '{"amount": 7, "currency": "EUR"}'}).status_code == 302


def test_bad_data_or_reason_is_422_and_changes_nothing(
    operator: Browser, world: World, sync_pool: CommandBusPool
) -> None:
    before = CommandBus(sync_pool).query_audit(limit=1000)
    for data in ("", "x", "[]", "7", "null", '{"a": NaN}', '{"a": "\\u0000"}', '{"a": "' + "x" * 262_144 + '"}',
                 '{"a":' * 70 + "1" + "}" * 70):  # fmt: skip
        answer = operator.post(address(world), {"data": data})
        assert answer.status_code == 422, data[:40]
        assert 'id="data-wrong"' in answer.text
    for reason in ("x" * 2_001, "a\x00b"):
        answer = operator.post(address(world), {"data": "{}", "reason": reason})
        assert answer.status_code == 422
        assert 'id="reason-wrong"' in answer.text
    assert CommandBus(sync_pool).query_audit(limit=1000) == before


def test_a_command_that_somebody_else_decided_about_is_not_edited(operator: Browser, world: World) -> None:
    operator.get(address(world))
    operator.post("/troubleshooting/cancel", {"command": f"{DOMAIN}/{world.parked[0]}", "reason": "mine"})
    answer = operator.post(address(world), {"data": '{"kept": 1}'})
    assert answer.status_code == 422
    assert "is CANCELED: it does not wait for an operator" in answer.text
    assert "&#34;kept&#34;" in answer.text
    assert "nothing can be edited" in operator.get(address(world)).text


def test_viewers_see_that_something_was_edited_but_no_values(viewer: Browser, world: World) -> None:
    text = viewer.get(f"/commands/{DOMAIN}/{world.edited[0]}").text
    assert "Operator edited" in text
    assert CANARY not in text
    masked = viewer.get(address(world)).text
    assert "&#34;secret&#34;: &#34;••••&#34;" in masked
    assert "readonly" in masked
