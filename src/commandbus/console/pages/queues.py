"""Queues: what is in them now."""

from flask import Blueprint, jsonify, render_template
from flask.typing import ResponseReturnValue

from commandbus.console.charts import Share, shares
from commandbus.console.records import plain
from commandbus.console.state import console
from commandbus.models import QueueMetrics

page = Blueprint("queues", __name__)


@page.get("/queues")
def show() -> ResponseReturnValue:
    """Show every domain's queue."""
    return render_template("commandbus/pages/queues.html", queues=_look())


@page.get("/api/queues")
def show_json() -> ResponseReturnValue:
    """Return the same numbers."""
    return jsonify(queues=[{"domain": domain, **plain(metrics)} for domain, metrics, _ in _look()])


def _look() -> list[tuple[str, QueueMetrics, tuple[Share, ...]]]:
    queues = console().queues
    found = []
    by_domain = {domain: queues.metrics(domain) for domain in queues.list_domains()}
    deepest = max((metrics.length + metrics.scheduled for metrics in by_domain.values()), default=0)
    for domain, metrics in by_domain.items():
        parts = (("ready", "brand", metrics.visible), ("in flight", "info", metrics.in_flight))
        found.append((domain, metrics, shares((*parts, ("scheduled", "neutral", metrics.scheduled)), deepest)))
    return found
