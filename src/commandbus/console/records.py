"""Records of the library as plain JSON, and what viewers see of business data: its keys."""

import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any
from uuid import UUID

from flask import Response
from flask.typing import ResponseReturnValue

from commandbus.console.errors import problem
from commandbus.console.forms import Form
from commandbus.console.looks import iso, masked
from commandbus.console.security import user
from commandbus.models import AuditEvent, AuditEventType
from commandbus.payload import write_json

NO_PAYLOADS = {"payload": "The console's database role may not see what was sent; it needs commandbus_operator."}
_ENCODER = json.JSONEncoder()
_BUSINESS = frozenset({"payload", "data", "custom_data", "result"})
_OWN_EVENTS = frozenset(map(str, AuditEventType))
_BUSINESS_IN_AUDIT = frozenset({"details", "result", "result_data", "before", "after"})


def shown(value: Any) -> Any:  # noqa: ANN401  (any JSON)
    """Return business data as the one who asks may see it."""
    return value if user().is_operator else masked(value)


def facts(event: AuditEvent) -> dict[str, Any]:
    """Return the facts of an event as the one who asks may see them."""
    if not isinstance(event.details or {}, dict):
        return {"details": shown(event.details)}
    found: dict[str, Any] = dict(event.details or {})
    if event.event_type not in _OWN_EVENTS:  # an application's own: nobody knows what it wrote
        return {key: shown(value) for key, value in found.items()}
    return {key: shown(value) if key in _BUSINESS_IN_AUDIT else value for key, value in found.items()}


def plain(record: Any) -> dict[str, Any]:  # noqa: ANN401  (any of the library's records)
    """Return a record for JSON; business data as the one who asks may see it."""
    found = {}
    for name in (field.name for field in fields(record)):
        value = getattr(record, name)
        found[name] = shown(value) if name in _BUSINESS and value is not None else _plain(value)
    if isinstance(record, AuditEvent):
        found["details"] = facts(record)
    return found


def json_or_errors(form: Form, found: Mapping[str, Any]) -> ResponseReturnValue:
    """Return what was found as JSON, or what is wrong with the query, with 400; unknown parameters are."""
    form.refuse_unread()
    return refused(form, 400) if form.errors else Response(write_json(found, _ENCODER), mimetype="application/json")


def refused(form: Form, status: int = 422) -> ResponseReturnValue:
    """Return for programs what is wrong with a query or a form."""
    return problem(status, form.errors.get("", "See errors for what is wrong with which field."), form.errors)


def _plain(value: Any) -> Any:  # noqa: ANN401  (a field of a record)
    if isinstance(value, datetime):
        return iso(value)
    return str(value) if isinstance(value, UUID) else value
