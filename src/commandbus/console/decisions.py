"""An operator's decision on many commands: whom it is about, in steps, and what became of it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

import psycopg

from commandbus.console.forms import Form
from commandbus.console.state import console
from commandbus.errors import CommandBusError, InvalidArgumentError
from commandbus.models import Verdict
from commandbus.payload import MAX_REDRIVE, check_domain, check_uuid

MAX_SELECTION = 1_000
MAX_GROUPS = 200
MAX_MEMBERS = MAX_REDRIVE  # of all whole groups together, in one request: a redrive takes no more either
MAX_SECONDS = 20.0  # of one request; proxies and people lose patience
STEP = 1_000  # commands that are decided about in one transaction
_REST = "decide again about the rest, or start a redrive"
_REFUSALS = {"NOT_FOUND": "not found", "NO_PAYLOAD": "cannot be retried, for what was sent is lost"}

Name = tuple[str, UUID]
Decide = Callable[[str, list[UUID]], list[Verdict]]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What somebody chose: commands, and groups of failures, each by its domain and its id or key."""

    commands: list[Name] = field(default_factory=list)
    groups: list[Name] = field(default_factory=list)


@dataclass(slots=True)
class Tally:
    """What became of a decision.

    Attributes:
        accepted: commands that it holds for.
        refused: why it does not for others: how many of each.
        broke_off: what ended it before its time, or None; what was decided until then holds.
        last: the last verdict.
    """

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    broke_off: str | None = None
    last: Verdict | None = None

    def add(self, verdicts: list[Verdict]) -> None:
        """Count what was said about some commands."""
        self.refused.update(verdict.refusal for verdict in verdicts if verdict.refusal is not None)
        self.accepted += sum(verdict.refusal is None for verdict in verdicts)
        self.last = verdicts[-1] if verdicts else self.last

    @property
    def is_clean(self) -> bool:
        """Whether it holds for all."""
        return not self.refused and self.broke_off is None

    def sentence(self, done: str) -> str:
        """Return what was done to how many, and what was not, and why."""
        words = [f"{done} {self.accepted:,} {'command' if self.accepted == 1 else 'commands'}"]
        words += [f"refused {count:,}: {_why(refusal)}" for refusal, count in self.refused.items()]
        if self.broke_off is not None:
            words.append(f"then it broke off: {self.broke_off.rstrip('.')}")
        return "; ".join(words) + "."


def read_chosen(form: Form, *, required: bool = True) -> Chosen:
    """Return the commands and groups that a form names, each as domain/id; a row's own button means that row alone."""
    if not form.is_of_program:
        only = Chosen(_names(form, "only_command", 1, "command"), _names(form, "only_group", 1, "group"))
        if only.commands or only.groups:
            return only
    found = Chosen(_names(form, "command", MAX_SELECTION, "command"), _names(form, "group", MAX_GROUPS, "group"))
    if required and not form.errors and not found.commands and not found.groups:
        form.refuse("command", "Choose commands first.")
    return found


def decide(chosen: Chosen, step: Decide, *, seconds: float = MAX_SECONDS) -> Tally:
    """Apply a decision to all that was chosen, and return what became of it.

    Of a group, it is about the commands that are in it when its turn comes. Each step is a transaction: what is decided
    stays decided, also when a later step cannot be. No step begins when so many seconds are over.

    Raises:
        CommandBusError: the first step was refused as a whole.
    """
    tally, end = Tally(), time.monotonic() + seconds
    try:
        for domain, ids in _members(chosen, tally):
            for start in range(0, len(ids), STEP):
                if tally.last is not None and time.monotonic() >= end:
                    tally.broke_off = f"{seconds:g} seconds are over; {_REST}"
                    return tally
                tally.add(step(domain, ids[start : start + STEP]))
    except (CommandBusError, psycopg.Error) as error:
        if tally.last is None:
            raise
        tally.broke_off = str(error) if isinstance(error, CommandBusError) else "the database refused"
    return tally


def _members(chosen: Chosen, tally: Tally) -> Iterator[tuple[str, list[UUID]]]:
    """Yield the commands of each domain, then those of each group, as far as they are not too many."""
    named = dict.fromkeys(chosen.commands)
    for domain in dict.fromkeys(domain for domain, _ in named):
        yield domain, [command_id for of, command_id in named if of == domain]
    left = MAX_MEMBERS
    for domain, key in dict.fromkeys(chosen.groups):
        found = console().tsq.list_command_ids(domain, failure_key=key, limit=left + 1)
        yield domain, [command_id for command_id in found[:left] if (domain, command_id) not in named]
        left -= len(found)
        if left < 0:
            tally.broke_off = f"{MAX_MEMBERS:,} commands of groups are the most at once; {_REST}"
            return


def _names(form: Form, name: str, most: int, what: str) -> list[Name]:
    given = form.all(name)
    if len(given) > most:
        form.refuse("command", f"At most {most:,} {what}s at once.")
        return []
    found = []
    for text in given:
        domain, _, identity = text.partition("/")
        try:
            found.append((check_domain(domain), check_uuid(identity, name)))
        except InvalidArgumentError:
            form.refuse(
                "command", f"A {what} must be named by its domain and its {'id' if what == 'command' else 'key'}."
            )
    return found


def _why(refusal: str) -> str:
    return _REFUSALS.get(refusal, f"already {refusal}").replace("_", " ").lower()
