"""The operator's console: pages over public calls of the library, for browsers. Needs the extra ``console``.

`create_app` gives a Flask app, `create_blueprint` the same for an app of your own; `serve` and `serve_app` run them.
"""

from commandbus.console.app import create_app, create_blueprint
from commandbus.console.errors import handle_errors
from commandbus.console.security import protect
from commandbus.console.serve import check_address, serve, serve_app, url_of
from commandbus.console.settings import ConsoleSettings
from commandbus.console.state import NAVIGATION, NavEntry

__all__ = [
    "NAVIGATION",
    "ConsoleSettings",
    "NavEntry",
    "check_address",
    "create_app",
    "create_blueprint",
    "handle_errors",
    "protect",
    "serve",
    "serve_app",
    "url_of",
]
