"""The operator's console: pages over public calls of the library, for browsers. Needs the extra ``console``.

`create_app` gives a Flask app, `create_blueprint` the same for an app of your own, `serve` runs it.
"""

from commandbus.console.app import create_app, create_blueprint
from commandbus.console.security import protect
from commandbus.console.serve import serve, url_of
from commandbus.console.settings import ConsoleSettings
from commandbus.console.state import NAVIGATION, NavEntry

__all__ = ["NAVIGATION", "ConsoleSettings", "NavEntry", "create_app", "create_blueprint", "protect", "serve", "url_of"]
