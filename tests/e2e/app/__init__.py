"""The demo as a Flask app: the operator's console, and pages for test commands and settings in its layout."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask

from commandbus.console import NAVIGATION, ConsoleSettings, NavEntry, create_blueprint, handle_errors, protect
from commandbus.sync import CommandBus
from tests.e2e.app.api import api
from tests.e2e.app.config import SyncConfigStore
from tests.e2e.app.models import TestCommands
from tests.e2e.app.parts import EXTENSION, Parts
from tests.e2e.app.runs import Runs
from tests.e2e.app.web.routes import web

if TYPE_CHECKING:
    from commandbus import HandlerRegistry
    from commandbus.sync import CommandBusPool

ENTRIES = (
    NavEntry("Test commands", "e2e.test_commands", "flask"),
    NavEntry("Settings", "e2e.settings", "gear"),
)


def create_app(
    pool: CommandBusPool, *, settings: ConsoleSettings | None = None, registry: HandlerRegistry | None = None
) -> Flask:
    """Return the demo application.

    Args:
        pool: an open pool on a database that has the test tables (``commandbus migrate --with-e2e``).
        settings: of the console, whose rules for who may do what hold for all pages; from the environment when None.
        registry: the handlers, where they are at hand.
    """
    app = Flask(__name__, static_folder=Path(__file__).parent / "static", static_url_path="/static/e2e")
    app.secret_key = secrets.token_hex(32)
    app.config.update(
        SESSION_COOKIE_NAME="commandbus_e2e", SESSION_COOKIE_HTTPONLY=True, SESSION_COOKIE_SAMESITE="Strict"
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    bus, store = CommandBus(pool), SyncConfigStore(pool)
    commands = TestCommands(pool.settings.database_url.get_secret_value(), bus)
    app.extensions[EXTENSION] = Parts(bus, store, commands, Runs(commands, bus, store))
    console = create_blueprint(
        pool,
        settings=settings,
        registry=registry,
        base="layouts/base.html",
        entries=(*NAVIGATION, *ENTRIES),
        title="commandbus E2E",
    )
    app.register_blueprint(console)
    app.register_blueprint(web)
    app.register_blueprint(api)
    protect(app)
    handle_errors(app)
    return app


def close_app(app: Flask) -> None:
    """End what an app of `create_app` does in the background."""
    parts: Parts = app.extensions[EXTENSION]
    parts.close()
