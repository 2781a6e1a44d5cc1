"""Commands: find them, and look at one with its whole story."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from flask import Blueprint, abort, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from commandbus.console.attempts import Attempt, attempts
from commandbus.console.difference import Line, difference
from commandbus.console.forms import Form
from commandbus.console.paging import Trail
from commandbus.console.records import NO_PAYLOADS, facts, json_or_errors, plain, shown
from commandbus.console.rights import rights
from commandbus.console.state import console
from commandbus.errors import CommandNotFoundError, InvalidArgumentError
from commandbus.models import (
    AuditEvent,
    AuditEventType,
    BatchMetadata,
    CommandMetadata,
    CommandStatus,
    MessagePlace,
    PageKey,
    ReplyOutcome,
    StoredMessage,
)
from commandbus.payload import check_domain

page = Blueprint("commands", __name__)

PAGE = 50
_MOST_ROWS = 500
_MOST_TEXT = 200
_RELATED = 10
_MOST_ALIKE = 50  # commands whose ids begin alike
_OUTCOMES = {
    CommandStatus.COMPLETED: ReplyOutcome.SUCCESS,
    CommandStatus.FAILED: ReplyOutcome.FAILED,
    CommandStatus.CANCELED: ReplyOutcome.CANCELED,
}
_PLACES = {
    MessagePlace.QUEUE: "in the queue",
    MessagePlace.SCHEDULED: "waits for its next attempt",
    MessagePlace.TSQ: "in troubleshooting",
    MessagePlace.ARCHIVE: "in PGMQ's archive",
}


@dataclass(slots=True)
class Found:
    """A page of commands, and the parameters of its neighbours.

    *searched_to* is set where the search was cut short: everything sent since has been looked at.
    """

    rows: list[CommandMetadata] = field(default_factory=list)
    newer: dict[str, object] | None = None
    older: dict[str, object] | None = None
    searched_to: PageKey | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the timeline. *change* is what an operator's edit did to the payload, as it may be seen."""

    event: AuditEvent
    facts: dict[str, Any]
    change: list[Line] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What an operator gave as the result of work that was done by hand, as it may be seen."""

    value: Any
    operator: str | None


@dataclass(frozen=True, slots=True)
class Story:
    """A command and everything around it.

    *payload* and *place* are None unless they were asked for and are at hand; *refused* says why, where the database
    keeps the payload from this console.
    """

    command: CommandMetadata
    events: list[Event]
    attempts: list[Attempt]
    outcome: ReplyOutcome | None
    result: Result | None
    is_payload_asked: bool
    payload: Any
    place: str | None
    refused: dict[str, str]
    batch: BatchMetadata | None
    related: list[CommandMetadata]

    @property
    def is_retried(self) -> bool:
        """Whether an operator gave it its attempts anew: then the command's own count is since the last time."""
        return any(line.event.event_type == AuditEventType.OPERATOR_RETRY for line in self.events)


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
    """Return the same commands; *older* are the parameters of the next page."""
    form = Form(request.args)
    found = _find(form)
    rows = [plain(row) for row in found.rows]
    is_cut_short = found.searched_to is not None
    return json_or_errors(form, {"commands": rows, "older": found.older, "is_cut_short": is_cut_short})


@page.get("/commands/<domain>/<uuid:command_id>")
def show(domain: str, command_id: UUID) -> ResponseReturnValue:
    """Show one command."""
    form = Form(request.args)
    text = story_page(domain, command_id, form, is_payload_asked=form.flag("payload"))
    return text, 400 if form.errors else 200


@page.get("/api/commands/<domain>/<uuid:command_id>")
def show_json(domain: str, command_id: UUID) -> ResponseReturnValue:
    """Return one command and its story."""
    form = Form(request.args)
    story = _story(domain, command_id, is_payload_asked=form.flag("payload"))
    return json_or_errors(
        form,
        {
            "command": plain(story.command),
            "events": [plain(line.event) for line in story.events],
            "attempts": [plain(attempt) for attempt in story.attempts],
            "outcome": story.outcome,
            "result": None if story.result is None else story.result.value,
            "payload": story.payload,
            "place": story.place,
            "refused": story.refused,
            "related": [plain(row) for row in story.related],
        },
    )


@page.get("/go")
def go() -> ResponseReturnValue:
    """Lead to a command of which the id is known, or its beginning; of several that begin alike, show the list."""
    form = Form(request.args)
    beginning = form.text("id", _MOST_TEXT, required=True)
    try:
        found = console().bus.find_by_id((beginning or "").rstrip("…"), _MOST_ALIKE + 1)
    except InvalidArgumentError:
        abort(400, "An id has 32 hexadecimal digits; type 8 of them or more, from its beginning.")
    if not found:
        raise CommandNotFoundError(None, None, f"no command's id begins with {beginning}")
    if len(found) > 1:
        rows, has_more = found[:_MOST_ALIKE], len(found) > _MOST_ALIKE
        return render_template("commandbus/pages/alike.html", beginning=beginning, rows=rows, has_more=has_more)
    return redirect(url_for("console.commands.show", domain=found[0].domain, command_id=found[0].command_id))


def story_page(domain: str, command_id: UUID, form: Form, *, is_payload_asked: bool = False) -> str:
    """Return the page of one command; *form* is a decision that was refused, or the query."""
    story = _story(domain, command_id, is_payload_asked=is_payload_asked)
    return render_template("commandbus/pages/command.html", story=story, form=form)


def known(domain: str) -> str:
    """Return a domain's name as it stands in an address; an impossible one is nowhere."""
    try:
        return check_domain(domain)
    except ValueError:
        abort(404)


def command_or_404(domain: str, command_id: UUID) -> CommandMetadata:
    """Return a command.

    Raises:
        CommandNotFoundError: there is none.
    """
    if (command := console().bus.get_command(known(domain), command_id)) is None:
        raise CommandNotFoundError(domain, command_id)
    return command


def message_of(domain: str, command_id: UUID) -> tuple[StoredMessage | None, dict[str, str]]:
    """Return what was sent, or None where nothing is kept; and why it is, where it is kept from this console."""
    if not rights().sees_payloads:
        return None, NO_PAYLOADS
    return console().bus.get_message(domain, command_id, exact=True), {}


def _find(form: Form) -> Found:
    """Return a page of commands; none while a filter is wrong."""
    filters = {
        "status": form.one_of("status", CommandStatus),
        "domain": form.domain(),
        "command_type": form.command_type(),
        "created_after": form.time("after"),
        "created_before": form.time("before"),
        "correlation_id": form.uuid("correlation"),
        "batch_id": form.uuid("batch"),
        "failure_key": form.uuid("group"),
        "text": form.text("text", _MOST_TEXT),
    }
    trail, limit = Trail(form), form.count("limit", 1, _MOST_ROWS, PAGE) or PAGE
    if form.errors:
        return Found()
    found = console().bus.find_commands(**filters, start=trail.start, limit=limit + 1)  # type: ignore[arg-type]  # read by name
    rows = found.commands[:limit]
    if len(found.commands) > limit:
        return Found(rows, trail.newer(), trail.older(PageKey(rows[-1].created_at, rows[-1].command_id)))
    searched_to = found.next_key if found.is_cut_short else None
    return Found(rows, trail.newer(), trail.older(searched_to), searched_to)


def _story(domain: str, command_id: UUID, *, is_payload_asked: bool) -> Story:
    bus, command = console().bus, command_or_404(domain, command_id)
    message, refused = message_of(domain, command_id) if is_payload_asked else (None, {})
    related = []
    if command.correlation_id is not None:
        found = bus.find_commands(correlation_id=command.correlation_id, limit=_RELATED + 1).commands
        related = [row for row in found if (row.domain, row.command_id) != (domain, command_id)][:_RELATED]
    batch = None if command.batch_id is None else bus.get_batch(domain, command.batch_id)
    events = bus.get_audit_trail(command_id, domain, exact=True)
    return Story(
        command,
        [_line(event) for event in events],
        attempts(events),
        _OUTCOMES.get(command.status),
        _result(events),
        is_payload_asked,
        None if message is None else shown(message.data),
        None if message is None else _PLACES[message.place],
        refused,
        batch,
        related,
    )


def _result(events: list[AuditEvent]) -> Result | None:
    """Return what the operator gave who completed a command; None where nobody did, or gave nothing."""
    by_hand = next((event for event in events if event.event_type == AuditEventType.OPERATOR_COMPLETE), None)
    found = {} if by_hand is None else facts(by_hand)
    return Result(found["result"], found.get("operator")) if "result" in found else None


def _line(event: AuditEvent) -> Event:
    found = facts(event)
    if event.event_type == AuditEventType.OPERATOR_COMPLETE:
        found.pop("result", None)  # stands beside the reply
    if event.event_type != AuditEventType.OPERATOR_EDIT:
        return Event(event, found)
    before, after = found.pop("before", None), found.pop("after", None)
    return Event(event, found, difference(before, after))
