"""Queues: what is in them now, who works on them, and the switch that holds one."""

from collections.abc import Sequence
from dataclasses import dataclass

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import MultiDict

from commandbus.console.activity import Charts, Span, Sparks
from commandbus.console.attention import needs
from commandbus.console.charts import Share, shares
from commandbus.console.domains import find_domains
from commandbus.console.forms import Form
from commandbus.console.pages.overview import plain_workers, silent
from commandbus.console.recent import recent
from commandbus.console.records import json_or_errors, plain
from commandbus.console.security import user
from commandbus.console.state import console, shown_at
from commandbus.models import DomainOverview, LeaseInfo, WorkerInfo

page = Blueprint("queues", __name__)

PAGE = 50
_LEASES = 50


@dataclass(frozen=True, slots=True)
class Detail:
    """What the page of one domain shows."""

    queue: DomainOverview
    bar: tuple[Share, ...]
    spark: Sparks
    charts: Charts
    workers: Sequence[WorkerInfo]
    silent: frozenset[object]
    leases: Sequence[LeaseInfo]


@page.get("/queues")
def show() -> ResponseReturnValue:
    """Show the domains' queues."""
    form, known = Form(request.args), recent()
    queues = known.overview()
    found = find_domains(form, queues, needs(queues, known.workers(), (), known.now()), PAGE)
    deepest = max((queue.depth + queue.scheduled for queue in queues), default=0)
    bars = {queue.domain: _bar(queue, deepest) for queue in found.rows}
    text = render_template("commandbus/pages/queues.html", form=form, found=found, bars=bars)
    return text, 400 if form.errors else 200


@page.get("/api/queues")
def show_json() -> ResponseReturnValue:
    """Return the same numbers."""
    return json_or_errors(Form(request.args), {"queues": [plain(queue) for queue in recent().overview()]})


@page.get("/queues/<domain>")
def detail(domain: str) -> ResponseReturnValue:
    """Show one domain: its charts, its workers, and what they have."""
    return _show(domain, Form(MultiDict()))


@page.get("/api/queues/<domain>")
def detail_json(domain: str) -> ResponseReturnValue:
    """Return the same numbers; those of the charts are in /api/throughput."""
    form = Form(request.args)
    found = _look(domain, _span(form))
    workers, leases = plain_workers(found.workers, found.silent), [plain(lease) for lease in found.leases]
    return json_or_errors(form, {"queue": plain(found.queue), "workers": workers, "leases": leases})


@page.post("/queues/<domain>/pause")
def pause(domain: str) -> ResponseReturnValue:
    """Let no worker have the domain's commands."""
    return _switch(domain, is_held=True)


@page.post("/queues/<domain>/resume")
def resume(domain: str) -> ResponseReturnValue:
    """Let workers have them again."""
    return _switch(domain, is_held=False)


def _switch(domain: str, *, is_held: bool) -> ResponseReturnValue:
    form = Form(request.form)
    _find(domain)
    reason = form.reason()
    if form.errors:
        shown_at(url_for("console.queues.detail", domain=domain))
        return _show(domain, form, 422)
    operations = console().operations
    change = operations.pause if is_held else operations.resume
    is_changed = change(domain, user().name, reason)
    recent().forget()
    if not is_changed:
        flash(f"{domain} {'was paused already' if is_held else 'was not paused'}.", "warning")
    elif is_held:
        flash(f"Paused {domain}: what runs goes on, what is sent waits.", "success")
    else:
        flash(f"Resumed {domain}: workers have its commands again.", "success")
    return redirect(url_for("console.queues.detail", domain=domain))


def _show(domain: str, form: Form, status: int = 200) -> ResponseReturnValue:
    query = Form(request.args)
    span = _span(query)
    shown = {"found": _look(domain, span), "form": form, "query": query, "span": span, "spans": list(Span)}
    text = render_template("commandbus/pages/queue.html", **shown)
    return text, 400 if query.errors else status


def _look(domain: str, span: Span) -> Detail:
    queue, known = _find(domain), recent()
    workers = [worker for worker in known.workers() if worker.domain == domain]
    return Detail(
        queue,
        _bar(queue, queue.depth + queue.scheduled),
        known.spark(domain),
        known.charts(domain, span),
        workers,
        silent(workers, recent().now()),
        known.leases(domain, _LEASES),
    )


def _find(domain: str) -> DomainOverview:
    """Return a domain's numbers, or answer 404."""
    found = next((queue for queue in recent().overview() if queue.domain == domain), None)
    if found is None:
        abort(404)
    return found


def _span(form: Form) -> Span:
    return form.value_of("span", Span) or Span.QUARTER


def _bar(queue: DomainOverview, whole: int) -> tuple[Share, ...]:
    ready = max(queue.depth - queue.in_flight, 0)
    parts = (("ready", "brand", ready), ("in flight", "info", queue.in_flight))
    return shares((*parts, ("scheduled", "neutral", queue.scheduled)), whole)
