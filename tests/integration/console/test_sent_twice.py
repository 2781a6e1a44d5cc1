"""A form that is sent twice acts once, and the second is told so; sent anew from its page, it acts again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from commandbus.sync import CommandBus, Redrives
from tests.integration.console.browser import DOMAIN, OPERATOR_TOKEN, TOKENS, Browser
from tests.integration.sql_helpers import open_bus

if TYPE_CHECKING:
    from commandbus.sync import CommandBusPool
    from tests.integration.console.browser import World
    from tests.integration.console.conftest import MakeApp

SEND = {"domain": DOMAIN, "type": "Twice", "data": "{}"}
LINES = '{"data": {"n": 1}}\n{"data": {"n": 2}}'


def form_id(text: str) -> str:
    """Return the id that a page gives its form."""
    found = re.search(r'name="form_id" value="([^"]+)"', text)
    assert found
    return found[1]


@pytest.mark.parametrize(
    ("path", "data", "count"),
    [("/send", SEND, 1), ("/send/bulk", SEND | {"copies": "3"}, 3), ("/send/bulk", SEND | {"lines": LINES}, 2)],
)
def test_commands_are_sent_once(
    operator: Browser, sync_pool: CommandBusPool, path: str, data: dict[str, Any], count: int
) -> None:
    def sent() -> int:
        return len(CommandBus(sync_pool).query_commands(command_type="Twice"))

    form = data | {"form_id": form_id(operator.get(path).text)}
    assert operator.post(path, form).status_code == 302
    again = operator.post(path, form)
    assert (again.status_code, "was sent already" in again.text, sent()) == (422, True, count)
    assert operator.post(path, data | {"form_id": form_id(again.text)}).status_code == 302
    assert sent() == 2 * count


def test_a_command_that_another_form_sent_is_called_by_its_id(operator: Browser, world: World) -> None:
    line = f'{{"data": {{}}, "command_id": "{world.parked[0]}"}}'
    answer = operator.post("/send/bulk", SEND | {"lines": line, "form_id": form_id(operator.get("/send/bulk").text)})
    assert f"{world.parked[0]} exists" in answer.text
    assert "was sent already" not in answer.text


@pytest.mark.parametrize("page", [f"/redrives/new?domain={DOMAIN}", "/troubleshooting", "/troubleshooting/commands"])
def test_a_redrive_is_started_once(operator: Browser, world: World, sync_pool: CommandBusPool, page: str) -> None:
    def started() -> int:
        return len(Redrives(sync_pool).list()) - len(world.redrives)

    data = {"domain": DOMAIN, "rate": "1"}
    form = data | {"form_id": form_id(operator.get(page).text)}
    assert operator.post("/redrives", form).status_code == 302
    again = operator.post("/redrives", form)
    assert (again.status_code, "was sent already" in again.text, started()) == (422, True, 1)
    assert operator.post("/redrives", data | {"form_id": form_id(again.text)}).status_code == 302
    assert started() == 2


def test_a_redrive_that_could_not_begin_is_started_by_the_same_form(
    operator: Browser, world: World, sync_pool: CommandBusPool, database_url: str
) -> None:
    form = {"domain": DOMAIN, "rate": "1", "form_id": form_id(operator.get("/redrives/new").text)}
    with open_bus(database_url) as bus:
        bus.run(
            "create function public.busy() returns trigger language plpgsql as"
            " $$ begin raise lock_not_available; end $$"
        )
        bus.run("create trigger busy before insert on commandbus.redrive for each row execute function public.busy()")
        assert operator.post("/redrives", form).status_code == 503
        bus.run("drop trigger busy on commandbus.redrive")
    assert operator.post("/redrives", form).status_code == 302
    assert "was sent already" in operator.post("/redrives", form).text
    assert len(Redrives(sync_pool).list()) == len(world.redrives) + 1


def test_a_redrive_is_started_once_whichever_console_has_its_form(
    make_app: MakeApp, world: World, sync_pool: CommandBusPool
) -> None:
    here, there = (Browser(make_app(**TOKENS), OPERATOR_TOKEN) for _ in range(2))
    form = {"command": [f"{DOMAIN}/{one}" for one in world.parked], "rate": "1", "form_id": str(uuid4())}
    assert here.post("/redrives", form).status_code == 302
    assert "was sent already" in there.post("/redrives", form).text
    assert len(Redrives(sync_pool).list()) == len(world.redrives) + 1
    assert there.post("/redrives", form | {"command": form["command"][:1]}).status_code == 302, "another selection"


def test_a_program_that_did_not_hear_the_answer_asks_again_and_gets_it(
    operator: Browser, world: World, sync_pool: CommandBusPool
) -> None:
    names = [f"{DOMAIN}/{one}" for one in world.parked]
    asked = {"command": names, "rate": 1, "form_id": str(uuid4())}
    answers = [operator.post_json("/api/redrives", asked | {"command": some}) for some in (names, names, names[::-1])]
    assert [answer.status_code for answer in answers] == [201] * 3
    assert len({str(answer.get_json()) for answer in answers}) == 1
    assert len(Redrives(sync_pool).list()) == len(world.redrives) + 1


@pytest.mark.parametrize(
    ("selection", "field"),
    [({"command": []}, "command"), ({"group": None}, "group"), ({"command": "one"}, "domain")],
)
def test_a_selection_that_came_out_empty_does_not_mean_everything(
    operator: Browser, world: World, sync_pool: CommandBusPool, selection: dict[str, Any], field: str
) -> None:
    named = {name: [f"{DOMAIN}/{world.parked[0]}"] if what == "one" else what for name, what in selection.items()}
    answer = operator.post_json("/api/redrives", {"domain": DOMAIN, "rate": 1} | named)
    assert (answer.status_code, list(answer.get_json()["errors"])) == (422, [field])
    assert len(Redrives(sync_pool).list()) == len(world.redrives)


@pytest.mark.parametrize("path", ["/send", "/send/bulk", "/redrives"])
def test_an_id_of_a_form_that_is_none_is_refused(operator: Browser, path: str) -> None:
    answer = operator.post(path, SEND | {"copies": "1", "rate": "1", "form_id": "x"})
    assert (answer.status_code, "reload the page" in answer.text) == (422, True)
