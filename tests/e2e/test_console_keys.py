"""The keyboard: what operators do without a mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.integration.console.test_decisions import park
from tests.integration.sql_helpers import open_bus

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.integration.console.browser import World


def open_for_keys(page: Page, url: str) -> None:
    """Open a page, and wait until its keys do something."""
    page.goto(url)
    wait_for_keys(page)


def wait_for_keys(page: Page) -> None:
    """Wait until the scripts run: they show the hint."""
    expect(page.locator("[data-keys-hint]")).to_be_visible()


def test_a_slash_leads_to_the_search_and_escape_out_of_it(console_url: str, world: World, page: Page) -> None:
    open_for_keys(page, f"{console_url}/queues")
    page.keyboard.press("/")
    expect(page.get_by_label("Command id")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(page.locator("[data-rows] tr[aria-current=true]")).to_have_count(1)
    page.keyboard.press("/")
    page.keyboard.type(str(world.parked[0]))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("DebitAccount")


def test_rows_are_walked_chosen_and_opened(console_url: str, world: World, page: Page) -> None:
    assert len(world.parked) == 2
    open_for_keys(page, f"{console_url}/troubleshooting/commands")
    rows = page.locator("[data-rows] tr")
    for key, row in (("j", 0), ("j", 1), ("j", 1), ("k", 0), ("k", 0)):
        page.keyboard.press(key)
        expect(rows.nth(row)).to_have_attribute("aria-current", "true")
        expect(page.locator("[data-rows] tr[aria-current=true]")).to_have_count(1)
    page.keyboard.press("x")
    expect(rows.nth(0).get_by_role("checkbox")).to_be_checked()
    page.keyboard.press("x")
    expect(rows.nth(0).get_by_role("checkbox")).not_to_be_checked()
    href = rows.nth(0).locator("a[data-open]").get_attribute("href")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("DebitAccount")
    assert page.url.endswith(href or "?")


def test_r_retries_the_row_then_what_is_chosen_and_e_edits(console_url: str, database_url: str, page: Page) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        park(bus, 4)
    open_for_keys(page, f"{console_url}/troubleshooting/commands")
    page.keyboard.press("j")
    page.keyboard.press("r")
    expect(page.get_by_role("status")).to_contain_text("Retried 1 command")
    wait_for_keys(page)
    for key in ("j", "x", "j", "x", "r"):
        page.keyboard.press(key)
    expect(page.get_by_role("dialog")).to_contain_text("Queue 2 commands again?")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Retried 2 commands")
    wait_for_keys(page)
    page.keyboard.press("j")
    page.keyboard.press("e")
    expect(page.get_by_role("heading", level=1)).to_have_text("Edit and retry Ship")


def test_a_question_mark_shows_the_keys_and_none_works_behind_it(console_url: str, world: World, page: Page) -> None:
    assert world.parked
    open_for_keys(page, f"{console_url}/commands")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("j")
    expect(page.locator("[data-rows] tr[aria-current=true]")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_pages_are_turned_by_keys(console_url: str, database_url: str, page: Page) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        bus.send_new(60)
    open_for_keys(page, f"{console_url}/commands")
    page.keyboard.press("n")
    expect(page.locator("[data-rows] tr")).to_have_count(10)
    wait_for_keys(page)
    page.keyboard.press("p")
    expect(page.locator("[data-rows] tr")).to_have_count(50)


def test_the_first_tab_leads_past_the_navigation(console_url: str, page: Page) -> None:
    open_for_keys(page, f"{console_url}/send")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("navigation", name="One or many").get_by_role("link").first).to_be_focused()
