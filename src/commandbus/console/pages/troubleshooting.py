"""Troubleshooting: what waits for an operator, and what the operator decides."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from commandbus.console.forms import Form
from commandbus.console.records import json_or_errors, plain, shown
from commandbus.console.security import user
from commandbus.console.state import console
from commandbus.errors import InvalidArgumentError
from commandbus.models import TroubleshootingItem
from commandbus.payload import check_domain, check_uuid
from commandbus.sync.repositories.command import Verdict

page = Blueprint("troubleshooting", __name__)

PAGE = 50
MAX_SELECTION = 1_000
MAX_REASON = 2_000
_DEEPEST = 100_000
_REFUSALS = {"NOT_FOUND": "not found", "NO_PAYLOAD": "cannot be retried, for what was sent is lost"}

_Selection = dict[str, list[UUID]]
_Decision = Callable[[str, list[UUID]], list[Verdict]]


@dataclass(slots=True)
class Found:
    """A page of waiting commands with their payloads as they may be seen, and where its neighbours begin."""

    rows: list[tuple[TroubleshootingItem, Any]] = field(default_factory=list)
    total: int = 0
    newer: int | None = None
    older: int | None = None


@page.get("/troubleshooting")
def find() -> ResponseReturnValue:
    """Show the commands that wait, longest waiting first."""
    form = Form(request.args)
    return _show(form, form), 400 if form.errors else 200


@page.get("/api/troubleshooting")
def find_json() -> ResponseReturnValue:
    """Return the same commands."""
    form = Form(request.args)
    found = _find(form)
    rows = [plain(item) for item, _ in found.rows]
    return json_or_errors(form, {"commands": rows, "total": found.total, "next_offset": found.older})


@page.post("/troubleshooting/retry")
def retry() -> ResponseReturnValue:
    """Queue the chosen commands again."""
    form = Form(request.form)
    return _decide(form, "Retried", lambda domain, ids: console().tsq.retry_many(domain, ids, user().name))


@page.post("/troubleshooting/cancel")
def cancel() -> ResponseReturnValue:
    """Give the chosen commands up."""
    form = Form(request.form)
    reason = form.text("reason", MAX_REASON, required=True) or ""
    return _decide(form, "Canceled", lambda domain, ids: console().tsq.cancel_many(domain, ids, reason, user().name))


@page.post("/troubleshooting/complete")
def complete() -> ResponseReturnValue:
    """Complete the chosen commands, with a result for their senders."""
    form = Form(request.form)
    result = form.json("result")

    def decide(domain: str, ids: list[UUID]) -> list[Verdict]:
        return console().tsq.complete_many(domain, ids, result, user().name)

    return _decide(form, "Completed", decide)


def _decide(form: Form, done: str, decide: _Decision) -> ResponseReturnValue:
    """Apply a decision to the chosen commands, and say what became of them."""
    filters = Form(request.args)
    selection = _selection(form)
    if form.errors:
        return _show(filters, form), 422
    verdicts: list[Verdict] = []
    try:
        for domain, ids in selection.items():
            verdicts += decide(domain, ids)
    except InvalidArgumentError as error:
        form.refuse_error(error, {"result_data": "result"})
        return _show(filters, form), 422
    _tell(done, verdicts)
    if request.form.get("from") == "command" and len(verdicts) == 1:
        domain, command_id = next(iter(selection)), verdicts[0].command_id
        return redirect(url_for("console.commands.show", domain=domain, command_id=command_id))
    return redirect(f"{url_for('console.troubleshooting.find')}?{filters.query('offset')}")


def _tell(done: str, verdicts: list[Verdict]) -> None:
    refused = Counter(_REFUSALS.get(v.refusal, f"already {v.refusal}") for v in verdicts if v.refusal)
    accepted = len(verdicts) - sum(refused.values())
    words = [f"{done} {accepted:,} {'command' if accepted == 1 else 'commands'}"]
    words += [f"refused {count:,}: {why.replace('_', ' ').lower()}" for why, count in refused.items()]
    flash("; ".join(words) + ".", "warning" if refused else "success")


def _selection(form: Form) -> _Selection:
    """Return the chosen commands by domain; each is named domain/id."""
    found: _Selection = {}
    chosen = list(dict.fromkeys(request.form.getlist("command")))
    if not chosen:
        form.refuse("command", "Choose commands first.")
    if len(chosen) > MAX_SELECTION:
        form.refuse("command", f"At most {MAX_SELECTION:,} commands at once.")
        return {}
    for name in chosen:
        domain, _, command_id = name.partition("/")
        try:
            found.setdefault(check_domain(domain), []).append(check_uuid(command_id, "command"))
        except InvalidArgumentError:
            form.refuse("command", "A command must be named by its domain and its id.")
    return found


def _find(form: Form) -> Found:
    """Return a page of waiting commands; none while a filter is wrong."""
    domain, command_type = form.domain(), form.command_type()
    offset = form.count("offset", 0, _DEEPEST, 0) or 0
    if form.errors:
        return Found()
    tsq = console().tsq
    if domain is None:
        items = tsq.list_all_troubleshooting(command_type, PAGE + 1, offset)
    else:
        items = tsq.list_troubleshooting(domain, command_type, PAGE + 1, offset)
    rows = [(item, shown(item.payload)) for item in items[:PAGE]]
    older = offset + PAGE if len(items) > PAGE else None
    total = tsq.count_troubleshooting(domain, command_type)
    return Found(rows, total, max(offset - PAGE, 0) if offset else None, older)


def _show(filters: Form, form: Form) -> str:
    """Return the page; *form* is the decision that was refused, or the filters themselves."""
    found, domains = _find(filters), console().queues.list_domains()
    chosen = set(request.form.getlist("command"))
    return render_template(
        "commandbus/pages/troubleshooting.html",
        filters=filters, form=form, found=found, domains=domains, chosen=chosen,
    )  # fmt: skip
