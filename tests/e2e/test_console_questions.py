"""What the console asks about before it does it: what is hard to take back, and never the retry of one command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.e2e.handlers import DOMAIN
from tests.e2e.test_console_decisions import bus
from tests.integration.console.test_decisions import park

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.e2e.browser import Windows
    from tests.integration.sql_helpers import Bus

__all__ = ["bus"]


def ask_and_go_back(page: Page, button: str, question: str) -> None:
    """Press a button, read its question, and go back."""
    page.get_by_role("button", name=button, exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(question)
    dialog.get_by_role("button", name="Go back").click()
    expect(dialog).to_be_hidden()


def test_retrying_one_command_asks_nothing(console_url: str, bus: Bus, page: Page) -> None:
    ids = park(bus, 3)
    retried = page.get_by_role("status").filter(has_text="Retried 1 command")
    page.goto(f"{console_url}/commands/{DOMAIN}/{ids[0]}")
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(retried).to_be_visible()
    page.goto(f"{console_url}/troubleshooting/commands")
    page.get_by_role("button", name="Retry Ship").first.click()
    expect(retried).to_be_visible()
    expect(page.locator("[data-rows] tr")).to_have_count(1)
    page.locator("[data-rows] input[type=checkbox]").check()
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.get_by_text("Nothing waits for you")).to_be_visible()
    assert {bus.status(one) for one in ids} == {"PENDING"}


def test_enter_in_a_field_is_no_answer(console_url: str, bus: Bus, page: Page) -> None:
    (command_id,) = park(bus, 1)
    for path in (f"/commands/{DOMAIN}/{command_id}", "/troubleshooting/commands"):
        page.goto(console_url + path)
        for box in page.locator("[data-rows] input[type=checkbox]").all():
            box.check()
        page.get_by_label("Reason").fill("give it up")
        page.get_by_label("Reason").press("Enter")  # browsers press the first button of the form, which retries
        expect(page.get_by_role("dialog")).to_contain_text("Queue ")
        page.get_by_role("dialog").get_by_role("button", name="Go back").click()
    assert bus.status(command_id) == "IN_TROUBLESHOOTING_QUEUE"


def test_what_ends_a_command_and_what_holds_for_groups_or_many_is_asked_about(
    console_url: str, bus: Bus, page: Page
) -> None:
    ids = park(bus, 1)
    page.goto(f"{console_url}/commands/{DOMAIN}/{ids[0]}")
    page.get_by_label("Reason").fill("by hand")
    ask_and_go_back(page, "Cancel", "Give this command up for good?")
    page.get_by_text("Complete…").click()
    ask_and_go_back(page, "Complete", "Complete this command for good?")
    page.goto(f"{console_url}/troubleshooting")
    page.get_by_label("Choose all groups").check()
    ask_and_go_back(page, "Retry", "Queue 1 command of the chosen groups again?")  # more may have joined it
    page.get_by_role("link", name="Ship", exact=True).click()
    page.get_by_label("The whole group").check()
    ask_and_go_back(page, "Retry", "Queue 1 command again?")
    ids += park(bus, 1)
    page.goto(f"{console_url}/troubleshooting/commands")
    page.get_by_label("Choose all on this page").check()
    ask_and_go_back(page, "Retry", "Queue 2 commands again?")
    page.get_by_text("Complete…").click()
    ask_and_go_back(page, "Complete", "Complete 2 commands for good?")
    assert {bus.status(one) for one in ids} == {"IN_TROUBLESHOOTING_QUEUE"}


def test_a_redrive_is_asked_about_wherever_it_is_started(console_url: str, bus: Bus, page: Page) -> None:
    park(bus, 3)
    page.goto(f"{console_url}/troubleshooting")
    page.get_by_label("Choose all groups").check()
    page.get_by_text("Redrive…").click()
    page.get_by_label("Commands per second").fill("fast")
    start = "Start the redrive"
    ask_and_go_back(page, start, "Let workers queue all 3 commands of the chosen groups again, little by little?")
    page.get_by_role("button", name=start).click()
    page.get_by_role("dialog").get_by_role("button", name=start).click()
    expect(page.locator("#rate-wrong")).to_be_visible()
    page.get_by_label("Commands per second").fill("4")
    ask_and_go_back(page, start, "Let workers queue these 3 commands again, little by little?")
    page.goto(f"{console_url}/redrives/new")
    page.get_by_role("button", name=start).click()
    expect(page.locator("#domain-wrong")).to_have_text("is missing")  # what cannot be done is not asked about
    page.get_by_label("Domain").select_option(DOMAIN)
    ask_and_go_back(page, start, "Let workers queue all that waits in the domain again, little by little?")
    assert bus.value("select pg_catalog.count(*) from commandbus.redrive") == 0


def test_without_scripts_the_same_buttons_do_what_they_say(console_url: str, bus: Bus, open_page: Windows) -> None:
    first, second, third = park(bus, 3)
    page = open_page(scripts=False)
    for command_id, verb in ((first, "Complete"), (second, "Retry")):
        page.goto(f"{console_url}/commands/{DOMAIN}/{command_id}")
        page.locator("summary", has_text="Complete…").click()
        page.get_by_role("button", name=verb, exact=True).click()
        expect(page.get_by_role("status")).to_contain_text("1 command")
    page.goto(f"{console_url}/redrives/new?domain={DOMAIN}")
    page.get_by_role("button", name="Start the redrive").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Redrive of {DOMAIN}")
    assert [bus.status(one) for one in (first, second, third)] == ["COMPLETED", "PENDING", "IN_TROUBLESHOOTING_QUEUE"]
