"""Edit and retry: checked by the handler's model, both versions in the audit, shown as a difference."""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from commandbus import HandlerRegistry, JsonNumber
from commandbus.console import ConsoleSettings, create_app
from commandbus.payload import write_json
from commandbus.sync import CommandBus
from tests.integration.console.browser import CANARY, DOMAIN, OPERATOR_TOKEN, TOKENS, Browser
from tests.integration.sql_helpers import errors, open_bus
from tests.json_numbers import LARGEST, ODD_NUMBERS, TOO_LONG

if TYPE_CHECKING:
    from commandbus import HandlerContext
    from commandbus.sync import CommandBusPool
    from tests.integration.console.browser import World
    from tests.integration.sql_helpers import Bus


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


def give(bus: Bus, world: World, data: str) -> str:
    """Let a sender in another language have sent this; return it as it is stored."""
    statement = (
        "update commandbus.payload_archive set message = pg_catalog.jsonb_set(message, '{data}', %s::jsonb)"
        " where command_id = %s returning message"
    )
    return str(
        bus.value(f"with given as ({statement}) select (message -> 'data')::text from given", data, world.parked[0])
    )


def queued(bus: Bus, world: World) -> str:
    """Return what is in the queue for the command, as it is stored, and let it wait for an operator again."""
    (received,) = (row for row in bus.receive(limit=1000) if row["command_id"] == world.parked[0])
    data = bus.value("select (message -> 'data')::text from pgmq.q_pay__commands where msg_id = %s", received["msg_id"])
    bus.settle([received], "TROUBLESHOOT", **errors(1, "PERMANENT"))
    return str(data)


def area(browser: Browser, world: World) -> str:
    """Return what the form has in it, as a browser would send it."""
    (text,) = re.findall(r"<textarea[^>]*>\n(.*?)</textarea>", browser.get(address(world)).text, re.DOTALL)
    return html.unescape(text).replace("\n", "\r\n")


def exactly(text: str) -> Any:
    """Return the value of a JSON text, its numbers as they are written."""
    return json.loads(text, parse_float=str, parse_int=str)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
NUMBERS = (
    st.decimals(allow_nan=False, allow_infinity=False).map(JsonNumber)
    | st.sampled_from([JsonNumber(text) for text in ODD_NUMBERS if len(text) < 1_000 and text != "1e131071"])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers()
)
VALUES = st.recursive(
    NUMBERS | TEXT | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.dictionaries(TEXT, VALUES, max_size=6))
def test_what_is_saved_untouched_is_stored_as_it_was(
    operator: Browser, world: World, direct_url: str, data: dict[str, Any]
) -> None:
    with open_bus(direct_url) as bus:
        before = give(bus, world, write_json(data, json.JSONEncoder()))
        assert operator.post(address(world), {"data": area(operator, world)}).status_code == 302
        assert queued(bus, world) == before


def test_numbers_are_stored_as_they_were_typed_and_shown_as_they_are_stored(
    operator: Browser, world: World, direct_url: str
) -> None:
    page = f"/commands/{DOMAIN}/{world.parked[0]}?payload=on"
    with open_bus(direct_url) as bus:
        for number in (*ODD_NUMBERS, LARGEST):
            give(bus, world, '{"price": 0.10, "kept": 1.000000000000000000001}')
            typed = area(operator, world).replace("0.10", number)
            assert operator.post(address(world), {"data": typed, "reason": "typing error"}).status_code == 302
            shown, told = html.unescape(operator.get(page).text), exactly(operator.get(f"/api{page}").text)
            audit = exactly(operator.get("/api/audit?event=OPERATOR_EDIT").text)["events"][0]
            audited = bus.value(
                "select details::text from commandbus.audit where audit_id = %s", int(audit["audit_id"])
            )
            stored = bus.value("select %s::numeric::text", number)
            assert queued(bus, world) == f'{{"kept": 1.000000000000000000001, "price": {stored}}}'
            waiting = exactly(operator.get(f"/api/troubleshooting/commands?domain={DOMAIN}").text)["commands"]

            before, after = ({"kept": "1.000000000000000000001", "price": price} for price in ("0.10", stored))
            events = [event["details"] for event in told["events"] if event["event_type"] == "OPERATOR_EDIT"]
            for details in (exactly(audited), events[-1], audit["details"]):
                assert (details["before"], details["after"]) == (before, after)
            assert told["payload"] == after
            assert after in [item["payload"] for item in waiting]
            assert '>-   "price": 0.10\n<' in shown
            assert f'>+   "price": {stored}\n<' in shown
            assert f'{{\n  "kept": 1.000000000000000000001,\n  "price": {stored}\n}}</pre>' in shown


def test_a_number_that_cannot_be_stored_is_refused_beside_the_field(
    operator: Browser, world: World, sync_pool: CommandBusPool
) -> None:
    before = CommandBus(sync_pool).query_audit(limit=1000)
    for number in TOO_LONG:
        answer = operator.post(address(world), {"data": f'{{"price": {number}}}'})
        assert answer.status_code == 422
        assert 'id="data-wrong"' in answer.text
        assert "has numbers of too many digits: at most 131,072 digits before the point" in answer.text
    assert CommandBus(sync_pool).query_audit(limit=1000) == before


def test_a_program_may_edit_with_exact_numbers_too(operator: Browser, world: World, direct_url: str) -> None:
    headers = {"X-CSRF-Token": operator.csrf_token(), "Content-Type": "application/json"}
    body = '{"data": {"price": 0.1000000000000000055, "many": 1e131071}}'
    answer = operator.open(f"/api{address(world)}", method="POST", data=body, headers=headers)
    assert answer.status_code == 200
    with open_bus(direct_url) as bus:
        assert queued(bus, world) == f'{{"many": 1{"0" * 131_071}, "price": 0.1000000000000000055}}'


def test_the_model_sees_numbers_as_its_handler_will(checked: Browser, world: World, sync_pool: CommandBusPool) -> None:
    answer = checked.post(address(world), {"data": f'{{"amount": {"9" * 5_000}, "currency": "EUR"}}'})
    assert answer.status_code == 422
    assert "holds a number that is too large" in answer.text
    answer = checked.post(address(world), {"data": '{"amount": 1.5, "currency": "EUR"}'})
    assert "valid integer" in answer.text
    amount = "7.000000000000000000001"  # which a handler in Python gets as 7.0, and so as an integer
    assert checked.post(address(world), {"data": f'{{"amount": {amount}, "currency": "EUR"}}'}).status_code == 302
    message = CommandBus(sync_pool).get_message(DOMAIN, world.parked[0], exact=True)
    assert message is not None
    assert message.data["amount"] == JsonNumber(amount)


def test_what_is_sent_is_stored_as_it_was_typed(operator: Browser, world: World) -> None:
    data = {"domain": DOMAIN, "type": "DebitAccount", "data": '{"price": 0.1000000000000000055}'}
    sent = operator.post("/send", data).headers["Location"]
    assert world.parked
    assert exactly(operator.get(f"/api{sent}?payload=on").text)["payload"] == {"price": "0.1000000000000000055"}


def test_a_result_is_stored_as_it_was_typed(operator: Browser, world: World) -> None:
    chosen = {"command": f"{DOMAIN}/{world.parked[0]}", "result": '{"paid": 0.1000000000000000055}'}
    operator.post("/troubleshooting/complete", chosen)
    assert "0.1000000000000000055" in operator.get(f"/commands/{DOMAIN}/{world.parked[0]}").text


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
                 '{"a":' * 70 + "1" + "}" * 70, '{"a": [{"b": 1, "b": 1}]}'):  # fmt: skip
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
