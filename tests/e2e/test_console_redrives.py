"""Redrives in a browser, carried out by a real worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.e2e.console import console_worker
from tests.integration.console.test_decisions import park
from tests.integration.sql_helpers import open_bus

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = pytest.mark.timeout(120)


def start(page: Page, rate: str, stop_after: str = "") -> None:
    """Start a redrive of the only group, and say yes when asked."""
    page.get_by_role("checkbox").nth(1).check()
    page.get_by_text("Redrive…").click()
    page.get_by_label("Commands per second").fill(rate)
    page.get_by_label("Stop after failures").fill(stop_after)
    say_yes(page)


def say_yes(page: Page) -> None:
    """Start what the page would, and say yes when asked."""
    page.get_by_role("button", name="Start the redrive").click()
    page.get_by_role("dialog").get_by_role("button", name="Start the redrive").click()


def test_a_redrive_is_started_watched_paused_resumed_and_stopped(
    console_url: str, database_url: str, page: Page, tmp_path: Path
) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        park(bus, 80)
    page.goto(f"{console_url}/troubleshooting")
    start(page, "fast")
    expect(page.locator("#rate-wrong")).to_be_visible()
    page.get_by_label("Commands per second").fill("4")
    page.get_by_label("Reason, for the audit").fill("the stock came")
    say_yes(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("Redrive of pay")
    expect(page.get_by_text("No worker of pay runs")).to_be_visible()
    page.evaluate("document.title = 'not loaded again'")
    progress = page.get_by_role("region", name="Progress")
    completed = progress.locator("div:has(> dt:text-is('Completed')) dd")
    expect(completed).to_have_text("0")
    with console_worker(database_url, tmp_path / "worker.log"):
        expect(completed).not_to_have_text("0")  # live
        assert page.title() == "not loaded again"
        page.get_by_label("Reason").fill("a break")
        page.get_by_role("button", name="Pause").click()
        badge = page.locator("main .badge").first
        expect(badge).to_have_text("Paused")
        page.get_by_role("button", name="Resume").click()
        expect(badge).to_have_text("Running")
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("dialog").get_by_role("button", name="Stop").click()
        expect(badge).to_have_text("Stopped")
    history = page.get_by_role("region", name="History")
    expect(history).to_contain_text("a break")
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()
    page.get_by_role("link", name="Redrives").first.click()
    expect(page.locator("[data-rows] tr")).to_have_count(1)
    expect(page.locator("[data-rows] tr")).to_contain_text("the stock came")


def test_a_domain_is_redriven_from_the_page_of_what_waits(console_url: str, database_url: str, page: Page) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        park(bus, 3)
        park(bus, 4, kind="Print", code="OUT_OF_PAPER")
    page.goto(f"{console_url}/troubleshooting")
    page.get_by_role("link", name="Redrive a domain").click()
    page.get_by_role("button", name="Start the redrive").click()
    expect(page.locator("#domain-wrong")).to_be_visible()
    page.get_by_label("Domain").select_option("pay")
    page.get_by_label("Reason, for the audit").fill("all is mended")
    say_yes(page)
    expect(page.get_by_role("region", name="Progress")).to_contain_text("0 of 7 queued again")
    expect(page.get_by_role("region", name="Progress")).to_contain_text("all is mended")


def test_stop_holds_though_the_page_follows_what_happens_while_it_asks(
    console_url: str, database_url: str, page: Page, tmp_path: Path
) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        park(bus, 80)
    page.goto(f"{console_url}/troubleshooting")
    start(page, "1")
    page.get_by_role("button", name="Stop").click()
    with console_worker(database_url, tmp_path / "worker.log"):
        for _ in range(2):  # the second is fetched while the question is open, whenever the first was
            with page.expect_response(page.url):
                pass
        page.get_by_role("dialog").get_by_role("button", name="Stop").click()
        expect(page.locator("main .badge").first).to_have_text("Stopped")


def test_who_goes_back_at_a_question_sees_what_happened_meanwhile(
    console_url: str, database_url: str, page: Page
) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        park(bus, 80)
        page.goto(f"{console_url}/troubleshooting")
        start(page, "1")
        warning = page.get_by_text("No worker of pay runs")
        expect(warning).to_be_visible()
        page.get_by_role("button", name="Stop").click()
        with page.expect_response(page.url):
            bus.run(
                "insert into commandbus.worker (worker_id, domain, host, pid, concurrency)"
                " values (gen_random_uuid(), 'pay', 'here', 7, 4)"
            )
        expect(warning).to_be_visible()
        page.get_by_role("dialog").get_by_role("button", name="Go back").click()
        expect(warning).to_be_hidden()


def test_a_redrive_ends_by_itself_when_as_many_fail_again(
    console_url: str, database_url: str, page: Page, tmp_path: Path
) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
        park(bus, 100, kind="Print", code="OUT_OF_PAPER")
    with console_worker(database_url, tmp_path / "worker.log"):
        page.goto(f"{console_url}/troubleshooting")
        start(page, "5", "3")
        expect(page.locator("main .badge").first).to_have_text("Stopped", timeout=45_000)
    expect(page.get_by_role("region", name="Progress")).to_contain_text("stops at 3")
