"""Batches: how far they are, and their commands."""

from dataclasses import dataclass, field
from uuid import UUID

from flask import Blueprint, abort, render_template, request
from flask.typing import ResponseReturnValue

from commandbus.console.charts import Share, shares
from commandbus.console.forms import Form
from commandbus.console.records import json_or_errors, plain, shown
from commandbus.console.state import console
from commandbus.errors import BatchNotFoundError
from commandbus.models import BatchMetadata, BatchStatus, CommandMetadata, CommandStatus
from commandbus.payload import check_domain

page = Blueprint("batches", __name__)

PAGE = 50
_DEEPEST = 100_000


@dataclass(frozen=True, slots=True)
class Progress:
    """A batch, and its commands by outcome as parts of a bar."""

    batch: BatchMetadata
    bar: tuple[Share, ...]
    ended: int


@dataclass(slots=True)
class Found:
    """A page of batches or of a batch's commands, and where its neighbours begin."""

    batches: list[Progress] = field(default_factory=list)
    commands: list[CommandMetadata] = field(default_factory=list)
    newer: int | None = None
    older: int | None = None


@page.get("/batches")
def find() -> ResponseReturnValue:
    """Show the batches, newest first."""
    form, domains = Form(request.args), console().queues.list_domains()
    found = _find(form)
    status = 400 if form.errors else 200
    return render_template("commandbus/pages/batches.html", form=form, found=found, domains=domains), status


@page.get("/api/batches")
def find_json() -> ResponseReturnValue:
    """Return the same batches."""
    form = Form(request.args)
    found = _find(form)
    return json_or_errors(form, {"batches": [plain(p.batch) for p in found.batches], "next_offset": found.older})


@page.get("/batches/<domain>/<uuid:batch_id>")
def show(domain: str, batch_id: UUID) -> ResponseReturnValue:
    """Show one batch and its commands."""
    form = Form(request.args)
    batch = _batch(domain, batch_id)
    found = _commands(form, batch)
    events = console().bus.get_audit_trail(batch_id, domain)
    data = None if batch.custom_data is None else shown(batch.custom_data)
    status = 400 if form.errors else 200
    page_ = "commandbus/pages/batch.html"
    return render_template(page_, form=form, progress=_progress(batch), found=found, events=events, data=data), status


@page.get("/api/batches/<domain>/<uuid:batch_id>")
def show_json(domain: str, batch_id: UUID) -> ResponseReturnValue:
    """Return one batch and its commands."""
    form = Form(request.args)
    batch = _batch(domain, batch_id)
    found = _commands(form, batch)
    rows = [plain(row) for row in found.commands]
    return json_or_errors(form, {"batch": plain(batch), "commands": rows, "next_offset": found.older})


def _find(form: Form) -> Found:
    """Return a page of the batches of one domain, or of all."""
    domain, status = form.domain(), form.one_of("status", BatchStatus)
    offset = form.count("offset", 0, _DEEPEST, 0) or 0
    if form.errors:
        return Found()
    rows = console().bus.list_batches(domain, status=status, limit=PAGE + 1, offset=offset)
    return Found([_progress(row) for row in rows[:PAGE]], [], *_neighbours(offset, len(rows)))


def _commands(form: Form, batch: BatchMetadata) -> Found:
    status, offset = form.one_of("status", CommandStatus), form.count("offset", 0, _DEEPEST, 0) or 0
    if form.errors:
        return Found()
    rows = console().bus.list_batch_commands(batch.domain, batch.batch_id, status=status, limit=PAGE + 1, offset=offset)
    return Found([], rows[:PAGE], *_neighbours(offset, len(rows)))


def _neighbours(offset: int, rows: int) -> tuple[int | None, int | None]:
    return max(offset - PAGE, 0) if offset else None, offset + PAGE if rows > PAGE else None


def _batch(domain: str, batch_id: UUID) -> BatchMetadata:
    try:
        found = console().bus.get_batch(check_domain(domain), batch_id)
    except ValueError:
        abort(404)
    if found is None:
        raise BatchNotFoundError(f'batch {batch_id} not found in domain "{domain}"')
    return found


def _progress(batch: BatchMetadata) -> Progress:
    parts = (
        ("completed", "success", batch.completed_count),
        ("failed", "danger", batch.failed_count),
        ("canceled", "muted", batch.canceled_count),
        ("in troubleshooting", "warning", batch.in_troubleshooting_count),
    )
    ended = batch.completed_count + batch.failed_count + batch.canceled_count
    return Progress(batch, shares(parts, batch.total_count), ended)
