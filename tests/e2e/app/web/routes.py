"""The pages for test commands and settings. What is typed is checked by the same records as the API's."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from uuid import UUID  # noqa: TC003  (kept beside the routes that it describes)

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for

from commandbus import CommandStatus, InvalidArgumentError
from commandbus.console.forms import Form
from tests.e2e.app.config import RetryConfig, WorkerConfig
from tests.e2e.app.parts import parts
from tests.e2e.app.schemas import (
    BehaviorType,
    Mix,
    NewRun,
    NewTestCommand,
    RefusedError,
    TestCommandPage,
    TestCommandQuery,
    read,
)

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue
    from werkzeug.datastructures import MultiDict

web = Blueprint("e2e", __name__)

# Kind of settings → what the form calls its fields, with their units.
FIELDS: dict[type[Any], dict[str, str]] = {
    WorkerConfig: {
        "visibility_timeout": "seconds until a command whose worker died is delivered again",
        "concurrency": "handlers at the same time",
        "poll_interval": "seconds between looks at an empty queue",
        "batch_size": "most commands taken in one look",
    },
    RetryConfig: {
        "max_attempts": "of commands sent from now on",
        "base_delay_ms": "milliseconds after the first failed attempt",
        "max_delay_ms": "milliseconds at most",
        "backoff_multiplier": "each delay is that much longer than the one before",
    },
}
_KINDS: dict[str, type[Any]] = {"worker": WorkerConfig, "retry": RetryConfig}
_MIX = {"success": "70", "fail_permanent": "5", "fail_transient": "5", "fail_transient_then_succeed": "20"}


@web.get("/test-commands")
def test_commands() -> ResponseReturnValue:
    """Show test commands, and the runs since the start."""
    form = Form(request.args)
    page = _find(form)
    status = 400 if form.errors else 200
    shown = {"form": form, "page": page, "runs": parts().runs.latest(), "behaviors": BehaviorType}
    return render_template("pages/test_commands.html", statuses=CommandStatus, **shown), status


@web.get("/test-commands/new")
def new() -> ResponseReturnValue:
    """Show the form for one test command."""
    return _show_new(Form(request.args))


@web.post("/test-commands")
def create() -> ResponseReturnValue:
    """Send one test command."""
    form = Form(request.form)
    payload = form.json_object("payload")
    names = ("type", "execution_time_ms", "error_code", "error_message", "transient_failures")
    values = {"behavior": _filled(request.form, *names), **_filled(request.form, "max_attempts")}
    found = _read(form, NewTestCommand, values | {"payload": payload or {}})
    if found is None:
        return _show_new(form), 422
    try:
        command_id = parts().create(found)
    except InvalidArgumentError as error:
        form.refuse_error(error, {"data": "payload"})
        return _show_new(form), 422
    flash("Sent 1 test command.", "success")
    return redirect(url_for("e2e.test_command", command_id=command_id))


@web.get("/test-commands/<uuid:command_id>")
def test_command(command_id: UUID) -> ResponseReturnValue:
    """Show one test command."""
    found = parts().commands.get(command_id)
    if found is None:
        abort(404)
    return render_template("pages/test_command.html", one=found)


@web.post("/test-commands/delete-finished")
def delete_finished() -> ResponseReturnValue:
    """Delete the test commands that have ended."""
    deleted = parts().commands.delete_finished()
    flash(f"Deleted {deleted:,} test {'command' if deleted == 1 else 'commands'} that had ended.", "success")
    return redirect(url_for("e2e.test_commands"))


@web.get("/test-commands/bulk")
def bulk() -> ResponseReturnValue:
    """Show the form for many test commands."""
    return _show_bulk(Form(request.args))


@web.post("/test-commands/bulk")
def start_run() -> ResponseReturnValue:
    """Begin to send many test commands."""
    form = Form(request.form)
    mix = _filled(request.form, *BehaviorType)
    values = _filled(request.form, "count", "execution_time_ms", "max_attempts")
    if _read(form, Mix, mix) is None and "" in form.errors:
        form.refuse("mix", form.errors.pop(""))
    found = _read(form, NewRun, values | {"mix": mix})
    if found is None:
        return _show_bulk(form), 422
    run = parts().runs.start(found)
    return redirect(url_for("e2e.run", run_id=run.run_id))


@web.get("/test-commands/runs/<uuid:run_id>")
def run(run_id: UUID) -> ResponseReturnValue:
    """Show how far a run is."""
    found = parts().runs.get(run_id)
    if found is None:
        abort(404)
    return render_template("pages/run.html", run=found)


@web.get("/settings")
def settings() -> ResponseReturnValue:
    """Show the settings."""
    return _show_settings()


@web.post("/settings/<any(worker, retry):name>")
def change_settings(name: str) -> ResponseReturnValue:
    """Store the settings of one kind; an empty field gets its default."""
    form, kind = Form(request.form), _KINDS[name]
    found = _read(form, kind, _filled(request.form, *FIELDS[kind]))
    if found is None:
        return _show_settings({name: form}), 422
    parts().store.set(found)
    flash(f"The {name} settings are stored; the worker takes them up within a second.", "success")
    return redirect(url_for("e2e.settings"))


def _find(form: Form) -> TestCommandPage:
    values = _filled(request.args, "behavior", "status", "before", "limit")
    query = _read(form, TestCommandQuery, values)
    return TestCommandPage(test_commands=[], next_before=None) if query is None else parts().commands.find(query)


def _read(form: Form, kind: type[Any], values: dict[str, Any]) -> Any:
    """Return the record, or None and what is wrong in the form."""
    try:
        found = read(kind, values)
    except RefusedError as error:
        for field, sentence in error.errors.items():
            name = field.rpartition(".")[2]
            if field != "mix" or "mix" not in form.errors:
                form.refuse(name, sentence)
        return None
    return None if form.errors else found


def _filled(values: MultiDict[str, str], *names: str) -> dict[str, str]:
    """Return the fields that are not empty."""
    return {name: text for name in names if (text := values.get(name, "").strip())}


def _show_new(form: Form) -> str:
    return render_template("pages/new.html", form=form, behaviors=BehaviorType, retry=parts().store.get(RetryConfig))


def _show_bulk(form: Form) -> str:
    known = parts().store
    shown = {"worker": known.get(WorkerConfig), "retry": known.get(RetryConfig)}
    return render_template("pages/bulk.html", form=form, behaviors=BehaviorType, default_mix=_MIX, **shown)


def _show_settings(forms: dict[str, Form] | None = None) -> str:
    """Return the page: what is stored, and what somebody typed that was refused."""
    subjects = [
        (name, (forms or {}).get(name), asdict(parts().store.get(kind)), FIELDS[kind]) for name, kind in _KINDS.items()
    ]
    return render_template("pages/settings.html", subjects=subjects)
