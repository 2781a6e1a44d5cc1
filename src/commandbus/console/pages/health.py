"""Health: the schema, the console's own way to the database, and on demand what `verify` and `doctor` find."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

import psycopg
from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from commandbus.console.forms import Form
from commandbus.console.recent import recent
from commandbus.console.records import json_or_errors, plain
from commandbus.console.state import console
from commandbus.doctor import Check, Status, examine
from commandbus.errors import CommandBusError, DatabaseUnavailableError, PoolTimeoutError
from commandbus.migrate import Difference, MigrationInfo, info, verify

page = Blueprint("health", __name__)

_KEPT = 5.0  # seconds that a result of an examination serves all who ask
T = TypeVar("T")


class Look(StrEnum):
    """What takes a second or more, and is done on demand."""

    VERIFY = "verify"
    DOCTOR = "doctor"


@dataclass(slots=True)
class Health:
    """What the page shows; None where it was not asked for, or cannot be known: then *refused* says why."""

    connection: dict[str, str] = field(default_factory=dict)
    migrations: list[MigrationInfo] | None = None
    differences: list[Difference] | None = None
    checks: list[Check] | None = None
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> Status:
        """The most serious verdict of all checks."""
        found = {check.status for check in self.checks or ()}
        return next((status for status in (Status.PROBLEM, Status.WARNING) if status in found), Status.OK)


@page.get("/health")
def show() -> ResponseReturnValue:
    """Show the page; `look` asks for an examination."""
    form = Form(request.args)
    found = _look(form.value_of("look", Look))
    text = render_template("commandbus/pages/health.html", health=found, look=form.raw("look"), form=form)
    return text, 400 if form.errors else 200


@page.get("/api/health")
def show_json() -> ResponseReturnValue:
    """Return the same."""
    form = Form(request.args)
    found = _look(form.value_of("look", Look))
    return json_or_errors(
        form,
        {
            "connection": found.connection,
            "migrations": None if found.migrations is None else [plain(one) for one in found.migrations],
            "differences": None if found.differences is None else list(map(str, found.differences)),
            "checks": None if found.checks is None else [plain(check) for check in found.checks],
            "refused": found.refused,
        },
    )


def _look(look: Look | None) -> Health:
    found = Health(connection=_connection())
    pool = console().pool

    def migrations() -> list[MigrationInfo]:
        with pool.connection() as connection:
            return info(connection)

    def differences() -> list[Difference]:
        with pool.connection() as connection:
            return verify(connection)

    found.migrations = _told(found, "migrations", migrations)
    if look is Look.VERIFY:
        found.differences = _told(found, "verify", lambda: recent().ask("verify", _KEPT, differences))
    elif look is Look.DOCTOR:
        found.checks = recent().ask("doctor", _KEPT, _examine)
    return found


def _connection() -> dict[str, str]:
    """Return what the console knows of its own way to the database."""
    pool = console().pool
    began = time.perf_counter()
    with pool.connection() as connection:
        ((version,),) = connection.execute("select commandbus.schema_version()").fetchall()
    took = (time.perf_counter() - began) * 1_000
    server, stats = pool.server, pool.get_stats()
    number = f"{server.server_version // 10_000}.{server.server_version % 10_000}"
    facts = {
        "Server": f"PostgreSQL {number}, {'replica' if server.is_replica else 'primary'}",
        "Database": server.database,
        "Role": server.role,
        "Schema version": str(version),
        "PGMQ": server.pgmq_version or "1.10 or newer",
        "Round trip": f"{took:.1f} ms",
        "Connections": f"{stats.get('pool_size', 0)} of {pool.max_size}, {stats.get('pool_available', 0)} free",
    }
    if pool.restrictions:
        facts["Restricted"] = ", ".join(pool.restrictions)
    return facts


def _examine() -> list[Check]:
    """Return the doctor's verdicts, as far as this role gets."""
    pool = console().pool
    found: list[Check] = []
    try:
        for check in examine(pool, pool.settings.database_url.get_secret_value(), None):
            found.append(check)  # noqa: PERF402  (what was found before an error stays found)
    except (CommandBusError, psycopg.Error) as error:
        _pass_on(error)
        run = "commandbus doctor, as the owner of the schema or a superuser"
        found.append(Check("what comes next", Status.WARNING, f"not looked at: {_sentence(error)}", run))
    return found


def _told(found: Health, name: str, find: Callable[[], T]) -> T | None:
    """Return what was found; None where the database refuses, which is told in its place."""
    try:
        return find()
    except (CommandBusError, psycopg.Error) as error:
        _pass_on(error)
        found.refused[name] = _sentence(error)
    return None


def _pass_on(error: Exception) -> None:
    """Leave a database that is away to the page for that."""
    if isinstance(error, DatabaseUnavailableError | PoolTimeoutError):
        raise error


def _sentence(error: Exception) -> str:
    """Return what is refused; the server's own text could quote data, so only its code is told."""
    if isinstance(error, psycopg.Error):
        return f"the database refuses it to this role ({error.sqlstate})"
    return str(error)
