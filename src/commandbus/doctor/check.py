"""One check's verdict."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How serious it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """What was found about one thing.

    Attributes:
        name: of the thing.
        status: a problem makes the exit code 1.
        found: one sentence.
        run: what to run or change; None where nothing is to be done.
        facts: the numbers of the sentence, for programs.
    """

    name: str
    status: Status
    found: str
    run: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def ok(name: str, found: str, **facts: object) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name, Status.OK, found, None, facts)


def warning(name: str, found: str, run: str, **facts: object) -> Check:
    """Return a check that found something to care about."""
    return Check(name, Status.WARNING, found, run, facts)


def problem(name: str, found: str, run: str | None, **facts: object) -> Check:
    """Return a check that found something wrong."""
    return Check(name, Status.PROBLEM, found, run, facts)
