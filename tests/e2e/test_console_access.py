"""Who may do what in a browser, hostile texts, a database that is away, and pages without scripts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from commandbus.sync import CommandBusPool
from tests.e2e.browser import in_thread
from tests.e2e.console import console_pages, make_console
from tests.e2e.handlers import DOMAIN
from tests.integration.console.browser import CANARY, OPERATOR_TOKEN, TOKENS, VIEWER_TOKEN, make_world
from tests.integration.console.test_xss import HOSTILE
from tests.integration.sql_helpers import open_bus

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Dialog, Page

    from tests.e2e.browser import Windows
    from tests.e2e.conftest import Serve
    from tests.integration.console.browser import World
    from tests.support import Server


@pytest.fixture
def guarded_url(sync_pool: CommandBusPool, serve: Serve, open_page: Windows) -> str:
    """The address of a console that asks for tokens."""
    open_page.base_url = serve(make_console(sync_pool, **TOKENS))
    return open_page.base_url


def log_in(page: Page, token: str, name: str = "ada") -> None:
    """Fill the login page in."""
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()


def test_who_logs_in_comes_to_the_page_that_was_asked_for_and_can_log_out(
    guarded_url: str,
    world: World,
    page: Page,
    database_url: str,
    axe: Callable[[Page], None],
    screenshot: Callable[[Page, str], None],
) -> None:
    page.goto(f"{guarded_url}/commands/{DOMAIN}/{world.parked[0]}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    axe(page)
    screenshot(page, "console-login-1280-light")
    log_in(page, "not the token of the tests")
    expect(page.locator("#token-wrong")).to_be_visible()
    expect(page.get_by_label("Token")).to_have_value("")
    log_in(page, OPERATOR_TOKEN, "grace")
    expect(page.get_by_role("heading", level=1)).to_have_text("DebitAccount")
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("Retried 1 command")
    with open_bus(database_url) as bus:
        event = next(row for row in bus.trail(world.parked[0]) if row["event_type"] == "OPERATOR_RETRY")
    assert "grace" in str(event)
    page.get_by_label("You are grace, operator").click()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    page.goto(guarded_url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


def test_a_viewer_finds_nothing_to_decide_with_and_sees_no_values(guarded_url: str, world: World, page: Page) -> None:
    page.goto(guarded_url)
    log_in(page, VIEWER_TOKEN)
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    pages = console_pages(world)
    for name, path in pages.items():
        page.goto(path)
        assert CANARY not in page.content(), name
        buttons = page.locator("main form[method=post] button:enabled, main [data-key]")
        assert [button.inner_text() for button in buttons.all() if button.is_visible()] == [], name
    page.goto(pages["command"])
    expect(page.get_by_role("region", name="Payload")).to_contain_text("secret")
    for key in ("r", "e"):
        page.keyboard.press(key)
    expect(page.get_by_role("dialog")).to_be_hidden()


@pytest.mark.timeout(240)
def test_no_stored_text_runs_opens_a_dialog_or_leads_away(
    console_url: str, database_url: str, open_page: Windows
) -> None:
    assert len(HOSTILE) >= 40
    assert console_url
    world = in_thread(asyncio.to_thread(make_world, database_url, [(text,) * 6 for text in HOSTILE]))
    page = open_page()
    opened: list[str] = []
    asked: list[str] = []

    def close(dialog: Dialog) -> None:
        opened.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", close)
    page.on("request", lambda request: asked.append(request.url))
    page.add_init_script("window.alert = () => { document.documentElement.dataset.ran = 'yes'; }")
    paths = list(console_pages(world).values())
    waiting = "/troubleshooting/commands"
    for _ in range(2):
        page.goto(paths[-1] if paths[-1].startswith(waiting) else waiting)
        link = page.get_by_role("link", name="Shorter waiting")
        paths.append(f"{waiting}{link.get_attribute('href')}")
    paths += [f"/commands/{DOMAIN}/{one}?payload=on" for one in (*world.parked[::8], *world.edited[::10])]
    paths += [f"/batches/{DOMAIN}/{one}" for one in world.batches[::8]]
    for path in paths:
        page.goto(path)
        expect(page.locator("h1")).to_be_visible()
        assert page.url == f"{console_url}{path}"
        assert page.locator("html").get_attribute("data-ran") is None, path
        assert page.locator("main script, main iframe, main img, main object, main style").count() == 0, path
    page.goto("/troubleshooting/commands")
    for summary in page.locator("summary", has_text="Payload").all()[:20]:
        summary.click()
    page.locator("[data-rows] tr").first.hover()
    expect(page.locator("[data-live-words]")).to_have_text("Live")
    assert opened == []
    assert [url for url in asked if not url.startswith((console_url, "data:"))] == []
    assert page.locator("html").get_attribute("data-ran") is None


def test_a_database_that_is_away_is_told_and_looked_for_again(
    server: Server, template_database: str, serve: Serve, open_page: Windows, axe: Callable[[Page], None]
) -> None:
    with server.database(template_database) as url, CommandBusPool(database_url=url, pool_timeout=1.0) as pool:
        open_page.base_url = serve(make_console(pool))
        page = open_page()
        page.goto("/queues")
        expect(page.get_by_role("heading", level=1)).to_have_text("Queues")
        name = server.database_name(url)
        with open_bus(server.maintenance_url) as bus:
            bus.run(f'alter database "{name}" with allow_connections false')
            bus.run("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", name)
            answer = page.goto("/commands")
            assert answer is not None
            assert answer.status == 503
            expect(page.get_by_text("This page tries again every")).to_be_visible()
            axe(page)
            bus.run(f'alter database "{name}" with allow_connections true')
        expect(page.get_by_role("heading", level=1)).to_have_text("Commands")


def test_without_scripts_pages_are_read_and_a_decision_is_made(
    console_url: str, world: World, open_page: Windows, database_url: str
) -> None:
    assert console_url
    page = open_page(scripts=False)
    for name, path in console_pages(world).items():
        page.goto(path)
        expect(page.locator("h1")).to_have_count(1)
        expect(page.locator("h1")).to_be_visible()
        assert page.locator("main").inner_text().strip(), name
    page.goto("/troubleshooting")
    page.get_by_role("link", name="DebitAccount", exact=True).click()
    page.locator("[data-rows] input[type=checkbox]").first.check()
    page.get_by_label("Reason").fill("read without scripts")
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("Retried 1 command")
    with open_bus(database_url) as bus:
        assert sorted(bus.status(one) for one in world.parked) == ["IN_TROUBLESHOOTING_QUEUE", "PENDING"]
