"""A console whose database role may not do everything offers what it may, says why, and asks for nothing else."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from commandbus.console import ConsoleSettings, create_app
from commandbus.migrate import grant
from commandbus.sync import CommandBusPool as Pool
from tests.cli_process import wait_for
from tests.integration.console.browser import DOMAIN, OPERATOR_TOKEN, TOKENS, VIEWER_TOKEN, Browser, words
from tests.integration.granted import login

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import LiteralString

    from commandbus.migrate import RoleNames
    from tests.integration.console.browser import World

NO_DECISION = "The console's database role may not decide: it needs the rights of commandbus_operator."
NO_SENDING = "The console's database role may not send: it needs the rights of commandbus_app."
_FORM = re.compile(r'<form[^>]*method="post"(?![^>]*logout).*?</form>', re.DOTALL)
_BUTTON = re.compile(r"<button(?![^>]* disabled)[^>]*>(.*?)</button>", re.DOTALL)


@pytest.fixture
def consoles(names: RoleNames, direct_url: str, world: World) -> Callable[[str], Any]:
    """A function that makes a console for an operator, of which the database role is a member of this one."""
    assert world.parked
    grant(direct_url, **asdict(names))

    @contextmanager
    def make(role: str, token: str = OPERATOR_TOKEN) -> Iterator[Browser]:
        with Pool(database_url=login(direct_url, getattr(names, role))) as pool:
            yield Browser(create_app(pool, settings=ConsoleSettings.load(**TOKENS)), token)

    return make


def give(url: str, statement: LiteralString, *names: str) -> None:
    """Run a statement about names."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL(statement).format(*map(psycopg.sql.Identifier, names)))


def offered(browser: Browser, path: str) -> list[str]:
    """Return the buttons of a page that change something, and its links to forms that do."""
    text = browser.get(path).text
    buttons = [words(button).strip() for form in _FORM.findall(text) for button in _BUTTON.findall(form)]
    return buttons + re.findall(r'href="([^"]*(?:/edit|/redrives/new)[^"]*)"', text)


def deciding(world: World) -> dict[str, str]:
    """Return the pages where operators decide, and a button or link that each has."""
    command = f"/commands/{DOMAIN}/{world.parked[0]}"
    return {
        "/troubleshooting": "Retry all",
        "/troubleshooting/commands": "Complete",
        command: "Cancel",
        f"{command}/edit": "Save and retry",
        f"/queues/{DOMAIN}": f"Pause {DOMAIN}",
        f"/redrives/new?domain={DOMAIN}": "Start the redrive",
        f"/redrives/{world.redrives[0]}": "Stop",
    }


def test_a_role_that_only_looks_offers_no_decision_and_says_why(consoles: Callable[[str], Any], world: World) -> None:
    with consoles("readonly") as browser:
        for path in deciding(world):
            assert offered(browser, path) == [], path
            assert words(browser.get(path).text).count(NO_DECISION) == 1, path
        assert offered(browser, "/redrives") == []
        assert "Send a command" not in browser.get("/commands").text
        for path in ("/send", "/send/bulk"):
            assert (offered(browser, path), NO_SENDING in words(browser.get(path).text)) == ([], True), path


def test_each_role_offers_what_it_may(consoles: Callable[[str], Any], world: World) -> None:
    with consoles("operator") as browser:
        assert [path for path, name in deciding(world).items() if name not in offered(browser, path)] == []
        assert (offered(browser, "/send"), NO_SENDING in words(browser.get("/send").text)) == ([], True)
    with consoles("app") as browser:
        assert "Send a command" in browser.get("/commands").text
        assert (offered(browser, "/send"), offered(browser, "/send/bulk")) == (["Send"], ["Send all"])
        assert [offered(browser, path) for path in deciding(world)] == [[]] * len(deciding(world))


def test_viewers_are_told_of_their_own_role_only(consoles: Callable[..., Any], world: World) -> None:
    with consoles("readonly", VIEWER_TOKEN) as browser:
        for path in (*deciding(world), "/send"):
            assert "database role may not decide" not in browser.get(path).text, path
            assert offered(browser, path) == []


def test_no_look_of_an_operator_is_refused_by_the_database(
    consoles: Callable[[str], Any], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals: list[object] = []

    def note(error: InsufficientPrivilege, *args: Any, **more: Any) -> None:
        refusals.append(args)
        psycopg.ProgrammingError.__init__(error, *args, **more)

    with consoles("readonly") as browser:
        monkeypatch.setattr(InsufficientPrivilege, "__init__", note)
        command = f"/commands/{DOMAIN}/{world.parked[0]}"
        for path in ("/troubleshooting/commands", f"{command}?payload=on", f"{command}/edit"):
            for prefix in ("", "/api"):
                if not (prefix and path.endswith("/edit")):
                    assert browser.get(prefix + path).status_code == 200, path
        assert refusals == []
        assert browser.post(f"/queues/{DOMAIN}/pause").status_code == 403
        assert len(refusals) == 1, "what was refused would have been noted"


def test_rights_that_are_given_later_are_seen_within_a_minute(
    consoles: Callable[[str], Any], names: RoleNames, direct_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commandbus.console.rights.ASKED_EVERY", 0.0)
    with consoles("readonly") as browser:
        assert offered(browser, "/troubleshooting") == []
        give(direct_url, "grant {} to {}", names.operator, f"login of {names.readonly}")
        assert "Retry all" in offered(browser, "/troubleshooting")


def test_the_first_look_that_is_refused_makes_the_console_ask_for_its_rights_again(
    consoles: Callable[[str], Any], names: RoleNames, direct_url: str, world: World
) -> None:
    path = f"/commands/{DOMAIN}/{world.parked[0]}?payload=on"
    with consoles("operator") as browser:
        assert browser.get(path).status_code == 200
        give(direct_url, "grant {} to {}", names.readonly, f"login of {names.operator}")
        give(direct_url, "revoke {} from {}", names.operator, f"login of {names.operator}")
        assert [browser.get(path).status_code for _ in range(3)] == [403, 200, 200]
        assert "may not see what was sent" in browser.get(path).text


def test_a_schema_that_comes_back_gives_its_rights_back(operator: Browser, direct_url: str) -> None:
    give(direct_url, "alter schema {} rename to {}", "commandbus", "away")
    assert operator.get("/send").status_code == 503
    give(direct_url, "alter schema {} rename to {}", "away", "commandbus")
    wait_for(lambda: offered(operator, "/send") == ["Send"], 20)
