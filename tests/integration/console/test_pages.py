"""Every page answers, for viewers and operators, full and empty; what it shows is what the library says."""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING
from uuid import uuid4

from flask import Flask, render_template_string

from commandbus.console import (
    NAVIGATION,
    ConsoleSettings,
    NavEntry,
    create_app,
    create_blueprint,
    handle_errors,
    protect,
)
from commandbus.errors import DatabaseUnavailableError
from commandbus.sync import CommandBus
from commandbus.sync import CommandBusPool as Pool
from tests.integration.console.browser import CANARY, DOMAIN, OPERATOR_TOKEN, TOKENS, Browser, routes
from tests.integration.sql_helpers import open_bus

if TYPE_CHECKING:
    from commandbus.sync import CommandBusPool
    from tests.integration.console.browser import World
    from tests.integration.console.conftest import MakeApp

ELSEWHERE = {"console.login", "console.commands.go"}  # lead to other pages
STREAMS = {"console.live.events"}


def test_every_page_answers_viewers_and_operators(app: Flask, world: World, operator: Browser, viewer: Browser) -> None:
    answers = {
        (browser.name, path): browser.get(path).status_code
        for browser in (operator, viewer)
        for _, path, endpoint in routes(app, world, "GET")
        if endpoint not in ELSEWHERE | STREAMS
    }
    assert {key: status for key, status in answers.items() if status != 200} == {}
    assert len(answers) > 30


def test_forms_and_links_of_pages_lead_to_pages(app: Flask, world: World, operator: Browser) -> None:
    for _, path, endpoint in routes(app, world, "GET"):
        if endpoint not in ELSEWHERE | STREAMS and "/api/" not in path:
            led = re.findall(r'(?:formaction|action|href)="([^"]*)', operator.get(path).text)
            assert [address for address in led if "/api/" in address] == [], path


def test_every_page_answers_on_an_empty_database(make_app: MakeApp) -> None:
    browser = Browser(make_app())
    for path in ("/", "/commands", "/troubleshooting", "/batches", "/queues", "/audit", "/send", "/send/bulk"):
        assert browser.get(path).status_code == 200, path


def test_an_unknown_command_or_batch_is_404(operator: Browser) -> None:
    for path in (f"/commands/{DOMAIN}/{uuid4()}", f"/batches/{DOMAIN}/{uuid4()}", f"/commands/Bad-Name/{uuid4()}",
                 f"/batches/Bad-Name/{uuid4()}", f"/commands/{DOMAIN}/7", "/nowhere", f"/go?id={uuid4()}"):  # fmt: skip
        answer = operator.get(path)
        assert answer.status_code == 404, path
        assert "Nothing here" in answer.text


def test_the_story_of_a_command_is_told(operator: Browser, world: World) -> None:
    text = operator.get(f"/commands/{DOMAIN}/{world.parked[0]}").text
    for part in ("DebitAccount", "ACCOUNT_CLOSED", "the account was closed", "Moved to troubleshooting", "Received"):
        assert part in text
    assert CANARY not in text  # the payload is loaded on demand
    assert "Same conversation" in text
    assert "Month end" in text


def test_a_command_is_found_by_its_id_alone(operator: Browser, world: World) -> None:
    answer = operator.get(f"/go?id={world.parked[0]}")
    assert answer.headers["Location"] == f"/commands/{DOMAIN}/{world.parked[0]}"


def test_filters_of_commands_are_those_of_the_library(operator: Browser, sync_pool: CommandBusPool) -> None:
    bus = CommandBus(sync_pool)
    for query, expected in (
        ("status=FAILED", bus.query_commands(status="FAILED")),  # type: ignore[arg-type]  # its text will do
        ("domain=pay&type=DebitAccount", bus.query_commands(domain="pay", command_type="DebitAccount")),
        ("correlation=00000000-0000-0000-0000-000000000007&after=1h", [*bus.query_commands()[1:]]),
        ("before=1h", []),
    ):
        found = operator.get(f"/api/commands?{query}").get_json()["commands"]
        assert {row["command_id"] for row in found} == {str(row.command_id) for row in expected}, query


def test_pages_of_commands_follow_each_other_without_gap(operator: Browser) -> None:
    seen: list[str] = []
    older: dict[str, str] | None = {}
    pages = []
    while older is not None:
        pages.append(operator.get("/api/commands", query_string={"limit": 3, **older}).get_json())
        seen += [row["command_id"] for row in pages[-1]["commands"]]
        older = pages[-1]["older"]
    assert len(seen) == len(set(seen)) == 9
    assert len(pages) == 3


def test_pages_of_the_audit_follow_each_other_without_gap(operator: Browser, sync_pool: CommandBusPool) -> None:
    bus = CommandBus(sync_pool)
    for _ in range(250):
        bus.send(DOMAIN, "Tick", uuid4(), {})
    seen: list[int] = []
    older: dict[str, str] | None = {}
    while older is not None:
        page = operator.get("/api/audit", query_string=older).get_json()
        seen += [row["audit_id"] for row in page["events"]]
        older = page["older"]
    assert len(seen) == len(set(seen)) == len(bus.query_audit(limit=1000))
    assert "Older" in operator.get("/audit").text


def test_viewers_see_keys_and_no_values_of_business_data(app: Flask, world: World, viewer: Browser) -> None:
    for _, path, endpoint in routes(app, world, "GET"):
        if endpoint not in STREAMS:
            assert CANARY not in viewer.get(path).text, path
    for command_id in (*world.parked, *world.edited):
        for path in (f"/commands/{DOMAIN}/{command_id}?payload=on", f"/api/commands/{DOMAIN}/{command_id}?payload=on"):
            assert CANARY not in viewer.get(path).text
    item = viewer.get("/api/troubleshooting/commands").get_json()["commands"][0]
    assert item["payload"].keys() == {"secret", "DebitAccount"}
    assert item["payload"]["DebitAccount"] == ["••••", {"ACCOUNT_CLOSED": "••••"}]


def test_operators_see_payloads(operator: Browser) -> None:
    assert CANARY in operator.get("/troubleshooting/commands").text


def test_numbers_of_the_overview_are_those_of_the_queues(operator: Browser) -> None:
    found = operator.get("/api/overview").get_json()
    assert found["troubleshooting"] == 2
    (domain,) = found["domains"]
    assert (domain["domain"], domain["depth"], domain["scheduled"]) == (DOMAIN, 1, 1)


def test_a_stream_tells_the_numbers_and_the_next_one_too_many_is_refused(make_app: MakeApp, world: World) -> None:
    app = make_app(max_streams=1)
    browser = Browser(app)
    first = browser.get("/live/events")
    chunk = next(first.iter_encoded())
    assert json.loads(chunk.decode().removeprefix("data: "))["troubleshooting"] == len(world.parked)
    assert browser.get("/live/events").status_code == 503
    assert browser.get("/api/live").get_json()["troubleshooting"] == len(world.parked)
    first.close()
    again = browser.get("/live/events")
    assert again.status_code == 200
    again.close()


def test_a_database_that_does_not_answer_is_a_page_that_tries_again(database_url: str) -> None:
    with Pool(database_url=database_url, pool_max_size=1, pool_timeout=0.2) as pool, pool.connection():
        browser = Browser(create_app(pool, settings=ConsoleSettings.load()))
        for path in ("/", "/commands", "/audit", "/send"):
            answer = browser.get(path)
            assert answer.status_code == 503, path
            assert "The database does not answer" in answer.text
            assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in answer.text
            assert answer.headers["Retry-After"] == "5"
        twin = browser.get("/api/live")
        assert (twin.status_code, sorted(twin.get_json())) == (503, ["detail", "status", "title"])


def test_a_form_that_found_no_database_keeps_what_was_written_and_can_be_sent_once_more(database_url: str) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain()
    data = {"text": 'a "quoted" <b>line</b>\n\tand another one'}
    with Pool(database_url=database_url, pool_max_size=1, pool_timeout=0.2) as pool:
        browser = Browser(create_app(pool, settings=ConsoleSettings.load()))
        filled = {"domain": DOMAIN, "type": "Kept", "data": json.dumps(data, indent=2), "form_id": str(uuid4())}
        filled["csrf_token"] = browser.csrf_token()
        with pool.connection():
            refused = browser.post_raw("/send", filled)
        assert (refused.status_code, "Send it once more" in refused.text) == (503, True)
        (form,) = re.findall(r'<form class="mt-6" method="post">(.*?)</form>', refused.text, re.DOTALL)
        kept = {name: html.unescape(text) for name, text in re.findall(r'name="([^"]*)" value="([^"]*)"', form)}
        assert kept == filled
        for _ in range(2):
            browser.post_raw("/send", kept)
        (sent,) = browser.get("/api/commands?type=Kept").get_json()["commands"]
        assert browser.get(f"/api/commands/{DOMAIN}/{sent['command_id']}?payload=on").get_json()["payload"] == data


def test_a_form_that_acts_each_time_shows_what_was_written_and_is_not_sent_again_by_a_button(
    database_url: str, world: World
) -> None:
    decided = {"command": f"{DOMAIN}/{world.parked[0]}", "reason": "the <b>bank</b>", "from": "command"}
    with Pool(database_url=database_url, pool_max_size=1, pool_timeout=0.2) as pool:
        browser = Browser(create_app(pool, settings=ConsoleSettings.load()))
        token = {"csrf_token": browser.csrf_token(), "form_id": str(uuid4())}
        with pool.connection():
            refused = browser.post_raw("/troubleshooting/retry", decided | token)
    assert refused.status_code == 503
    assert "look, when the database is back, before you do it once more" in refused.text
    assert "the &lt;b&gt;bank&lt;/b&gt;</textarea>" in refused.text
    assert "Send it once more" not in refused.text


def test_a_form_of_a_host_is_not_shown_again(sync_pool: CommandBusPool) -> None:
    host = Flask("host")
    host.secret_key = "k" * 32
    host.register_blueprint(create_blueprint(sync_pool, settings=ConsoleSettings.load()), url_prefix="/ops")
    protect(host)
    handle_errors(host)

    @host.post("/sign-in")
    def sign_in() -> str:
        raise DatabaseUnavailableError("no connection became free in time")

    browser = Browser(host)
    answer = browser.post("/sign-in", {"password": "sesam", "data": "sesam"}, form="/ops/send")
    assert (answer.status_code, "sesam" in answer.text, "Whether it was done" in answer.text) == (503, False, False)


def test_the_console_can_be_mounted_in_an_app_with_pages_of_its_own(sync_pool: CommandBusPool, world: World) -> None:
    host = Flask("host")
    host.secret_key = "k" * 32
    entries = (*NAVIGATION, NavEntry("Test commands", "own", "flask"))
    settings = ConsoleSettings.load(**TOKENS)
    host.register_blueprint(
        create_blueprint(sync_pool, settings=settings, entries=entries, title="shop"), url_prefix="/ops"
    )
    protect(host)

    @host.get("/own")
    def own() -> str:
        return render_template_string("{% extends console.base %}{% block content %}my own page{% endblock %}")

    stranger = Browser(host)
    assert stranger.get("/own").headers["Location"].startswith("/ops/login")
    browser = Browser(host)
    answer = browser.post("/ops/login?next=/own", {"name": "ada", "token": OPERATOR_TOKEN}, form="/ops/login")
    assert answer.headers["Location"] == "/own"
    text = browser.get("/own").text
    for part in ("my own page", "shop", "/ops/troubleshooting", "Test commands"):
        assert part in text
    assert str(world.parked[0])[:8] in browser.get("/ops/troubleshooting/commands").text
