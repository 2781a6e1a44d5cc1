"""Characters that are not seen are told on every page, so that no text of the database looks like another one."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, render_template_string

from commandbus import CommandStatus
from commandbus.console import ConsoleSettings, create_blueprint
from commandbus.console.looks import pretty, reveal
from commandbus.sync import CommandBus
from tests.integration.console.browser import DOMAIN, OPERATOR_TOKEN, TOKENS, VIEWER_TOKEN, Browser, make_world
from tests.integration.console.test_operation import run
from tests.integration.console.test_xss import pages

if TYPE_CHECKING:
    from commandbus.sync import CommandBusPool
    from tests.integration.console.conftest import MakeApp

HIDDEN = (
    "\u202edeltiM",
    "Re\u200bfund",
    "Re\u00adfund",
    "\ufeffRefund",
    "Re\u2066fund\u2069",
    "Re\u2028fund",
    "Re\u0085fund",
    "Re\x1b[31mfund",
    "Re\U000e0041fund",
    "Re\u3164fund",
)
ISOLATES = {"\u2068", "\u2069"}
PLACES = ("type", "code", "message", "reason", "operator", "batch")


def unseen(page: str) -> set[str]:
    """Return what of a page cannot be seen."""
    hidden = {one for one in page if unicodedata.category(one) in {"Cc", "Cf", "Zl", "Zp"}} | ({"\u3164"} & set(page))
    return hidden - {"\n", "\t", "\r"}


@pytest.fixture
def texts(database_url: str, direct_url: str) -> Any:
    """A world whose every text hides something; its types came past the library, by SQL."""
    worlds = [(f"Type{n}", *(f"{place} {text}" for place in PLACES[1:])) for n, text in enumerate(HIDDEN)]
    world = make_world(database_url, worlds)  # type: ignore[arg-type]  # six texts
    for n, text in enumerate(HIDDEN):
        statement = "update commandbus.command set command_type = %s where command_type = %s"
        run(direct_url, statement, (f"type {text}", f"Type{n}"))
    return world


def test_every_page_tells_what_is_hidden(make_app: MakeApp, texts: Any) -> None:
    app, told = make_app(**TOKENS), ""
    for token in (OPERATOR_TOKEN, VIEWER_TOKEN):
        browser = Browser(app, token)
        for path in pages(app, texts):
            text = html.unescape(browser.get(path).text)
            assert unseen(text) <= ISOLATES, path
            told += text
    for place in PLACES:
        for hidden in HIDDEN:
            assert reveal(f"{place} {hidden}") in told, (place, hidden)


def test_what_is_edited_keeps_its_hidden_characters(operator: Browser, sync_pool: CommandBusPool) -> None:
    bus, data = CommandBus(sync_pool), {"text": "\n".join(HIDDEN), "شركة": "\\u202e 👩‍💻 é"}
    command_id = bus.query_commands(CommandStatus.IN_TROUBLESHOOTING_QUEUE)[0].command_id
    edit = f"/commands/{DOMAIN}/{command_id}/edit"
    assert operator.post(edit, {"data": json.dumps(data)}).status_code == 302
    text = operator.get(f"/commands/{DOMAIN}/{command_id}?payload=on").text
    (shown,) = re.findall(r'<pre class="json"[^>]*>(.*?)</pre>', text, re.DOTALL)[:1]
    assert json.loads(html.unescape(shown).strip("\u2068\u2069")) == data
    (area,) = re.findall(r"<textarea[^>]*>\n(.*?)</textarea>", operator.get(edit).text, re.DOTALL)
    assert json.loads(html.unescape(area)) == data
    assert unseen(html.unescape(area)) == set()


def test_what_somebody_typed_stays_as_it_was(operator: Browser) -> None:
    text = operator.post("/send", {"domain": "x y", "type": "Re\u200bfund", "data": '{"a": "\u200d"}'}).text
    assert 'value="Re\u200bfund"' in text
    assert "\u200d" in text
    assert "without control or invisible characters" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Refund\n\tü 12\u00a0000 €", "Refund\n\tü 12\u00a0000 €"),
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("\x00\x7f", "⟨U+0000⟩⟨U+007F⟩"),
        ("שם 1", "\u2068שם 1\u2069"),
        ("\u2069\u202eשם", "\u2068⟨U+2069⟩⟨U+202E⟩שם\u2069"),
        ("", ""),
    ],
)
def test_a_text_is_shown_so_that_nothing_in_it_is_hidden(text: str, shown: str) -> None:
    assert reveal(text) == shown


@pytest.mark.parametrize("value", ["a\u202eb", "\x7f", "\U000e0041", "\u2028", "é👩‍💻\\u202e", {"\u200b": "\u0085"}])
def test_json_with_hidden_characters_can_be_read_back(value: Any) -> None:
    assert unseen(pretty(value)) == set()
    assert json.loads(pretty(value)) == value


def test_pages_of_the_host_are_its_own(sync_pool: CommandBusPool) -> None:
    app = Flask("host")
    app.secret_key = "of the tests"  # noqa: S105  (of no other app)
    app.register_blueprint(create_blueprint(sync_pool, settings=ConsoleSettings.load()))
    with app.test_request_context():
        assert render_template_string("{{ x }}{{ x | cb_reveal }}", x="\u200b") == "\u200b⟨U+200B⟩"
