"""Troubleshooting: failures that look the same, the commands that wait, and what the operator decides."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from flask import Blueprint, flash, jsonify, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from commandbus.console.charts import Share, shares
from commandbus.console.decisions import MAX_GROUPS, Chosen, Decide, Tally, read_chosen
from commandbus.console.decisions import decide as decide_in_steps
from commandbus.console.forms import Form, posted
from commandbus.console.pages.commands import story_page
from commandbus.console.paging import Trail
from commandbus.console.records import NO_PAYLOADS, json_or_errors, plain, refused, shown
from commandbus.console.rights import rights
from commandbus.console.security import user, wants_json
from commandbus.console.state import console, shown_at
from commandbus.errors import InvalidArgumentError
from commandbus.models import FailureGroup, PageKey, TroubleshootingItem

page = Blueprint("troubleshooting", __name__)

PAGE = 50


@dataclass(slots=True)
class Groups:
    """The largest groups of failures, each with its share of the largest, and how many commands wait in all."""

    rows: list[tuple[FailureGroup, tuple[Share, ...]]] = field(default_factory=list)
    total: int = 0
    has_more: bool = False


@dataclass(slots=True)
class Found:
    """A page of waiting commands with their payloads as they may be seen, and the parameters of its neighbours.

    *group* is the group that was asked for, or None where it is empty by now; *refused* says why, where the database
    keeps payloads from this console.
    """

    rows: list[tuple[TroubleshootingItem, Any]] = field(default_factory=list)
    total: int = 0
    group: FailureGroup | None = None
    newer: dict[str, object] | None = None
    older: dict[str, object] | None = None
    refused: dict[str, str] = field(default_factory=dict)


@page.get("/troubleshooting")
def find() -> ResponseReturnValue:
    """Show what waits by what its failures look like, the largest group first."""
    form = Form(request.args)
    return _show_groups(form, form), 400 if form.errors else 200


@page.get("/api/troubleshooting")
def find_json() -> ResponseReturnValue:
    """Return the same groups."""
    form = Form(request.args)
    found = _find_groups(form)
    return json_or_errors(form, {"groups": [plain(group) for group, _ in found.rows], "total": found.total})


@page.get("/troubleshooting/commands")
def commands() -> ResponseReturnValue:
    """Show the commands that wait, of a group or all, longest waiting first."""
    form = Form(request.args)
    return _show_commands(form, form), 400 if form.errors else 200


@page.get("/api/troubleshooting/commands")
def commands_json() -> ResponseReturnValue:
    """Return the same commands; *older* are the parameters of the next page."""
    form = Form(request.args)
    found = _find_commands(form)
    rows = [plain(item) for item, _ in found.rows]
    return json_or_errors(
        form, {"commands": rows, "total": found.total, "older": found.older, "refused": found.refused}
    )


@page.post("/troubleshooting/retry")
@page.post("/api/troubleshooting/retry", endpoint="retry_json")
def retry() -> ResponseReturnValue:
    """Queue the chosen commands again."""
    form = posted()
    reason = form.reason()
    return _decide(
        form, "Retried", lambda domain, ids: console().tsq.retry_many(domain, ids, user().name, reason=reason)
    )


@page.post("/troubleshooting/cancel")
@page.post("/api/troubleshooting/cancel", endpoint="cancel_json")
def cancel() -> ResponseReturnValue:
    """Give the chosen commands up."""
    form = posted()
    reason = form.reason(required=True) or ""
    return _decide(form, "Canceled", lambda domain, ids: console().tsq.cancel_many(domain, ids, reason, user().name))


@page.post("/troubleshooting/complete")
@page.post("/api/troubleshooting/complete", endpoint="complete_json")
def complete() -> ResponseReturnValue:
    """Complete the chosen commands, with a result for their senders."""
    form = posted()
    reason, result = form.reason(), form.json("result")
    return _decide(
        form,
        "Completed",
        lambda domain, ids: console().tsq.complete_many(domain, ids, result, user().name, reason=reason),
    )


def _decide(form: Form, done: str, step: Decide) -> ResponseReturnValue:
    """Apply a decision to what was chosen, and say what became of it."""
    chosen = read_chosen(form)
    form.refuse_unknown()
    if form.errors:
        return _show_refused(form, chosen)
    try:
        tally = decide_in_steps(chosen, step)
    except InvalidArgumentError as error:
        form.refuse_error(error, {"result_data": "result"})
        return _show_refused(form, chosen)
    if wants_json():
        return jsonify(_plain_tally(tally))
    flash(tally.sentence(done), "success" if tally.is_clean else "warning")
    return redirect(_origin(form, chosen, Form(request.args).query("start", "trail")))


def _show_refused(form: Form, chosen: Chosen) -> ResponseReturnValue:
    """Return the page that a refused form came from, with what is wrong beside its fields."""
    if wants_json():
        return refused(form)
    shown_at(_origin(form, chosen, Form(request.args).query()))
    origin, filters = form.raw("from"), Form(request.args)
    if origin == "command" and len(chosen.commands) == 1:
        return story_page(*chosen.commands[0], form), 422
    return (_show_commands if origin == "commands" else _show_groups)(filters, form), 422


def _origin(form: Form, chosen: Chosen, query: str) -> str:
    """Return the address of the page that a form came from; *query* has the filters of a list."""
    origin = form.raw("from")
    if origin == "command" and len(chosen.commands) == 1:
        domain, command_id = chosen.commands[0]
        return url_for("console.commands.show", domain=domain, command_id=command_id)
    place = url_for(f"console.troubleshooting.{'commands' if origin == 'commands' else 'find'}")
    return f"{place}?{query}" if query else place


def _plain_tally(tally: Tally) -> dict[str, Any]:
    return {"accepted": tally.accepted, "refused": dict(tally.refused), "broke_off": tally.broke_off}


def _find_groups(form: Form) -> Groups:
    """Return the groups; none while a filter is wrong."""
    domain = form.domain()
    if form.errors:
        return Groups()
    groups = console().tsq.list_failure_groups(domain, MAX_GROUPS + 1)
    largest = max((group.waiting for group in groups), default=0)
    rows = [(group, shares((("waiting", "warning", group.waiting),), largest)) for group in groups[:MAX_GROUPS]]
    return Groups(rows, console().tsq.count_troubleshooting(domain), len(groups) > MAX_GROUPS)


def _find_commands(form: Form) -> Found:
    """Return a page of waiting commands; none while a filter is wrong."""
    domain, command_type, key = form.domain(), form.command_type(), form.uuid("group")
    trail = Trail(form)
    if key is not None and domain is None:
        form.refuse("group", "needs a domain")
    if form.errors:
        return Found()
    group, tsq = None if domain is None or key is None else _group(domain, key), console().tsq
    found = Found(group=group, newer=trail.newer())

    with_payload = rights().sees_payloads
    if domain is None:
        items = tsq.list_all_troubleshooting(
            command_type, PAGE + 1, start=trail.start, with_payload=with_payload, exact=True
        )
    else:
        items = tsq.list_troubleshooting(
            domain, command_type, PAGE + 1, failure_key=key, start=trail.start, with_payload=with_payload, exact=True
        )
    found.refused = {} if with_payload else NO_PAYLOADS
    found.rows = [(item, None if item.payload is None else shown(item.payload)) for item in items[:PAGE]]
    if key is None:
        found.total = tsq.count_troubleshooting(domain, command_type)
    elif group is not None:
        found.total = group.waiting
    if len(items) > PAGE:
        found.older = trail.older(PageKey(items[PAGE - 1].waiting_since, items[PAGE - 1].command_id))
    return found


def _group(domain: str, key: UUID) -> FailureGroup | None:
    return next(iter(console().tsq.list_failure_groups(domain, failure_key=key)), None)


def _show_groups(filters: Form, form: Form) -> str:
    """Return the page of groups; *form* is the decision that was refused, or the filters themselves."""
    found, domains = _find_groups(filters), console().queues.list_domains()
    return render_template(
        "commandbus/pages/groups.html",
        filters=filters, form=form, found=found, domains=domains, chosen=set(form.all("group")),
    )  # fmt: skip


def _show_commands(filters: Form, form: Form) -> str:
    """Return the page of commands; *form* as in `_show_groups`."""
    found, domains = _find_commands(filters), console().queues.list_domains()
    chosen = set(form.all("command"))
    return render_template(
        "commandbus/pages/troubleshooting.html",
        filters=filters, form=form, found=found, domains=domains, chosen=chosen,
        whole=form is not filters and bool(form.all("group")),
    )  # fmt: skip
