"""Audit: everything that happened, newest first."""

from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from commandbus.console.forms import Form
from commandbus.console.records import facts, json_or_errors, plain
from commandbus.console.state import console
from commandbus.models import AuditEvent, AuditEventType

page = Blueprint("audit", __name__)

PAGE = 100
_MOST_ID = 2**63 - 1


@dataclass(slots=True)
class Found:
    """A page of events with their facts; *older* are the parameters of the next page."""

    rows: list[tuple[AuditEvent, dict[str, Any]]] = field(default_factory=list)
    older: dict[str, object] | None = None


@page.get("/audit")
def find() -> ResponseReturnValue:
    """Show the events that match the filters."""
    form = Form(request.args)
    found = _find(form)
    status = 400 if form.errors else 200
    domains, kinds = console().queues.list_domains(), list(AuditEventType)
    page_ = "commandbus/pages/audit.html"
    return render_template(page_, form=form, found=found, domains=domains, kinds=kinds), status


@page.get("/api/audit")
def find_json() -> ResponseReturnValue:
    """Return the same events; *older* are the parameters of the next page."""
    form = Form(request.args)
    found = _find(form)
    return json_or_errors(form, {"events": [plain(event) for event, _ in found.rows], "older": found.older})


def _find(form: Form) -> Found:
    """Return a page of events; none while a filter is wrong."""
    domain, event_type = form.domain(), form.event()
    after, before, before_id = form.time("after"), form.time("before"), form.count("before_id", 1, _MOST_ID)
    if before_id is not None and before is None:
        form.refuse("before_id", "needs before")
    if form.errors:
        return Found()
    rows = console().bus.query_audit(
        domain, event_type, after=after, before=before, before_id=before_id, limit=PAGE + 1, exact=True
    )
    older: dict[str, object] | None = None
    if len(rows) > PAGE:
        last = rows[PAGE - 1]
        older = {"before": last.timestamp.isoformat(), "before_id": last.audit_id}
    return Found([(event, facts(event)) for event in rows[:PAGE]], older)
