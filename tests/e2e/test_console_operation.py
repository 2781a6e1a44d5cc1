"""Queues, commands, batches, audit, send and health in a browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.e2e.handlers import DOMAIN
from tests.integration.console.browser import CANARY
from tests.integration.sql_helpers import open_bus

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.integration.console.browser import World

STATUSES = {"PENDING", "COMPLETED", "FAILED", "CANCELED", "IN_TROUBLESHOOTING_QUEUE"}


def open_command(page: Page, url: str, command_id: object) -> None:
    """Go to a command by its id, as by the field at the top."""
    page.goto(url)
    page.get_by_label("Command id").fill(str(command_id))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("DebitAccount")


def test_a_queue_is_paused_with_a_reason_and_resumed(console_url: str, world: World, page: Page) -> None:
    assert world.parked
    page.goto(f"{console_url}/queues")
    page.get_by_role("link", name=DOMAIN, exact=True).click()
    page.get_by_label("Reason for the audit").fill("the bank is away")
    page.get_by_role("button", name="Pause pay").click()
    page.get_by_role("dialog").get_by_role("button", name="Pause pay").click()
    expect(page.get_by_role("status")).to_contain_text("Paused pay")
    expect(page.get_by_text("the bank is away")).to_be_visible()
    page.goto(f"{console_url}/queues")
    expect(page.locator("[data-rows] tr")).to_contain_text("the bank is away")
    page.get_by_role("link", name=DOMAIN, exact=True).click()
    page.get_by_role("button", name="Resume pay").click()
    expect(page.get_by_role("status")).to_contain_text("Resumed pay")
    page.goto(f"{console_url}/audit?event=DOMAIN_PAUSED")
    expect(page.locator("[data-rows] tr")).to_contain_text("the bank is away")


def test_commands_are_found_by_status_text_type_and_conversation(console_url: str, world: World, page: Page) -> None:
    assert world.parked
    page.goto(f"{console_url}/commands")
    rows = page.locator("[data-rows] tr")
    every = rows.count()
    assert every == 9
    found = 0
    for status in sorted(STATUSES):
        page.get_by_label("Status", exact=True).select_option(status)
        page.get_by_role("button", name="Filter").click()
        page.wait_for_url(re.compile(f"status={status}&"))  # and until all of it is there, so that rows can be counted
        found += rows.count()
    assert found == every
    page.get_by_role("link", name="Clear").click()
    for label, text, count in (
        ("Text", "the account was closed", None),
        ("Type", "Debit", 0),
        ("Correlation", "00000000-0000-0000-0000-000000000007", 8),
        ("Sent after", "1h", every),
        ("Sent before", "1h", 0),
        ("Batch", str(world.batches[0]), 8),
    ):
        page.get_by_label(label, exact=True).fill(text)
        page.get_by_role("button", name="Filter").click()
        if count is None:
            expect(rows.first).to_be_visible()
        else:
            expect(rows).to_have_count(count)
        page.get_by_role("link", name="Clear").click()


def test_a_filter_that_cannot_be_read_is_told_beside_its_field(console_url: str, page: Page) -> None:
    page.goto(f"{console_url}/commands")
    page.get_by_label("Sent after").fill("yesterday")
    page.get_by_label("Batch").fill("x")
    page.get_by_role("button", name="Filter").click()
    for name in ("after", "batch"):
        expect(page.locator(f"#field-{name}")).to_have_attribute("aria-describedby", f"{name}-wrong")
        expect(page.locator(f"#{name}-wrong")).to_be_visible()
    expect(page.get_by_label("Sent after")).to_have_value("yesterday")
    expect(page.get_by_text("Nothing was looked up")).to_be_visible()


def test_pages_of_commands_are_turned_there_and_back(console_url: str, database_url: str, page: Page) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        bus.send_new(120)
    page.goto(f"{console_url}/commands?domain={DOMAIN}")
    seen: list[str] = []
    pages = []
    for number, count in enumerate((50, 50, 20)):
        rows = page.locator("[data-rows] tr")
        expect(rows).to_have_count(count)
        pages.append([link.get_attribute("href") or "" for link in rows.locator("a[data-open]").all()])
        seen += pages[-1]
        if number < 2:
            page.get_by_role("link", name="Older").click()
            expect(page.locator("[data-rows] tr a[data-open]").first).not_to_have_attribute("href", pages[-1][0])
    assert len(set(seen)) == 120
    for number in (1, 0):
        page.get_by_role("link", name="Newer").click()
        expect(page.locator("[data-rows] tr a[data-open]").first).to_have_attribute("href", pages[number][0])


def test_pages_of_batches_and_of_the_audit_are_turned(console_url: str, database_url: str, page: Page) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        bus.run(
            "insert into commandbus.batch (domain, batch_id, name, total_count, created_at)"
            " select %s, gen_random_uuid(), 'Batch ' || n, 0, now() - n * interval '1 s'"
            " from generate_series(1, 120) n",
            DOMAIN,
        )
        bus.send_new(250)
    rows = page.locator("[data-rows] tr")
    page.goto(f"{console_url}/batches")
    for step, first, count in (("", 1, 50), ("Older", 51, 50), ("Older", 101, 20), ("Newer", 51, 50), ("Newer", 1, 50)):
        if step:
            page.get_by_role("link", name=step).click()
        expect(rows.first.get_by_role("link", name=f"Batch {first}", exact=True)).to_be_visible()
        expect(rows).to_have_count(count)
    page.goto(f"{console_url}/audit")
    seen = set()
    for count in (100, 100, 50):
        expect(rows).to_have_count(count)
        seen |= {link.get_attribute("href") for link in rows.locator("a[data-open]").all()}
        if len(seen) < 250:
            last = rows.last.locator("a[data-open]").get_attribute("href") or ""
            page.get_by_role("link", name="Older").click()
            expect(rows.locator(f"a[href='{last}']")).to_have_count(0)
    assert len(seen) == 250
    page.get_by_role("link", name="Newest").click()
    expect(page).to_have_url(re.compile("/audit[?]?$"))


def test_a_command_tells_its_story_and_its_payload_when_asked(console_url: str, world: World, page: Page) -> None:
    open_command(page, console_url, world.parked[0])
    assert CANARY not in page.content()
    page.get_by_role("link", name="Load it").click()
    expect(page.get_by_role("region", name="Payload")).to_contain_text(CANARY)
    page.get_by_role("link", name="Hide it").click()
    expect(page.get_by_role("link", name="Load it")).to_be_visible()
    assert CANARY not in page.content()
    expect(page.get_by_role("region", name="Last error")).to_contain_text("the account was closed")
    expect(page.get_by_role("region", name="Attempts").locator("tbody tr")).to_have_count(1)
    expect(page.get_by_role("region", name="Timeline")).to_contain_text("Moved to troubleshooting")
    expect(page.get_by_role("region", name="Same conversation").locator("tbody tr")).to_have_count(7)
    page.get_by_role("region", name="Facts").get_by_role("link", name="Month end").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Month end")


def test_a_batch_shows_how_far_it_is_and_its_commands(console_url: str, world: World, page: Page) -> None:
    assert world.batches
    page.goto(f"{console_url}/batches")
    page.get_by_label("Status", exact=True).select_option("COMPLETED")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_text("No batches here")).to_be_visible()
    page.get_by_role("link", name="Clear").click()
    page.get_by_role("link", name="Month end").click()
    expect(page.locator("[data-rows] tr")).to_have_count(8)
    page.locator("[data-rows] a[data-open]").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("DebitAccount")


def test_the_audit_is_filtered_and_leads_to_the_command(console_url: str, world: World, page: Page) -> None:
    assert world.parked
    page.goto(f"{console_url}/audit")
    page.get_by_label("Event").select_option("OPERATOR_CANCEL")
    page.get_by_role("button", name="Filter").click()
    rows = page.locator("[data-rows] tr")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("asked by the customer")
    rows.get_by_role("link").click()
    expect(page.locator("main .badge").first).to_have_text("Canceled")
    page.goto(f"{console_url}/audit?after=soon")
    expect(page.locator("#after-wrong")).to_be_visible()


@pytest.mark.usefixtures("working")
def test_one_command_is_sent_and_many_are(console_url: str, page: Page) -> None:
    page.goto(f"{console_url}/send")
    page.get_by_label("Domain").fill(DOMAIN)
    page.get_by_label("Type").fill("DebitAccount")
    page.get_by_label("Data, a JSON object").fill("[1]")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#data-wrong")).to_be_visible()
    expect(page.get_by_label("Type")).to_have_value("DebitAccount")
    page.get_by_label("Data, a JSON object").fill('{"amount": 250, "currency": "EUR"}')
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("Sent 1 command.")
    expect(page.locator("main .badge").first).to_have_text("Completed")

    page.goto(f"{console_url}/send")
    page.get_by_role("link", name="Many").click()
    page.get_by_label("Domain").fill(DOMAIN)
    page.get_by_label("Or one command per line").fill('{"command_type": "Ship", "data": {}}\n{"data": 7}')
    page.get_by_role("button", name="Send all").click()
    expect(page.locator("#lines-wrong")).to_contain_text("line 2")
    page.get_by_label("Or one command per line").fill('{"command_type": "Ship", "data": {}}\n' * 3)
    page.get_by_role("button", name="Send all").click()
    expect(page.get_by_role("status")).to_contain_text("Sent 3 commands.")
    page.goto(f"{console_url}/send/bulk")
    page.get_by_label("Domain").fill(DOMAIN)
    page.get_by_label("Type").fill("Ship")
    page.get_by_label("Copies of it").fill("5")
    page.get_by_role("button", name="Send all").click()
    expect(page.get_by_role("status")).to_contain_text("Sent 5 commands.")
    page.goto(f"{console_url}/commands?type=Ship")
    expect(page.locator("[data-rows] tr")).to_have_count(8)


def test_health_examines_and_compares_when_asked(console_url: str, page: Page) -> None:
    page.goto(f"{console_url}/health")
    expect(page.get_by_role("region", name="Migrations")).to_contain_text("V001")
    page.get_by_role("button", name="Examine").click()
    expect(page.get_by_role("region", name="Doctor").get_by_role("listitem").first).to_be_visible()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("region", name="Schema").locator(".badge").first).to_contain_text("difference")


def test_an_id_that_is_none_or_unknown_is_told(console_url: str, page: Page) -> None:
    for text, status in (("x", "400"), ("00000000-0000-0000-0000-000000000001", "404")):
        page.goto(console_url)
        page.get_by_label("Command id").fill(text)
        page.keyboard.press("Enter")
        expect(page.get_by_text(status, exact=True)).to_be_visible()
