"""Refused forms in a browser: they are reloaded, left and come back to as any page, and nothing is sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.e2e.handlers import DOMAIN
from tests.e2e.test_console_decisions import bus, decide
from tests.integration.console.test_decisions import park

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.integration.sql_helpers import Bus

__all__ = ["bus"]

COMPLETE = ("Complete…", {"Reason": "done by hand", "Result for the reply": "{no json"}, "Complete")
REDRIVE = ("Redrive…", {"Reason": "the stock came", "Commands per second": "fast"}, "Start the redrive")
FORMS = {
    "command": ("/commands/{command}", *COMPLETE),
    "edit": ("/commands/{command}/edit", "", {"Payload": "{no json", "Reason": "a slip"}, "Save and retry"),
    "groups": ("/troubleshooting?domain=pay", *COMPLETE),
    "waiting": ("/troubleshooting/commands", *REDRIVE),
    "redrive": ("/redrives/new?domain=pay", "", {"Commands per second": "fast"}, "Start the redrive"),
    "queue": ("/queues/pay", "", {"Reason": "x" * 2_001}, "Pause pay"),
    "send": ("/send", "", {"Domain": "pay", "Type": "Ship", "Data": "{no json"}, "Send"),
    "send-many": ("/send/bulk", "", {"Domain": "pay", "Type": "Ship", "Copies of it": "many"}, "Send all"),
}


@pytest.mark.parametrize(("path", "opener", "fields", "button"), FORMS.values(), ids=FORMS)
def test_a_refused_form_is_reloaded_and_come_back_to_with_its_entries(
    console_url: str, bus: Bus, page: Page, path: str, opener: str, fields: dict[str, str], button: str
) -> None:
    (command_id,) = park(bus, 1)
    methods: list[str] = []
    page.goto(console_url + path.format(command=f"{DOMAIN}/{command_id}"))
    for box in page.locator("[data-rows] input[type=checkbox]").all():
        box.check()
    if opener:
        page.get_by_text(opener).click()
    for label, text in fields.items():
        page.get_by_label(label).first.fill(text)

    def has_entries() -> None:
        for label, text in fields.items():
            expect(page.get_by_label(label).first).to_have_value(text)

    page.get_by_role("button", name=button, exact=True).click()
    if page.get_by_role("dialog").is_visible():
        page.get_by_role("dialog").get_by_role("button", name=button).click()
    expect(page.locator("main .wrong").first).to_be_attached()
    page.wait_for_load_state()
    has_entries()
    page.on("request", lambda request: methods.append(request.method) if request.is_navigation_request() else None)
    for go in (page.reload, page.go_back, page.go_forward):
        answer = go()
        assert answer is not None
        assert answer.status == 200
        expect(page.locator("main .wrong")).to_have_count(0)
        has_entries()
    assert methods == ["GET"] * 3
    assert bus.status(command_id) == "IN_TROUBLESHOOTING_QUEUE"


def test_who_comes_back_after_a_decision_finds_nothing_chosen(console_url: str, bus: Bus, page: Page) -> None:
    park(bus, 4)
    page.goto(f"{console_url}/troubleshooting/commands")
    boxes = page.locator("[data-rows] input[type=checkbox]")
    boxes.nth(0).check()
    boxes.nth(2).check()
    decide(page, "Retry")
    expect(page.get_by_role("status")).to_contain_text("Retried 2 commands")
    page.go_back()
    expect(boxes).to_have_count(2)
    page.wait_for_load_state()
    assert [box.is_checked() for box in boxes.all()] == [False, False]  # they are others than those that were chosen
