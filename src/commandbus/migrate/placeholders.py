"""``${name}`` in a migration, replaced exactly as Flyway replaces it: everywhere, also in comments and literals."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from commandbus.errors import InvalidArgumentError, MigrationError
from commandbus.migrate.connection import select
from commandbus.migrate.files import checksum

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg import Connection

    from commandbus.migrate.files import Migration

NO_PLACEHOLDERS: Mapping[str, str] = MappingProxyType({})
LONGEST_SHOWN = 60  # characters of a placeholder in an error

# Flyway reads on after a "$" and gives up both characters when the second is no brace: "$${name}" stays as it is.
_PLACEHOLDER = re.compile(r"\$(?:\{(?P<name>[^}]*)(?P<end>\}?)|.)", re.DOTALL)


class Placeholders:
    """The values for one database.

    Args:
        connection: whose user and database Flyway's own placeholders name.
        values: by name, in which case does not count; None leaves everything as it is.

    Raises:
        InvalidArgumentError: a name is empty or holds a brace, or a value holds NUL.
    """

    def __init__(self, connection: Connection[Any], values: Mapping[str, str] | None) -> None:
        self._values: dict[str, str] | None = None
        if values is None:
            return
        for name in values:
            if not name or "}" in name:
                raise InvalidArgumentError("placeholders", f"{name!r} is not the name of a placeholder")
            if "\0" in values[name]:
                raise InvalidArgumentError("placeholders", f"the value of {name!r} holds a NUL character")
        known = {**values, **_built_in(connection)}
        self._values = {name.lower(): value for name, value in known.items()}

    def sql(self, migration: Migration) -> str:
        """Return the text that is run.

        Raises:
            MigrationError: a placeholder has no value.
        """
        if self._values is None:
            return migration.text
        values = self._values | {"flyway:filename": migration.path.name}

        def value(found: re.Match[str]) -> str:
            if found["name"] is None:
                return found[0]
            if not found["end"] or (name := found["name"].lower()) not in values:
                raise MigrationError(_unknown(migration, found))
            return values[name]

        return _PLACEHOLDER.sub(value, migration.text)

    def settle(self, migrations: Sequence[Migration]) -> list[Migration]:
        """Return the migrations with the checksums that the history has: of repeatable ones, that of the text run.

        Raises:
            MigrationError: a placeholder of a repeatable migration has no value.
        """
        return [
            migration if migration.version is not None else replace(migration, checksum=checksum(self.sql(migration)))
            for migration in migrations
        ]


def _built_in(connection: Connection[Any]) -> dict[str, str]:
    ((user, database),) = select(connection, "select current_user::text, pg_catalog.current_database()::text")
    return {
        "flyway:defaultSchema": "public",
        "flyway:user": user,
        "flyway:database": database,
        "flyway:timestamp": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        "flyway:workingDirectory": os.getcwd(),  # noqa: PTH109  (text is wanted)
        "flyway:table": "flyway_schema_history",
        "flyway:environment": "default",
    }


def _unknown(migration: Migration, found: re.Match[str]) -> str:
    where = f"{migration.script} line {migration.text.count(chr(10), 0, found.start()) + 1}"
    shown = found[0].splitlines()[0][:LONGEST_SHOWN]
    if not found["end"]:
        return f"{where}: the placeholder {shown} has no closing brace: add it, or switch the replacement off"
    return f"{where}: the placeholder {shown} has no value: give it one, or switch the replacement off"
