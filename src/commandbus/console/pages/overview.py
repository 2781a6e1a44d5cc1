"""Overview: what is going on, and what needs attention."""

from dataclasses import dataclass

from flask import Blueprint, jsonify, render_template
from flask.typing import ResponseReturnValue

from commandbus.console.charts import Share, shares
from commandbus.console.records import plain
from commandbus.console.state import console
from commandbus.models import AuditEvent, AuditEventType, QueueMetrics, TroubleshootingItem

page = Blueprint("overview", __name__)

_RECENT = 8


@dataclass(frozen=True, slots=True)
class DomainNow:
    """A domain, and what its queue holds; *bar* are the parts of its depth."""

    name: str
    queue: QueueMetrics
    waiting_for_operator: int
    bar: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """What the page shows."""

    domains: list[DomainNow]
    parked: list[TroubleshootingItem]
    failures: list[AuditEvent]

    def total(self, name: str) -> int:
        """Return the sum of a number of all queues."""
        return sum(getattr(domain.queue, name) for domain in self.domains)

    @property
    def parked_count(self) -> int:
        """How many commands wait for an operator."""
        return sum(domain.waiting_for_operator for domain in self.domains)

    @property
    def oldest_age(self) -> float | None:
        """The age of the oldest message of all queues, in seconds."""
        ages = [d.queue.oldest_age_seconds for d in self.domains if d.queue.oldest_age_seconds is not None]
        return max(ages, default=None)


@page.get("/")
def show() -> ResponseReturnValue:
    """Show the page."""
    return render_template("commandbus/pages/overview.html", overview=_look())


@page.get("/api/overview")
def show_json() -> ResponseReturnValue:
    """Return the same numbers."""
    found = _look()
    domains = [
        {"domain": domain.name, "troubleshooting": domain.waiting_for_operator, **plain(domain.queue)}
        for domain in found.domains
    ]
    failures = [plain(event) for event in found.failures]
    return jsonify(domains=domains, troubleshooting=found.parked_count, failures=failures)


def _look() -> Overview:
    queues, tsq, bus = console().queues, console().tsq, console().bus
    domains = []
    metrics = {name: queues.metrics(name) for name in queues.list_domains()}
    deepest = max((queue.length + queue.scheduled for queue in metrics.values()), default=0)
    for name, queue in metrics.items():
        parts = (("ready", "brand", queue.visible), ("in flight", "info", queue.in_flight))
        bar = shares((*parts, ("scheduled", "neutral", queue.scheduled)), deepest)
        domains.append(DomainNow(name, queue, tsq.count_troubleshooting(name), bar))
    failures = [
        event
        for kind in (AuditEventType.MOVED_TO_TSQ, AuditEventType.BUSINESS_RULE_FAILED)
        for event in bus.query_audit(event_type=kind, limit=_RECENT)
    ]
    failures.sort(key=lambda event: event.timestamp, reverse=True)
    return Overview(domains, tsq.list_all_troubleshooting(limit=_RECENT), failures[:_RECENT])
