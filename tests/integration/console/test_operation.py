"""Overview, queues and health: they show what the library says, switch domains, and ask the database once for all."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from commandbus.console import ConsoleSettings, create_app, live, recent
from commandbus.console.activity import Span
from commandbus.console.recent import EXTENSION, Recent
from commandbus.errors import PoolTimeoutError
from commandbus.migrate import grant
from commandbus.sync import CommandBus, Operations, Redrives
from commandbus.sync import CommandBusPool as Pool
from tests.integration.console.browser import CANARY, DOMAIN, OPERATOR_TOKEN, TOKENS, VIEWER_TOKEN, Browser, routes
from tests.integration.console.test_bad_input import DOMAINS, LONG
from tests.integration.console.test_pages import ELSEWHERE, STREAMS
from tests.integration.console.test_xss import HOSTILE, check_page
from tests.integration.granted import login

if TYPE_CHECKING:
    from flask import Flask

    from commandbus.migrate import RoleNames
    from commandbus.sync import CommandBusPool
    from tests.integration.console.browser import World
    from tests.integration.console.conftest import MakeApp

SPANS = ("15m", "1h", "6h", "24h", "7d")
PLACES = ("/", "/api/overview", "/api/throughput", f"/queues/{DOMAIN}", f"/api/queues/{DOMAIN}")


def forget(app: Flask) -> None:
    """Let the next request look at the database."""
    found: Recent = app.extensions[EXTENSION]
    found.forget()


def run(url: str, statement: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
    """Run a statement as the database's owner; return its rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


def beat(url: str, host: str = "host-a", worker_id: UUID | None = None, **seen: int) -> UUID:
    """Let a worker say that it lives, *seconds* ago."""
    worker_id = worker_id or uuid4()
    counts = "'{40,1,2,3}'::bigint[], '{0,0,46}'::bigint[], '{0,46}'::bigint[]"
    run(url, f"select commandbus.sp_worker_beat(%s, %s, %s, 17, 10, 4, {counts})", (worker_id, DOMAIN, host))
    run(url, "update commandbus.worker set seen_at = seen_at - make_interval(secs => %s) where worker_id = %s",
        (seen.get("seconds", 0), worker_id))  # fmt: skip
    return worker_id


def test_the_overview_shows_what_the_library_says(
    operator: Browser, world: World, sync_pool: CommandBusPool, direct_url: str
) -> None:
    alive, silent = beat(direct_url), beat(direct_url, "host-b", seconds=30)
    Redrives(sync_pool).start(DOMAIN, rate=0.001, command_ids=world.parked[:1], operator="ada")
    found = operator.get("/api/overview").get_json()
    (domain,) = Operations(sync_pool).overview()
    assert found["troubleshooting"] == domain.in_troubleshooting == 2
    (shown,) = found["domains"]
    assert (shown["depth"], shown["scheduled"], shown["workers"], shown["capacity"]) == (1, 1, 1, 10)
    assert {(w["worker_id"], w["is_silent"]) for w in found["workers"]} == {(str(alive), False), (str(silent), True)}
    assert [group["waiting"] for group in found["groups"]] == [2]
    titles = [need["title"] for need in found["needs"]]
    redrives = ["A redrive of pay is paused", *["A redrive of pay is running"] * 2]
    assert titles == ["2 commands wait for a decision", "1 worker of pay went silent", *redrives]
    text = operator.get("/").text
    for part in (*titles, "host-a", "host-b", "Silent", "ACCOUNT_CLOSED", "the account was closed"):
        assert part in text


def test_what_workers_have_is_shown_with_its_lease(
    operator: Browser, sync_pool: CommandBusPool, direct_url: str
) -> None:
    run(direct_url, "select * from commandbus.sp_receive_commands(%s, 1, 30)", (DOMAIN,))
    (lease,) = Operations(sync_pool).list_leases(DOMAIN)
    for path in ("/", f"/queues/{DOMAIN}"):
        assert str(lease.command_id) in operator.get(path).text
    assert operator.get("/api/overview").get_json()["running"][0]["command_id"] == str(lease.command_id)
    assert operator.get(f"/api/queues/{DOMAIN}").get_json()["leases"][0]["msg_id"] == lease.msg_id


def test_charts_show_what_was_done_and_gaps_where_nothing_is_known(
    app: Flask, operator: Browser, direct_url: str
) -> None:
    assert "Nothing is known of this time" in operator.get("/").text
    beat(direct_url)
    run(direct_url, "update commandbus.throughput set at = at - interval '1 minute'")
    forget(app)
    for path in ("/", f"/?domain={DOMAIN}", f"/queues/{DOMAIN}"):
        for span in SPANS[:2]:
            text = operator.get(path + ("&" if "?" in path else "?") + f"span={span}").text
            assert "4/s" in text if span == "15m" else "1.33/s" in text, (path, span)
            assert 'data-values="-|-|' in text
    points = operator.get("/api/throughput?span=15m").get_json()["points"]
    assert [(point["completed"], point["parked"]) for point in points] == [(40, 3)]


def test_charts_that_go_on_are_those_of_one_look(app: Flask, direct_url: str, sync_pool: CommandBusPool) -> None:
    known: Recent = app.extensions[EXTENSION]
    CommandBus(sync_pool).create_domain(DOMAIN)
    rows = "generate_series(now() - interval '{} minutes', now() - interval '{} minutes', interval '30 s') at"
    make = (
        "insert into commandbus.throughput (domain, seconds, at, enqueued, completed) select %s, 30,"
        " date_bin('30 s', at, '2000-01-01 00:00:00+00'), 5, 7"
    )
    run(direct_url, f"{make} from {rows.format(50, 30)}", (DOMAIN,))
    before = known.points(DOMAIN, Span.HOUR)
    run(direct_url, f"{make} from {rows.format(29, 1)}", (DOMAIN,))
    known.forget()
    after = known.points(DOMAIN, Span.HOUR)
    assert len(before) < len(after)
    assert after == Operations(sync_pool).throughput(DOMAIN, seconds=Span.HOUR.seconds, step=Span.HOUR.step)


@pytest.mark.parametrize("path", PLACES)
def test_bad_parameters_are_400_with_a_message(operator: Browser, path: str) -> None:
    wrong: dict[str, tuple[str, ...]] = {"span": ("x", "15M", "QUARTER", "1 h", "0", "\x00", "9" * 5_000)}
    if "queues" not in path:
        wrong["domain"] = (*DOMAINS, "unknown")
    for name, values in wrong.items():
        for value in values:
            answer = operator.get(path, query_string={name: value})
            assert answer.status_code == 400, (name, value[:50])
            if "/api/" in path:
                assert list(answer.get_json()["errors"]) == [name]
            else:
                assert f'id="{name}-wrong"' in answer.text, (name, value[:50])
        assert "more than once" in operator.get(f"{path}?{name}=1&{name}=2").text
    for span in SPANS:
        assert operator.get(path, query_string={"span": span}).status_code == 200


def test_unknown_examinations_are_400(operator: Browser) -> None:
    for value in ("x", "VERIFY", "\x00"):
        answer = operator.get("/health", query_string={"look": value})
        assert (answer.status_code, 'id="look-wrong"' in answer.text) == (400, True)
        assert list(operator.get("/api/health", query_string={"look": value}).get_json()["errors"]) == ["look"]


def test_an_operator_pauses_and_resumes_and_the_audit_says_who_and_why(
    operator: Browser, viewer: Browser, sync_pool: CommandBusPool
) -> None:
    answer = operator.post(f"/queues/{DOMAIN}/pause", {"reason": "the bank is away"})
    assert answer.headers["Location"] == f"/queues/{DOMAIN}"
    text = operator.get(f"/queues/{DOMAIN}").text
    for part in ("Paused pay: what runs goes on, what is sent waits.", "by ada: the bank is away", "Resume pay"):
        assert part in text
    assert "pay is paused" in viewer.get("/").text
    assert "ada: the bank is away" in viewer.get("/queues").text
    assert "pay was paused already." in _after(operator, f"/queues/{DOMAIN}/pause")
    assert "Resumed pay: workers have its commands again." in _after(operator, f"/queues/{DOMAIN}/resume")
    assert "pay was not paused." in _after(operator, f"/queues/{DOMAIN}/resume")
    paused, resumed = reversed(
        [event for event in CommandBus(sync_pool).query_audit() if event.event_type.startswith("DOMAIN_")]
    )
    assert paused.details == {"operator": "ada", "reason": "the bank is away"}
    assert (resumed.event_type, resumed.details) == ("DOMAIN_RESUMED", {"operator": "ada"})


def _after(browser: Browser, path: str) -> str:
    browser.post(path)
    return browser.get(f"/queues/{DOMAIN}").text


def test_a_bad_reason_or_domain_or_a_viewer_changes_nothing(
    operator: Browser, viewer: Browser, sync_pool: CommandBusPool
) -> None:
    before = CommandBus(sync_pool).query_audit(limit=1_000)
    for action in ("pause", "resume"):
        for reason in (LONG, "a\x00b"):
            answer = operator.post(f"/queues/{DOMAIN}/{action}", {"reason": reason})
            assert (answer.status_code, 'id="reason-wrong"' in answer.text) == (422, True), reason[:20]
        for domain in ("unknown", "Bad-Name", "%00", "p" * 300):
            assert operator.post(f"/queues/{domain}/{action}").status_code == 404, domain
        assert viewer.post_raw(f"/queues/{DOMAIN}/{action}").status_code == 403
        assert operator.get(f"/queues/{DOMAIN}/{action}").status_code == 405
    for path in ("/queues/unknown", "/api/queues/unknown", "/queues/Bad-Name", "/queues/%00"):
        assert operator.get(path).status_code == 404
    assert "/pause" not in viewer.get(f"/queues/{DOMAIN}").text
    assert CommandBus(sync_pool).query_audit(limit=1_000) == before
    assert Operations(sync_pool).overview(DOMAIN)[0].paused_at is None


def test_hostile_reasons_operators_and_hosts_stay_texts(make_app: MakeApp, world: World, direct_url: str) -> None:
    app = make_app(**TOKENS)
    browsers = [Browser(app, OPERATOR_TOKEN), Browser(app, VIEWER_TOKEN)]
    assert world.parked
    for text in HOSTILE:
        run(direct_url, "truncate commandbus.worker, commandbus.paused_domain")
        run(direct_url, "select commandbus.sp_pause_domain(%s, %s, %s)", (DOMAIN, text, text))
        beat(direct_url, text, seconds=30)
        forget(app)
        for browser in browsers:
            for path, least in (("/", 3), ("/queues", 2), (f"/queues/{DOMAIN}", 3)):
                words = "\n".join(check_page(browser.get(path).text, path).words)
                assert words.count(text) >= least, (path, text)


def test_numbers_are_looked_up_once_however_many_ask(make_app: MakeApp, world: World) -> None:
    app = make_app()
    forget(app)
    looked: list[float] = []
    known: Recent = app.extensions[EXTENSION]
    assert world.parked

    def look() -> list[float]:
        looked.append(1.0)
        return looked

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: known.ask("numbers", 30.0, look), range(50)))
    assert len(looked) == 1
    known.forget()
    known.ask("numbers", 30.0, look)
    assert len(looked) == 2


def test_a_failure_is_told_to_all_who_wait_without_trying_for_each(
    database_url: str, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "_NOW", 60.0)  # seconds that it is told for: on a busy machine some come late
    known: Recent = make_app().extensions[EXTENSION]
    tried: list[int] = []
    with Pool(database_url=database_url, pool_max_size=1, pool_timeout=0.3) as pool, pool.connection():

        def look() -> Any:
            tried.append(1)
            return Operations(pool).overview()

        def fail(_: int) -> None:
            with pytest.raises(PoolTimeoutError):
                known.ask("busy", 30.0, look)

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(fail, range(8)))
    assert len(tried) == 1


def test_the_version_of_the_numbers_changes_with_them(app: Flask, operator: Browser, sync_pool: CommandBusPool) -> None:
    first = operator.get("/api/live").get_json()
    forget(app)
    assert operator.get("/api/live").get_json() == first
    CommandBus(sync_pool).send(DOMAIN, "Tick", uuid4(), {})
    forget(app)
    second = operator.get("/api/live").get_json()
    assert second["version"] != first["version"]
    assert second["domains"][DOMAIN][0] == first["domains"][DOMAIN][0] + 1


def test_the_number_in_the_sidebar_is_of_now_or_not_told(
    operator: Browser, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    badge = re.compile(r'data-number="troubleshooting"( hidden)?>(\d+)<')
    assert operator.get("/api/live").get_json()["troubleshooting"] == len(world.parked)
    assert badge.findall(operator.get("/send").text) == [("", "2")] * 2
    monkeypatch.setattr(live, "_FRESH", 0.0)
    assert badge.findall(operator.get("/send").text) == [(" hidden", "0")] * 2


def test_the_page_of_a_domain_takes_nothing_from_a_body(operator: Browser, world: World) -> None:
    assert world.parked
    answer = operator.open(f"/queues/{DOMAIN}", method="GET", data={"reason": "canary-4712"})
    assert answer.status_code == 200
    assert "canary-4712" not in answer.text


def test_charts_are_drawn_while_the_database_s_clock_is_ahead(app: Flask, operator: Browser, direct_url: str) -> None:
    with psycopg.connect(direct_url, autocommit=True) as connection:
        connection.execute(
            "insert into commandbus.throughput (domain, seconds, at, completed)"
            " values ('pay', 10, now() + interval '40 s', 1)"
        )
    for _ in range(2):  # the second time, only what is new is looked up
        assert operator.get("/").status_code == 200
        forget(app)


def test_the_version_tells_of_commands_that_came_and_went_between_two_looks(
    app: Flask, operator: Browser, direct_url: str
) -> None:
    first = operator.get("/api/live").get_json()
    with psycopg.connect(direct_url, autocommit=True) as connection:
        connection.execute(
            "insert into commandbus.throughput (domain, seconds, at, completed) values ('pay', 10, now(), 1)"
        )
    forget(app)
    second = operator.get("/api/live").get_json()
    assert second["version"] != first["version"]
    assert second["domains"] == first["domains"]


def test_health_tells_the_connection_and_the_migrations(operator: Browser, viewer: Browser) -> None:
    for browser in (operator, viewer):
        text = browser.get("/health").text
        for part in (
            "V001__commandbus_schema.sql",
            "Applied",
            "Round trip",
            "Looks at server",
            "Compares what is there",
        ):
            assert part in text
    found = operator.get("/api/health").get_json()
    assert (found["connection"]["Schema version"], found["checks"], found["differences"]) == ("1", None, None)


def test_the_schema_is_compared_on_demand(app: Flask, operator: Browser, direct_url: str) -> None:
    assert "are as the migrations make them" in operator.get("/health?look=verify").text
    run(direct_url, "drop function commandbus.overview(text) cascade; create table commandbus.mine ()")
    run(direct_url, "create function commandbus.overview(p_domain text) returns int language sql as 'select 1'")
    forget(app)
    differences = operator.get("/api/health?look=verify").get_json()["differences"]
    assert any("commandbus.mine" in difference for difference in differences)
    assert len(differences) >= 2


@pytest.mark.listens
def test_the_doctor_is_asked_on_demand(operator: Browser, direct_url: str) -> None:
    run(direct_url, "alter table pgmq.q_pay__commands set (autovacuum_vacuum_scale_factor = 0.2)")
    checks = {check["name"]: check for check in operator.get("/api/health?look=doctor").get_json()["checks"]}
    assert checks["server"]["status"] == "ok"
    assert checks["autovacuum"]["status"] == "warning"
    text = operator.get("/health?look=doctor").text
    for part in ("domain pay", "LISTEN", "alter table pgmq.q_pay__commands set", "Warning", "Examine again"):
        assert part in text


def test_a_role_that_may_not_see_everything_is_told_so(names: RoleNames, direct_url: str, world: World) -> None:
    assert world.parked
    grant(direct_url, **asdict(names))
    with Pool(database_url=login(direct_url, names.readonly)) as pool:
        app = create_app(pool, settings=ConsoleSettings.load())
        browser = Browser(app)
        pages = [path for _, path, endpoint in routes(app, world, "GET") if endpoint not in ELSEWHERE | STREAMS]
        pages += [f"{path}?payload=on" for path in pages if path.endswith(str(world.parked[0]))]
        pages += ["/health?look=verify", "/health?look=doctor", f"/troubleshooting/commands?domain={DOMAIN}"]
        assert {path: browser.get(path).status_code for path in pages} == dict.fromkeys(pages, 200)
        assert len(pages) > 35
        command = f"/commands/{DOMAIN}/{world.parked[0]}"
        for path in ("/troubleshooting/commands", f"{command}?payload=on", f"{command}/edit"):
            text = browser.get(path).text
            assert "database role may not see what was sent" in text, path
            assert (CANARY in text, "not kept any more" in text, "is lost" in text) == (False, False, False), path
        found = browser.get("/api/troubleshooting/commands").get_json()
        waiting = [(row["command_id"], row["payload"]) for row in found["commands"]]
        assert (waiting, list(found["refused"])) == ([(str(one), None) for one in world.parked], ["payload"])
        assert list(browser.get(f"/api{command}?payload=on").get_json()["refused"]) == ["payload"]
        found = browser.get("/api/health?look=doctor").get_json()
        unknown = {check["name"]: check["found"] for check in found["checks"] if check["status"] == "warning"}
        assert {"oldest transaction", "stuck commands"} <= set(unknown)
        answer = browser.post(f"/queues/{DOMAIN}/pause", {"reason": "x"})
        assert (answer.status_code, "role may not do that" in answer.text) == (403, True)


@pytest.mark.parametrize("path", ["/", "/health", "/commands"])
def test_a_schema_that_is_gone_is_told_and_what_makes_it(operator: Browser, database_url: str, path: str) -> None:
    run(database_url, "drop schema commandbus cascade")
    answer = operator.get(path)
    assert answer.status_code == 503
    assert "commandbus migrate" in answer.text
