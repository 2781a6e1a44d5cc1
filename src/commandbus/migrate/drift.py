"""What the migrations made, and what has become of it: the live catalog beside the snapshot in this package."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from commandbus.errors import NotMigratedError
from commandbus.migrate.catalog import (
    Objects,
    Properties,
    read_domains,
    read_partitions,
    read_queues,
    read_schema,
    reading,
)
from commandbus.migrate.catalog import with_hashes as hashed
from commandbus.migrate.connection import connected, select
from commandbus.migrate.difference import Difference, Finding
from commandbus.migrate.rights import steps
from commandbus.migrate.roles import read_names, unfit_roles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from psycopg import Connection

_LONGEST = 300  # characters of a value that a line shows
_PARENTS = frozenset({"table", "view", "materialized view", "foreign table", "queue", "archive"})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What applying the migrations gives; made by ``tools/snapshot.py``.

    Attributes:
        files: Flyway's checksum of each migration, by script name.
        schemas: objects by schema, "commandbus" and the optional "e2e"; bodies as hashes.
        example: a domain's name, which stands in what follows in place of any other's.
        functions: the functions that sp_create_domain made for it; bodies as text.
        queues: its queues and archives, with the queues' indexes.
        queue_options: storage parameters of its queues' tables, by table.
    """

    files: Mapping[str, int]
    schemas: Mapping[str, Objects]
    example: str
    functions: Objects
    queues: Objects
    queue_options: Mapping[str, list[str]]

    def functions_of(self, domain: str) -> Objects:
        """Return the functions of any domain."""
        return self._renamed(self.functions, domain)

    def queues_of(self, domain: str) -> Objects:
        """Return the queues and archives of any domain."""
        return self._renamed(self.queues, domain)

    def queue_options_of(self, domain: str) -> dict[str, list[str]]:
        """Return the storage parameters of any domain's queues, by table."""
        return {table.replace(self.example, domain): options for table, options in self.queue_options.items()}

    def _renamed(self, objects: Objects, domain: str) -> Objects:
        return {
            (kind, name.replace(self.example, domain)): _rename(properties, self.example, domain)
            for (kind, name), properties in objects.items()
        }


@cache
def read_snapshot() -> Snapshot:
    """Return the snapshot in this package."""
    document = json.loads((importlib.resources.files("commandbus.migrate") / "snapshot.json").read_text("utf-8"))
    schemas = {schema: _objects(found) for schema, found in document["schemas"].items()}
    domain = document["domain"]
    functions, queues = _objects(domain["functions"]), _objects(domain["queues"])
    return Snapshot(document["files"], schemas, domain["name"], functions, queues, domain["queue_options"])


def verify(url_or_connection: str | Connection[Any], *, with_e2e: bool = False) -> list[Difference]:
    """Return in what a database differs from what the migrations of this version make; nothing when it does not.

    Compared are tables, columns, constraints, indexes, sequences, types, functions, triggers, owners and rights of
    schema ``commandbus``; partitions with their parents; each domain's functions and queues with what would be made
    today. Only catalogs are read, which every role may do, also on a replica. After `grant` its roles, owners and
    rights are expected; before, nobody but the owners may have any.

    Args:
        url_or_connection: as for `migrate`.
        with_e2e: schema ``e2e`` must be there; otherwise it is compared only where it is.

    Raises:
        NotMigratedError: there is no schema ``commandbus``.
        DatabaseUnavailableError, MigrationError, ServerTooOldError: the catalogs cannot be read.
    """
    with connected(url_or_connection) as connection, reading(connection):
        live = read_schema(connection, "commandbus")
        if not live:
            raise NotMigratedError("there is no schema commandbus: run `commandbus migrate`")
        snapshot = read_snapshot()
        expected = dict(snapshot.schemas["commandbus"])
        domains = read_domains(connection)
        for domain in domains:
            expected |= hashed(snapshot.functions_of(domain))
        found = [*_pgmq(connection)]
        queues = {key: value for domain in domains for key, value in snapshot.queues_of(domain).items()}
        found += compare(queues, read_queues(connection, domains))
        found += compare(expected, hashed(live))
        found += [
            difference
            for name, parent, own in read_partitions(connection, "commandbus")
            for difference in compare({("partition", name): parent}, {("partition", name): own})
        ]
        names = read_names(connection)
        found += [Difference(Finding.CHANGED, "role", *unfit[1:]) for unfit in unfit_roles(connection, names)]
        found += [step.difference for step in steps(connection, names)]
        live_e2e = read_schema(connection, "e2e")
        if with_e2e or live_e2e:
            found += compare(snapshot.schemas["e2e"], hashed(live_e2e))
    return found


def compare(expected: Objects, live: Objects) -> list[Difference]:
    """Return one difference per object that is not as expected; parts of a table only where the table is there."""
    found = [*_compare(expected, live)]
    whole = {f"{one.name}." for one in found if one.kind in _PARENTS and one.finding is not Finding.CHANGED}
    return [one for one in found if one.kind in _PARENTS or not one.name.startswith(tuple(whole))]


def _compare(expected: Objects, live: Objects) -> Iterator[Difference]:
    for kind, name in sorted(expected.keys() | live.keys(), key=lambda key: (key[1], key[0])):
        wanted, own = expected.get((kind, name)), live.get((kind, name))
        if own is None:
            yield Difference(Finding.MISSING, kind, name)
        elif wanted is None:
            yield Difference(Finding.UNEXPECTED, kind, name)
        elif wanted != own:
            yield Difference(Finding.CHANGED, kind, name, "; ".join(_changes(wanted, own)))


def _changes(wanted: Properties, own: Properties) -> Iterator[str]:
    for name in sorted(wanted.keys() | own.keys()):
        is_now, should = own.get(name), wanted.get(name)
        if is_now == should:
            continue
        if name == "body":
            yield "body differs"
        else:
            yield f"{name} is {_shown(is_now)}, should be {_shown(should)}"


def _shown(value: object) -> str:
    if value is None:
        return "none"
    text = " ".join(("yes" if value is True else str(value)).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _pgmq(connection: Connection[Any]) -> Iterator[Difference]:
    """PGMQ is not ours to compare, but must be there and new enough: 1.10 brought last_read_at."""
    rows = select(
        connection,
        "select exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'last_read_at')"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = 'pgmq' and c.relname = 'message_record'",
    )
    if not rows:
        yield Difference(Finding.MISSING, "extension", "pgmq")
    elif not rows[0][0]:
        yield Difference(Finding.CHANGED, "extension", "pgmq", "is older than 1.10")


def _rename(properties: Properties, example: str, domain: str) -> Properties:
    return {
        key: value.replace(example, domain) if isinstance(value, str) else value for key, value in properties.items()
    }


def _objects(document: Mapping[str, Properties]) -> Objects:
    found: Objects = {}
    for key, properties in document.items():
        kind, _, name = key.partition(": ")
        found[kind, name] = properties
    return found
