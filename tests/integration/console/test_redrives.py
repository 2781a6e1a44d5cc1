"""Redrives from the pages: started, watched, paused, resumed and stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from commandbus.console.recent import EXTENSION
from commandbus.sync import CommandBus, Redrives, TroubleshootingQueue
from tests.integration.console.browser import DOMAIN, Browser
from tests.integration.console.test_decisions import group_of, park
from tests.integration.sql_helpers import open_bus

if TYPE_CHECKING:
    from flask import Flask

    from commandbus.sync import CommandBusPool
    from tests.integration.console.browser import World


def redrives_of(pool: CommandBusPool) -> list[Any]:
    """Return the redrives that are not part of the world, oldest first."""
    return Redrives(pool).list()[:-2][::-1]


def test_a_redrive_of_a_selection_a_group_or_a_domain_is_that_of_the_library(
    operator: Browser, world: World, database_url: str, sync_pool: CommandBusPool
) -> None:
    with open_bus(database_url) as bus:
        park(bus, 3)
    group = group_of(sync_pool, "NO_STOCK")
    options = {"rate": "2.5", "stop_after": "10", "reason": "mended"}
    whats = (
        {"command": [f"{DOMAIN}/{i}" for i in world.parked]},
        {"group": f"{DOMAIN}/{group.failure_key}"},
        {"domain": DOMAIN},
    )
    for what in whats:
        answer = operator.post("/redrives", {**options, **what})
        assert answer.status_code == 302, answer.text
    found = redrives_of(sync_pool)
    assert [redrive.total_count for redrive in found] == [2, 3, 5]
    for redrive in found:
        assert (redrive.rate, redrive.stop_after, redrive.operator, redrive.reason) == (2.5, 10, "ada", "mended")
    assert answer.headers["Location"] == f"/redrives/{found[-1].redrive_id}"
    (event,) = CommandBus(sync_pool).get_audit_trail(found[-1].redrive_id, DOMAIN)
    assert (event.event_type, event.details["operator"], event.details["reason"]) == (
        "REDRIVE_STARTED",
        "ada",
        "mended",
    )


def test_a_redrive_is_paused_resumed_and_stopped_with_reasons(
    operator: Browser, world: World, sync_pool: CommandBusPool
) -> None:
    redrive_id = world.redrives[0]
    for action, status in (("pause", "PAUSED"), ("resume", "RUNNING"), ("stop", "STOPPED")):
        answer = operator.post(f"/redrives/{redrive_id}/{action}", {"reason": f"to {action}"})
        assert answer.headers["Location"] == f"/redrives/{redrive_id}"
        progress = Redrives(sync_pool).get(redrive_id)
        assert progress is not None
        assert progress.redrive.status == status
    events = CommandBus(sync_pool).get_audit_trail(redrive_id, DOMAIN)
    assert [(e.event_type, e.details["operator"], e.details.get("reason")) for e in events[1:]] == [
        ("REDRIVE_PAUSED", "ada", "to pause"),
        ("REDRIVE_RESUMED", "ada", "to resume"),
        ("REDRIVE_STOPPED", "ada", "to stop"),
    ]
    text = operator.get(f"/redrives/{redrive_id}").text
    assert "to pause" in text
    assert 'action="stop"' not in text


def test_what_a_redrive_cannot_do_any_more_is_told(operator: Browser, world: World) -> None:
    redrive_id = world.redrives[0]
    operator.post(f"/redrives/{redrive_id}/stop")
    for action in ("pause", "resume", "stop"):
        answer = operator.post(f"/redrives/{redrive_id}/{action}")
        assert answer.status_code == 409, action
    assert operator.post(f"/redrives/{uuid4()}/stop").status_code == 404
    assert operator.get(f"/redrives/{uuid4()}").status_code == 404


def test_progress_is_shown_as_it_is(operator: Browser, world: World, database_url: str) -> None:
    redrive_id = world.redrives[0]
    with open_bus(database_url) as bus:
        operator.post("/troubleshooting/cancel", {"command": f"{DOMAIN}/{world.parked[0]}", "reason": "mine"})
        bus.run("update commandbus.redrive set stepped_at = now() - interval '1 min' where redrive_id = %s", redrive_id)
        bus.call("sp_step_redrives", domain=DOMAIN)
        received = [row for row in bus.receive() if row["command_id"] == world.parked[1]]
        bus.settle(received, "COMPLETED")
    found = operator.get(f"/api/redrives/{redrive_id}").get_json()["redrive"]
    counts = {name: found[name] for name in ("sent_count", "refused_count", "completed", "again", "under_way", "left")}
    assert counts == {"sent_count": 1, "refused_count": 1, "completed": 1, "again": 0, "under_way": 0, "left": 0}
    assert found["status"] == "COMPLETED"
    text = operator.get(f"/redrives/{redrive_id}").text
    assert 'aria-label="Of these 1 completed, 1 refused"' in text


def test_the_page_says_whether_a_worker_of_the_domain_runs(
    app: Flask, operator: Browser, world: World, database_url: str
) -> None:
    path = f"/redrives/{world.redrives[0]}"
    assert "No worker of pay runs" in operator.get(path).text
    assert "No worker of pay runs" in operator.get(f"/redrives/new?domain={DOMAIN}").text
    with open_bus(database_url) as bus:
        bus.run(
            "insert into commandbus.worker (worker_id, domain, host, pid, concurrency)"
            " values (gen_random_uuid(), 'pay', 'here', 7, 4)"
        )
        app.extensions[EXTENSION].forget()
        assert "No worker" not in operator.get(path).text
        assert operator.get(f"/api/redrives/{world.redrives[0]}").get_json()["workers"] == 1
        bus.run("update commandbus.worker set seen_at = now() - interval '1 min'")
        app.extensions[EXTENSION].forget()
        assert "No worker of pay runs" in operator.get(path).text


def test_what_was_begun_is_told_when_the_rest_could_not_be(
    operator: Browser, world: World, database_url: str, sync_pool: CommandBusPool
) -> None:
    with open_bus(database_url) as bus:
        park(bus, 3)
        bus.run(
            "create function public.full() returns trigger language plpgsql as $$ begin"
            " if (select count(*) from commandbus.redrive) > 2 then raise lock_not_available; end if;"
            " return new; end $$"
        )
        bus.run(
            "create trigger no_more before insert on commandbus.redrive for each row execute function public.full()"
        )
    what = {
        "group": f"{DOMAIN}/{group_of(sync_pool, 'NO_STOCK').failure_key}",
        "command": [f"{DOMAIN}/{i}" for i in world.parked],
        "rate": "1",
    }
    answer = operator.post("/api/redrives", what)
    (begun,) = redrives_of(sync_pool)
    assert answer.status_code == 201
    assert answer.get_json()["redrives"] == [str(begun.redrive_id)]
    assert answer.get_json()["refused"] == ["1 of them could not begin: the database refused."]
    assert operator.post("/api/redrives", what).status_code >= 500, "nothing was begun"


def test_groups_of_several_domains_are_shown_before_they_are_sent(
    operator: Browser, world: World, database_url: str, sync_pool: CommandBusPool
) -> None:
    assert world.parked
    with open_bus(database_url) as bus:
        park(bus, 3)
        bus.create_domain("ship")
        bus.park(1, domain="ship")
    groups = [f"{one.domain}/{one.failure_key}" for one in TroubleshootingQueue(sync_pool).list_failure_groups()]
    assert len(groups) == 3
    text = operator.get("/redrives/new", query_string={"group": [*groups, f"{DOMAIN}/{uuid4()}"]}).text
    assert [text.count(f'text-heading">{n}</span> of ') for n in (1, 2, 3)] == [1, 1, 1]
    assert "1 of the groups are empty by now" in text


@pytest.mark.parametrize("path", ["/redrives", "/api/redrives"])
def test_bad_fields_of_a_redrive_are_422_and_start_nothing(
    operator: Browser, world: World, sync_pool: CommandBusPool, path: str
) -> None:
    good = {"domain": DOMAIN, "rate": "5"}
    fields: dict[str, tuple[Any, ...]] = {
        "domain": ("", "Pay", "pay pay", "unknown", "\x00"),
        "rate": ("", "0", "-1", "1e3", "10001", "0.0001", "nan", "inf", "x", "٣", "1,5", "9" * 30),
        "stop_after": ("0", "-1", "1.5", "x", "100001", "٣"),
        "reason": ("x" * 2_001, "a\x00b"),
        "command": ("x", f"Pay/{uuid4()}", [f"{DOMAIN}/{uuid4()}" for _ in range(1_001)], f"{DOMAIN}/{uuid4()}"),
        "group": ("x", f"{DOMAIN}/7", f"{DOMAIN}/{uuid4()}"),
    }
    for name, values in fields.items():
        for value in values:
            answer = operator.post(path, {**good, name: value})
            assert answer.status_code == 422, (name, value)
            if path == "/redrives":
                assert 'class="wrong"' in answer.text or 'role="alert"' in answer.text, (name, value)
            else:
                assert answer.get_json()["errors"], (name, value)
    assert len(Redrives(sync_pool).list()) == len(world.redrives)


def test_a_refused_redrive_keeps_its_selection_and_what_was_typed(operator: Browser, world: World) -> None:
    names = [f"{DOMAIN}/{i}" for i in world.parked]
    text = operator.post("/redrives", {"command": names, "rate": "fast", "reason": "kept"}).text
    assert all(f'name="command" value="{name}"' in text for name in names)
    assert 'value="fast"' in text
    assert 'value="kept"' in text
    assert 'id="rate-wrong"' in text
