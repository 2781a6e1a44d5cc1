"""Decisions of an operator in a browser: retry, cancel, complete, edit-and-retry, and what is told about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.e2e.console import console_worker
from tests.e2e.handlers import DOMAIN
from tests.integration.console.browser import CANARY
from tests.integration.console.test_decisions import park
from tests.integration.sql_helpers import Bus, errors, open_bus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.e2e.browser import Windows
    from tests.integration.console.browser import World


@pytest.fixture
def bus(database_url: str) -> Iterator[Bus]:
    """A look behind the console."""
    with open_bus(database_url) as bus:
        bus.create_domain()
        yield bus


def decide(page: Page, verb: str, reason: str = "") -> None:
    """Decide about what is chosen, and say yes when asked."""
    page.get_by_role("textbox", name="Reason").fill(reason)
    page.get_by_role("button", name=verb, exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name=verb, exact=True).click()


def test_a_group_leads_to_its_commands_and_a_selection_of_them_is_retried(
    console_url: str, bus: Bus, page: Page
) -> None:
    ids = park(bus, 5)
    page.goto(f"{console_url}/troubleshooting")
    page.get_by_role("link", name="Ship", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Ship")
    for number in (0, 1):
        page.locator("[data-rows] input[type=checkbox]").nth(number).check()
    expect(page.get_by_text("2 chosen")).to_be_visible()
    decide(page, "Retry", "the stock came")
    expect(page.get_by_role("status")).to_contain_text("Retried 2 commands")
    expect(page.locator("[data-rows] tr")).to_have_count(3)
    retried = [one for one in ids if bus.status(one) == "PENDING"]
    assert len(retried) == 2
    page.goto(f"{console_url}/commands/{DOMAIN}/{retried[0]}")
    expect(page.get_by_role("region", name="Timeline")).to_contain_text("the stock came")


def test_nothing_is_decided_unasked_while_scripts_are_on_their_way(console_url: str, bus: Bus, page: Page) -> None:
    [parked] = park(bus, 1)
    page.route("**/js/main.js*", lambda route: route.abort())
    page.goto(f"{console_url}/commands/{DOMAIN}/{parked}")
    page.get_by_label("Reason").fill("in a hurry")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("for good?")
    assert bus.status(parked) == "IN_TROUBLESHOOTING_QUEUE"
    page.get_by_role("dialog").get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("Canceled 1 command")


def test_all_of_a_page_and_a_range_are_chosen_at_once(console_url: str, bus: Bus, page: Page) -> None:
    park(bus, 5)
    page.goto(f"{console_url}/troubleshooting/commands")
    boxes = page.locator("[data-rows] input[type=checkbox]")
    boxes.nth(1).check()
    boxes.nth(3).click(modifiers=["Shift"])
    expect(page.get_by_text("3 chosen")).to_be_visible()
    page.get_by_label("Choose all on this page").check()
    expect(page.get_by_text("5 chosen")).to_be_visible()
    page.get_by_label("Choose all on this page").uncheck()
    expect(page.get_by_text("Choose commands, then decide")).to_be_visible()


def test_a_whole_group_is_canceled_with_a_reason_and_not_without(
    console_url: str, bus: Bus, page: Page, screenshot: Callable[[Page, str], None]
) -> None:
    ids = park(bus, 60)
    page.goto(f"{console_url}/troubleshooting")
    page.get_by_role("link", name="Ship", exact=True).click()
    expect(page.locator("[data-rows] tr")).to_have_count(50)
    page.get_by_label("The whole group").check()
    reason = page.get_by_role("textbox", name="Reason")
    reason.fill(" ")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator("#reason-wrong")).to_have_text("is missing")
    expect(page.get_by_role("dialog")).to_be_hidden()  # what cannot be done is not asked about
    expect(reason).to_be_focused()
    expect(reason).to_have_accessible_description("is missing")
    screenshot(page, "console-reason-missing-1280-light")
    reason.press_sequentially("t")
    expect(page.locator("#reason-wrong")).to_have_count(0)
    expect(page.get_by_label("The whole group")).to_be_checked()
    assert bus.status(ids[0]) == "IN_TROUBLESHOOTING_QUEUE"
    decide(page, "Cancel", "the customer is gone")
    expect(page.get_by_role("status")).to_contain_text("Canceled 60 commands")
    expect(page.get_by_text("Nothing of this group waits any more").first).to_be_visible()
    assert {bus.status(one) for one in ids} == {"CANCELED"}


def test_without_scripts_the_server_refuses_a_cancel_without_a_reason(
    console_url: str, bus: Bus, open_page: Windows
) -> None:
    ids = park(bus, 2)
    page = open_page(scripts=False)
    page.goto(f"{console_url}/troubleshooting/commands")
    page.locator("[data-rows] input[type=checkbox]").first.check()
    with page.expect_response("**/troubleshooting/cancel") as answer:
        page.get_by_role("button", name="Cancel", exact=True).click()
    assert answer.value.status == 422
    expect(page.locator("#reason-wrong")).to_have_text("is missing")
    expect(page.locator("[data-rows] input[type=checkbox]").first).to_be_checked()
    assert {bus.status(one) for one in ids} == {"IN_TROUBLESHOOTING_QUEUE"}


def test_who_goes_back_at_the_question_changes_nothing(console_url: str, bus: Bus, page: Page) -> None:
    (command_id,) = park(bus, 1)
    page.goto(f"{console_url}/troubleshooting")
    page.get_by_role("button", name="Retry all of Ship").click()
    page.get_by_role("dialog").get_by_role("button", name="Go back").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert bus.status(command_id) == "IN_TROUBLESHOOTING_QUEUE"
    page.get_by_role("button", name="Retry all of Ship").click()
    page.keyboard.press("Escape")
    assert bus.status(command_id) == "IN_TROUBLESHOOTING_QUEUE"
    page.get_by_label("Reason").fill("the stock came")
    page.get_by_role("button", name="Retry all of Ship").click()
    expect(page.get_by_role("dialog")).to_contain_text("Queue the only command of this group again?")
    page.get_by_role("dialog").get_by_role("button", name="Retry all").click()
    expect(page.get_by_role("status")).to_contain_text("Retried 1 command")
    expect(page.get_by_text("Nothing waits for you")).to_be_visible()
    assert bus.status(command_id) == "PENDING"
    assert bus.value("select details ->> 'reason' from commandbus.audit where event_type = 'OPERATOR_RETRY'") == (
        "the stock came"
    )


def test_a_whole_group_is_retried_though_more_joined_it_at_the_question(console_url: str, bus: Bus, page: Page) -> None:
    ids = park(bus, 2)
    page.goto(f"{console_url}/troubleshooting")
    page.get_by_role("button", name="Retry all of Ship").click()
    for count in (4, 6):  # the second is fetched while the question is open, whenever the first was
        with page.expect_response(page.url):
            ids += park(bus, 2)
            expect(page.locator("nav:visible [data-number=troubleshooting]")).to_have_text(str(count))
    page.get_by_role("dialog").get_by_role("button", name="Retry all").click()
    expect(page.get_by_role("status")).to_contain_text("Retried 6 commands")
    assert {bus.status(one) for one in ids} == {"PENDING"}


def test_a_question_whose_button_is_gone_says_that_nothing_was_done(console_url: str, bus: Bus, page: Page) -> None:
    (command_id,) = park(bus, 1)
    page.goto(f"{console_url}/troubleshooting")
    page.get_by_role("button", name="Retry all of Ship").click()
    page.evaluate("document.querySelector('[data-rows]').replaceChildren()")  # as a host's own script might
    page.get_by_role("dialog").get_by_role("button", name="Retry all").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was done")
    assert bus.status(command_id) == "IN_TROUBLESHOOTING_QUEUE"


def test_a_command_is_completed_with_a_result(console_url: str, bus: Bus, page: Page) -> None:
    (command_id,) = park(bus, 1)
    page.goto(f"{console_url}/commands/{DOMAIN}/{command_id}")
    page.get_by_text("Complete…").click()
    page.get_by_label("Result for the reply").fill("{no json")
    decide(page, "Complete")
    expect(page.locator("#result-wrong")).to_be_visible()
    assert bus.status(command_id) == "IN_TROUBLESHOOTING_QUEUE"
    page.get_by_label("Result for the reply").fill('{"shipped": "by hand"}')
    decide(page, "Complete")
    expect(page.get_by_role("status")).to_contain_text("Completed 1 command")
    expect(page.locator("main .badge").first).to_have_text("Completed")
    expect(page.get_by_role("region", name="Timeline")).to_contain_text("Operator completed")
    expect(page.get_by_role("region", name="Reply")).to_contain_text('"shipped": "by hand"')


def test_chosen_groups_are_decided_about_together(console_url: str, bus: Bus, page: Page) -> None:
    ids = park(bus, 3) + park(bus, 2, kind="Print", code="OUT_OF_PAPER")
    page.goto(f"{console_url}/troubleshooting")
    page.get_by_label("Choose all groups").check()
    page.get_by_role("textbox", name="Reason").fill("the customer is gone")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("Give all 5 commands of the chosen groups up for good?")
    page.get_by_role("dialog").get_by_role("button", name="Go back").click()
    decide(page, "Retry")
    expect(page.get_by_role("status")).to_contain_text("Retried 5 commands")
    assert {bus.status(one) for one in ids} == {"PENDING"}


def test_edited_data_must_fit_the_handler_s_model_and_the_timeline_shows_the_difference(
    console_url: str,
    world: World,
    page: Page,
    bus: Bus,
    screenshot: Callable[[Page, str], None],
    database_url: str,
    tmp_path: Path,
) -> None:
    command_id = world.parked[0]
    page.goto(f"{console_url}/commands/{DOMAIN}/{command_id}")
    page.get_by_role("link", name="Edit and retry").click()
    field = page.get_by_label("Payload, a JSON object")
    expect(field).to_contain_text(CANARY)
    for text, problem in (
        ("{no json", "JSON"),
        ('{"amount": -5, "currency": "EUR"}', "greater than 0"),
        ('{"amount": 5}', "currency"),
    ):
        field.fill(text)
        page.get_by_role("button", name="Save and retry").click()
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_value(text)
        expect(page.locator("form:has(#field-data)")).to_contain_text(problem)
    screenshot(page, "console-edit-refused-1280-light")
    assert bus.status(command_id) == "IN_TROUBLESHOOTING_QUEUE"
    field.fill('{"amount": 5, "currency": "EUR"}')
    page.get_by_label("Reason, for the audit").fill("the amount was missing")
    page.get_by_role("button", name="Save and retry").click()
    expect(page.get_by_role("status")).to_be_visible()
    change = page.get_by_label("What was changed")
    expect(change).to_contain_text('+   "amount": 5')
    expect(change).to_contain_text("-")
    expect(page.get_by_role("region", name="Timeline")).to_contain_text("the amount was missing")
    with console_worker(database_url, tmp_path / "worker.log"):
        expect(page.locator("main .badge").first).to_have_text("Completed")


def test_a_decision_that_came_too_late_is_told(console_url: str, bus: Bus, page: Page) -> None:
    (command_id,) = park(bus, 1)
    page.goto(f"{console_url}/commands/{DOMAIN}/{command_id}")
    page.get_by_role("textbox", name="Reason").fill("too late")  # what somebody is at does not change under them
    bus.call("sp_operator_cancel", domain=DOMAIN, command_ids=[command_id], reason="was first")
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("0 commands")
    expect(page.locator("main .badge").first).to_have_text("Canceled")


def test_an_open_command_offers_what_can_be_decided_now(console_url: str, bus: Bus, page: Page) -> None:
    (command_id,) = park(bus, 1)
    page.goto(f"{console_url}/commands/{DOMAIN}/{command_id}")
    expect(page.locator("[data-live-words]")).to_have_text("Live")
    expect(page.get_by_text("It waits for your decision.")).to_be_visible()
    bus.call("sp_operator_retry", domain=DOMAIN, command_ids=[command_id], operator="grace")
    expect(page.get_by_text("It waits for your decision.")).to_be_hidden(timeout=20_000)
    bus.settle(bus.receive(), "TROUBLESHOOT", **errors(1, "PERMANENT"))
    bus.send_new(1)  # as a worker's beat would, it lets the numbers differ from those before the retry
    expect(page.get_by_text("It waits for your decision.")).to_be_visible(timeout=20_000)
    decide(page, "Cancel", "not needed")
    expect(page.get_by_role("status")).to_contain_text("Canceled 1 command")
