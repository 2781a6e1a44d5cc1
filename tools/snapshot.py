"""Write src/commandbus/migrate/snapshot.json: what the migrations make of an empty database.

python tools/snapshot.py            apply the files on an embedded server and write the snapshot
python tools/snapshot.py --check    fail when the files have changed since it was written
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import psycopg

from commandbus.embedded import EmbeddedServer
from commandbus.migrate import discover, migrate
from commandbus.migrate.catalog import Objects, read_queues, read_schema, reading, with_hashes

SNAPSHOT = Path(__file__).parents[1] / "src" / "commandbus" / "migrate" / "snapshot.json"
EXAMPLE = "example_of_a_domain"  # no other name or text in the schema may contain it


def make(url: str) -> dict[str, Any]:
    """Return the snapshot of an empty database, which is migrated for it."""
    migrate(url, with_e2e=True)
    with psycopg.connect(url, autocommit=True) as connection:
        before = _read(connection, "commandbus")
        connection.execute("select commandbus.sp_create_domain(%s)", [EXAMPLE])
        made = {key: found for key, found in _read(connection, "commandbus").items() if key not in before}
        with reading(connection):
            queues = read_queues(connection, [EXAMPLE])
        options = connection.execute(
            "select c.relname, array(select o from unnest(c.reloptions) o order by o)"
            " from pg_class c where c.relnamespace = 'pgmq'::regnamespace and starts_with(c.relname, 'q_' || %s)"
            " and c.relkind in ('r', 'p') order by 1",
            [EXAMPLE],
        )
        return {
            "files": {migration.script: migration.checksum for migration in discover()},
            "schemas": {
                "commandbus": _lines(with_hashes(before)),
                "e2e": _lines(with_hashes(_read(connection, "e2e"))),
            },
            "domain": {
                "name": EXAMPLE,
                "functions": _lines(made),
                "queues": _lines(queues),
                "queue_options": dict(options.fetchall()),
            },
        }


def as_text(snapshot: dict[str, Any]) -> str:
    """Return the snapshot as it is stored: one object per line, so that a change of one is one line of a diff."""
    return _indented(snapshot, 3) + "\n"


def _read(connection: psycopg.Connection[Any], schema: str) -> Objects:
    with reading(connection):
        return read_schema(connection, schema)


def _lines(objects: Objects) -> dict[str, Any]:
    return {f"{kind}: {name}": properties for (kind, name), properties in sorted(objects.items())}


def _indented(value: object, depth: int, margin: str = "") -> str:
    if depth == 0 or not isinstance(value, dict):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    inner = margin + " "
    members = (f"{inner}{json.dumps(key)}: {_indented(one, depth - 1, inner)}" for key, one in value.items())
    return "{\n" + ",\n".join(members) + f"\n{margin}}}"


def main(arguments: list[str]) -> int:
    """Write the snapshot, or check that it was made from these files."""
    if arguments == ["--check"]:
        stored = json.loads(SNAPSHOT.read_text("utf-8"))["files"] if SNAPSHOT.exists() else {}
        if stored == {migration.script: migration.checksum for migration in discover()}:
            return 0
        print(f"{SNAPSHOT.name} was not made from these migrations: run `make fix`", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="cb-") as directory:
        Path(directory).chmod(0o755)  # the server runs under another account when this one is root
        server = EmbeddedServer(Path(directory) / "data", settings={"fsync": "off"})
        try:
            text = as_text(make(server.start().url()))
        finally:
            server.destroy()
    SNAPSHOT.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
