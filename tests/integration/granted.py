"""A database given to four roles of a test's own, and logins that are members of them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from commandbus.migrate import RoleNames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import Server


@contextmanager
def role_names(server: Server) -> Iterator[RoleNames]:
    """Give names that no role has; roles so called, and their logins, are dropped afterwards.

    Roles belong to the server: use it around the database they have rights in.
    """
    mark = uuid4().hex[:12]
    names = RoleNames(*(f"{role} {mark}" for role in ("owner", "app", "operator", "readonly")))  # a name in quotes
    try:
        yield names
    finally:
        with psycopg.connect(server.maintenance_url, autocommit=True) as connection:
            rows = connection.execute("select rolname from pg_roles where rolname like %s", [f"%{mark}"]).fetchall()
            ours = list(asdict(names).values())
            for (name,) in sorted(rows, key=lambda row: row[0] in ours):  # members first
                connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def login(url: str, role: str, options: str = "") -> str:
    """Make a user who is a member of *role*, and return the URL to connect as."""
    user = f"login of {role}"
    with psycopg.connect(url, autocommit=True) as connection:
        statement = sql.SQL("create role {} login {} in role {}")
        connection.execute(statement.format(sql.Identifier(user), sql.SQL(options), sql.Identifier(role)))
    return make_conninfo(url, user=user)
