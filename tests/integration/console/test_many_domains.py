"""Many domains: lists that stay short, show first what needs attention, and find the others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.integration.console.browser import Browser
from tests.integration.sql_helpers import open_bus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.integration.console.conftest import MakeApp

NAMES = [f"shop_{n:02}" for n in range(60)]


@pytest.fixture
def chain(make_app: MakeApp, database_url: str) -> Browser:
    """A console over sixty domains; of the last two one is paused, and on the other nobody works."""
    with open_bus(database_url) as bus:
        for name in NAMES:
            bus.create_domain(name)
        bus.send_new(2, domain=NAMES[-1])
        bus.call("sp_pause_domain", domain=NAMES[-2])
    return Browser(make_app())


def rows(text: str) -> list[str]:
    """Return the domains of a page's list of them."""
    _, _, table = text.partition('id="domains"')
    return re.findall(r'data-open href="/queues/([^"]+)"', table)


def pages(browser: Browser, path: str) -> Sequence[list[str]]:
    """Return the domains of each page of a list, by its links."""
    found, address = [], path
    while address:
        text = browser.get(address).text
        found.append(rows(text))
        following = re.search(r'href="([^"]+)" rel="next"', text)
        address = f"{path.partition('?')[0]}{following[1].replace('&amp;', '&')}" if following else ""
    return found


@pytest.mark.parametrize(("path", "size"), [("/", 20), ("/queues", 50)])
def test_what_needs_attention_comes_first_and_every_domain_is_on_one_page(chain: Browser, path: str, size: int) -> None:
    found = pages(chain, path)
    assert found[0][:3] == [NAMES[-1], NAMES[-2], NAMES[0]]
    assert {len(page) for page in found[:-1]} == {size}
    assert sorted(name for page in found for name in page) == NAMES


@pytest.mark.parametrize("path", ["/", "/queues"])
def test_a_domain_is_found_by_a_part_of_its_name(chain: Browser, path: str) -> None:
    assert rows(chain.get(f"{path}?find=p_3").text) == NAMES[30:40]
    assert rows(chain.get(f"{path}?find=P_31").text) == [NAMES[31]]
    nowhere = chain.get(f"{path}?find=nowhere").text
    assert rows(nowhere) == []
    assert "No domain has" in nowhere
    assert 'value="nowhere"' in nowhere
    beyond = chain.get(f"{path}?offset=5000").text
    assert 'rel="prev"' in beyond
    assert 'rel="next"' not in beyond
    for query in ("offset=-1", "offset=x", f"find={'x' * 101}", "find=a&find=b"):
        answer = chain.get(f"{path}?{query}")
        assert (answer.status_code, 'class="wrong' in answer.text) == (400, True), query


def test_the_overview_of_many_domains_stays_small(chain: Browser, database_url: str) -> None:
    with open_bus(database_url) as bus:
        for name in NAMES:
            bus.send_new(1, domain=name)
    answer = chain.get("/")
    assert len(answer.text) < 80_000
    assert answer.text.count(">Nobody works on") == 12
    assert "And 48 more" in answer.text
