"""The live numbers: one small snapshot, shared by all who watch, as server-sent events or by polling.

Pages listen for its version; when that changes, the browser fetches the same page again and swaps the parts that are
marked ``data-live``; those with ``data-live-charts`` also every few seconds. So there is one source of every number:
the page itself.
"""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from hashlib import sha256
from typing import Any

import psycopg
from flask import Blueprint, Response, abort, current_app, request
from flask.typing import ResponseReturnValue

from commandbus.console.activity import Span
from commandbus.console.forms import Form
from commandbus.console.recent import Recent
from commandbus.console.records import json_or_errors
from commandbus.errors import CommandBusError
from commandbus.models import DomainOverview, ThroughputPoint

live = Blueprint("live", __name__)

EXTENSION = "commandbus_console_live"
_PAUSE = 2.0  # seconds between looks of a stream
_BEAT = 0.5  # between signs of life: only what cannot be written tells that a browser is gone, and the second time
_FRESH = 10.0  # seconds that a snapshot is told as the latest
_LONGEST = 300.0  # seconds of one stream; browsers come back by themselves


class Live:
    """Takes snapshots, and counts streams."""

    def __init__(self, max_streams: int, answers: Recent) -> None:
        self._recent = answers
        self._snapshot: dict[str, Any] = {}
        self._taken = 0.0
        self._free = threading.BoundedSemaphore(max(max_streams, 1))
        self._has_streams = max_streams > 0
        self._ended = threading.Event()

    def snapshot(self) -> dict[str, Any]:
        """Return the numbers of at most a second ago.

        Raises:
            CommandBusError: the database does not answer.
        """
        numbers = _numbers(self._recent.overview())
        seen = [numbers, _last_work(self._recent.points(None, Span.QUARTER))]
        version = sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]
        self._snapshot, self._taken = {"version": version, **numbers}, time.monotonic()
        return self._snapshot

    def latest(self) -> dict[str, Any]:
        """Return the last snapshot without asking the database; empty before the first, and when it is old."""
        return self._snapshot if time.monotonic() - self._taken < _FRESH else {}

    def slot(self) -> ExitStack | None:
        """Return the right to one stream, given back when it is closed, or None when there are too many."""
        if not self._has_streams or not self._free.acquire(blocking=False):
            return None
        slot = ExitStack()
        slot.callback(self._free.release)
        return slot

    def events(self) -> Iterator[str]:
        """Return the events of one stream."""
        seen = ""
        end = time.monotonic() + _LONGEST
        while time.monotonic() < end:
            try:
                snapshot = self.snapshot()
            except (CommandBusError, psycopg.Error):
                return  # the browser comes back, and is told by a page
            if snapshot["version"] != seen:
                yield f"data: {json.dumps(snapshot)}\n\n"
            seen = snapshot["version"]
            for _ in range(int(_PAUSE / _BEAT)):
                if self._ended.wait(_BEAT):
                    return
                yield ":\n\n"

    def end(self) -> None:
        """Let no stream keep the server from ending."""
        self._ended.set()


def _numbers(domains: Sequence[DomainOverview]) -> dict[str, Any]:
    """Return what stands in many pages, and what tells that a page is out of date."""
    return {
        "troubleshooting": sum(domain.in_troubleshooting for domain in domains),
        "domains": {
            d.domain: [d.depth, d.in_flight, d.scheduled, d.in_troubleshooting, d.workers, d.paused_at is not None]
            for d in domains
        },
    }


def _last_work(points: Sequence[ThroughputPoint]) -> list[object]:
    """Return what workers did last: commands that come and go between two looks leave no other trace."""
    for point in reversed(points):
        done = (point.completed, point.failed, point.retried, point.parked)
        if any(done):
            return [point.at.isoformat(), *done]
    return []


def numbers() -> Live:
    """Return the live numbers of the app that answers this request."""
    found: Live = current_app.extensions[EXTENSION]
    return found


@live.get("/live/events")
def events() -> ResponseReturnValue:
    """Stream the numbers, or 503 when too many watch: then the page polls."""
    slot = numbers().slot()
    if slot is None:
        abort(503, "Too many live streams.")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = Response(numbers().events(), mimetype="text/event-stream", headers=headers)
    response.call_on_close(slot.close)  # a generator that is never begun, as for HEAD, could not give it back
    return response


@live.get("/api/live")
def poll() -> ResponseReturnValue:
    """Return the numbers once."""
    return json_or_errors(Form(request.args), numbers().snapshot())
