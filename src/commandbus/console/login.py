"""Login by token, and logout."""

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from commandbus.console.clients import remember_browser
from commandbus.console.forms import Form
from commandbus.console.security import (
    MAX_NAME,
    Role,
    check_login,
    is_local_path,
    known_user,
    log_in,
    log_out,
)
from commandbus.console.state import console

_MAX_TOKEN = 1_000


def add_login(blueprint: Blueprint) -> None:
    """Add the login page to the console; its names are known to `commandbus.console.security`."""
    blueprint.add_url_rule("/login", "login", _show, methods=["GET"])
    blueprint.add_url_rule("/login", "login_post", _log_in, methods=["POST"])
    blueprint.add_url_rule("/logout", "logout", _log_out, methods=["POST"])


def _show() -> ResponseReturnValue:
    if known_user() is not None or not console().settings.has_tokens:
        return redirect(_target())
    return render_template("commandbus/login.html", form=Form(request.args))


def _log_in() -> ResponseReturnValue:
    settings = console().settings
    form = Form(request.form)
    name = form.text("name", MAX_NAME, required=True)
    token = form.text("token", _MAX_TOKEN, required=True)
    if name is not None and not name.isprintable():
        form.refuse("name", "must not contain control characters")
    role = check_login(settings, token) if token else None
    if token and role is None:
        form.refuse("token", "is not one of this console")
    if form.errors or role is None or name is None:
        return render_template("commandbus/login.html", form=form), 422
    log_in(settings, role, name)
    response = make_response(redirect(_target()))
    # Not that of a viewer, who could have as many known browsers as logins, and guess the operator's token in each.
    return remember_browser(response) if role is Role.OPERATOR else response


def _log_out() -> ResponseReturnValue:
    log_out()
    return redirect(url_for("console.login"))


def _target() -> str:
    """Return where somebody wanted to go, if that is a page of this site."""
    wanted = request.args.get("next", "")
    return wanted if is_local_path(wanted) else url_for("console.overview.show")
