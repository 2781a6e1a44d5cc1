"""What every page works with: the library's objects on one pool, and who is asking."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from flask import current_app, request

from commandbus.console.guesses import Guesses
from commandbus.console.sessions import Sessions
from commandbus.console.settings import ConsoleSettings
from commandbus.handlers import HandlerRegistry
from commandbus.sync import CommandBus, CommandBusPool, Operations, PgmqClient, Redrives, TroubleshootingQueue

EXTENSION = "commandbus_console"
_PLACE = "commandbus.place"


@dataclass(frozen=True, slots=True)
class NavEntry:
    """One line of the sidebar.

    Attributes:
        label: what it says.
        endpoint: Flask's name of the page.
        icon: a name of templates/commandbus/icons.html.
        badge: a key of the live numbers that is shown beside it, or None.
    """

    label: str
    endpoint: str
    icon: str
    badge: str | None = None


NAVIGATION: tuple[NavEntry, ...] = (
    NavEntry("Overview", "console.overview.show", "home"),
    NavEntry("Commands", "console.commands.find", "list"),
    NavEntry("Troubleshooting", "console.troubleshooting.find", "alert", badge="troubleshooting"),
    NavEntry("Redrives", "console.redrives.find", "redrive"),
    NavEntry("Batches", "console.batches.find", "stack"),
    NavEntry("Queues", "console.queues.show", "queue"),
    NavEntry("Audit", "console.audit.find", "book"),
    NavEntry("Send", "console.send.single", "send"),
    NavEntry("Health", "console.health.show", "heart"),
)


@dataclass(frozen=True, slots=True)
class Console:
    """The parts of one console.

    Attributes:
        pool: an open pool.
        settings: whom it lets in.
        registry: the handlers, where they are at hand; their models check what operators write.
        base: the template that every page extends.
        entries: the sidebar.
        title: beside the logo.
    """

    pool: CommandBusPool
    settings: ConsoleSettings
    registry: HandlerRegistry | None = None
    base: str = "commandbus/base.html"
    entries: Sequence[NavEntry] = NAVIGATION
    title: str = "commandbus"
    bus: CommandBus = field(init=False)
    tsq: TroubleshootingQueue = field(init=False)
    redrives: Redrives = field(init=False)
    operations: Operations = field(init=False)
    queues: PgmqClient = field(init=False)
    guesses: Guesses = field(init=False, default_factory=Guesses)
    sessions: Sessions = field(init=False)

    def __post_init__(self) -> None:
        longest, idle = self.settings.session_hours * 3_600, self.settings.idle_minutes * 60
        object.__setattr__(self, "sessions", Sessions(longest, idle))
        object.__setattr__(self, "bus", CommandBus(self.pool))
        object.__setattr__(self, "tsq", TroubleshootingQueue(self.pool))
        object.__setattr__(self, "redrives", Redrives(self.pool))
        object.__setattr__(self, "operations", Operations(self.pool))
        object.__setattr__(self, "queues", PgmqClient(self.pool))


def shown_at(address: str) -> None:
    """Say where the page can be got again that answers a form, if not at the form's address; "" for nowhere."""
    request.environ[_PLACE] = address


def place() -> str | None:
    """Return where the answer to a form can be got again, if anywhere."""
    given: str | None = request.environ.get(_PLACE)
    if given is not None or request.method != "POST":
        return given
    adapter = current_app.create_url_adapter(request)
    takes_get = adapter is not None and adapter.test(method="GET")
    return request.script_root + request.full_path.rstrip("?") if takes_get else None


def console() -> Console:
    """Return the console of the app that answers this request."""
    return cast("Console", current_app.extensions[EXTENSION])
