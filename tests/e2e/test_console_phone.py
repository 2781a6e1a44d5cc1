"""The console on a phone: rows say in a second line what has no column there, and groups are decided about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.e2e.browser import DESKTOP, PHONE
from tests.e2e.handlers import DOMAIN
from tests.e2e.test_console_decisions import bus
from tests.integration.console.test_decisions import park

if TYPE_CHECKING:
    from playwright.sync_api import Locator

    from tests.e2e.browser import Windows
    from tests.integration.console.browser import World
    from tests.integration.sql_helpers import Bus

__all__ = ["bus"]


def is_on_screen(found: Locator) -> bool:
    """Return whether a part of a page is wholly within the width of its window."""
    box, size = found.bounding_box(), found.page.viewport_size
    assert box is not None
    assert size is not None
    return box["x"] >= 0 and box["x"] + box["width"] <= size["width"]


def test_rows_of_commands_say_what_failed(console_url: str, world: World, open_page: Windows) -> None:
    page = open_page(PHONE)
    for path in (f"/commands?status=IN_TROUBLESHOOTING_QUEUE&domain={DOMAIN}", f"/batches/{DOMAIN}/{world.batches[0]}"):
        page.goto(console_url + path)
        code = page.locator("[data-rows] tr").filter(has_text="Troubleshooting").first.get_by_text("ACCOUNT_CLOSED")
        expect(code.locator("visible=true")).to_have_count(1)
        assert is_on_screen(code.locator("visible=true"))
        page.set_viewport_size({"width": DESKTOP[0], "height": DESKTOP[1]})
        expect(code.locator("visible=true")).to_have_count(1)
        page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})


def test_rows_of_the_audit_say_who_decided_and_what_failed(console_url: str, world: World, open_page: Windows) -> None:
    assert world.parked
    page = open_page(PHONE)
    for event, words in (("OPERATOR_CANCEL", "operator ada"), ("MOVED_TO_TSQ", "error code ACCOUNT_CLOSED")):
        page.goto(f"{console_url}/audit?event={event}")
        told = page.locator("[data-rows] tr").first.get_by_text(words).locator("visible=true")
        expect(told).to_have_count(1)
        assert is_on_screen(told), event
        page.set_viewport_size({"width": DESKTOP[0], "height": DESKTOP[1]})
        expect(told).to_have_count(1)
        page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})


def test_all_of_a_group_is_retried(console_url: str, bus: Bus, open_page: Windows) -> None:
    ids = park(bus, 3)
    page = open_page(PHONE)
    page.goto(f"{console_url}/troubleshooting")
    button = page.get_by_role("button", name="Retry all of Ship: NO_STOCK")
    assert is_on_screen(button)
    button.click()
    page.get_by_role("dialog").get_by_role("button", name="Retry all").click()
    expect(page.get_by_role("status")).to_contain_text("Retried 3 commands")
    assert {bus.status(one) for one in ids} == {"PENDING"}
