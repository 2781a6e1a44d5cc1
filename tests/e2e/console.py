"""The console in tests: who serves it, who works for it, and the addresses of all its pages."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from commandbus.console import ConsoleSettings, create_app
from tests.cli_process import COMMAND, environment
from tests.e2e.demo import ROOT, until
from tests.e2e.handlers import DOMAIN, registry
from tests.integration.sql_helpers import open_bus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask import Flask

    from commandbus.sync import CommandBusPool
    from tests.integration.console.browser import World

OPERATOR = "ada"


def make_console(pool: CommandBusPool, **settings: Any) -> Flask:
    """Return a console that knows the handlers of the tests."""
    app = create_app(pool, settings=ConsoleSettings.load(**settings), registry=registry)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    return app


def console_pages(world: World) -> dict[str, str]:
    """Return the addresses of all pages, by what their pictures are called."""
    command = f"/commands/{DOMAIN}/{world.parked[0]}"
    return {
        "overview": "/",
        "overview-day": "/?span=24h",
        "commands": "/commands",
        "command": f"{command}?payload=on",
        "command-edited": f"/commands/{DOMAIN}/{world.edited[0]}",
        "edit": f"{command}/edit",
        "troubleshooting": "/troubleshooting",
        "waiting": "/troubleshooting/commands",
        "redrives": "/redrives",
        "redrive": f"/redrives/{world.redrives[0]}",
        "redrive-new": f"/redrives/new?domain={DOMAIN}",
        "batches": "/batches",
        "batch": f"/batches/{DOMAIN}/{world.batches[0]}",
        "queues": "/queues",
        "queue": f"/queues/{DOMAIN}",
        "audit": "/audit",
        "send": "/send",
        "send-many": "/send/bulk",
        "health": "/health",
        "doctor": "/health?look=doctor",
        "schema": "/health?look=verify",
        "refused": "/commands?status=LOST&after=yesterday",
        "not-found": "/nowhere",
    }


@contextmanager
def console_worker(url: str, log: Path) -> Iterator[None]:
    """Run `commandbus worker` for the domain of the tests; it must end cleanly."""
    arguments = ("worker", "tests.e2e.handlers:registry", "--domain", DOMAIN, "--concurrency", "4")
    with log.open("wb") as file, open_bus(url) as bus:
        process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=ROOT, env=environment(url), stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
        try:
            alive = "select from commandbus.worker where domain = %s"
            until(lambda: bus.rows(alive, DOMAIN) or process.poll() is not None, 60)
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            process.wait(30)
    assert process.returncode == 0, log.read_text()
