"""Finding commands page by page, and the story of one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from commandbus.sync import CommandBus
from tests.integration.console.browser import CANARY, DOMAIN, Browser, words
from tests.integration.sql_helpers import errors, open_bus
from tests.integration.test_sql_plans import fill

if TYPE_CHECKING:
    from commandbus.sync import CommandBusPool
    from tests.integration.console.browser import World

LINK = re.compile(r'href="(\?[^"]*)" rel="(next|prev)"')


def links(page: str) -> dict[str, str]:
    """Return the addresses of the neighbours of a page."""
    return {rel: address.replace("&amp;", "&") for address, rel in LINK.findall(page)}


def test_one_comes_back_by_the_same_pages(operator: Browser) -> None:
    forth, address = [], "?limit=2"
    while True:
        forth.append(operator.get(f"/api/commands{address}").get_json()["commands"])
        found = links(operator.get(f"/commands{address}").text)
        if "next" not in found:
            break
        address = found["next"]
    back = [forth[-1]]
    while "prev" in found:
        back.append(operator.get(f"/api/commands{found['prev']}").get_json()["commands"])
        found = links(operator.get(f"/commands{found['prev']}").text)
    assert back == forth[::-1]
    assert len(forth) == 5


def test_every_filter_is_that_of_the_library(operator: Browser, world: World, sync_pool: CommandBusPool) -> None:
    bus = CommandBus(sync_pool)
    (key,) = [g["failure_key"] for g in operator.get("/api/troubleshooting").get_json()["groups"]]
    for query, count in (
        (f"batch={world.batches[0]}", 8),
        (f"group={key}", 2),
        ("text=account+WAS", sum("account was" in (row.last_error_msg or "") for row in bus.query_commands())),
        (f"text={world.parked[0]}", 1),
        (f"domain={DOMAIN}&type=DebitAccount&status=CANCELED&after=1h", 1),
        ("before=1h", 0),
    ):
        found = operator.get(f"/api/commands?{query}").get_json()["commands"]
        assert len(found) == count, query


def test_a_search_that_is_cut_short_says_so_and_goes_on(operator: Browser, database_url: str) -> None:
    with open_bus(database_url) as bus:
        fill(bus, 20_000)
        bus.run("update commandbus.command set command_type = 'Needle' where command_id ="
                " (select command_id from commandbus.command order by created_at limit 1)")  # fmt: skip
    first = operator.get("/api/commands?type=Needle").get_json()
    assert (first["commands"], first["is_cut_short"]) == ([], True)
    text = operator.get("/commands?type=Needle").text
    assert "No match so far" in text
    assert "have been searched" in text
    (address,) = re.findall(r'href="(\?[^"]*)">Search on', text)
    second = operator.get("/api/commands" + address.replace("&amp;", "&")).get_json()
    assert [row["command_type"] for row in second["commands"]] == ["Needle"]
    assert not second["is_cut_short"]


def test_a_payload_is_loaded_on_demand_and_its_place_is_named(operator: Browser, world: World) -> None:
    path = f"/commands/{DOMAIN}/{world.parked[0]}"
    plain = operator.get(path).text
    assert CANARY not in plain
    assert "?payload=on#payload" in plain
    assert operator.get(f"/api{path}").get_json()["payload"] is None
    loaded = operator.get(f"{path}?payload=on").text
    assert CANARY in loaded
    assert "in troubleshooting</span>" in loaded
    assert "is not kept any more" in operator.get(f"/commands/{DOMAIN}/{world.edited[0]}?payload=on").text
    for twin in (path, f"/api{path}"):
        assert operator.get(f"{twin}?payload=x").status_code == 400


def test_attempts_and_the_reply_are_told(operator: Browser, database_url: str) -> None:
    command_id = uuid4()
    with open_bus(database_url) as bus:
        bus.run("delete from pgmq.q_pay__commands")
        bus.run("delete from commandbus.scheduled")
        bus.send(command_id, reply_queues=["pay__replies"])
        mine = [row for row in bus.receive() if row["command_id"] == command_id]  # others may be due by now
        bus.settle(mine, "RETRY", places=["/srv/pay.py:7"], **errors(1, "TRANSIENT", delay=0))
        path = f"/commands/{DOMAIN}/{command_id}"
        assert "Not yet; it will go to" in operator.get(path).text
        bus.run("update commandbus.scheduled set due_at = now() where command_id = %s", command_id)
        bus.settle([row for row in bus.receive() if row["command_id"] == command_id], "COMPLETED")
    story = operator.get(f"/api{path}").get_json()
    assert [(a["number"], a["outcome"], a["error_code"], a["error_place"]) for a in story["attempts"]] == [
        (1, "RETRY_SCHEDULED", "E_TEST", "/srv/pay.py:7"),
        (2, "COMPLETED", None, None),
    ]
    assert story["outcome"] == "SUCCESS"
    text = operator.get(path).text
    assert "sent to" in text
    assert "pay__replies" in text
    assert text.count("/srv/pay.py:7</") == 3, "beside the error, with the attempt and in the timeline"


def test_an_error_whose_attempt_the_audit_forgot_is_told_without_its_place(
    operator: Browser, database_url: str
) -> None:
    command_id = uuid4()
    with open_bus(database_url) as bus:
        bus.send(command_id)
        mine = [row for row in bus.receive() if row["command_id"] == command_id]
        bus.settle(mine, "RETRY", **errors(1, "TRANSIENT", delay=3_600))
        bus.run("delete from commandbus.audit where command_id = %s", command_id)
    text = operator.get(f"/commands/{DOMAIN}/{command_id}").text
    assert "Last error" in text
    assert "the audit of that time is gone" in text


def test_the_counts_of_attempts_agree_after_an_operators_retry(
    operator: Browser, viewer: Browser, world: World, database_url: str
) -> None:
    path = f"/commands/{DOMAIN}/{world.edited[0]}"
    attempts = operator.get(f"/api{path}").get_json()["attempts"]
    assert [(one["number"], one["is_anew"]) for one in attempts] == [(1, False), (1, True)]
    with open_bus(database_url) as bus:
        bus.call("sp_operator_retry", domain=DOMAIN, command_ids=[world.parked[0]])
    for browser in (operator, viewer):
        text = words(browser.get(path).text)
        assert "Attempts 2 in all # Outcome" in text
        assert "An operator retried it: its attempts are counted anew. 1 Completed" in text
        assert "Attempts 1 of 3 since an operator's last retry" in text
        text = words(browser.get(f"/commands/{DOMAIN}/{world.parked[0]}").text)
        assert "Attempts 0 of 3 since an operator's last retry" in text
        assert "Attempts 1 # Outcome" in text
        text = words(browser.get(f"/commands/{DOMAIN}/{world.parked[1]}").text)
        assert "Attempts 1 of 3 Sent" in text
        assert "anew" not in text


def test_a_command_is_found_by_the_beginning_of_its_id(operator: Browser, world: World) -> None:
    one = str(world.parked[0])
    for text in (one[:8], one[:8].upper(), f" {one[:8]} ", f"{one[:8]}…", one[:13], one.replace("-", "")[:20], one):
        answer = operator.get("/go", query_string={"id": text})
        assert answer.headers["Location"] == f"/commands/{DOMAIN}/{one}", text


def test_commands_whose_ids_begin_alike_are_listed_and_those_beyond_are_told(
    operator: Browser, database_url: str
) -> None:
    ids = [UUID(int=(0xABCDEF12 << 96) + n) for n in range(52)]
    with open_bus(database_url) as bus:
        bus.create_domain("ship")
        bus.send(*ids[:2])
        bus.send(ids[1], domain="ship")
        answer = operator.get("/go?id=abcdef12")
        assert answer.status_code == 200
        for domain, one in ((DOMAIN, ids[0]), (DOMAIN, ids[1]), ("ship", ids[1])):
            assert f"/commands/{domain}/{one}" in answer.text
        assert "3 commands" in answer.text
        twice = operator.get(f"/go?id={ids[1]}").text
        assert f"/commands/ship/{ids[1]}" in twice
        assert str(ids[0]) not in twice
        bus.send(*ids[2:])
    assert "The first 50" in operator.get("/go?id=abcdef12").text
    assert operator.get("/go?id=abcdef13").status_code == 404


def test_what_cannot_begin_an_id_is_refused(operator: Browser) -> None:
    for text in (
        "",
        "abcdef1",
        "abcdefg1",
        "abcd-ef1",
        "a" * 33,
        "abcdef12%",
        "\N{FULLWIDTH DIGIT ONE}" * 8,
        "\x00" * 8,
        "9" * 5_000,
    ):
        answer = operator.get("/go", query_string={"id": text})
        assert answer.status_code == 400, text
        assert "8" in answer.text


def test_an_error_of_a_command_that_completed_since_is_told_as_its_past(operator: Browser, world: World) -> None:
    text = operator.get(f"/commands/{DOMAIN}/{world.edited[0]}").text
    assert "Failed before it completed" in text
    assert "Last error" not in text
    for waiting in world.parked:
        assert "Last error" in operator.get(f"/commands/{DOMAIN}/{waiting}").text


def test_batches_of_all_domains_are_paged_without_an_end(operator: Browser, database_url: str) -> None:
    with open_bus(database_url) as bus:
        bus.create_domain("ship")
        for domain in (DOMAIN, "ship"):
            bus.run(
                "insert into commandbus.batch (domain, batch_id, total_count, created_at)"
                " select %s, gen_random_uuid(), 1, now() - n * interval '1 s' from generate_series(1, 600) n",
                domain,
            )
        seen: list[str] = []
        offset = 0
        while offset is not None:
            page = operator.get(f"/api/batches?offset={offset}").get_json()
            seen += [batch["batch_id"] for batch in page["batches"]]
            offset = page["next_offset"]
        bus.run("delete from commandbus.batch where total_count = 1")  # which were never real
    assert len(seen) == len(set(seen)) == 1_201
