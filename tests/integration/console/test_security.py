"""Who is let in, and what is refused: matrices over all routes, so that new ones are covered by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from commandbus.console import ConsoleSettings
from commandbus.errors import InvalidArgumentError
from commandbus.sync import CommandBus
from tests.integration.console.browser import DOMAIN, OPERATOR_TOKEN, TOKENS, VIEWER_TOKEN, Browser, routes

if TYPE_CHECKING:
    from flask import Flask

    from commandbus.sync import CommandBusPool
    from tests.integration.console.browser import World
    from tests.integration.console.conftest import MakeApp

UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
SESSION = {"console.login_post", "console.logout"}  # change nothing but the session
PROXY = {"user_header": "X-Remote-User", "trusted_proxies": "10.1.0.0/16, 127.0.0.1", "operators": "ada, grace"}


@pytest.fixture
def unchanged(sync_pool: CommandBusPool, world: World) -> Any:
    """A function that tells whether anything happened to any command since the world was made."""
    bus = CommandBus(sync_pool)

    def look() -> tuple[list[Any], list[Any]]:
        return bus.query_commands(limit=1000), bus.query_audit(limit=1000)

    before = look()
    return lambda: look() == before and len(world.parked) == 2


def decision(world: World) -> dict[str, Any]:
    """Return a form that would do something, wherever it is sent."""
    return {"command": f"{DOMAIN}/{world.parked[0]}", "reason": "because", "domain": DOMAIN, "type": "Debit",
            "data": "{}", "copies": "1"}  # fmt: skip


def test_without_a_csrf_token_nothing_is_accepted(app: Flask, world: World, operator: Browser, unchanged: Any) -> None:
    tried = 0
    for method, path, _ in routes(app, world, *UNSAFE):
        for token in ({}, {"csrf_token": ""}, {"csrf_token": "x" * 43}, {"csrf_token": "ü€"}):
            answer = operator.open(path, method=method, data={**decision(world), **token})
            assert answer.status_code == 403, (method, path, token)
            tried += 1
    assert tried >= 28
    assert unchanged()


def test_a_form_that_is_too_old_shows_what_was_written(operator: Browser) -> None:
    answer = operator.post_raw("/send", {"data": '{"a": "<b>"}', "reason": "why", "csrf_token": "of another time"})
    assert answer.status_code == 403
    assert "{&#34;a&#34;: &#34;&lt;b&gt;&#34;}</textarea>" in answer.text
    assert "why</textarea>" in answer.text
    assert "Send it once more" not in answer.text


def test_the_csrf_token_of_another_session_is_refused(app: Flask, world: World, operator: Browser) -> None:
    other = Browser(app, OPERATOR_TOKEN).csrf_token()
    for _, path, _ in routes(app, world, "POST"):
        assert operator.post_raw(path, {**decision(world), "csrf_token": other}).status_code == 403, path


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Referer": "https://evil.example/localhost"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=lambda headers: "-".join(headers),
)
def test_posts_from_other_origins_are_refused(
    app: Flask, world: World, operator: Browser, unchanged: Any, headers: dict[str, str]
) -> None:
    token = operator.csrf_token()
    for _, path, _ in routes(app, world, "POST"):
        answer = operator.post_raw(path, {**decision(world), "csrf_token": token}, headers=headers)
        assert answer.status_code == 403, path
        assert "another site" in answer.text
    assert unchanged()


def test_viewers_change_nothing(app: Flask, world: World, viewer: Browser, unchanged: Any) -> None:
    tried = 0
    for _, path, endpoint in routes(app, world, "POST"):
        if endpoint not in SESSION:
            answer = viewer.post(path, decision(world))
            assert answer.status_code == 403, path
            assert "Only operators" in answer.text
            tried += 1
    assert tried >= 5
    assert unchanged()


def test_viewers_are_not_shown_what_they_may_not_do(viewer: Browser, world: World) -> None:
    for path in ("/troubleshooting", f"/commands/{DOMAIN}/{world.parked[0]}"):
        assert "formaction" not in viewer.get(path).text


def test_strangers_see_nothing_but_the_login_page(app: Flask, world: World, unchanged: Any) -> None:
    stranger = Browser(app)
    for method, path, endpoint in routes(app, world, "GET", "POST"):
        if endpoint in {"console.static", "console.login", *SESSION}:
            continue
        token = stranger.csrf_token("/login")
        answer = stranger.open(path, method=method, data={**decision(world), "csrf_token": token})
        is_page = method == "GET" and "/api/" not in path and "/live/" not in path
        assert answer.status_code == (302 if is_page else 401), path
        assert not is_page or answer.headers["Location"].startswith("/login?next=")
    assert unchanged()


def test_an_unknown_host_is_refused_everywhere(app: Flask, world: World, operator: Browser) -> None:
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "[::2]", "a b", ""):
        for _, path, _ in routes(app, world, "GET"):
            answer = operator.get(path, headers={"Host": host})
            assert answer.status_code == 400, (host, path)
    assert operator.get("/nowhere", headers={"Host": "evil.example"}).status_code == 400


def test_loopback_names_and_listed_hosts_are_known(make_app: MakeApp) -> None:
    browser = Browser(make_app(hosts="ops.example.org"))
    for host in ("localhost", "localhost:8080", "127.0.0.1:9", "[::1]:8080", "OPS.example.org", "ops.example.org:443"):
        assert browser.get("/", headers={"Host": host}).status_code == 200, host


def test_every_answer_has_the_security_headers(app: Flask, world: World, operator: Browser) -> None:
    answers = [operator.get(path) for _, path, e in routes(app, world, "GET") if e != "console.live.events"]
    answers += [operator.get("/nowhere"), operator.get("/", headers={"Host": "evil"}), Browser(app).get("/api/live")]
    answers += [
        operator.post("/troubleshooting/retry"),
        operator.post_raw("/commands"),
        operator.get("/commands?status=x"),
    ]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self'; ")
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "same-origin"
    assert operator.get("/commands").headers["Cache-Control"] == "no-store"


def test_the_session_cookie_is_out_of_reach(app: Flask, make_app: MakeApp) -> None:
    cookie = Browser(app).get("/login").headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    answer = Browser(make_app(https=True, **TOKENS)).get("/login")
    assert "Secure" in answer.headers["Set-Cookie"]
    assert "max-age" in answer.headers["Strict-Transport-Security"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "db.example.org"])  # noqa: S104  (refused)
def test_without_authentication_other_addresses_are_refused(host: str) -> None:
    with pytest.raises(InvalidArgumentError, match="must be a loopback address"):
        ConsoleSettings.load(host=host)
    ConsoleSettings.load(host=host, operator_token=OPERATOR_TOKEN)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operator_token": "short"}, "at least 16"),
        ({"viewer_token": "x" * 16, "operator_token": "x" * 16}, "must differ"),
        ({"user_header": "X-User"}, "needs trusted_proxies"),
        ({"user_header": "X User", "trusted_proxies": "::1"}, "letters, digits"),
        ({"user_header": "X-User", "trusted_proxies": "proxy"}, "IP addresses"),
        ({"host": "http://x"}, "host names"),
        ({"hosts": "ok, a/b"}, "host names"),
        ({"secret_key": "x" * 20}, "at least 32"),
        ({"port": 0}, "greater than or equal"),
        ({"max_streams": 16}, "less than threads"),
        ({"colour": "red"}, "no such setting"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        ConsoleSettings.load(**settings)
    assert "xxxx" not in str(caught.value)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**PROXY, "hosts": "a.example, b.example", "port": "9000"}.items():
        monkeypatch.setenv(f"COMMANDBUS_CONSOLE_{name.upper()}", value)
    found = ConsoleSettings.load()
    assert (found.operators, found.hosts, found.port) == (("ada", "grace"), ("a.example", "b.example"), 9000)
    assert found.trusts("10.1.2.3")
    assert not found.trusts("10.2.2.3")


def test_tokens_are_not_in_the_settings_repr() -> None:
    shown = repr(ConsoleSettings.load(**TOKENS))
    assert VIEWER_TOKEN not in shown
    assert OPERATOR_TOKEN not in shown


def test_without_authentication_only_this_machine_is_answered(make_app: MakeApp) -> None:
    app = make_app()
    assert Browser(app).get("/").status_code == 200
    assert Browser(app, environment={"REMOTE_ADDR": "192.0.2.7"}).get("/").status_code == 403
    assert Browser(app).get("/", headers={"X-Forwarded-For": "192.0.2.7"}).status_code == 403


def test_a_proxy_says_who_is_there_and_strangers_cannot(make_app: MakeApp, world: World) -> None:
    app = make_app(**PROXY)
    by_proxy = {"REMOTE_ADDR": "10.1.2.3"}

    def status(name: str | None, environment: dict[str, Any]) -> int:
        headers = {} if name is None else {"X-Remote-User": name}
        return Browser(app, environment=environment).get("/commands", headers=headers).status_code

    assert status("ada", by_proxy) == 200
    assert status("ada", {"REMOTE_ADDR": "10.2.2.3"}) == 401
    for name in (None, "", " ", "evil, ada", "x" * 201):
        assert status(name, by_proxy) == 401, name
    retry = {"command": f"{DOMAIN}/{world.parked[0]}"}
    for name, expected in (("eve", 403), ("ada", 302)):
        browser = Browser(app, environment=by_proxy | {"HTTP_X_REMOTE_USER": name})
        assert browser.post("/troubleshooting/retry", retry).status_code == expected


@pytest.mark.parametrize(
    "wrong",
    [{"name": "", "token": OPERATOR_TOKEN}, {"name": "a", "token": ""}, {"name": "a", "token": OPERATOR_TOKEN[:-1]},
     {"name": "a", "token": "x" * 5_000}, {"name": "x" * 201, "token": OPERATOR_TOKEN},
     {"name": "a\x1b", "token": OPERATOR_TOKEN}, {"name": "a", "token": "ü\u20ac"}],
    ids=range(7),
)  # fmt: skip
def test_a_wrong_login_is_refused_beside_its_field(app: Flask, wrong: dict[str, str]) -> None:
    browser = Browser(app)
    answer = browser.post("/login", wrong, form="/login")
    assert answer.status_code == 422
    assert 'class="wrong"' in answer.text
    assert OPERATOR_TOKEN not in answer.text
    assert browser.get("/").status_code == 302


def test_a_login_leads_back_but_never_to_another_site(app: Flask) -> None:
    login = {"name": "ada", "token": OPERATOR_TOKEN}
    for wanted in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)",
                   "\t//evil.example",
                   "/x\r\nSet-Cookie: a=b", ""):  # fmt: skip
        answer = Browser(app).get("/login", query_string={"next": wanted})
        assert "evil" not in answer.headers.get("Location", "")
        browser = Browser(app)
        token = browser.csrf_token("/login")
        answer = browser.post_raw("/login", {**login, "csrf_token": token}, query_string={"next": wanted})
        assert answer.headers["Location"] == "/", wanted
    browser = Browser(app)
    answer = browser.post("/login?next=/commands?status=FAILED", login, form="/login")
    assert answer.headers["Location"] == "/commands?status=FAILED"


def test_a_session_ends_with_its_token_and_with_logout(make_app: MakeApp) -> None:
    secret = "s" * 40
    old = Browser(make_app(secret_key=secret, **TOKENS), OPERATOR_TOKEN)
    cookie = old.cookie()
    changed = make_app(secret_key=secret, viewer_token=VIEWER_TOKEN, operator_token=OPERATOR_TOKEN[::-1])
    new = Browser(changed)
    new.take_cookie(cookie)
    assert new.get("/commands").status_code == 302
    assert old.get("/commands").status_code == 200
    assert old.post("/logout").status_code == 302
    assert old.get("/commands").status_code == 302


def test_a_login_leads_back_where_somebody_wanted_to_go_wherever_the_console_is_mounted(app: Flask) -> None:
    browser = Browser(app, environment={"SCRIPT_NAME": "/ops"})
    answer = browser.get("/commands?status=FAILED&text=a%26b")
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/ops/login?")
    form = {"name": "ada", "token": OPERATOR_TOKEN, "csrf_token": browser.csrf_token("/login")}
    answer = browser.post_raw(answer.headers["Location"].removeprefix("/ops"), form)
    assert answer.headers["Location"] == "/ops/commands?status=FAILED&text=a%26b"


def test_a_program_with_a_bearer_token_decides_nothing(app: Flask, world: World, unchanged: Any) -> None:
    headers = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
    program = Browser(app)
    token = program.get("/send", headers=headers).text.partition('name="csrf_token" value="')[2].partition('"')[0]
    for path in ("/troubleshooting/cancel", "/api/troubleshooting/cancel"):
        answer = program.post_raw(path, {**decision(world), "csrf_token": token}, headers=headers)
        assert answer.status_code == 401, path
    assert unchanged()


def test_a_program_reads_with_a_bearer_token(app: Flask, world: World) -> None:
    def get(token: str) -> int:
        return Browser(app).get("/api/troubleshooting", headers={"Authorization": f"Bearer {token}"}).status_code

    assert len(world.parked) == 2
    assert (get(VIEWER_TOKEN), get(OPERATOR_TOKEN), get("nonsense"), get("")) == (200, 200, 401, 401)


def test_a_form_that_is_too_large_is_413(operator: Browser) -> None:
    answer = operator.post("/send/bulk", {"domain": DOMAIN, "lines": "x" * (9 * 1024 * 1024)})
    assert answer.status_code == 413
    assert "at most 8 MiB" in answer.text


def test_methods_a_page_does_not_take_are_405(operator: Browser) -> None:
    answer = operator.post("/commands")
    assert answer.status_code == 405
    assert "That does not work here" in answer.text
