"""Every page of the console as people see it: wide and narrow, light and dark, without a fault, and accessible."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from commandbus.console.looks import past
from tests.e2e.browser import DESKTOP, PHONE
from tests.e2e.console import console_pages, make_console
from tests.e2e.demo import until
from tests.e2e.showroom import beat

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

    from commandbus.sync import CommandBusPool
    from tests.e2e.browser import Windows
    from tests.e2e.conftest import Serve
    from tests.integration.console.browser import World

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_fits_is_accessible_and_without_a_fault(
    console_url: str,
    showroom: World,
    open_page: Windows,
    axe: Callable[[Page], None],
    screenshot: Callable[[Page, str], None],
    dark: bool,
    database_url: str,
) -> None:
    assert console_url
    page = open_page(dark=dark)
    wrong = []
    for name, path in console_pages(showroom).items():
        beat(database_url)
        page.goto(path)
        expect(page.locator("h1")).to_have_count(1)
        for size in (PHONE, DESKTOP):
            page.set_viewport_size({"width": size[0], "height": size[1]})
            if not page.evaluate("document.documentElement.scrollWidth <= innerWidth"):
                wrong.append(f"{name} is wider than {size[0]}")
            try:
                axe(page)
            except AssertionError as error:
                wrong.append(f"{name} at {size[0]}: {error}")
            screenshot(page, f"console-{name}-{size[0]}-{'dark' if dark else 'light'}")
    assert wrong == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_what_opens_is_accessible_too(
    console_url: str, showroom: World, open_page: Windows, axe: Callable[[Page], None], dark: bool
) -> None:
    assert console_url
    page = open_page(PHONE, dark=dark)
    page.goto("/")
    page.get_by_label("Menu").click()
    axe(page)
    page.goto("/troubleshooting")
    page.locator("[data-rows] input[type=checkbox]").first.check()
    page.get_by_text("Complete…").click()
    axe(page)
    page.keyboard.press("Escape")
    page.get_by_text("Redrive…").click()
    axe(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#reason-wrong")).to_be_visible()
    axe(page)
    page.get_by_role("textbox", name="Reason").fill("the customer is gone")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    axe(page)
    page.get_by_role("button", name="Go back").click()
    page.goto(f"/troubleshooting/commands?domain=pay&group={'0' * 31}1")
    page.get_by_label("Switch between light and dark").click()
    axe(page)
    assert showroom.parked


def test_the_sidebar_leads_to_every_page(console_url: str, world: World, page: Page) -> None:
    assert world.parked
    page.goto(console_url)
    sidebar = page.get_by_role("navigation", name="Pages", exact=True)
    links = sidebar.get_by_role("link")
    names = [link.inner_text().split("\n")[0].strip() for link in links.all()]
    assert len(names) >= 8
    for number, name in enumerate(names):
        links.nth(number).click()
        expect(links.nth(number)).to_have_attribute("aria-current", "page")
        expect(page.locator("h1")).to_be_visible()
        assert name


def test_on_a_phone_the_menu_is_a_drawer_that_closes_by_itself(
    console_url: str, open_page: Windows, screenshot: Callable[[Page, str], None]
) -> None:
    page = open_page(PHONE)
    page.goto(console_url)
    menu = page.get_by_role("navigation", name="Pages, small")
    expect(menu).to_be_hidden()
    page.get_by_label("Menu").click()
    expect(menu).to_be_visible()
    screenshot(page, "console-menu-390-light")
    page.keyboard.press("Escape")
    expect(menu).to_be_hidden()
    page.get_by_label("Menu").click()
    menu.get_by_role("link", name="Queues").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Queues")
    expect(menu).to_be_hidden()


def test_dark_is_switched_on_and_remembered(console_url: str, open_page: Windows) -> None:
    page = open_page()
    page.goto(console_url)
    root = page.locator("html")
    expect(root).to_have_class("light")
    page.get_by_label("Switch between light and dark").click()
    expect(root).to_have_class("dark")
    page.goto("/queues")
    expect(root).to_have_class("dark")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_label("Switch between light and dark").click()
    expect(root).to_have_class("light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background


def test_the_overview_s_charts_follow_span_domain_and_pointer(console_url: str, showroom: World, page: Page) -> None:
    assert showroom.parked
    page.goto(console_url)
    for span in ("1h", "6h", "24h", "7d", "15m"):
        page.get_by_role("navigation", name="Time of the charts").get_by_role("link", name=span).click()
        expect(page.get_by_role("link", name=span, exact=True)).to_have_attribute("aria-current", "true")
        expect(page).to_have_url(f"{console_url}/?span={span}")
        assert page.locator("[data-plot] path.stroke").first.get_attribute("d")
    page.get_by_label("Domain", exact=True).select_option("orders")
    expect(page.get_by_role("heading", name="Activity of orders")).to_be_visible()
    expect(page).to_have_url(f"{console_url}/?span=15m&domain=orders")
    expect(page.locator("[data-live-words]")).to_have_text("Live")  # scripts run
    page.locator("[data-plot]").first.hover()
    expect(page.locator("[data-chart-moment]").first).to_contain_text("UTC")


def test_what_needs_attention_leads_to_where_it_is_dealt_with(console_url: str, showroom: World, page: Page) -> None:
    assert showroom.parked
    page.goto(console_url)
    needs = page.get_by_role("region", name="Needs attention")
    for words in ("reports", "exports", "commands wait"):
        expect(needs).to_contain_text(words)
    actions = [link.get_attribute("href") or "" for link in needs.get_by_role("link").all()]
    for path in set(actions):
        page.goto(path)
        expect(page.locator("h1")).to_be_visible()
        expect(page.get_by_text("Nothing was looked up")).to_be_hidden()


@pytest.mark.usefixtures("working")
def test_a_page_follows_what_happens_without_being_loaded_again(
    console_url: str, page: Page, open_page: Windows
) -> None:
    page.goto(f"{console_url}/commands")
    expect(page.locator("[data-live-words]")).to_have_text("Live")
    page.evaluate("document.title = 'not loaded again'")
    other = open_page()
    other.goto("/send")
    other.get_by_label("Domain").fill("pay")
    other.get_by_label("Type").fill("Ship")
    other.get_by_role("button", name="Send").click()
    expect(other.get_by_role("status")).to_contain_text("Sent 1 command.")
    other.close()
    expect(page.locator("[data-rows] tr").filter(has_text="Completed")).to_have_count(1)
    assert page.title() == "not loaded again"


def test_a_page_polls_when_no_stream_is_left(
    sync_pool: CommandBusPool, serve: Serve, world: World, open_page: Windows
) -> None:
    assert world.parked
    open_page.base_url = serve(make_console(sync_pool, max_streams=0))
    page = open_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(open_page.base_url)))
    page.goto("/troubleshooting")
    expect(page.locator("[data-live-words]")).to_have_text("Live")
    expect(page.get_by_text("2 commands wait for a decision.")).to_be_visible()
    badge = page.get_by_role("navigation", name="Pages", exact=True).locator("[data-number=troubleshooting]")
    expect(badge).to_have_text("2")
    other = open_page()
    other.goto("/troubleshooting/commands")
    other.get_by_role("button", name="Retry DebitAccount").first.click()
    expect(other.get_by_role("status")).to_contain_text("Retried 1 command")
    other.close()
    expect(badge).to_have_text("1")
    until(lambda: asked.count("/api/live") >= 2)
    assert "/live/events" in asked


def test_times_are_told_in_a_page_as_the_server_tells_them(console_url: str, page: Page) -> None:
    page.clock.set_fixed_time("2030-01-01T00:00:00Z")  # not believed: the page's clock is the server's
    page.goto(console_url)
    seconds = [0.4, 1, 29.4, 59.4, 59.7, 3570, 3599.7, 86_399.7, 200_000, 364.6 * 86_400, 1e9, -59.7, -86_399.7]
    words = page.evaluate(
        """async (seconds) => {
            const told = Date.parse(document.body.dataset.now);
            const root = document.createElement("div");
            for (const one of seconds) {
                const time = root.appendChild(document.createElement("time"));
                time.dateTime = new Date(told - one * 1000).toISOString();
            }
            const main = document.querySelector("script[type=module]").src;
            (await import(new URL("times.js", main))).refreshTimes(root);
            return [...root.children].map((time) => time.textContent);
        }""",
        seconds,
    )
    assert words == [past(one) for one in seconds]
