"""One run of docker-compose.yml, under a name and a port of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from tests.cli_process import wait_for
from tests.docker.build_images import COMMANDBUS_IMAGE, FLYWAY_IMAGE, POSTGRES_IMAGE, ROOT, run

DOMAIN = "shop"
PASSWORD = "p@ss/w:rd %20"  # noqa: S105  (everything that a URL would need encoded)
TOKEN = "operator-of-the-container-tests"  # noqa: S105  (of a stack that lives for a minute)
PROFILES = ("e2e", "worker", "console")
PATIENCE = 90.0  # seconds; several containers start at once

_numbers = count(1)


class Stack:
    """The services of docker-compose.yml with our images.

    Args:
        program: the words that start Docker Compose.
    """

    def __init__(self, program: tuple[str, ...]) -> None:
        self.project = f"commandbus-test-{os.getpid()}-{next(_numbers)}"
        self._program = program
        with socket.socket() as one, socket.socket() as other:
            for found in (one, other):
                found.bind(("127.0.0.1", 0))
            self.port, self.console_port = (int(found.getsockname()[1]) for found in (one, other))
        self._environment = os.environ | {
            "COMMANDBUS_POSTGRES_IMAGE": POSTGRES_IMAGE,
            "COMMANDBUS_FLYWAY_IMAGE": FLYWAY_IMAGE,
            "COMMANDBUS_IMAGE": COMMANDBUS_IMAGE,
            "COMMANDBUS_DB_PORT": str(self.port),
            "COMMANDBUS_DB_PASSWORD": PASSWORD,
            "COMMANDBUS_CONSOLE_PORT": str(self.console_port),
            "COMMANDBUS_CONSOLE_OPERATOR_TOKEN": TOKEN,
            "COMMANDBUS_HANDLERS_DIRECTORY": str(Path(__file__).parent / "app"),
            "COMMANDBUS_HANDLERS": "handlers:registry",
            "COMMANDBUS_DOMAIN": DOMAIN,
        }

    @property
    def url(self) -> str:
        """The database, from the host."""
        return f"postgresql://commandbus:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/commandbus"

    def compose(self, *words: str, profiles: tuple[str, ...] = PROFILES) -> str:
        """Run one command of Docker Compose that must succeed; return what it printed."""
        chosen = [word for profile in profiles for word in ("--profile", profile)]
        command = [*self._program, "--file", str(ROOT / "docker-compose.yml"), "--project-name", self.project, *chosen]
        done = subprocess.run(
            [*command, *words], env=self._environment, capture_output=True, text=True, timeout=2 * PATIENCE, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def up(self, *profiles: str) -> None:
        """Start the services without a profile and those of *profiles*, and wait for their migrations."""
        self.compose("up", "--detach", "--no-build", profiles=profiles)
        self.wait_for_end("migrate")
        if "e2e" in profiles:
            self.wait_for_end("migrate-e2e")

    def wait_for_end(self, service: str) -> None:
        """Return when a service that ends by itself has done so, with success."""
        wait_for(lambda: self.state(service)["Status"] == "exited", PATIENCE)
        assert self.state(service)["ExitCode"] == 0, self.compose("logs", service)

    def down(self) -> None:
        """Take everything away."""
        self.compose("down", "--volumes", "--timeout", "5")

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of a service's container."""
        name = f"{self.project}-{service}-1"
        (found,) = json.loads(run("docker", "container", "inspect", name))
        assert isinstance(found, dict)
        return found

    def state(self, service: str) -> dict[str, Any]:
        """Return the state of a service's container."""
        found = self.inspect(service)["State"]
        assert isinstance(found, dict)
        return found

    def leftovers(self) -> str:
        """Return the names of all containers, volumes and networks that bear our name."""
        label = f"--filter=label=com.docker.compose.project={self.project}"
        kinds = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return "".join(run("docker", *kind, "--quiet", label) for kind in kinds)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a statement."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(statement.encode()).fetchall()

    def history(self) -> list[str]:
        """Return the files that were applied, in order; all must have succeeded."""
        found = self.rows("select script, success from public.flyway_schema_history order by installed_rank")
        assert all(success for _, success in found)
        return [script for script, _ in found]
