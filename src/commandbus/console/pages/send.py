"""Send: one command, or many."""

from typing import Any
from uuid import UUID, uuid4, uuid5

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from commandbus.console.forms import SENT_ALREADY, Form
from commandbus.console.state import console
from commandbus.errors import CommandBusError, DuplicateCommandError, InvalidArgumentError, QueueNotFoundError
from commandbus.models import SendRequest
from commandbus.payload import check_command_type, check_count, check_reply_queue, check_uuid, parse_json
from commandbus.retry import MAX_ATTEMPTS

page = Blueprint("send", __name__)

MAX_COPIES = 10_000
_FIELDS = {"command_type": "type", "correlation_id": "correlation", "requests": "lines"}
_KEYS = frozenset({"command_type", "data", "command_id", "correlation_id", "reply_to", "max_attempts"})


class _Ids:
    """Makes the ids of a form's commands, of its own id and their place: the same when it is sent again."""

    def __init__(self, form_id: UUID) -> None:
        self._form_id = form_id
        self.given: set[UUID] = set()

    def next(self) -> UUID:
        """Return one more."""
        found = uuid5(self._form_id, str(len(self.given)))
        self.given.add(found)
        return found


@page.get("/send")
def single() -> ResponseReturnValue:
    """Show the form for one command."""
    return _show(Form(request.args))


@page.get("/send/bulk")
def bulk() -> ResponseReturnValue:
    """Show the form for many commands."""
    return _show(Form(request.args), is_bulk=True)


@page.post("/send")
def send_single() -> ResponseReturnValue:
    """Send one command."""
    form = Form(request.form)
    found = _common(form)
    data = form.json_object("data", required=True)
    form_id = form.once() or uuid4()
    command_id = form.uuid("command_id") or form_id
    if form.errors:
        return _show(form), 422
    try:
        console().bus.send(
            found["domain"], found["command_type"], command_id, data, found["correlation_id"], found["reply_to"],
            found["max_attempts"],
        )  # fmt: skip
    except CommandBusError as error:
        return _refused(form, error, {form_id})
    flash("Sent 1 command.", "success")
    return redirect(url_for("console.commands.show", domain=found["domain"], command_id=command_id))


@page.post("/send/bulk")
def send_bulk() -> ResponseReturnValue:
    """Send copies of one command, or one for each line of JSON; all or none."""
    form = Form(request.form)
    found = _common(form, needs_type=not form.raw("lines").strip())
    ids = _Ids(form.once() or uuid4())
    requests = _lines(form, found, ids) if form.raw("lines").strip() else _copies(form, found, ids)
    if form.errors:
        return _show(form, is_bulk=True), 422
    try:
        sent = console().bus.send_batch(requests)
    except CommandBusError as error:
        return _refused(form, error, ids.given, is_bulk=True)
    flash(f"Sent {sent.total_commands:,} {'command' if sent.total_commands == 1 else 'commands'}.", "success")
    return redirect(url_for("console.commands.find", domain=found["domain"]))


def _common(form: Form, *, needs_type: bool = True) -> dict[str, Any]:
    """Return the fields that both forms have."""
    return {
        "domain": form.domain(required=True),
        "command_type": form.command_type(required=needs_type),
        "correlation_id": form.uuid("correlation"),
        "reply_to": form.reply_queue(),
        "max_attempts": form.count("max_attempts", 1, MAX_ATTEMPTS),
    }


def _copies(form: Form, found: dict[str, Any], ids: _Ids) -> list[SendRequest]:
    data, copies = form.json_object("data", required=True), form.count("copies", 1, MAX_COPIES)
    if copies is None:
        form.refuse("copies", "is missing: say how many, or paste lines")
    if form.errors:
        return []
    return [SendRequest(command_id=ids.next(), data=data, **found) for _ in range(copies or 0)]


def _lines(form: Form, found: dict[str, Any], ids: _Ids) -> list[SendRequest]:
    """Return a request for each line; the first bad one is told by its number."""
    requests: list[SendRequest] = []
    seen: set[UUID] = set()
    if form.raw("copies").strip():
        form.refuse("copies", "must be empty where lines are sent")
    for number, line in enumerate(form.raw("lines").splitlines(), 1):
        if not line.strip():
            continue
        try:
            request_ = _request(parse_json(line, ""), found, seen, ids)
        except InvalidArgumentError as error:
            form.refuse("lines", f"line {number}: {error}")
            return []
        requests.append(request_)
    if len(requests) > MAX_COPIES:
        form.refuse("lines", f"must be at most {MAX_COPIES:,} commands")
    return requests


def _request(line: object, found: dict[str, Any], seen: set[UUID], ids: _Ids) -> SendRequest:
    """Return the request of a line; what it leaves out, the form gives."""
    if not isinstance(line, dict) or not isinstance(line.get("data"), dict):
        raise InvalidArgumentError("", 'must be an object such as {"command_type": "DebitAccount", "data": {}}')
    if not line.keys() <= _KEYS:
        raise InvalidArgumentError("", f"may have no members but {', '.join(sorted(_KEYS))}")
    given = line.get("command_id")
    command_id = ids.next() if given is None else check_uuid(given, "command_id")
    if command_id in seen:
        raise InvalidArgumentError("command_id", "is that of a line before")
    seen.add(command_id)
    correlation_id = line.get("correlation_id")
    reply_to, attempts = line.get("reply_to"), line.get("max_attempts")
    return SendRequest(
        found["domain"],
        check_command_type(line.get("command_type", found["command_type"])),
        command_id,
        line["data"],
        found["correlation_id"] if correlation_id is None else check_uuid(correlation_id, "correlation_id"),
        found["reply_to"] if reply_to is None else check_reply_queue(reply_to),
        found["max_attempts"] if attempts is None else check_count(attempts, "max_attempts", 1, MAX_ATTEMPTS),
    )


def _refused(form: Form, error: CommandBusError, ids: set[UUID], *, is_bulk: bool = False) -> ResponseReturnValue:
    """Show the form with what is wrong; *ids* were made of its own id, so that they exist when it was sent before."""
    if isinstance(error, DuplicateCommandError) and any(str(one) in str(error) for one in ids):
        form.refuse("", SENT_ALREADY)
    elif name := _field_of(form, error, is_bulk=is_bulk):
        form.refuse(name, str(error).removeprefix(f"{name}: "))
    else:
        form.refuse_error(error, _FIELDS)
    return _show(form, is_bulk=is_bulk), 422


def _field_of(form: Form, error: CommandBusError, *, is_bulk: bool) -> str | None:
    """Return the field that names what is not there, or is there already; lines name reply queues and ids too."""
    if isinstance(error, DuplicateCommandError):
        return "lines" if is_bulk else "command_id"
    if not isinstance(error, QueueNotFoundError):
        return None
    if not str(error).startswith("reply_to: "):
        return "domain"
    return "reply_to" if f'"{form.raw("reply_to").strip()}"' in str(error) else "lines"


def _show(form: Form, *, is_bulk: bool = False) -> str:
    domains = console().queues.list_domains()
    default = console().pool.settings.default_max_attempts
    template = "commandbus/pages/send.html"
    return render_template(template, form=form, is_bulk=is_bulk, domains=domains, default_max_attempts=default)
