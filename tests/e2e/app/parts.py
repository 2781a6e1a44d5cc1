"""What every page and operation of the demo works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from flask import current_app

from tests.e2e.app.config import DOMAIN, RetryConfig, SyncConfigStore

if TYPE_CHECKING:
    from uuid import UUID

    from commandbus.sync import CommandBus
    from tests.e2e.app.models import TestCommands
    from tests.e2e.app.runs import Runs
    from tests.e2e.app.schemas import NewTestCommand

EXTENSION = "commandbus_e2e"


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one demo application."""

    bus: CommandBus
    store: SyncConfigStore
    commands: TestCommands
    runs: Runs

    def create(self, new: NewTestCommand) -> UUID:
        """Send a test command under the settings of now; return its id."""
        self.bus.create_domain(DOMAIN)
        return self.commands.create(new, self.store.get(RetryConfig).max_attempts)

    def close(self) -> None:
        """End what runs in the background."""
        self.runs.close()
        self.commands.close()


def parts() -> Parts:
    """Return the parts of the app that answers this request."""
    return cast("Parts", current_app.extensions[EXTENSION])
