"""Requests and rows that nobody means well with: streams that are not read, odd addresses, deep JSON, slow servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from commandbus.console.recent import EXTENSION, Recent
from commandbus.sync import CommandBusPool as Pool
from tests.integration.console.browser import CANARY, DOMAIN, Browser
from tests.integration.console.test_decisions import park
from tests.integration.sql_helpers import open_bus

if TYPE_CHECKING:
    from flask import Flask

    from tests.integration.console.browser import World
    from tests.integration.console.conftest import MakeApp


def test_streams_that_nobody_reads_are_given_back(make_app: MakeApp) -> None:
    browser = Browser(make_app(max_streams=1))
    for _ in range(2):
        head = browser.open("/live/events", method="HEAD")
        assert head.status_code == 200
        head.close()
        unread = browser.get("/live/events")
        assert unread.status_code == 200
        unread.close()
        unread.close()
    first = browser.get("/live/events")
    assert browser.get("/live/events").status_code == 503  # closing twice gave one back, not two
    first.close()


@pytest.mark.parametrize("address", ["//[", "/\\[", "http://[", "//[::1"])
def test_an_address_that_cannot_be_read_is_not_followed(app: Flask, operator: Browser, address: str) -> None:
    assert Browser(app).get("/login", query_string={"next": address}).status_code == 200
    assert operator.get("/login", query_string={"next": address}).headers["Location"] == "/"


@pytest.mark.parametrize("header", ["Origin", "Referer"])
def test_an_origin_that_cannot_be_read_is_another_site(app: Flask, header: str) -> None:
    browser = Browser(app)
    answer = browser.post("/login", form="/login", headers={header: "http://["})
    assert (answer.status_code, "another site" in answer.text) == (403, True)


def test_json_that_is_nested_too_deeply_is_400_or_422(operator: Browser) -> None:
    headers = {"X-CSRF-Token": operator.csrf_token(), "Content-Type": "application/json"}
    for path in ("/api/redrives", "/api/troubleshooting/complete"):
        for body in (
            "[" * 200_000,
            '{"result": ' + "[" * 200_000,
            '{"result": ' + "[" * 900 + "]" * 900 + "}",
            "[]",
            "",
        ):
            answer = operator.post_raw(path, data=body, headers=headers)  # type: ignore[arg-type]  # a body, not a form
            assert answer.status_code in {400, 422}, (path, body[:20])


@pytest.mark.parametrize("levels", [65, 500, 800, 950])
def test_deep_payloads_of_other_programs_are_shown(
    operator: Browser, viewer: Browser, world: World, direct_url: str, levels: int
) -> None:
    assert world.parked
    with open_bus(direct_url) as bus:
        (command_id,) = park(bus, 1)
        text = '{"a": ' * levels + f'"{CANARY}"' + "}" * levels
        statement = "update commandbus.payload_archive set message = jsonb_set(message, '{data}', %s::jsonb)"
        assert bus.run(f"{statement} where command_id = %s", text, command_id) == 1
    for path in ("/troubleshooting/commands", f"/commands/{DOMAIN}/{command_id}?payload=1"):
        for prefix in ("", "/api"):
            assert CANARY in operator.get(prefix + path).text, prefix + path
            seen = viewer.get(prefix + path)
            assert seen.status_code == 200, prefix + path
            assert CANARY not in seen.text


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("55P03", "Somebody else has it at the moment; try again."),
        ("40P01", "Somebody else has it at the moment; try again."),
        ("57P01", "The database does not answer, or all connections are in use: try again."),
        ("08006", "The database does not answer, or all connections are in use: try again."),
    ],
)
def test_what_ends_by_itself_is_503_with_a_plain_sentence(
    make_app: MakeApp, database_url: str, caplog: pytest.LogCaptureFixture, code: str, sentence: str
) -> None:
    app = make_app()
    with Pool(database_url=database_url) as pool:

        def look() -> Any:
            with pool.connection() as connection:
                connection.execute(f"do $$ begin raise exception using errcode = '{code}', message = 'canary'; end $$")

        app.add_url_rule("/busy", view_func=look)
        app.add_url_rule("/api/busy", view_func=look, endpoint="busy_json")
        page, twin = (Browser(app).get(path) for path in ("/busy", "/api/busy"))
    for answer in (page, twin):
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert sentence in answer.text
    assert "This page tries again" in page.text
    logged = [(one.__dict__["sqlstate"], one.__dict__["page"], bool(one.__dict__["user"])) for one in caplog.records]
    assert logged == [(code, "look", True), (code, "busy_json", True)]


def test_a_redrive_that_is_locked_is_busy_and_the_page_sends_no_form_by_itself(
    operator: Browser, world: World, database_url: str
) -> None:
    with open_bus(database_url) as bus, bus.connection.transaction():
        bus.rows("select from commandbus.redrive where redrive_id = %s for update", world.redrives[0])
        answer = operator.post(f"/redrives/{world.redrives[0]}/stop")
    assert answer.status_code == 503
    assert "Somebody else has it" in answer.text
    assert "tries again" not in answer.text
    assert operator.post(f"/redrives/{world.redrives[0]}/stop").status_code == 302


def test_a_server_that_gives_up_is_asked_once_and_is_503(make_app: MakeApp, database_url: str) -> None:
    app = make_app()
    known: Recent = app.extensions[EXTENSION]
    asked: list[int] = []
    with Pool(database_url=database_url) as pool:

        def look() -> Any:
            asked.append(1)
            with pool.connection() as connection:
                connection.execute("set statement_timeout = '50ms'")
                return connection.execute("select pg_sleep(5)").fetchall()

        for _ in range(2):
            with pytest.raises(psycopg.errors.QueryCanceled):
                known.ask("slow", 30.0, look)
    assert len(asked) == 1
    app.add_url_rule("/slow", view_func=lambda: known.ask("slow", 30.0, look))
    answer = Browser(app).get("/slow")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
