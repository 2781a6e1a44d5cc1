"""What pages say is so: of groups beyond the largest, of workers whatever our clock says, and what viewers see."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from pgmq.install import get_embedded_sql_version

from commandbus.console import recent
from tests.integration.console.browser import CANARY, DOMAIN, Browser, words
from tests.integration.console.test_operation import beat, run

if TYPE_CHECKING:
    from flask import Flask

    from tests.integration.console.browser import World
    from tests.integration.console.conftest import MakeApp


def test_a_group_is_found_however_many_are_larger(operator: Browser, world: World, direct_url: str) -> None:
    assert world.parked
    ((key,),) = run(direct_url, "select failure_key from commandbus.list_failure_groups()")
    run(
        direct_url,
        "insert into commandbus.command (domain, queue_name, msg_id, command_id, command_type, status, max_attempts,"
        " created_at, updated_at, reply_queue, last_error_type, last_error_code, last_error_msg, attention_at,"
        " failure_key)"
        " select c.domain, c.queue_name, null, gen_random_uuid(), 'Type' || n, c.status, 3, now(), now(), '',"
        " c.last_error_type, c.last_error_code, c.last_error_msg, now(),"
        " md5(n::text)::uuid"
        " from commandbus.command c, generate_series(1, 1001) n, generate_series(1, 3)"
        " where c.command_id = %s",
        (world.parked[0],),
    )
    groups = run(direct_url, "select failure_key from commandbus.list_failure_groups(null, 1000)")
    assert (key,) not in groups
    found = operator.get(f"/api/troubleshooting/commands?domain={DOMAIN}&group={key}").get_json()
    assert (found["total"], len(found["commands"])) == (2, 2)
    assert "Nothing of it waits" not in operator.get(f"/troubleshooting/commands?domain={DOMAIN}&group={key}").text
    assert "empty by now" not in operator.get(f"/redrives/new?group={DOMAIN}/{key}").text


def test_facts_of_events_are_told_as_people_would(operator: Browser, world: World, direct_url: str) -> None:
    facts = {
        "huge_seconds": 1e308, "huger_seconds": 10**400, "delay_seconds": 83.42119600000001,
        "share": 0.1 + 0.2, "amount": 1234567.25, "rate": 10.0, "attempt": 100000,
        "is_late": True, "took_seconds": "long", "msg_id": 4711, "nothing": None, "blank": "", "parts": {"n": 0.5},
    }  # fmt: skip
    run(direct_url, "select commandbus.log_event(%s, %s, 'NOTED', %s)", (DOMAIN, world.parked[0], json.dumps(facts)))
    for path in (f"/commands/{DOMAIN}/{world.parked[0]}", "/audit?event=NOTED"):
        text = words(operator.get(path).text)
        for part in ("huge seconds 1", "delay 1.39 min",
                      "share 0.3 ", "amount 1234567.25 ", "rate 10 ", "attempt 100000 ",
                      "is late true", "took seconds long", 'parts { "n": 0.5 }'):  # fmt: skip
            assert part in text, path
        assert [part for part in ("delay seconds", "msg id", "nothing", "blank") if part in text] == [], path


@pytest.mark.parametrize("seconds", [-90, 90])
def test_workers_live_by_the_clock_of_the_server(
    operator: Browser, world: World, direct_url: str, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    alive, silent = beat(direct_url), beat(direct_url, "host-b", seconds=60)
    monkeypatch.setattr(recent, "utc_now", lambda: datetime.now(UTC) + timedelta(seconds=seconds))
    for path in ("/api/overview", f"/api/queues/{DOMAIN}"):
        workers = operator.get(path).get_json()["workers"]
        assert {UUID(w["worker_id"]): w["is_silent"] for w in workers} == {alive: False, silent: True}
    assert "1 worker of pay went silent" in operator.get("/").text
    assert operator.get(f"/api/redrives/{world.redrives[0]}").get_json()["workers"] == 1


class _Wrong(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, datetime)


@pytest.fixture(params=[-600, 600])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The console's own clock, and that of the library in it, is ten minutes behind, or ahead."""
    off = timedelta(seconds=request.param)

    class Off(datetime, metaclass=_Wrong):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # of datetime
            return datetime.now(tz) + off

    for name, module in list(sys.modules.items()):
        if name.startswith("commandbus.") and getattr(module, "datetime", None) is datetime:
            monkeypatch.setattr(module, "datetime", Off)


@pytest.mark.usefixtures("wrong_clock")
def test_times_are_told_by_the_clock_of_the_server(operator: Browser, world: World, direct_url: str) -> None:
    beat(direct_url)
    for path in ("/", "/commands", "/troubleshooting", f"/commands/{DOMAIN}/{world.edited[0]}", "/audit", "/batches"):
        text = operator.get(path).text
        moments = re.findall(r"<time [^>]*>([^<]*)</time>", text)
        assert moments, path
        assert {
            one for one in moments if not re.fullmatch(r"now|[0-9]+ s ago|[1-8] min ago|in [0-9]+ s", one)
        } == set(), path
        now = re.search(r'data-now="([^"]+)"', text)
        assert now, path
        assert abs(datetime.fromisoformat(now[1]) - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.usefixtures("wrong_clock")
def test_how_long_ago_in_a_filter_is_by_the_clock_of_the_server(operator: Browser) -> None:
    assert len(operator.get("/api/commands?after=8m").get_json()["commands"]) == 9
    assert operator.get("/api/commands?before=8m").get_json()["commands"] == []


def test_health_tells_the_version_of_pgmq_where_it_is_known(operator: Browser, direct_url: str) -> None:
    rows = run(direct_url, "select extversion from pg_extension where extname = 'pgmq'")
    version = rows[0][0] if rows else get_embedded_sql_version()
    assert operator.get("/api/health").get_json()["connection"]["PGMQ"] == version


def test_viewers_see_the_keys_of_events_that_are_not_the_librarys(
    operator: Browser, viewer: Browser, world: World, direct_url: str
) -> None:
    for details in (f'{{"note": "{CANARY}"}}', f'["{CANARY}"]', f'"{CANARY}"'):
        for owner in (world.parked[0], world.redrives[0], world.batches[0]):
            run(direct_url, "select commandbus.log_event(%s, %s, 'APPROVED', %s)", (DOMAIN, owner, details))
    owner = world.redrives[0]
    details = f'{{"operator": "{CANARY}", "reason": "{CANARY}"}}'
    run(direct_url, "select commandbus.log_event(%s, %s, 'APPROVED', %s)", (DOMAIN, owner, details))
    place = f"/commands/{DOMAIN}/{world.parked[0]}"
    for path in (place, f"/api{place}", "/audit?event=APPROVED", "/api/audit?event=APPROVED", f"/redrives/{owner}"):
        assert CANARY in operator.get(path).text, path
        assert CANARY not in viewer.get(path).text, path
    assert CANARY not in viewer.get(f"/batches/{DOMAIN}/{world.batches[0]}").text
    assert "note" in viewer.get(place).text


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via"])
def test_without_authentication_nothing_comes_through_a_proxy(make_app: MakeApp, header: str) -> None:
    assert Browser(make_app()).get("/health", headers={header: "192.0.2.7"}).status_code == 403


def test_numbers_say_of_what_time_they_are(operator: Browser, direct_url: str) -> None:
    beat(direct_url)
    run(direct_url, "update commandbus.throughput set at = at - interval '1 minute'")
    text = words(operator.get("/").text)
    for part in (
        r"Completed per s 4 last minute · p95 run",
        r"Sent per s \S+ last minute",
        r"In flight \d+ leased now, of 10 at once ",
        r"Need an operator 2 0.3/s in the last minute",
        r"Completed, last minute",
        r"1 alive, 10 at once; busy is what each told when it was seen",
    ):
        assert re.search(part, text), (part, text)
    text = words(operator.get(f"/queues/{DOMAIN}").text)
    for part in (
        r"In flight \d+ leased now, of 10 at once",
        "Completed per second, last minute 4 ",
        "Sent per second, last",
    ):
        assert re.search(part, text), part
    for span, step in (("15m", "10 s"), ("1h", "30 s"), ("6h", "3 min"), ("24h", "10 min"), ("7d", "1 h")):
        for path in ("/", f"/queues/{DOMAIN}"):
            told = f"times in UTC; one point for {step}, numbers from the latest point"
            assert told in words(operator.get(f"{path}?span={span}").text), (path, span)


def test_charts_say_that_their_times_are_utc(operator: Browser, direct_url: str) -> None:
    beat(direct_url)
    run(direct_url, "update commandbus.throughput set at = at - interval '1 minute'")
    assert ">UTC</span>" in operator.get("/").text


@pytest.mark.usefixtures("wrong_clock")
def test_charts_go_back_by_the_clock_of_the_server(app: Flask, operator: Browser, direct_url: str) -> None:
    for first, last, known in ((5, 200, 85), (0, 4, 90)):  # the second time only what is new is looked up
        run(
            direct_url,
            "insert into commandbus.throughput (domain, seconds, at, completed) select %s, 10,"
            " date_bin('10 s', now(), '2000-01-01') - n * interval '10 s', 1 from generate_series(%s::int, %s::int) n"
            " on conflict do nothing",
            (DOMAIN, first, last),
        )
        app.extensions[recent.EXTENSION].forget()
        points = operator.get("/api/throughput?span=15m").get_json()["points"]
        assert known <= len(points) <= known + 3
