"""Edit and retry: other data for a command that waits, checked by its handler's model."""

import json
from typing import Any
from uuid import UUID

from flask import Blueprint, flash, jsonify, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ValidationError

from commandbus.console.forms import Form, posted
from commandbus.console.looks import pretty
from commandbus.console.pages.commands import command_or_404, message_of
from commandbus.console.records import refused, shown
from commandbus.console.security import user, wants_json
from commandbus.console.state import console
from commandbus.errors import InvalidArgumentError, InvalidOperationError, InvalidPayloadError
from commandbus.models import CommandMetadata, CommandStatus
from commandbus.payload import decode, write_json

page = Blueprint("editing", __name__)

_MOST_PROBLEMS = 50
_ENCODER = json.JSONEncoder()

Problem = tuple[str, str]


@page.get("/commands/<domain>/<uuid:command_id>/edit")
def edit(domain: str, command_id: UUID) -> ResponseReturnValue:
    """Show the form, with what was sent."""
    return _show(command_or_404(domain, command_id), Form(request.args), [])


@page.post("/commands/<domain>/<uuid:command_id>/edit")
@page.post("/api/commands/<domain>/<uuid:command_id>/edit", endpoint="edit_post_json")
def edit_post(domain: str, command_id: UUID) -> ResponseReturnValue:
    """Queue the command again with what is in the form."""
    command, form = command_or_404(domain, command_id), posted()
    data, reason = form.json_object("data", required=True), form.reason()
    form.refuse_unknown()
    problems = [] if data is None else _problems(command, data)
    if problems:
        words = "; ".join(f"{place}: {message}" for place, message in problems)
        form.refuse(
            "data", f"does not fit what the handler of {command.command_type} asks for" if not wants_json() else words
        )
    if data is not None and not form.errors:
        _retry(command, data, reason, form)
    if form.errors:
        return refused(form) if wants_json() else (_show(command, form, problems), 422)
    if wants_json():
        return jsonify(domain=domain, command_id=str(command_id))
    flash("Retried 1 command with other data.", "success")
    return redirect(url_for("console.commands.show", domain=domain, command_id=command_id))


def _retry(command: CommandMetadata, data: dict[str, Any], reason: str | None, form: Form) -> None:
    """Do it, or let the form say why not."""
    registry = console().registry if _is_checked(command) else None
    try:
        console().tsq.edit_and_retry(
            command.domain, command.command_id, data, user().name, reason=reason, registry=registry
        )
    except InvalidPayloadError as error:
        form.refuse("data", str(error))
    except InvalidArgumentError as error:
        form.refuse_error(error)
    except InvalidOperationError as error:  # somebody else was first
        form.refuse_error(error)


def _is_checked(command: CommandMetadata) -> bool:
    registry = console().registry
    return registry is not None and registry.has_handler(command.domain, command.command_type)


def _model(command: CommandMetadata) -> type[BaseModel] | None:
    registry = console().registry
    found = None if registry is None else registry.registration(command.domain, command.command_type)
    return None if found is None else found.payload_model


def _problems(command: CommandMetadata, data: dict[str, Any]) -> list[Problem]:
    """Return where and how the data does not fit the handler's model. Who edits it may see what is in it."""
    model = _model(command)
    if model is None:
        return []
    try:
        model.model_validate(decode(write_json(data, _ENCODER)))  # numbers as the handler gets them
    except InvalidPayloadError:  # one of them it cannot get: refused with the rest
        return []
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[:_MOST_PROBLEMS]
        return [(".".join(str(part) for part in problem["loc"]) or "data", problem["msg"]) for problem in found]
    return []


def _show(command: CommandMetadata, form: Form, problems: list[Problem]) -> str:
    message, kept_back = message_of(command.domain, command.command_id)
    model = _model(command)
    return render_template(
        "commandbus/pages/edit.html",
        command=command,
        form=form,
        problems=problems,
        text=None if message is None else pretty(shown(message.data)),
        refused=kept_back,
        waits=command.status is CommandStatus.IN_TROUBLESHOOTING_QUEUE,
        is_checked=_is_checked(command),
        has_registry=console().registry is not None,
        model=None if model is None else model.__name__,
    )
