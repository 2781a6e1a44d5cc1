"""The attempts of a command, as its audit tells them: when each began and ended, and how."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from commandbus.models import AuditEvent, AuditEventType

_ENDS = frozenset(
    {AuditEventType.COMPLETED, AuditEventType.FAILED, AuditEventType.RELEASED, AuditEventType.RETRY_EXHAUSTED}
)
_LATER = {  # what an event says about the attempt that ended just before
    AuditEventType.RETRY_SCHEDULED: "RETRY_SCHEDULED",
    AuditEventType.BUSINESS_RULE_FAILED: "BUSINESS_RULE_FAILED",
    AuditEventType.MOVED_TO_TSQ: "MOVED_TO_TSQ",
}
LOST = "NO_RETURN"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One delivery to a worker.

    Attributes:
        number: as its events have it: from 1, and again from 1 after an operator's retry, which gives it all its
            attempts again. One that was given back (RELEASED) does not count, so the next has the same.
        is_anew: whether it is the first after such a retry.
        started_at: when a worker received it.
        ended_at: when the attempt ended, or None.
        outcome: the event that ended it; IN_PROGRESS while nothing has; NO_RETURN when it was delivered again before.
        error_type: how it failed, or None.
        error_code: with this code.
        error_msg: and this text.
        error_place: at ``file:line`` of the handler's code, or None.
    """

    number: int
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str = "IN_PROGRESS"
    error_type: str | None = None
    error_code: str | None = None
    error_msg: str | None = None
    error_place: str | None = None
    is_anew: bool = False

    @property
    def seconds(self) -> float | None:
        """How long it took, or None."""
        return None if self.ended_at is None else (self.ended_at - self.started_at).total_seconds()


def attempts(events: Iterable[AuditEvent]) -> list[Attempt]:
    """Return the attempts that the events of one command, oldest first, tell of."""
    found: list[Attempt] = []
    is_anew = False
    for event in events:
        is_open = bool(found) and found[-1].outcome == "IN_PROGRESS"
        if event.event_type == AuditEventType.RECEIVED:
            if is_open:
                found[-1] = replace(found[-1], outcome=LOST)
            found.append(_begun(event, found, is_anew=is_anew))
            is_anew = False
        elif event.event_type == AuditEventType.OPERATOR_RETRY:
            is_anew = True
        elif event.event_type in _ENDS and is_open:
            found[-1] = _ended(found[-1], event)
        elif event.event_type in _LATER and found:
            found[-1] = _judged(found[-1], event)
    return found


def _begun(event: AuditEvent, before: list[Attempt], *, is_anew: bool) -> Attempt:
    facts: dict[str, Any] = event.details if isinstance(event.details, dict) else {}
    following = before[-1].number + 1 if before and not is_anew else 1
    return Attempt(facts.get("attempt", following), event.timestamp, is_anew=is_anew)


def _ended(attempt: Attempt, event: AuditEvent) -> Attempt:
    facts: dict[str, Any] = event.details if isinstance(event.details, dict) else {}
    outcome = LOST if event.event_type == AuditEventType.RETRY_EXHAUSTED else str(event.event_type)
    return replace(
        attempt,
        ended_at=event.timestamp,
        outcome=outcome,
        error_type=facts.get("error_type"),
        error_code=facts.get("error_code"),
        error_msg=facts.get("error_msg"),
        error_place=facts.get("error_place"),
    )


def _judged(attempt: Attempt, event: AuditEvent) -> Attempt:
    """Return the attempt with what was made of its failure."""
    if attempt.outcome == "IN_PROGRESS":  # no attempt of a handler ended: the message was diverted
        return replace(attempt, ended_at=event.timestamp, outcome=_LATER[event.event_type])
    return replace(attempt, outcome=_LATER[event.event_type]) if attempt.outcome == "FAILED" else attempt
