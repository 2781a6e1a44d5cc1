"""Numbers become geometry that stays inside its box."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commandbus.console.charts import Series, duration, line_chart, nice_ceiling, percentile, shares, short, sparkline
from commandbus.console.looks import per_second, span

START = datetime(2030, 1, 31, 12, tzinfo=UTC)
NUMBERS = st.none() | st.floats(min_value=0, max_value=1e12)


def points(path: str) -> list[tuple[float, float]]:
    """Return the points of a path."""
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path)]


def times(count: int, step: float = 60) -> list[datetime]:
    """Return so many times, evenly spread."""
    return [START + timedelta(seconds=step * i) for i in range(count)]


@given(st.lists(NUMBERS, max_size=50))
def test_every_point_lies_inside_the_axes(values: list[float | None]) -> None:
    chart = line_chart([Series("depth", values)], times(len(values)))
    for x, y in points(chart.lines[0].path) + points(chart.lines[0].area):
        assert -0.1 <= x <= chart.width + 0.1
        assert 0 <= y <= chart.height + 0.1
    assert all(0 <= tick.at <= chart.width for tick in chart.x_ticks)


def test_a_chart_is_told_in_words_and_ticks() -> None:
    chart = line_chart([Series("sent", [0, 10, 35]), Series("failed", [0, 1, None], "danger")], times(3), words=per)
    assert chart.summary == "sent: 35/s; failed: 1/s now."
    assert [tick.label for tick in chart.y_ticks] == ["0/s", "10/s", "20/s", "30/s", "40/s"]
    assert [tick.label for tick in chart.x_ticks] == ["12:00:00", "12:01:00", "12:02:00"]
    assert [line.tone for line in chart.lines] == ["brand", "danger"]
    assert [line.words for line in chart.lines] == [("0/s", "10/s", "35/s"), ("0/s", "1/s", "-")]
    assert chart.moments == ("12:00:00", "12:01:00", "12:02:00")


def per(value: float) -> str:
    """Return a number per second."""
    return f"{short(value)}/s"


def test_a_gap_parts_the_line() -> None:
    assert line_chart([Series("x", [1, 2, None, 3, 4])], times(5)).lines[0].path.count("M") == 2


def test_nothing_to_draw_is_drawn_as_nothing() -> None:
    chart = line_chart([Series("x", [])], [])
    assert (chart.lines[0].path, chart.x_ticks, chart.summary) == ("", (), "x: no data now.")
    assert sparkline([]).path == ""
    assert sparkline([5]).path.count(",") == 2


@pytest.mark.parametrize(("step", "label"), [(1, "12:00:00"), (3_600, "12:00"), (86_400, "01-31 12:00")])
def test_times_are_written_as_finely_as_they_need(step: float, label: str) -> None:
    assert line_chart([Series("x", [1] * 5)], times(5, step)).x_ticks[0].label == label


@given(st.floats(min_value=0, max_value=1e12))
def test_the_top_of_an_axis_is_near_and_never_below(value: float) -> None:
    top = nice_ceiling(value)
    assert value <= top
    assert top <= max(4, value * 2)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (950, "950"), (1_200, "1.2k"), (35_000, "35k"), (2e6, "2M"), (999.6, "1k"),
     (999_600, "1M"), (5e9, "5G"), (7.2e15, "7,200,000G"), (0.000_278, "0.000278"), (1e-9, "0")],
)  # fmt: skip
def test_numbers_are_short(value: float, words: str) -> None:
    assert short(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(10, "10/s"), (0.5, "0.5/s"), (1 / 9, "0.111/s"), (99.96, "100/s"), (12_345.6, "12,346/s")]
)
def test_rates_are_short(value: float, words: str) -> None:
    assert per_second(value) == words


def test_shares_fill_the_bar_as_far_as_they_go() -> None:
    parts = shares([("done", "success", 5), ("failed", "danger", 0), ("parked", "warning", 1)], 8)
    assert [(part.label, part.start, part.width) for part in parts] == [("done", 0.0, 62.5), ("parked", 62.5, 12.5)]
    assert shares([("none", "brand", 0)]) == ()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"),
        (0.0075, "7.5 ms"),
        (1.25, "1.25 s"),
        (90, "1.5 min"),
        (10_800, "3 h"),
        (0.9996, "1 s"),
        (59.97, "1 min"),
        (3_599, "1 h"),
        (7_200_000, "83.3 d"),
    ],
)
def test_durations_are_short(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "-"), (0, "0 ms"), (0.85, "850 ms"), (0.9996, "1 s"), (59.4, "59 s"), (59.7, "1 min"), (3_599, "1 h"),
     (86_000, "1 d"), (364.9 * 86_400, "1 y")],
)  # fmt: skip
def test_spans_are_rounded_before_their_unit_is_chosen(seconds: float | None, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("histogram", "share", "seconds"),
    [
        ([], 0.5, None),
        ([0, 0, 0], 0.5, None),
        ([4], 0.5, 0.000_5),  # all below a millisecond: the middle of that
        ([0, 4], 0.5, 0.001_5),  # 1 to 2 ms
        ([0, 0, 0, 10], 1.0, 0.008),  # 4 to 8 ms, all of it
        ([0, 0, 0, 10], 0.1, 0.004_4),
        ([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 0.5, 0.001),  # nothing lies in between
        ([98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], 0.99, 0.768),
    ],
)
def test_a_percentile_is_interpolated_within_its_element(
    histogram: list[int], share: float, seconds: float | None
) -> None:
    assert percentile(histogram, share) == (None if seconds is None else pytest.approx(seconds))


@given(st.lists(st.integers(0, 1_000), max_size=40), st.floats(0.01, 1), st.floats(0.01, 1))
def test_percentiles_grow_with_their_share_and_stay_within_the_histogram(
    histogram: list[int], one: float, other: float
) -> None:
    low, high = (percentile(histogram, share) for share in sorted((one, other)))
    if not any(histogram):
        assert (low, high) == (None, None)
    else:
        assert low is not None
        assert high is not None
        assert 0 <= low <= high <= 2.0 ** (len(histogram) - 1) / 1_000
