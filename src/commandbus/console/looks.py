"""How things look, in one place: colours of statuses and events, times, numbers, JSON, and what viewers may not see."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from flask import Blueprint, Flask
from jinja2 import pass_context
from jinja2.runtime import Context

from commandbus.console import charts
from commandbus.console.recent import recent
from commandbus.payload import MAX_DEPTH, is_hidden, write_json

MASK = "••••"

# Status or event → (words, tone); the tones are classes of assets/input.css.
_BADGES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "PENDING": ("Pending", "neutral"),
        "IN_PROGRESS": ("In progress", "info"),
        "COMPLETED": ("Completed", "success"),
        "COMPLETED_WITH_FAILURES": ("Completed with failures", "warning"),
        "FAILED": ("Failed", "danger"),
        "CANCELED": ("Canceled", "muted"),
        "IN_TROUBLESHOOTING_QUEUE": ("Troubleshooting", "warning"),
        "SENT": ("Sent", "neutral"),
        "RECEIVED": ("Received", "info"),
        "RELEASED": ("Released", "muted"),
        "RETRY_SCHEDULED": ("Retry scheduled", "neutral"),
        "RETRY_EXHAUSTED": ("Retries exhausted", "danger"),
        "MOVED_TO_TSQ": ("Moved to troubleshooting", "warning"),
        "BUSINESS_RULE_FAILED": ("Business rule failed", "danger"),
        "OPERATOR_RETRY": ("Operator retried", "operator"),
        "OPERATOR_CANCEL": ("Operator canceled", "operator"),
        "OPERATOR_COMPLETE": ("Operator completed", "operator"),
        "OPERATOR_EDIT": ("Operator edited", "operator"),
        "REDRIVE_STARTED": ("Redrive started", "operator"),
        "REDRIVE_PAUSED": ("Redrive paused", "operator"),
        "REDRIVE_RESUMED": ("Redrive resumed", "operator"),
        "REDRIVE_STOPPED": ("Redrive stopped", "operator"),
        "REDRIVE_COMPLETED": ("Redrive complete", "success"),
        "BATCH_STARTED": ("Batch started", "info"),
        "BATCH_COMPLETED": ("Batch completed", "success"),
        "STALE_SETTLE": ("Lease was lost", "warning"),
        "RUNNING": ("Running", "info"),
        "PAUSED": ("Paused", "warning"),
        "STOPPED": ("Stopped", "danger"),
        "SUCCESS": ("Success", "success"),
        "NO_RETURN": ("Never ended", "danger"),
        "TRANSIENT": ("Transient", "neutral"),
        "PERMANENT": ("Permanent", "danger"),
        "BUSINESS_RULE": ("Business rule", "danger"),
        "DOMAIN_PAUSED": ("Domain paused", "operator"),
        "DOMAIN_RESUMED": ("Domain resumed", "operator"),
        # Migrations, and verdicts of the doctor.
        "applied": ("Applied", "success"),
        "out of order": ("Out of order", "warning"),
        "pending": ("Pending", "warning"),
        "outdated": ("Outdated", "warning"),
        "changed": ("Changed", "danger"),
        "failed": ("Failed", "danger"),
        "unknown": ("Unknown", "danger"),
        "ok": ("Fine", "success"),
        "warning": ("Warning", "warning"),
        "problem": ("Problem", "danger"),
    }
)
_ID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}")
_LAYOUT = frozenset("\t\n\r")
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # seen as nothing, though letters or symbols
_RIGHT_TO_LEFT = frozenset({"R", "AL"})
_ISOLATE, _END = "\u2068", "\u2069"
_FOR_PROGRAMS = frozenset({"msg_id"})
_SECONDS = "_seconds"
_LONGEST = 1e9  # a number beyond it is told as it is: events of applications hold any
_EXACT = 15  # digits that every float keeps; more show how it is stored, and not what was meant
_JSON = json.JSONEncoder(ensure_ascii=False, default=str)
_LINE = 40  # characters; a longer text would hide, where there is little room, who decided and what failed
_STEPS = ((1_000, "ms"), (60, "s"), (60, "min"), (24, "h"), (365, "d"))


def add_filters(blueprint: Blueprint) -> None:
    """Give templates the functions of this file; their names begin with cb_, beside those of a host's app."""
    for function in (
        badge,
        ago,
        iso,
        absolute,
        span,
        since,
        number,
        rate,
        per_second,
        duration,
        told,
        pretty,
        options,
        reveal,
        short,
    ):
        blueprint.add_app_template_filter(function, f"cb_{function.__name__}")
    blueprint.add_app_template_global(lambda: iso(recent().now()), "cb_now")


def reveal_all(app: Flask) -> None:
    """Let the console's templates write every text as `reveal` has it; texts that are Markup are as they are."""
    before: Callable[..., Any] | None = app.jinja_env.finalize

    @pass_context
    def finalize(context: Context, value: Any) -> Any:  # noqa: ANN401  (whatever a template writes)
        if not (context.name or "").startswith("commandbus/"):  # a page of the host
            return value if before is None else before(value)
        return reveal(value) if isinstance(value, str) and not hasattr(value, "__html__") else value

    app.jinja_env.finalize = finalize


def reveal(text: str) -> str:
    """Return a text that looks like no other one: what would be hidden in it is told, as ⟨U+202E⟩.

    Hebrew or Arabic in it turns nothing around it.
    """
    if text.isascii() and text.isprintable():
        return text
    shown = "".join(f"⟨U+{ord(one):04X}⟩" if _is_secret(one) else one for one in text)
    is_isolated = any(unicodedata.bidirectional(one) in _RIGHT_TO_LEFT for one in shown)
    return f"{_ISOLATE}{shown}{_END}" if is_isolated else shown


def _is_secret(character: str) -> bool:
    return (is_hidden(character) and character not in _LAYOUT) or character in _BLANK


def badge(name: str) -> tuple[str, str]:
    """Return the words and the tone of a status or an event; of the user's own events, their names."""
    return _BADGES.get(str(name), (str(name).replace("_", " ").capitalize(), "neutral"))


def options(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the options of a select: statuses and events in words, other names as they are."""
    return [(str(name), badge(name)[0] if str(name) in _BADGES else str(name)) for name in names]


def iso(time: datetime) -> str:
    """Return a time for programs: ISO 8601 in UTC."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def absolute(time: datetime) -> str:
    """Return a time for people: 2030-01-31 12:00:00 UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(time: datetime) -> str:
    """Return how long ago a time was, or in how long it will be, by the server's clock."""
    return past((recent().now() - time).total_seconds())


def past(seconds: float) -> str:
    """Return how long ago something was, as static/js/times.js does in a page that stays open."""
    return "now" if abs(seconds) < 1 else f"in {span(-seconds)}" if seconds < 0 else f"{span(seconds)} ago"


def span(seconds: float | None) -> str:
    """Return a duration in its largest unit: 850 ms, 12 s, 5 min, 3 h, 2 d."""
    if seconds is None:
        return "-"
    amount = seconds * 1_000
    for size, unit in _STEPS:
        if round(amount) < size:
            return f"{amount:.0f} {unit}"
        amount /= size
    return f"{amount:.0f} y"


def since(time: datetime | None) -> str:
    """Return how long something lasts already."""
    return span(None if time is None else max((recent().now() - time).total_seconds(), 0.0))


def rate(value: float | None) -> str:
    """Return a number per second."""
    return "-" if value is None else charts.short(value)


def duration(seconds: float | None) -> str:
    """Return a measured duration, with three digits."""
    return "-" if seconds is None else charts.duration(seconds)


def told(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what an event tells as labels and words, long ones last; what says nothing to people is left out."""
    given = {name: value for name, value in facts.items() if value not in (None, "") and name not in _FOR_PROGRAMS}
    return sorted((_told(name, value) for name, value in given.items()), key=lambda told: len(told[1]) > _LINE)


def _told(name: str, value: Any) -> tuple[str, str]:  # noqa: ANN401  (any JSON)
    label, is_number = name.replace("_", " "), isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and name.endswith(_SECONDS) and 0 <= value < _LONGEST:
        return label.removesuffix(" seconds"), duration(value)
    if isinstance(value, float):
        return label, f"{value:.{_EXACT}g}"
    return label, value if isinstance(value, str) else pretty(value)


def number(value: int | float | None) -> str:
    """Return a number with separators."""
    return "-" if value is None else f"{value:,}"


def per_second(value: float) -> str:
    """Return commands per second: 10/s."""
    return f"{value:,.0f}/s" if value >= 100 else f"{value:.3g}/s"


def short(text: str) -> str:
    """Return the beginning of an id; another text as it is."""
    return f"{text[:8]}…" if _ID.fullmatch(text) else text


def pretty(value: Any) -> str:  # noqa: ANN401  (any JSON)
    """Return a JSON value as indented text.

    What would be hidden in it has JSON's own escapes, so that it can be read back.
    """
    text = write_json(value, _JSON, indent=2)
    if text.isascii():
        return text.replace("\x7f", "\\u007f")
    return "".join(json.dumps(one)[1:-1] if _is_secret(one) else one for one in text)


def masked(value: Any, levels: int = MAX_DEPTH) -> Any:  # noqa: ANN401  (any JSON)
    """Return a JSON value with its keys as they are down to so many levels, and dots for everything else."""
    if levels and isinstance(value, dict):
        return {key: masked(item, levels - 1) for key, item in value.items()}
    if levels and isinstance(value, list):
        return [masked(item, levels - 1) for item in value]
    return MASK
