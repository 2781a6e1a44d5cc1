"""Overview: what is going on, and what needs attention."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from commandbus.console.activity import Charts, Rates, Span, Sparks
from commandbus.console.attention import Need, is_stale, needs
from commandbus.console.domains import Domains, find_domains
from commandbus.console.forms import Form
from commandbus.console.recent import recent
from commandbus.console.records import json_or_errors, plain
from commandbus.models import DomainOverview, FailureGroup, LeaseInfo, WorkerInfo

page = Blueprint("overview", __name__)

_MOST_NEEDS = 12  # that the page lists, like the next
_MOST_DOMAINS = 20
_MOST_WORKERS = 50
_MOST_BUSY = 10  # domains whose leases are looked at
_MOST_LEASES = 8


@dataclass(frozen=True, slots=True)
class Overview:
    """What the page shows; *charts* are of the chosen domain, or all; *listed* are the domains that have a row."""

    domains: Sequence[DomainOverview]
    listed: Domains
    workers: Sequence[WorkerInfo]
    silent: frozenset[object]
    needs: Sequence[Need]
    groups: Sequence[FailureGroup]
    running: Sequence[tuple[str, LeaseInfo]]
    rates: Rates
    sparks: Mapping[str, Sparks]
    charts: Charts

    def total(self, name: str) -> int:
        """Return the sum of a number of all domains."""
        return sum(getattr(domain, name) for domain in self.domains)

    @property
    def oldest_at(self) -> datetime | None:
        """Since when the oldest message waits that a worker could have."""
        return min((d.oldest_at for d in self.domains if d.oldest_at is not None), default=None)


@page.get("/")
def show() -> ResponseReturnValue:
    """Show the page."""
    form = Form(request.args)
    domain, span = chosen(form)
    shown = {"form": form, "spans": list(Span), "span": span, "domain": domain, "overview": look(form, domain, span)}
    shown["most_needs"] = _MOST_NEEDS
    return render_template("commandbus/pages/overview.html", **shown), 400 if form.errors else 200


@page.get("/api/overview")
def show_json() -> ResponseReturnValue:
    """Return the same numbers."""
    form = Form(request.args)
    found = look(form, *chosen(form))
    return json_or_errors(
        form,
        {
            "domains": [plain(domain) for domain in found.domains],
            "troubleshooting": found.total("in_troubleshooting"),
            "per_second": asdict(found.rates),
            "needs": [{"tone": need.tone, "title": need.title, "text": need.text} for need in found.needs],
            "groups": [plain(group) for group in found.groups],
            "workers": plain_workers(found.workers, found.silent),
            "running": [{"domain": domain, **plain(lease)} for domain, lease in found.running],
        },
    )


@page.get("/api/throughput")
def throughput_json() -> ResponseReturnValue:
    """Return the numbers behind the charts."""
    form = Form(request.args)
    domain, span = chosen(form)
    points = [] if form.errors else recent().points(domain, span)
    found = {"domain": domain, "seconds": span.seconds, "step": span.step, "points": [plain(one) for one in points]}
    return json_or_errors(form, found)


def chosen(form: Form) -> tuple[str | None, Span]:
    """Return the domain and the span that a query asks for; what is wrong stands in the form."""
    domain = form.domain()
    if domain is not None and domain not in {known.domain for known in recent().overview()}:
        form.refuse("domain", "has no queue")
    span = form.value_of("span", Span) or Span.QUARTER
    return (None if form.errors else domain), span


def look(form: Form, domain: str | None, span: Span) -> Overview:
    """Return what the page shows."""
    known = recent()
    now = known.now()
    domains, workers = known.overview(), known.workers()
    parked = sum(one.in_troubleshooting for one in domains)
    urgent = needs(domains, workers, known.redrives(), now)
    listed = find_domains(form, domains, urgent, _MOST_DOMAINS)
    return Overview(
        domains=domains,
        listed=listed,
        workers=workers[:_MOST_WORKERS],
        silent=silent(workers, now),
        needs=urgent,
        groups=known.groups(parked) if parked else (),
        running=_running(domains),
        rates=known.spark(None).rates,
        sparks=known.sparks(listed.rows),
        charts=known.charts(domain, span),
    )


def silent(workers: Sequence[WorkerInfo], now: datetime) -> frozenset[object]:
    """Return the ids of workers that are probably gone."""
    return frozenset(worker.worker_id for worker in workers if is_stale(worker, now))


def plain_workers(workers: Sequence[WorkerInfo], silent: frozenset[object]) -> list[dict[str, Any]]:
    """Return workers as programs read them, and whether each is probably gone."""
    return [plain(worker) | {"is_silent": worker.worker_id in silent} for worker in workers]


def _running(domains: Sequence[DomainOverview]) -> list[tuple[str, LeaseInfo]]:
    """Return what workers have for the longest, of the busiest domains."""
    busy = sorted((d for d in domains if d.in_flight), key=lambda domain: -domain.in_flight)[:_MOST_BUSY]
    leases = [(d.domain, lease) for d in busy for lease in recent().leases(d.domain, _MOST_LEASES)]
    leases.sort(key=lambda pair: pair[1].leased_at or pair[1].expires_at + timedelta(days=1))
    return leases[:_MOST_LEASES]
