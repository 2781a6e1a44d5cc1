"""Array literals for hot paths: psycopg's own dumper costs a microsecond per element, these a tenth of it."""

from collections.abc import Iterable, Sequence
from uuid import UUID


def uuid_array(items: Iterable[UUID]) -> str:
    """Return the literal of an array of UUIDs, without the hyphens that cost most of str(uuid)."""
    return "{" + ",".join([f"{item.int:032x}" for item in items]) + "}"


def plain_array(items: Iterable[object]) -> str:
    """Return the literal of an array of numbers or other text that needs no quotes; None is NULL."""
    return "{" + ",".join(["NULL" if item is None else str(item) for item in items]) + "}"


def text_array(items: Iterable[str | None]) -> str:
    """Return the literal of an array of any text; None is NULL."""
    return "{" + ",".join(["NULL" if item is None else _quote(item) for item in items]) + "}"


def optional_array(items: Sequence[object]) -> str | None:
    """Return the literal of an array of any text, or None when it holds nothing but None."""
    if all(item is None for item in items):
        return None
    return text_array([None if item is None else str(item) for item in items])


def _quote(item: str) -> str:
    return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'
