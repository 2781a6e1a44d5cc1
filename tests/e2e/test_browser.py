"""The demo in a browser: as people see it, and S017's scenarios as they would carry them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from commandbus.sync import CommandBus, CommandBusPool
from tests.e2e.app.config import DOMAIN
from tests.e2e.browser import DESKTOP, PHONE
from tests.e2e.demo import Visitor, quick, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

    from tests.e2e.browser import Windows

COMMANDS = 10_000
PAGES = {
    "overview": "/",
    "test-commands": "/test-commands",
    "new": "/test-commands/new",
    "generate": "/test-commands/bulk",
    "settings": "/settings",
}


def test_the_home_page_loads_with_a_sidebar_that_leads_to_every_page(demo_url: str, page: Page) -> None:
    page.goto(demo_url)
    sidebar = page.get_by_role("navigation", name="Pages", exact=True)
    for label in ("Test commands", "Settings", "Overview"):
        sidebar.get_by_role("link", name=label, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(label)
        expect(sidebar.get_by_role("link", name=label, exact=True)).to_have_attribute("aria-current", "page")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_fits_and_is_accessible(
    demo_url: str,
    visitor: Visitor,
    open_page: Windows,
    axe: Callable[[Page], None],
    screenshot: Callable[[Page, str], None],
    dark: bool,
) -> None:
    assert demo_url
    run = visitor.api("POST", "/runs", {"count": 60, "mix": {"success": 50, "timeout": 50}}, code=202)["run_id"]
    one = visitor.api("POST", "/test-commands", {"behavior": {"type": "fail_permanent"}}, code=201)["command_id"]
    page = open_page(dark=dark)
    more = {"run": f"/test-commands/runs/{run}", "test-command": f"/test-commands/{one}"}
    for name, path in (PAGES | more).items():
        page.goto(path)
        for size in (PHONE, DESKTOP):
            page.set_viewport_size({"width": size[0], "height": size[1]})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than {size}"
            axe(page)
            screenshot(page, f"e2e-{name}-{size[0]}-{'dark' if dark else 'light'}")


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("demo_worker")
def test_ten_thousand_commands_are_generated_and_processed_with_a_progress_bar(
    demo_url: str, visitor: Visitor, page: Page, sync_pool: CommandBusPool, screenshot: Callable[[Page, str], None]
) -> None:
    quick(visitor, concurrency=50, batch_size=50)
    page.goto(f"{demo_url}/test-commands/bulk")
    page.get_by_label("How many").fill(str(COMMANDS))
    page.get_by_role("button", name="Generate").click()
    processed = page.get_by_role("progressbar", name="Processed")
    expect(processed).to_have_attribute("aria-valuemax", str(COMMANDS))
    expect(processed).not_to_have_attribute("aria-valuenow", "0", timeout=60_000)
    screenshot(page, "e2e-run-under-way")
    assert 0 < int(processed.get_attribute("aria-valuenow") or 0) < COMMANDS
    expect(page.locator("[data-run-state]")).to_have_text("Done", timeout=180_000)
    for name in ("Generated", "Processed"):
        bar = page.get_by_role("progressbar", name=name)
        expect(bar).to_have_attribute("aria-valuenow", str(COMMANDS))
    screenshot(page, "e2e-run-done")

    # The shares are exact: 70 % succeed, 20 % do after a failure, 5 % fail for good, 5 % whatever is tried.
    batches = CommandBus(sync_pool).list_batches(DOMAIN, limit=100)
    assert sum(batch.total_count for batch in batches) == COMMANDS
    assert sum(batch.completed_count for batch in batches) == 9_000
    assert sum(batch.in_troubleshooting_count for batch in batches) == 1_000
    with sync_pool.connection() as connection:
        row = connection.execute("select count(*), count(processed_at), sum(attempts) from e2e.test_command").fetchone()
    attempts = 7_000 * 1 + 500 * 1 + 500 * 3 + 2_000 * 2
    assert row == (COMMANDS, COMMANDS, attempts)


@pytest.mark.usefixtures("demo_worker")
def test_a_command_is_made_and_followed_and_those_that_ended_are_deleted(demo_url: str, page: Page) -> None:
    page.goto(f"{demo_url}/test-commands/new")
    page.get_by_label("Behaviour").select_option("success")
    page.get_by_label("Execution time").fill("1500")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("status")).to_contain_text("Sent 1 test command.")

    def is_completed() -> bool:
        page.reload()
        return page.locator(".badge", has_text="Completed").is_visible()

    until(is_completed)
    page.get_by_role("main").get_by_role("link", name="Test commands").click()
    expect(page.locator("[data-rows] tr")).to_have_count(1)
    page.get_by_role("button", name="Delete finished").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete finished").click()
    expect(page.get_by_role("status")).to_contain_text("Deleted 1 test command that had ended.")
    expect(page.get_by_text("No test commands yet")).to_be_visible()


def test_settings_that_are_wrong_are_refused_beside_their_field(demo_url: str, page: Page, visitor: Visitor) -> None:
    before = visitor.api("GET", "/config/worker")
    page.goto(f"{demo_url}/settings")
    page.get_by_label("Concurrency").fill("0")
    page.get_by_role("form", name="Worker").get_by_role("button", name="Store").click()
    field = page.get_by_label("Concurrency")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_value("0")
    expect(page.locator("#concurrency-wrong")).to_have_text("must be greater than or equal to 1")
    assert visitor.api("GET", "/config/worker") == before


def test_settings_that_are_right_are_there_when_the_page_is_loaded_again(demo_url: str, page: Page) -> None:
    page.goto(f"{demo_url}/settings")
    page.get_by_label("Concurrency").fill("9")
    page.get_by_role("form", name="Worker").get_by_role("button", name="Store").click()
    expect(page.get_by_role("status")).to_contain_text("The worker settings are stored")
    page.reload()
    expect(page.get_by_label("Concurrency")).to_have_value("9")


def test_a_mix_that_is_not_whole_is_told_while_it_is_typed_and_refused(demo_url: str, page: Page) -> None:
    page.goto(f"{demo_url}/test-commands/bulk")
    expect(page.locator("[data-mix-sum]")).to_have_text("100 percent")
    page.get_by_label("timeout", exact=True).fill("1")
    expect(page.locator("[data-mix-sum]")).to_have_text("101 percent; it must be 100")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#mix-wrong")).to_have_text("must add up to 100 percent, not 101")


def test_without_scripts_a_run_is_started_and_seen(demo_url: str, open_page: Windows) -> None:
    page = open_page(scripts=False)
    page.goto(f"{demo_url}/test-commands/bulk")
    page.get_by_label("How many").fill("20")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Run")
    generated = page.get_by_role("progressbar", name="Generated")

    def is_generated() -> bool:
        page.reload()
        return generated.get_attribute("aria-valuenow") == "20"

    until(is_generated)
