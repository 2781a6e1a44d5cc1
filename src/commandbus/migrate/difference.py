"""One thing in which a database is not as it should be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Finding(StrEnum):
    """How something differs."""

    MISSING = "missing"
    UNEXPECTED = "unexpected"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Difference:
    """One object or right that differs; its text is one line.

    Attributes:
        finding: whether it is missing, unexpected or changed.
        kind: "table", "column", "constraint", "index", "function", "partition" and so on; "owner", "security" or
            "grant" where it is about rights.
        name: with its schema, such as "commandbus.command.status"; a function with its arguments' types; for rights
            what they are on.
        detail: what differs; empty where nothing is to be added.
    """

    finding: Finding
    kind: str
    name: str
    detail: str = ""

    def __str__(self) -> str:
        line = f"{self.finding} {self.kind} {self.name}"
        return f"{line}: {self.detail}" if self.detail else line
