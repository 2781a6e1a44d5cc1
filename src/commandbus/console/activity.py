"""From what workers tell about themselves to charts: pure. A piece of time of which nothing is known is a gap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from commandbus.console.charts import Chart, Line, Series, duration, line_chart, percentile, short, sparkline
from commandbus.models import ThroughputPoint

_FINEST = 10  # seconds of a piece as it is stored
_ENOUGH = 60  # seconds of a piece under way that make a rate
_RATE_OVER = 60  # seconds: "now" of a rate
_PERCENTILES = ((0.5, "p50", "info"), (0.95, "p95", "brand"), (0.99, "p99", "warning"))


class Span(StrEnum):
    """How far back charts go."""

    QUARTER = "15m"
    HOUR = "1h"
    SHIFT = "6h"
    DAY = "24h"
    WEEK = "7d"

    @property
    def seconds(self) -> int:
        """Its length."""
        return _LENGTHS[self][0]

    @property
    def step(self) -> int:
        """The seconds of one of its pieces."""
        return _LENGTHS[self][1]

    @property
    def words(self) -> str:
        """How it is called."""
        return _LENGTHS[self][2]


_LENGTHS = {
    Span.QUARTER: (900, 10, "15 minutes"),
    Span.HOUR: (3_600, 30, "hour"),
    Span.SHIFT: (21_600, 180, "6 hours"),
    Span.DAY: (86_400, 600, "24 hours"),
    Span.WEEK: (604_800, 3_600, "7 days"),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of time, and what is known of it."""

    at: datetime
    seconds: float
    point: ThroughputPoint | None


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened per second in the last minute; None where nothing is known."""

    sent: float | None = None
    completed: float | None = None
    failed: float | None = None
    retried: float | None = None
    parked: float | None = None
    wait: float | None = None  # p95, in seconds
    run: float | None = None


@dataclass(frozen=True, slots=True)
class Charts:
    """What a page draws of one domain, or all."""

    flow: Chart
    trouble: Chart
    waits: Chart
    runs: Chart
    depth: Chart
    oldest: Chart

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known at all."""
        return all(line.last is None for line in self.flow.lines)


@dataclass(frozen=True, slots=True)
class Sparks:
    """The last quarter of an hour of a domain in small lines, and its rates."""

    rates: Rates
    completed: Line
    depth: Line
    oldest: Line


def pieces(points: Sequence[ThroughputPoint], span: Span, now: datetime) -> list[Piece]:
    """Return all pieces of a span, oldest first; the one under way only once it says something."""
    known = {int(point.at.timestamp()): point for point in points}
    end = int(now.timestamp())
    current = end - end % span.step
    starts = range(current - span.seconds, current, span.step)
    found = [Piece(datetime.fromtimestamp(at, UTC), span.step, known.get(at)) for at in starts]
    if end - current >= _ENOUGH:
        found.append(Piece(datetime.fromtimestamp(current, UTC), end - current, known.get(current)))
    return found


def merge(past: Sequence[ThroughputPoint], fresh: Sequence[ThroughputPoint], after: datetime) -> list[ThroughputPoint]:
    """Return what was known, from *after* on, with what is known now of the newest of it and of what came later."""
    if not past:
        return list(fresh)
    newest = past[-1].at
    return [one for one in past if after <= one.at < newest] + [one for one in fresh if one.at >= newest]


def draw(points: Sequence[ThroughputPoint], span: Span, now: datetime) -> Charts:
    """Return the charts of what `Operations.throughput` said."""
    found = pieces(points, span, now)
    times = [piece.at for piece in found]

    def rate(label: str, tone: str, name: str) -> Series:
        return Series(label, _of(found, lambda piece, point: _rate(getattr(point, name), piece.seconds)), tone)

    def latency(name: str) -> Chart:
        series = [
            Series(label, _of(found, lambda _, point, share=share: percentile(getattr(point, name), share)), tone)  # type: ignore[misc]  # binds the loop's variable
            for share, label, tone in _PERCENTILES
        ]
        return line_chart(series, times, words=duration, least=0.02)

    flow = (rate("Sent", "brand", "enqueued"), rate("Completed", "success", "completed"))
    failures = (rate("Retried", "neutral", "retried"), rate("Parked", "warning", "parked"))
    return Charts(
        flow=line_chart(flow, times, words=_per),
        trouble=line_chart((*failures, rate("Failed", "danger", "failed")), times, words=_per, least=1.0),
        waits=latency("waits"),
        runs=latency("runs"),
        depth=line_chart([Series("Depth", _of(found, lambda _, point: point.depth), "brand")], times),
        oldest=line_chart([Series("Oldest", _of(found, _age), "warning")], times, words=duration, least=1.0),
    )


def spark(points: Sequence[ThroughputPoint], now: datetime) -> Sparks:
    """Return the last quarter of an hour in small."""
    found = pieces(points, Span.QUARTER, now)
    return Sparks(
        rates(points, now),
        sparkline(_of(found, lambda piece, point: _rate(point.completed, piece.seconds)), tone="success"),
        sparkline(_of(found, lambda _, point: point.depth)),
        sparkline(_of(found, _age), tone="warning"),
    )


def rates(points: Sequence[ThroughputPoint], now: datetime) -> Rates:
    """Return what happened per second in the last whole minute of pieces of ten seconds."""
    last = pieces(points, Span.QUARTER, now)[-_RATE_OVER // _FINEST :]
    known = [piece.point for piece in last if piece.point is not None]
    if not known:
        return Rates()
    seconds = len(known) * _FINEST
    sends = [point.enqueued for point in known if point.enqueued is not None]
    return Rates(
        sent=sum(sends) / (len(sends) * _FINEST) if sends else None,
        completed=sum(point.completed for point in known) / seconds,
        failed=sum(point.failed for point in known) / seconds,
        retried=sum(point.retried for point in known) / seconds,
        parked=sum(point.parked for point in known) / seconds,
        wait=percentile(_sum([point.waits for point in known]), 0.95),
        run=percentile(_sum([point.runs for point in known]), 0.95),
    )


def _sum(histograms: Sequence[Sequence[int]]) -> list[int]:
    longest = max(map(len, histograms))
    return [sum(h[i] for h in histograms if i < len(h)) for i in range(longest)]


def _of(found: Sequence[Piece], look: Callable[[Piece, ThroughputPoint], float | None]) -> list[float | None]:
    return [None if piece.point is None else look(piece, piece.point) for piece in found]


def _rate(count: int | None, seconds: float) -> float | None:
    return None if count is None else count / seconds


def _age(piece: Piece, point: ThroughputPoint) -> float:
    """Return how long the oldest message waited when the last part of a piece was looked at."""
    if point.oldest_at is None:
        return 0.0
    return max(piece.at.timestamp() + piece.seconds - _FINEST - point.oldest_at.timestamp(), 0.0)


def _per(value: float) -> str:
    return f"{short(value)}/s"
