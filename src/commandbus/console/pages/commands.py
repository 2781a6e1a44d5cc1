"""Commands: find them, and look at one with its whole story."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from flask import Blueprint, abort, jsonify, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from commandbus.console.forms import Form
from commandbus.console.records import facts, json_or_errors, plain, shown
from commandbus.console.state import console
from commandbus.errors import CommandNotFoundError
from commandbus.models import AuditEvent, BatchMetadata, CommandMetadata, CommandStatus
from commandbus.payload import check_domain
from commandbus.sync import PostgresPayloadArchive

page = Blueprint("commands", __name__)

PAGE = 50
_MOST_ROWS = 1_000
_DEEPEST = 100_000
_RELATED = 20


@dataclass(slots=True)
class Found:
    """A page of commands, and where its neighbours begin."""

    rows: list[CommandMetadata] = field(default_factory=list)
    newer: int | None = None
    older: int | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """A command and everything around it. *payload* is None where it is not at hand."""

    command: CommandMetadata
    events: list[tuple[AuditEvent, dict[str, Any]]]
    payload: Any
    batch: BatchMetadata | None
    related: list[CommandMetadata]


@page.get("/commands")
def find() -> ResponseReturnValue:
    """Show the commands that match the filters."""
    form = Form(request.args)
    found = _find(form)
    status = 400 if form.errors else 200
    domains = console().queues.list_domains()
    return render_template("commandbus/pages/commands.html", form=form, found=found, domains=domains), status


@page.get("/api/commands")
def find_json() -> ResponseReturnValue:
    """Return the same commands."""
    form = Form(request.args)
    found = _find(form)
    return json_or_errors(form, {"commands": [plain(row) for row in found.rows], "next_offset": found.older})


@page.get("/commands/<domain>/<uuid:command_id>")
def show(domain: str, command_id: UUID) -> ResponseReturnValue:
    """Show one command."""
    return render_template("commandbus/pages/command.html", story=_story(domain, command_id))


@page.get("/api/commands/<domain>/<uuid:command_id>")
def show_json(domain: str, command_id: UUID) -> ResponseReturnValue:
    """Return one command and its story."""
    story = _story(domain, command_id)
    return jsonify(
        command=plain(story.command),
        payload=story.payload,
        events=[plain(event) for event, _ in story.events],
        related=[plain(row) for row in story.related],
    )


@page.get("/go")
def go() -> ResponseReturnValue:
    """Lead to a command whose id alone is known."""
    form = Form(request.args)
    command_id = form.uuid("id", required=True)
    if command_id is None:
        abort(400, f"The id {form.errors['id']}.")
    domain = console().tsq.get_command_domain(command_id)
    return redirect(url_for("console.commands.show", domain=domain, command_id=command_id))


def _find(form: Form) -> Found:
    """Return a page of commands; none while a filter is wrong."""
    status, domain = form.one_of("status", CommandStatus), form.domain()
    command_type, correlation_id = form.command_type(), form.uuid("correlation")
    after, before = form.time("after"), form.time("before")
    offset, limit = form.count("offset", 0, _DEEPEST, 0) or 0, form.count("limit", 1, _MOST_ROWS, PAGE) or PAGE
    if form.errors:
        return Found()
    rows = console().bus.query_commands(
        status, domain, command_type, after, before, min(limit + 1, _MOST_ROWS), offset, correlation_id=correlation_id
    )
    older = offset + limit if len(rows) > limit else None
    return Found(rows[:limit], max(offset - limit, 0) if offset else None, older)


def _story(domain: str, command_id: UUID) -> Story:
    bus = console().bus
    if (command := bus.get_command(_known(domain), command_id)) is None:
        raise CommandNotFoundError(domain, command_id)
    message = PostgresPayloadArchive(console().pool).get(domain, command_id)
    payload = message.get("data") if isinstance(message, dict) else message
    related = []
    if command.correlation_id is not None:
        found = bus.query_commands(correlation_id=command.correlation_id, limit=_RELATED + 1)
        related = [row for row in found if (row.domain, row.command_id) != (domain, command_id)][:_RELATED]
    batch = None if command.batch_id is None else bus.get_batch(domain, command.batch_id)
    events = [(event, facts(event)) for event in bus.get_audit_trail(command_id, domain)]
    return Story(command, events, None if payload is None else shown(payload), batch, related)


def _known(domain: str) -> str:
    """Return a domain's name as it stands in an address; an impossible one is nowhere."""
    try:
        return check_domain(domain)
    except ValueError:
        abort(404)
