"""The form that sends: what the server refuses stands beside its field, in a section that is open."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.integration.console.browser import DOMAIN, Browser

if TYPE_CHECKING:
    from tests.integration.console.browser import World

GOOD = {"domain": DOMAIN, "type": "Debit", "data": "{}"}
MANY = GOOD | {"copies": "2"}


def refused(browser: Browser, path: str, data: dict[str, Any]) -> tuple[dict[str, str], bool, bool]:
    """Return what is wrong by field, whether anything stands at the top, and whether the further fields are open."""
    answer = browser.post(path, data)
    assert answer.status_code == 422
    text = answer.text
    beside = re.findall(r'aria-describedby="([a-z_]+)-wrong".*?<p class="wrong" id="\1-wrong">([^<]*)', text, re.DOTALL)
    is_open = re.search(r"<details open>\s*<summary[^>]*>More", text) is not None
    return {name: unescape(words) for name, words in beside}, 'role="alert"' in text, is_open


@pytest.mark.parametrize(("path", "data"), [("/send", GOOD), ("/send/bulk", MANY)])
def test_an_unknown_domain_or_reply_queue_is_told_beside_its_field(
    operator: Browser, path: str, data: dict[str, str]
) -> None:
    wrong, is_at_top, is_open = refused(operator, path, data | {"domain": "nowhere"})
    assert (list(wrong), is_at_top, is_open) == (["domain"], False, False)
    assert wrong["domain"].startswith('domain "nowhere" has no command queue')
    wrong, is_at_top, is_open = refused(operator, path, data | {"reply_to": "nowhere__replies"})
    assert (list(wrong), is_at_top, is_open) == (["reply_to"], False, True)
    assert wrong["reply_to"].startswith('there is no reply queue "nowhere__replies"')


def wrong_and_open(browser: Browser, data: dict[str, str]) -> tuple[list[str], bool]:
    """Return which fields are wrong, nothing at the top, and whether the further fields are open."""
    wrong, is_at_top, is_open = refused(browser, "/send", GOOD | data)
    assert not is_at_top
    return list(wrong), is_open


@pytest.mark.parametrize("name", ["correlation", "reply_to", "max_attempts", "command_id"])
def test_the_further_fields_are_open_while_something_stands_in_them(operator: Browser, name: str) -> None:
    assert wrong_and_open(operator, {name: "x!"}) == ([name], True)
    given = {"max_attempts": "7", "reply_to": f"{DOMAIN}__replies"}.get(name, str(uuid4()))
    assert wrong_and_open(operator, {name: given, "data": "{"}) == (["data"], True)
    assert wrong_and_open(operator, {name: "", "data": "{"}) == (["data"], False)
    assert "<details open>" not in operator.get("/send").text


def test_an_id_that_exists_is_told_beside_it(operator: Browser, world: World) -> None:
    taken = str(world.parked[0])
    wrong, is_at_top, is_open = refused(operator, "/send", GOOD | {"command_id": taken})
    assert (list(wrong), is_at_top, is_open) == (["command_id"], False, True)
    assert f"{taken} exists" in wrong["command_id"]


@pytest.mark.parametrize("more", [{}, {"reply_to": f"{DOMAIN}__replies"}])
def test_what_a_line_gives_is_told_beside_the_lines(operator: Browser, world: World, more: dict[str, str]) -> None:
    for line in (
        '{"data": {}, "reply_to": "nowhere__replies"}',
        f'{{"data": {{}}, "command_id": "{world.parked[0]}"}}',
    ):
        wrong, is_at_top, _ = refused(operator, "/send/bulk", GOOD | more | {"lines": line})
        assert (list(wrong), is_at_top) == (["lines"], False), line
