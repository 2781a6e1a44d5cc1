"""docker-compose.yml as it is, with a worker in a container, used from the host."""

from __future__ import annotations

import subprocess
from contextlib import closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING
from uuid import uuid4

from commandbus.migrate import migrate
from commandbus.sync import CommandBus, CommandBusPool, SendRequest
from tests.cli_process import wait_for
from tests.docker.build_images import ROOT
from tests.docker.stack import DOMAIN, PATIENCE, TOKEN

if TYPE_CHECKING:
    from tests.docker.stack import Stack

FILES = sorted(path.name for path in (ROOT / "migrations").glob("V*.sql"))
LIBRARY = [name for name in FILES if "__e2e" not in name]


def test_flyway_applies_the_librarys_migrations_and_no_other(stack: Stack) -> None:
    assert stack.history() == LIBRARY
    assert migrate(stack.url).applied == ()
    assert stack.rows("select extname from pg_extension where extname = 'pgmq'") == [("pgmq",)]


def test_the_database_is_published_on_the_loopback_address_only(stack: Stack) -> None:
    assert stack.state("postgres")["Health"]["Status"] == "healthy"
    assert stack.inspect("postgres")["NetworkSettings"]["Ports"] == {
        "5432/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]
    }
    assert stack.inspect("worker")["NetworkSettings"]["Ports"] == {}


def test_a_command_from_the_host_is_executed_in_the_container_by_a_user_without_rights(stack: Stack) -> None:
    with CommandBusPool(database_url=stack.url) as pool:
        bus = CommandBus(pool)
        bus.create_domain(DOMAIN)
        result = bus.call(DOMAIN, "WhoAreYou", {}, timeout=PATIENCE)
    assert result == {"user": 10001, "host": stack.inspect("worker")["Config"]["Hostname"]}


def test_the_worker_is_healthy_while_it_reaches_its_database(stack: Stack) -> None:
    wait_for(lambda: stack.state("worker")["Health"]["Status"] == "healthy", PATIENCE)
    worker = stack.inspect("worker")
    elsewhere = "COMMANDBUS_DATABASE_URL=postgresql://commandbus@postgres:1/commandbus"
    check = worker["Config"]["Healthcheck"]["Test"][1:]
    command = ["docker", "exec", "--env", elsewhere, str(worker["Id"]), *check]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr


def test_the_console_is_published_on_the_loopback_address_and_lets_in_who_knows_the_token(stack: Stack) -> None:
    assert stack.inspect("console")["NetworkSettings"]["Ports"] == {
        "8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(stack.console_port)}]
    }

    def status_of(path: str, **headers: str) -> int:
        with closing(HTTPConnection("127.0.0.1", stack.console_port, timeout=10)) as connection:
            try:
                connection.request("GET", path, headers=headers)
                return connection.getresponse().status
            except OSError:  # it is not up yet
                return 0

    known = {"Authorization": f"Bearer {TOKEN}"}
    wait_for(lambda: status_of("/login") == 200, PATIENCE)
    assert status_of("/api/overview") == 401
    assert status_of("/api/overview", **known) == 200
    assert status_of("/static/console/dist/console.css") == 200
    assert status_of("/", Host="elsewhere.example", **known) == 400


def test_a_worker_that_is_stopped_settles_what_it_began_and_loses_nothing(stack: Stack) -> None:
    requests = [SendRequest(DOMAIN, "TakeTime", uuid4(), {"seconds": 2}) for _ in range(60)]  # ten at once
    with CommandBusPool(database_url=stack.url) as pool:
        bus = CommandBus(pool)
        bus.create_domain(DOMAIN)
        bus.send_batch(requests)
    ids = ", ".join(f"'{request.command_id}'" for request in requests)
    status = f"select status, attempts, count(*) from commandbus.command where command_id in ({ids}) group by 1, 2"
    wait_for(lambda: any(row[0] == "IN_PROGRESS" for row in stack.rows(status)), PATIENCE)

    stack.compose("stop", "worker")

    assert stack.state("worker")["ExitCode"] == 0  # not 137, as of one that is killed after its grace
    found = {(state, attempts): number for state, attempts, number in stack.rows(status)}
    assert set(found) == {("COMPLETED", 1), ("PENDING", 0)}
    stack.compose("start", "worker")
    wait_for(lambda: stack.rows(status) == [("COMPLETED", 1, len(requests))], PATIENCE)


def test_the_test_tables_come_by_profile_and_migrating_goes_on(plain_stack: Stack) -> None:
    plain_stack.up()
    assert plain_stack.history() == LIBRARY
    plain_stack.up("e2e")
    assert sorted(plain_stack.history()) == FILES
    plain_stack.compose("up", "--detach", "--no-build", "--force-recreate", "migrate")
    plain_stack.wait_for_end("migrate")


def test_down_leaves_nothing(plain_stack: Stack) -> None:
    plain_stack.compose("up", "--detach", "postgres")
    assert plain_stack.leftovers() != ""
    plain_stack.down()
    assert plain_stack.leftovers() == ""
