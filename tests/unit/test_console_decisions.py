"""Decisions on many commands: what ends them before all is decided, and what holds then."""

from __future__ import annotations

from uuid import UUID, uuid4

import psycopg
import pytest

from commandbus.console.decisions import Chosen, decide
from commandbus.errors import CommandBusError, PoolTimeoutError
from commandbus.models import Verdict

CHOSEN = Chosen([("pay", uuid4()), ("ship", uuid4()), ("pay", uuid4()), ("print", uuid4())])


class Steps:
    """Accepts every command, but fails at the step with the given number."""

    def __init__(self, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.done: list[str] = []
        self._fails_at, self._error = fails_at, error

    def __call__(self, domain: str, ids: list[UUID]) -> list[Verdict]:
        """Accept the commands."""
        if self._error is not None and len(self.done) + 1 == self._fails_at:
            raise self._error
        self.done.append(domain)
        return [Verdict(one, None, None) for one in ids]


def test_all_is_decided_about_by_domain() -> None:
    step = Steps()
    tally = decide(CHOSEN, step)
    assert (step.done, tally.accepted, tally.broke_off) == (["pay", "ship", "print"], 4, None)


def test_no_step_but_the_first_begins_when_the_time_is_over() -> None:
    step = Steps()
    tally = decide(CHOSEN, step, seconds=0)
    assert (step.done, tally.accepted) == (["pay"], 2)
    assert tally.sentence("Retried") == (
        "Retried 2 commands; then it broke off: 0 seconds are over; decide again about the rest, or start a redrive."
    )


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (PoolTimeoutError("all connections are in use."), "all connections are in use"),
        (psycopg.errors.QueryCanceled("canary of a statement"), "the database refused"),
    ],
)
def test_a_later_step_that_is_refused_leaves_what_was_decided(error: Exception, why: str) -> None:
    step = Steps(2, error)
    tally = decide(CHOSEN, step)
    assert (step.done, tally.accepted) == (["pay"], 2)
    assert tally.sentence("Retried") == f"Retried 2 commands; then it broke off: {why}."
    with pytest.raises((CommandBusError, psycopg.Error)):
        decide(CHOSEN, Steps(1, error))
