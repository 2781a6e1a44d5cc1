"""What needs an operator, most urgent first: pure, from what the library says of domains, workers and redrives."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from commandbus.console.looks import per_second, span
from commandbus.models import DomainOverview, Redrive, RedriveStatus, WorkerInfo
from commandbus.payload import counted

_REMEMBERED = timedelta(hours=1)  # after which a silent worker is no news
STALE = timedelta(seconds=20)  # a worker that lives is heard of every 5 seconds
OLD = timedelta(minutes=5)  # of a message that a worker could have
_NAMED = 6  # domains in which commands wait
_ORDER = ("danger", "warning", "info")


@dataclass(frozen=True, slots=True)
class Need:
    """One thing to be dealt with: what it is, and the page (endpoint and values) where that is done."""

    tone: str
    title: str
    text: str
    action: str
    endpoint: str
    values: Mapping[str, Any] = field(default_factory=dict)


def needs(
    domains: Sequence[DomainOverview], workers: Sequence[WorkerInfo], redrives: Sequence[Redrive], now: datetime
) -> list[Need]:
    """Return what needs attention; of commands that wait for an operator, that they do."""
    found = [*_of_domains(domains, now), *_of_workers(workers, now), *_of_redrives(redrives)]
    return sorted(found, key=lambda need: _ORDER.index(need.tone))


def is_stale(worker: WorkerInfo, now: datetime) -> bool:
    """Return whether a worker was not heard of for so long that it is probably gone."""
    return now - worker.seen_at > STALE


def _of_domains(domains: Sequence[DomainOverview], now: datetime) -> Iterator[Need]:
    for domain in domains:
        place = {"domain": domain.domain}
        waiting = domain.depth + domain.scheduled
        if domain.paused_at is not None:
            who = f" by {domain.paused_by}" if domain.paused_by else ""
            text = f"for {span((now - domain.paused_at).total_seconds())}{who}; {counted(waiting, 'command')} waiting"
            text += f": {domain.pause_reason}" if domain.pause_reason else ""
            yield Need("warning", f"{domain.domain} is paused", text, "Resume", "console.queues.detail", place)
        elif not domain.workers and waiting:
            text = f"{counted(waiting, 'command')} waiting, and no worker was heard of in the last 20 s"
            title = f"Nobody works on {domain.domain}"
            yield Need("danger", title, text, "Look", "console.queues.detail", place)
        elif domain.oldest_at is not None and now - domain.oldest_at > OLD:
            age = span((now - domain.oldest_at).total_seconds())
            crew = counted(domain.workers, "worker")
            text = f"the oldest of {counted(domain.depth, 'command')} waits for {age}; {crew} at it"
            yield Need("warning", f"{domain.domain} falls behind", text, "Look", "console.queues.detail", place)
    parked = sum(domain.in_troubleshooting for domain in domains)
    if parked:
        title = f"{counted(parked, 'command')} {'waits' if parked == 1 else 'wait'} for a decision"
        most = sorted((d for d in domains if d.in_troubleshooting), key=lambda one: -one.in_troubleshooting)
        where = ", ".join(f"{one.domain} {one.in_troubleshooting:,}" for one in most[:_NAMED])
        where += f", and {counted(len(most) - _NAMED, 'other domain')}" if len(most) > _NAMED else ""
        yield Need("warning", title, where, "Decide", "console.troubleshooting.find")


def _of_workers(workers: Sequence[WorkerInfo], now: datetime) -> Iterator[Need]:
    stale = [worker for worker in workers if is_stale(worker, now) and now - worker.seen_at < _REMEMBERED]
    for domain in sorted({worker.domain for worker in stale}):
        those = [worker for worker in stale if worker.domain == domain]
        last = max(worker.seen_at for worker in those)
        title = f"{counted(len(those), 'worker')} of {domain} went silent"
        text = f"last heard of {span((now - last).total_seconds())} ago: " + ", ".join(
            sorted({f"{worker.host} {worker.pid}" for worker in those})[:3]
        )
        yield Need("warning", title, text, "Look", "console.queues.detail", {"domain": domain})


def _of_redrives(redrives: Sequence[Redrive]) -> Iterator[Need]:
    for redrive in redrives:
        if redrive.status not in (RedriveStatus.RUNNING, RedriveStatus.PAUSED):
            continue
        is_running = redrive.status is RedriveStatus.RUNNING
        title = f"A redrive of {redrive.domain} {'is running' if is_running else 'is paused'}"
        text = f"{redrive.sent_count:,} of {counted(redrive.total_count, 'command')} sent, {per_second(redrive.rate)}"
        text += f", {redrive.failed_count:,} failed again" if redrive.failed_count else ""
        tone = "info" if is_running else "warning"
        yield Need(tone, title, text, "Look", "console.redrives.show", {"redrive_id": redrive.redrive_id})
