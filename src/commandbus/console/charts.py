"""From numbers to the geometry of an SVG: pure, so that the server draws and the browser only shows.

`line_chart` gives lines with areas, ticks and labels; `sparkline` one line without; `shares` the parts of a bar;
`percentile` reads a histogram of the library.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

_TOP, _BOTTOM = 8.0, 1.0
_MOST_TICKS = 4
_NOTHING = 1e-6  # what is less is written as 0
_THOUSANDS = ((1_000, ""), (1_000, "k"), (1_000, "M"), (math.inf, "G"))  # how many make one of the next
_TIMES = ((1_000, "ms"), (60, "s"), (60, "min"), (24, "h"), (math.inf, "d"))
_NICE = (1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 12)  # their quarters are short


@dataclass(frozen=True, slots=True)
class Series:
    """Numbers to be drawn, oldest first; None leaves a gap. *tone*: a class of assets/input.css."""

    label: str
    values: Sequence[float | None]
    tone: str = "brand"


@dataclass(frozen=True, slots=True)
class Line:
    """One series, drawn. *path* and *area* are values of ``d``; *last* is the newest number, *words* are all."""

    label: str
    tone: str
    path: str
    area: str
    last: float | None
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at a place of an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What the macro `chart` draws, in units of its own view box; *moments* are the times of all numbers."""

    width: int
    height: int
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    moments: tuple[str, ...]
    summary: str


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a bar, from *start*, both in percent."""

    label: str
    tone: str
    value: int
    start: float
    width: float


def line_chart(
    series: Sequence[Series],
    times: Sequence[datetime],
    *,
    words: Callable[[float], str] | None = None,
    least: float = float(_MOST_TICKS),
    width: int = 600,
    height: int = 150,
) -> Chart:
    """Return lines over time with axes.

    Args:
        series: each as long as *times*.
        times: when each number was taken, oldest first.
        words: how a number is written; `short` when None.
        least: the axis goes up to this at least, so that a little does not look like much.
        width: of the view box; the page scales it.
        height: of the view box.
    """
    words = words or short
    bottom = height - _BOTTOM
    top_value = nice_ceiling(max((v for s in series for v in s.values if v is not None), default=0.0), least)
    places = [width * i / max(len(times) - 1, 1) for i in range(len(times))]

    def y(value: float) -> float:
        return bottom - (bottom - _TOP) * value / top_value

    lines = tuple(
        Line(
            s.label,
            s.tone,
            *_draw(places, [None if v is None else y(v) for v in s.values], bottom),
            _last(s.values),
            tuple("-" if v is None else words(v) for v in s.values),
        )
        for s in series
    )
    steps = range(_MOST_TICKS + 1)
    y_ticks = tuple(Tick(y(top_value * i / _MOST_TICKS), words(top_value * i / _MOST_TICKS)) for i in steps)
    indexes = sorted({round(i * (len(times) - 1) / _MOST_TICKS) for i in steps}) if times else []
    length = (times[-1] - times[0]).total_seconds() if times else 0.0
    marks, moments = _written(times, length), _written(times, 0.0 if length < len(times) * 60 else length)
    x_ticks = tuple(Tick(places[i], marks[i]) for i in indexes)
    return Chart(width, height, lines, x_ticks, y_ticks, moments, _summary(lines, words))


def sparkline(values: Sequence[float | None], *, width: int = 120, height: int = 28, tone: str = "brand") -> Line:
    """Return one line without axes."""
    top_value = max((v for v in values if v is not None), default=0.0) or 1.0
    places = [1 + (width - 2) * i / max(len(values) - 1, 1) for i in range(len(values))]
    heights = [None if v is None else (height - 2) * (1 - v / top_value) + 1 for v in values]
    return Line("", tone, *_draw(places, heights, float(height)), _last(values))


def shares(parts: Sequence[tuple[str, str, int]], total: int | None = None) -> tuple[Share, ...]:
    """Return the parts of a bar: *parts* are labels, tones and counts; the rest up to *total* stays empty."""
    whole = max(sum(count for _, _, count in parts) if total is None else total, 1)
    found, start = [], 0.0
    for label, tone, count in parts:
        width = 100 * count / whole
        if count:
            found.append(Share(label, tone, count, round(start, 3), round(width, 3)))
        start += width
    return tuple(found)


def nice_ceiling(value: float, least: float = float(_MOST_TICKS)) -> float:
    """Return the next number whose quarters are short, such as 12, 40 or 600; at least *least*."""
    if value <= least:
        return least
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in _NICE if power * step >= value)


def short(value: float) -> str:
    """Return a number in at most five characters or so: 950, 1.2k, 35k, 2M."""
    return "".join(_scaled(value, _THOUSANDS))


def duration(seconds: float) -> str:
    """Return a duration with three digits: 7.5 ms, 1.25 s, 12 min, 3 h, 83.3 d."""
    return " ".join(_scaled(seconds * 1_000, _TIMES))


def percentile(histogram: Sequence[int], share: float) -> float | None:
    """Return the seconds that a share of what a histogram counts took at most; None when it counts nothing.

    Args:
        histogram: element i counts what took less than 2**i milliseconds, and not less than half of that; what took
            less than one millisecond is in element 0. Within an element all durations are taken to be equally likely.
        share: above 0, up to 1.
    """
    wanted = sum(histogram) * share
    below = 0
    for i, count in enumerate(histogram):
        if count and below + count >= wanted:
            low, high = (0.0 if i == 0 else 2.0 ** (i - 1)), 2.0**i
            return (low + (high - low) * (wanted - below) / count) / 1_000
        below += count
    return None


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> tuple[str, str]:
    """Return three digits of a number, without exponent, and the unit in which they are below the next one."""
    for size, unit in units:
        rounded = Decimal(f"{value:.3g}" if value >= _NOTHING else "0")
        if rounded < size:
            return f"{rounded:,f}", unit
        value = max(value / size, 1.0)
    raise AssertionError("the last unit has no end")


def _draw(places: Sequence[float], heights: Sequence[float | None], bottom: float) -> tuple[str, str]:
    """Return the path of a line, and of the area below it; each gap begins a new piece."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(places, heights, strict=True):
        if y is None:
            pieces.append([])
        else:
            pieces[-1].append((x, y))
    path, area = [], []
    for piece in filter(None, pieces):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in piece)
        path.append(f"M{points}" if len(piece) > 1 else f"M{points} {points}")
        area.append(f"M{piece[0][0]:.1f},{bottom:.1f} {points} {piece[-1][0]:.1f},{bottom:.1f}Z")
    return "".join(path), "".join(area)


def _last(values: Sequence[float | None]) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)


def _written(times: Sequence[datetime], length: float) -> tuple[str, ...]:
    """Return times as finely as a length in seconds needs: seconds for minutes, days for weeks."""
    pattern = "%H:%M:%S" if length < 600 else "%H:%M" if length < 172_800 else "%m-%d %H:%M"
    return tuple(time.astimezone(UTC).strftime(pattern) for time in times)


def _summary(lines: Sequence[Line], words: Callable[[float], str]) -> str:
    """Return the chart in words, for those who do not see it."""
    parts = [f"{line.label}: {'no data' if line.last is None else words(line.last)}" for line in lines]
    return "; ".join(parts) + " now."
