"""Redrives: waiting commands, queued again by workers at a chosen rate."""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid5

import psycopg
from flask import Blueprint, abort, flash, jsonify, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from commandbus.console.charts import Share, shares
from commandbus.console.decisions import Chosen, Name, read_chosen
from commandbus.console.forms import SENT_ALREADY, Form, posted
from commandbus.console.recent import recent
from commandbus.console.records import facts, json_or_errors, plain, refused
from commandbus.console.security import user, wants_json
from commandbus.console.state import console, shown_at
from commandbus.errors import CommandBusError, InvalidOperationError, QueueNotFoundError
from commandbus.models import FailureGroup, Redrive, RedriveProgress, RedriveStatus
from commandbus.payload import MAX_PAGE, MAX_REDRIVE

page = Blueprint("redrives", __name__)

DEFAULT_RATE = "10"
_MOST = 200
_LONGEST_ADDRESS = 2_000


@dataclass(frozen=True, slots=True)
class Row:
    """A redrive, and its commands as parts of a bar."""

    redrive: Redrive
    bar: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Now:
    """A redrive as it is: what has become of its commands, and what holds it up.

    Attributes:
        progress: its state and counts.
        bar: its commands as parts of a bar.
        under_way: queued again, and not ended yet.
        left: not queued yet.
        workers: of its domain, heard of lately.
        is_domain_paused: nothing is executed that it queues.
    """

    progress: RedriveProgress
    bar: tuple[Share, ...]
    under_way: int
    left: int
    workers: int
    is_domain_paused: bool

    @property
    def seconds_left(self) -> float | None:
        """How long it takes to queue the rest, while it runs."""
        redrive = self.progress.redrive
        return self.left / redrive.rate if redrive.status is RedriveStatus.RUNNING else None


@dataclass(slots=True)
class Started:
    """What a form began: redrives, and what could not be."""

    redrives: list[UUID] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


@page.get("/redrives")
def find() -> ResponseReturnValue:
    """Show the redrives, newest first."""
    form = Form(request.args)
    rows, status = _find(form), 400 if form.errors else 200
    domains = console().queues.list_domains()
    return render_template("commandbus/pages/redrives.html", form=form, rows=rows, domains=domains), status


@page.get("/api/redrives")
def find_json() -> ResponseReturnValue:
    """Return the same redrives."""
    form = Form(request.args)
    return json_or_errors(form, {"redrives": [plain(row.redrive) for row in _find(form)]})


@page.get("/redrives/<uuid:redrive_id>")
def show(redrive_id: UUID) -> ResponseReturnValue:
    """Show one redrive."""
    return _show(redrive_id, Form(request.args))


@page.get("/api/redrives/<uuid:redrive_id>")
def show_json(redrive_id: UUID) -> ResponseReturnValue:
    """Return one redrive."""
    return json_or_errors(Form(request.args), _plain(_now(redrive_id)))


@page.get("/redrives/new")
def new() -> ResponseReturnValue:
    """Show the form that starts one."""
    form = Form(request.args)
    chosen = read_chosen(form, required=False)
    form.domain()
    return _show_new(form, chosen), 400 if form.errors else 200


@page.post("/redrives")
@page.post("/api/redrives", endpoint="start_json")
def start() -> ResponseReturnValue:
    """Start a redrive for each domain of the chosen commands and for each group, or for all of a domain."""
    form = posted()
    chosen = read_chosen(form, required=False)
    is_all = not chosen.commands and not chosen.groups
    domain = form.domain(required=is_all)
    if form.is_of_program:
        _check_selection(form, is_all=is_all)
    options = {
        "rate": form.decimal("rate", 0.001, 10_000, required=True),
        "stop_after": form.count("stop_after", 1, MAX_REDRIVE),
        "reason": form.reason(),
    }
    form_id = form.once()
    form.refuse_unknown()
    started = Started() if form.errors else _start(chosen, domain if is_all else None, options, form_id)
    if not form.errors and not started.redrives:
        form.refuse("", " ".join(dict.fromkeys(started.refusals)))
    if form.errors:
        return refused(form) if wants_json() else (_show_again(form, chosen), 422)
    if wants_json():
        return jsonify(redrives=[str(one) for one in started.redrives], refused=started.refusals), 201
    return _tell(started)


@page.post("/redrives/<uuid:redrive_id>/<any(pause, resume, stop):action>")
@page.post("/api/redrives/<uuid:redrive_id>/<any(pause, resume, stop):action>", endpoint="control_json")
def control(redrive_id: UUID, action: str) -> ResponseReturnValue:
    """Pause a redrive, go on with it, or end it."""
    form = posted()
    reason = form.reason()
    form.refuse_unknown()
    _now(redrive_id)
    shown_at(url_for("console.redrives.show", redrive_id=redrive_id))
    if form.errors:
        return refused(form) if wants_json() else (_show(redrive_id, form), 422)
    status = getattr(console().redrives, action)(redrive_id, user().name, reason)
    recent().forget()
    if wants_json():
        return jsonify(redrive_id=str(redrive_id), status=status)
    words = {"pause": "Paused: it queues no more until you resume it.", "resume": "It goes on.", "stop": "Stopped."}
    flash(words[action], "success")
    return redirect(url_for("console.redrives.show", redrive_id=redrive_id))


def _start(chosen: Chosen, domain: str | None, options: dict[str, Any], form_id: UUID | None) -> Started:
    """Start what can be, under ids made of the form's and of what is selected: sent again, nothing begins twice."""
    found = Started()
    whats: list[tuple[str, dict[str, Any]]] = [] if domain is None else [(domain, {})]
    whats += [(name, {"failure_key": key}) for name, key in chosen.groups]
    for name in dict.fromkeys(name for name, _ in chosen.commands):
        whats.append((name, {"command_ids": sorted(one for of, one in chosen.commands if of == name)}))
    for place, (name, what) in enumerate(whats):
        redrive_id = None if form_id is None else _id_of(form_id, name, what)
        try:
            found.redrives.append(
                console().redrives.start(name, operator=user().name, redrive_id=redrive_id, **what, **options)
            )
        except (InvalidOperationError, QueueNotFoundError) as error:
            if redrive_id is None or console().redrives.get(redrive_id) is None:
                found.refusals.append(f"{name}: {error}.")
            elif wants_json():  # a program that did not hear the answer asks again
                found.redrives.append(redrive_id)
            else:
                found.refusals.append(SENT_ALREADY)
        except (CommandBusError, psycopg.Error) as error:
            if not found.redrives:
                raise
            found.refusals.append(_broke_off(error, len(whats) - place))
            break
    recent().forget()
    return found


def _check_selection(form: Form, *, is_all: bool) -> None:
    """Refuse a program's selection that is empty, or that a domain goes beside: it must not mean all that waits."""
    for name in ("command", "group"):
        if is_all and form.has(name):
            form.refuse(name, "is empty: leave it out to redrive all of a domain")
    if not is_all and form.has("domain"):
        form.refuse("domain", "goes with no selection: its names have domains of their own")


def _id_of(form_id: UUID, domain: str, what: dict[str, Any]) -> UUID:
    """Return the id of what a form starts for this domain and selection, always the same one."""
    selected = " ".join(map(str, what.get("command_ids", [])))
    return uuid5(form_id, f"{domain}/{what.get('failure_key', '')}/{selected}")


def _broke_off(error: CommandBusError | psycopg.Error, left: int) -> str:
    why = str(error).rstrip(".") if isinstance(error, CommandBusError) else "the database refused"
    return f"{left:,} of them could not begin: {why}."


def _tell(started: Started) -> ResponseReturnValue:
    for refusal in started.refusals:
        flash("What else this form asks for had begun before." if refusal == SENT_ALREADY else refusal, "warning")
    if len(started.redrives) == 1:
        flash("The redrive has begun.", "success")
        return redirect(url_for("console.redrives.show", redrive_id=started.redrives[0]))
    flash(f"{len(started.redrives)} redrives have begun.", "success")
    return redirect(url_for("console.redrives.find"))


def _find(form: Form) -> list[Row]:
    domain = form.domain()
    return [] if form.errors else [Row(one, _bar_of(one)) for one in console().redrives.list(domain, _MOST)]


def _now(redrive_id: UUID) -> Now:
    progress = recent().redrive(redrive_id)
    if progress is None:
        abort(404)
    redrive = progress.redrive
    ended = progress.completed + progress.failed + progress.canceled + progress.again + progress.forgotten
    under_way = max(redrive.sent_count - ended, 0)
    parts = (
        ("completed", "success", progress.completed),
        ("failed or canceled", "danger", progress.failed + progress.canceled),
        ("failed again", "warning", progress.again),
        ("forgotten", "neutral", progress.forgotten),
        ("under way", "info", under_way),
        ("refused", "neutral", redrive.refused_count),
    )
    left = max(redrive.total_count - redrive.sent_count - redrive.refused_count, 0)
    workers, is_paused = _workers(redrive.domain)
    return Now(progress, shares(parts, redrive.total_count), under_way, left, workers, is_paused)


def _workers(domain: str) -> tuple[int, bool]:
    """Return how many workers of a domain live, and whether an operator holds it."""
    overview = [one for one in recent().overview() if one.domain == domain]
    return sum(one.workers for one in overview), any(one.paused_at is not None for one in overview)


def _bar_of(redrive: Redrive) -> tuple[Share, ...]:
    parts = (("queued again", "brand", redrive.sent_count), ("refused", "neutral", redrive.refused_count))
    return shares(parts, redrive.total_count)


def _plain(now: Now) -> dict[str, Any]:
    counts = {name: getattr(now.progress, name) for name in ("completed", "failed", "canceled", "again", "forgotten")}
    found = {**plain(now.progress.redrive), **counts, "under_way": now.under_way, "left": now.left}
    return {"redrive": found, "workers": now.workers, "is_domain_paused": now.is_domain_paused}


def _show(redrive_id: UUID, form: Form) -> str:
    now = _now(redrive_id)
    trail = console().bus.get_audit_trail(redrive_id, now.progress.redrive.domain)
    events = [(event, facts(event)) for event in trail]
    return render_template("commandbus/pages/redrive.html", now=now, form=form, events=events)


def _show_new(form: Form, chosen: Chosen) -> str:
    """Return the form with what is chosen, how many wait in it now, and domains in which no worker would do it."""
    domains = console().tsq.list_domains()
    names: list[Name] = [*chosen.groups, *chosen.commands]
    concerned = sorted({name for name, _ in names}) or ([form.raw("domain")] if form.raw("domain") in domains else [])
    idle = [name for name in concerned if not _workers(name)[0]]
    groups = _groups(chosen.groups) if chosen.groups else []
    return render_template(
        "commandbus/pages/redrive_new.html",
        form=form, domains=domains, chosen=chosen, groups=groups, idle=idle, rate=DEFAULT_RATE,
        most=MAX_REDRIVE,
    )  # fmt: skip


def _show_again(form: Form, chosen: Chosen) -> str:
    """Return the form that was refused; it can be got again unless too much is chosen for an address."""
    names = [(kind, name) for kind in ("command", "group", "domain") for name in form.all(kind)]
    address = f"{url_for('console.redrives.new')}?{urlencode(names)}"
    shown_at(address if len(address) < _LONGEST_ADDRESS else "")
    return _show_new(form, chosen)


def _groups(chosen: list[Name]) -> list[FailureGroup]:
    """Return those of the chosen groups in which something waits, by one question."""
    domains = {domain for domain, _ in chosen}
    found = console().tsq.list_failure_groups(
        domains.pop() if len(domains) == 1 else None, MAX_PAGE, failure_key=[key for _, key in chosen]
    )
    return [group for group in found if (group.domain, group.failure_key) in chosen]
