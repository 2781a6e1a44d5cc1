"""Sessions and their ends, wrong tokens and how long they cost, and what several processes mean for both."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from commandbus.console import guesses, sessions
from tests.integration.console.browser import OPERATOR_TOKEN, TOKENS, VIEWER_TOKEN, Browser

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

    from tests.integration.console.conftest import MakeApp

SECRET = "s" * 40
HOUR = 3_600


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that lets so many seconds pass for the console, whose clock stands still otherwise."""
    now = [time.time()]

    class Clock:
        time = staticmethod(lambda: now[0])
        monotonic = time

    monkeypatch.setattr(sessions, "time", Clock)
    monkeypatch.setattr(guesses, "time", Clock)

    def pass_(seconds: float) -> None:
        now[0] += seconds

    return pass_


def is_in(browser: Browser) -> bool:
    """Return whether somebody is logged in."""
    return browser.get("/commands").status_code == 200


def test_a_session_ends_after_its_hours_however_busy_it_is(app: Flask, later: Callable[[float], None]) -> None:
    browser = Browser(app, OPERATOR_TOKEN)
    for _ in range(11):
        later(HOUR - 1)
        assert is_in(browser)
    later(HOUR + 12)
    assert not is_in(browser)


@pytest.mark.parametrize("token", [OPERATOR_TOKEN, VIEWER_TOKEN])
def test_login_and_logout_leave_what_a_host_keeps_in_the_session(app: Flask, token: str) -> None:
    with app.test_client() as client:
        with client.session_transaction() as kept:
            kept["basket"] = "7 apples"
            kept["commandbus_csrf"] = old = "a" * 43
        form = {"name": "ada", "token": token, "csrf_token": old}
        assert client.post("/login", data=form).status_code == 302
        with client.session_transaction() as kept:
            assert kept["basket"] == "7 apples"
            assert kept.get("commandbus_csrf") != old
            kept["commandbus_csrf"] = old
        assert client.post("/logout", data=form).status_code == 302
        with client.session_transaction() as kept:
            assert [name for name in kept if not name.startswith("_")] == ["basket"]


def test_a_logout_leaves_no_cookie_where_nobody_else_keeps_anything(app: Flask) -> None:
    answer = Browser(app, OPERATOR_TOKEN).post("/logout")
    assert "commandbus_console=;" in answer.headers["Set-Cookie"]


def test_a_session_ends_when_nobody_is_there(make_app: MakeApp, later: Callable[[float], None]) -> None:
    browser = Browser(make_app(**TOKENS, idle_minutes=5), OPERATOR_TOKEN)
    for _ in range(3):
        later(299)
        assert is_in(browser)
    later(301)
    assert not is_in(browser)


def test_a_logout_holds_for_every_copy_of_the_cookie(app: Flask) -> None:
    browser, copy, other = Browser(app, OPERATOR_TOKEN), Browser(app), Browser(app, OPERATOR_TOKEN)
    cookie = browser.cookie()
    copy.take_cookie(cookie)
    assert is_in(copy)
    assert browser.post("/logout").status_code == 302
    copy.take_cookie(cookie)
    assert not is_in(copy)
    copy.take_cookie(cookie)
    assert copy.get("/api/commands").status_code == 401
    assert is_in(other), "another session of the same person goes on"


def test_a_new_login_ends_the_session_before(app: Flask) -> None:
    browser, copy = Browser(app, OPERATOR_TOKEN), Browser(app)
    copy.take_cookie(browser.cookie())
    form = {"name": "ada", "token": VIEWER_TOKEN}
    assert browser.post("/login", form, form="/send").status_code == 302
    assert is_in(browser)
    assert not is_in(copy)


def test_forgotten_logouts_bring_no_session_back(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_MOST", 2)
    copies = []
    for _ in range(4):
        browser, copy = Browser(app, OPERATOR_TOKEN), Browser(app)
        copy.take_cookie(browser.cookie())
        browser.post("/logout")
        copies.append(copy)
    assert is_in(Browser(app, OPERATOR_TOKEN))
    assert [is_in(copy) for copy in copies] == [False] * 4


def test_no_number_of_logouts_of_viewers_ends_the_session_of_an_operator(
    app: Flask, monkeypatch: pytest.MonkeyPatch, later: Callable[[float], None]
) -> None:
    monkeypatch.setattr(sessions, "_MOST", 2)
    operator = Browser(app, OPERATOR_TOKEN)
    for _ in range(4):
        later(1)
        Browser(app, VIEWER_TOKEN).post("/logout")
    assert is_in(operator)


@pytest.mark.parametrize("changed", [{"operator_token": OPERATOR_TOKEN[::-1]}, {"operator_token": None}])
def test_a_changed_token_ends_the_sessions_of_the_old_one_only(make_app: MakeApp, changed: dict[str, Any]) -> None:
    app = make_app(secret_key=SECRET, **TOKENS)
    cookies = [Browser(app, token).cookie() for token in (OPERATOR_TOKEN, VIEWER_TOKEN)]
    restarted, found = make_app(secret_key=SECRET, **(TOKENS | changed)), []
    for cookie in cookies:
        browser = Browser(restarted)
        browser.take_cookie(cookie)
        found.append(is_in(browser))
    assert found == [False, True]


def guess(browser: Browser, token: str = VIEWER_TOKEN[:-1]) -> Any:
    """Try to log in."""
    return browser.post("/login", {"name": "eve", "token": token}, form="/login")


def test_logins_and_wrong_tokens_are_logged_and_no_token(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "commandbus.console")
    for _ in range(11):
        guess(Browser(app))
    there = {"REMOTE_ADDR": "192.0.2.7"}
    assert guess(Browser(app, environment=there), OPERATOR_TOKEN).status_code == 302
    told = [(one.levelname, one.getMessage(), one.address) for one in caplog.records if hasattr(one, "address")]
    assert told[:10] == [("WARNING", "wrong token", "127.0.0.1")] * 10
    assert told[10:] == [
        ("WARNING", "too many wrong tokens, not looked at", "127.0.0.1"), ("INFO", "logged in", "192.0.2.7"),
    ]  # fmt: skip
    assert OPERATOR_TOKEN not in str([vars(one) for one in caplog.records])
    assert VIEWER_TOKEN[:-1] not in str([vars(one) for one in caplog.records])


def test_who_guesses_waits_and_is_told_how_long(app: Flask, later: Callable[[float], None]) -> None:
    eve = Browser(app)
    assert [guess(eve).status_code for _ in range(12)] == [422] * 10 + [429] * 2
    refused = guess(eve, OPERATOR_TOKEN)
    assert refused.status_code == 429, "not even the right token: else guessing would go on"
    assert 0 < int(refused.headers["Retry-After"]) <= 30
    assert "Too many wrong tokens" in refused.text
    later(31)
    assert [guess(eve).status_code for _ in range(2)] == [422, 429], "one more, and not ten"
    later(31)
    assert guess(eve, OPERATOR_TOKEN).status_code == 302


def test_programs_guess_no_faster_than_people(app: Flask, later: Callable[[float], None]) -> None:
    def get(token: str) -> Any:
        return Browser(app).get("/api/commands", headers={"Authorization": f"Bearer {token}"})

    assert [get(f"wrong {n}").status_code for n in range(11)] == [401] * 10 + [429]
    refused = get(VIEWER_TOKEN)
    assert refused.status_code == 429
    assert refused.mimetype == "application/problem+json"
    assert guess(Browser(app)).status_code == 429, "it is one count for both doors"
    later(31)
    assert [get(VIEWER_TOKEN).status_code for _ in range(20)] == [200] * 20, "right ones cost nothing"


def test_others_are_not_locked_out(app: Flask) -> None:
    known = Browser(app, OPERATOR_TOKEN)
    known.post("/logout")
    eve = Browser(app)
    while guess(eve).status_code != 429:
        pass
    assert guess(Browser(app, environment={"REMOTE_ADDR": "192.0.2.7"}), OPERATOR_TOKEN).status_code == 302
    assert guess(known).status_code == 422, "it has its own count"
    assert guess(known, OPERATOR_TOKEN).status_code == 302, "a browser that logged in before, at the same address"
    assert guess(Browser(app), OPERATOR_TOKEN).status_code == 429


def test_who_knows_the_viewer_s_token_gets_no_guesses_for_it(app: Flask) -> None:
    codes = []
    for _ in range(3):
        eve = Browser(app)
        assert guess(eve, VIEWER_TOKEN).status_code in {302, 429}
        form, page = {"name": "eve", "token": OPERATOR_TOKEN[:-1]}, "/send" if is_in(eve) else "/login"
        codes += [eve.post("/login", form, form=page).status_code for _ in range(9)]
    assert codes == [422] * 10 + [429] * 17


def test_a_viewer_s_login_makes_no_known_browser(app: Flask) -> None:
    names = [
        {cookie.partition("=")[0] for cookie in guess(Browser(app), token).headers.getlist("Set-Cookie")}
        for token in (VIEWER_TOKEN, OPERATOR_TOKEN)
    ]
    assert [("commandbus_known" in found) for found in names] == [False, True]


def test_many_addresses_guess_less_each_and_lock_nobody_out(
    app: Flask, monkeypatch: pytest.MonkeyPatch, later: Callable[[float], None]
) -> None:
    monkeypatch.setattr(guesses, "_FREE_OF_ALL", 9)

    def codes(address: str) -> list[int]:
        browser = Browser(app, environment={"REMOTE_ADDR": address})
        return [guess(browser).status_code for _ in range(5)]

    assert codes("192.0.2.1") == [422] * 5
    assert codes("192.0.2.2") == [422] * 4 + [429]
    assert codes("192.0.2.3") == [422] * 3 + [429] * 2
    assert codes("2001:db8::1") == [422] * 3 + [429] * 2
    assert codes("2001:db8::2") == [429] * 5, "a network of IPv6 is one client"
    assert guess(Browser(app, environment={"REMOTE_ADDR": "192.0.2.4"}), OPERATOR_TOKEN).status_code == 302
    later(HOUR)
    assert codes("192.0.2.3") == [422] * 5


def test_a_trusted_proxy_says_who_guesses_and_nobody_else(make_app: MakeApp) -> None:
    app = make_app(**TOKENS, user_header="X-User", trusted_proxies="10.1.0.0/16")

    def last(peer: str) -> int:
        for n in range(11):
            browser = Browser(app, environment={"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": f"1.1.1.1, 10.9.9.{n}"})
            code = int(guess(browser).status_code)
        return code

    assert last("10.1.2.3") == 422
    assert last("192.0.2.7") == 429


def test_the_memory_of_guesses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "_MOST", 3)
    found = guesses.Guesses()
    for n in range(10):
        assert found.check(str(n), lambda: None) is None
    assert len(found._clients) == 3


def test_the_cookie_of_a_known_browser_is_out_of_reach_and_signed(make_app: MakeApp) -> None:
    app = make_app(https=True, **TOKENS)
    answer = guess(Browser(app), OPERATOR_TOKEN)
    (cookie,) = (text for text in answer.headers.getlist("Set-Cookie") if text.startswith("commandbus_known="))
    for word in ("HttpOnly", "SameSite=Strict", "Secure"):
        assert word in cookie
    value = re.sub(r"^[^=]+=|;.*", "", cookie)
    eve = Browser(app)
    while guess(eve).status_code != 429:
        pass
    for known, code in ((f"{value[:-2]}xx", 429), (value, 401)):
        browser = Browser(app)
        browser.take_cookie(known, "commandbus_known")
        assert browser.get("/api/commands", headers={"Authorization": "Bearer wrong"}).status_code == code


def test_a_known_browser_has_one_count_however_its_cookie_is_written(app: Flask) -> None:
    cookies = guess(Browser(app), OPERATOR_TOKEN).headers.getlist("Set-Cookie")
    (value,) = (re.sub(r"^[^=]+=|;.*", "", text) for text in cookies if text.startswith("commandbus_known="))
    codes = []
    for n in range(12):
        browser = Browser(app)
        browser.take_cookie(value + "!!!!" * n, "commandbus_known")
        codes.append(browser.get("/api/commands", headers={"Authorization": "Bearer wrong"}).status_code)
    assert codes == [401] * 10 + [429] * 2
