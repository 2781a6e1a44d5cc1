"""The console as a Flask app, and as a blueprint for an app of your own."""

import secrets
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from uuid import uuid4

from flask import Blueprint, Flask, url_for

from commandbus.console import live, login, recent
from commandbus.console.errors import handle_errors
from commandbus.console.looks import add_filters, reveal_all
from commandbus.console.pages import PAGES
from commandbus.console.rights import why_no_decision, why_no_sending
from commandbus.console.security import CSRF_FIELD, csrf_token, known_user, protect
from commandbus.console.settings import ConsoleSettings
from commandbus.console.state import EXTENSION, NAVIGATION, Console, NavEntry, place
from commandbus.handlers import HandlerRegistry
from commandbus.sync import CommandBusPool


def create_app(
    pool: CommandBusPool, *, settings: ConsoleSettings | None = None, registry: HandlerRegistry | None = None
) -> Flask:
    """Return the console as an app of its own.

    Args:
        pool: an open `commandbus.sync.CommandBusPool`.
        settings: from the environment when None.
        registry: the handlers, where they are at hand; their models check what operators write.

    Raises:
        InvalidArgumentError: a setting breaks its limit.
    """
    settings = settings or ConsoleSettings.load()
    app = Flask("commandbus.console", static_folder=None, template_folder=None)
    secret = settings.secret_key
    app.secret_key = secrets.token_hex(32) if secret is None else secret.get_secret_value()
    app.config.update(
        SESSION_COOKIE_NAME="commandbus_console",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_SECURE=settings.https,
        PERMANENT_SESSION_LIFETIME=timedelta(hours=settings.session_hours),
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.register_blueprint(create_blueprint(pool, settings=settings, registry=registry))
    protect(app)
    handle_errors(app)
    return app


def create_blueprint(
    pool: CommandBusPool,
    *,
    settings: ConsoleSettings | None = None,
    registry: HandlerRegistry | None = None,
    base: str = "commandbus/base.html",
    entries: Sequence[NavEntry] = NAVIGATION,
    title: str = "commandbus",
) -> Blueprint:
    """Return the console as the blueprint "console", to be registered in an app that has a secret key.

    All its pages pass the checks of `commandbus.console.security`; `protect(app)` lets the app's own pages pass
    them too.

    Args:
        pool: as in `create_app`, like settings and registry.
        settings: whom it lets in; where it listens is the app's business.
        registry: the handlers.
        base: the template that the pages extend; yours can extend "commandbus/base.html".
        entries: the sidebar; `NAVIGATION` and entries of your own.
        title: beside the logo.
    """
    console = Console(pool, settings or ConsoleSettings.load(), registry, base, tuple(entries), title)
    blueprint = Blueprint(
        "console", __name__, template_folder="templates", static_folder="static", static_url_path="/static/console"
    )
    answers = recent.Recent(console)
    numbers = live.Live(console.settings.max_streams, answers)

    @blueprint.record
    def _remember(state: object) -> None:
        app: Flask = state.app  # type: ignore[attr-defined]  # Flask's BlueprintSetupState
        reveal_all(app)
        app.extensions[EXTENSION] = console
        app.extensions[recent.EXTENSION] = answers
        app.extensions[live.EXTENSION] = numbers

    @blueprint.app_context_processor
    def _variables() -> dict[str, object]:
        return {"console": View(console, numbers)}

    protect(blueprint)
    handle_errors(blueprint)
    add_filters(blueprint)
    blueprint.register_blueprint(live.live)
    login.add_login(blueprint)
    for page in PAGES:
        blueprint.register_blueprint(page)
    return blueprint


class View:
    """What templates know as `console`."""

    csrf_field = CSRF_FIELD

    def __init__(self, console: Console, numbers: live.Live) -> None:
        self._numbers = numbers
        self.base = console.base
        self.title = console.title
        self.navigation = console.entries
        self.has_logout = console.settings.has_tokens
        self.user = known_user()
        self.place = place()

    @property
    def csrf_token(self) -> str:
        """The value of every form's hidden field."""
        return csrf_token()

    @property
    def form_id(self) -> str:
        """A new id for a form, see `Form.once`."""
        return str(uuid4())

    @cached_property
    def no_decision(self) -> str | None:
        """Why the one who asks cannot decide about commands, domains and redrives; None for who can."""
        return why_no_decision()

    @cached_property
    def no_sending(self) -> str | None:
        """Why the one who asks cannot send; None for who can."""
        return why_no_sending()

    @property
    def latest(self) -> dict[str, object]:
        """The live numbers of some seconds ago, where somebody looked at them."""
        return self._numbers.latest()

    @staticmethod
    def asset(path: str) -> str:
        """Return the address of a file of static/."""
        return url_for("console.static", filename=path)
