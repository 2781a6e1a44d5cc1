"""What workers tell becomes charts and needs: gaps stay gaps, and each need names where it is dealt with."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from commandbus.console.activity import Span, draw, merge, pieces, rates
from commandbus.console.attention import needs
from commandbus.models import DomainOverview, Redrive, RedriveStatus, ThroughputPoint, WorkerInfo

NOW = datetime(2030, 1, 31, 12, 0, 5, tzinfo=UTC)
POINT = ThroughputPoint(NOW, 50, 40, 1, 2, 3, 7, None, [0, 0, 10], [10])
DOMAIN = DomainOverview("pay", 0, 0, 0, 0, 0, None, 1, 10, None, None, None, 0, None)
WORKER = WorkerInfo(UUID(int=1), "pay", "host-a", 17, 10, 0, NOW - timedelta(hours=1), NOW)
REDRIVE = Redrive(UUID(int=2), "pay", RedriveStatus.RUNNING, 0.5, None, 100, 40, 0, 3, "ada", None, NOW, None)


def at(seconds: float) -> ThroughputPoint:
    """Return what was done in the piece so many seconds before noon."""
    return replace(POINT, at=NOW.replace(second=0) - timedelta(seconds=seconds))


@pytest.mark.parametrize("span", list(Span))
def test_a_span_has_a_piece_for_each_step_also_where_nothing_is_known(span: Span) -> None:
    found = pieces([], span, NOW)
    assert len(found) == span.seconds / span.step
    assert {later.at - one.at for one, later in itertools.pairwise(found)} == {timedelta(seconds=span.step)}
    assert all(piece.point is None for piece in found)


def test_the_piece_under_way_counts_once_it_says_something() -> None:
    assert pieces([at(0)], Span.DAY, NOW)[-1].point is None
    last = pieces([at(0)], Span.DAY, NOW + timedelta(seconds=95))[-1]
    assert (last.point, last.seconds) == (at(0), 100)


def test_times_without_workers_are_gaps_and_not_zeros() -> None:
    flow = draw([at(40), at(30), at(10)], Span.QUARTER, NOW).flow
    sent, completed = flow.lines
    assert sent.words[-5:] == ("-", "5/s", "5/s", "-", "5/s")
    assert completed.path.count("M") == 2
    assert set(sent.words[:-4]) == {"-"}


def test_nothing_known_is_said_to_be_nothing() -> None:
    assert draw([], Span.WEEK, NOW).is_empty
    assert rates([], NOW).completed is None


def test_sends_are_unknown_where_the_piece_before_is() -> None:
    found = draw([replace(at(20), enqueued=None), at(10)], Span.QUARTER, NOW).flow.lines[0]
    assert found.words[-2:] == ("-", "5/s")


def test_rates_are_those_of_the_last_minute() -> None:
    found = rates([replace(at(120), completed=9_999), *(at(s) for s in (60, 50, 40, 30, 20, 10))], NOW)
    assert (found.sent, found.completed, found.failed, found.retried, found.parked) == (5.0, 4.0, 0.1, 0.2, 0.3)
    assert found.wait == pytest.approx(0.0039)


def test_the_age_of_the_oldest_message_is_that_at_the_end_of_the_piece() -> None:
    point = replace(at(10), oldest_at=at(130).at)
    assert draw([point], Span.QUARTER, NOW).oldest.lines[0].words[-1] == "2 min"


def test_all_is_well_where_nothing_is_wrong() -> None:
    ended = replace(REDRIVE, status=RedriveStatus.COMPLETED)
    busy = replace(DOMAIN, depth=9, oldest_at=NOW - timedelta(minutes=4))
    assert needs([DOMAIN, busy, replace(DOMAIN, workers=0)], [WORKER], [ended], NOW) == []


def test_each_need_is_named_with_its_place_and_the_most_urgent_comes_first() -> None:
    domains = [
        replace(
            DOMAIN, domain="held", depth=3, paused_at=NOW - timedelta(minutes=2), paused_by="ada", pause_reason="why"
        ),
        replace(DOMAIN, domain="late", depth=5, oldest_at=NOW - timedelta(hours=2)),
        replace(DOMAIN, domain="left", scheduled=1, workers=0),
        replace(DOMAIN, domain="torn", in_troubleshooting=1_200),
    ]
    silent = replace(WORKER, seen_at=NOW - timedelta(seconds=21))
    gone = replace(silent, seen_at=NOW - timedelta(hours=2), domain="old")
    found = needs(domains, [WORKER, silent, gone], [REDRIVE, replace(REDRIVE, status=RedriveStatus.PAUSED)], NOW)
    assert [(need.tone, need.title, need.text) for need in found] == [
        ("danger", "Nobody works on left", "1 command waiting, and no worker was heard of in the last 20 s"),
        ("warning", "held is paused", "for 2 min by ada; 3 commands waiting: why"),
        ("warning", "late falls behind", "the oldest of 5 commands waits for 2 h; 1 worker at it"),
        ("warning", "1,200 commands wait for a decision", "torn 1,200"),
        ("warning", "1 worker of pay went silent", "last heard of 21 s ago: host-a 17"),
        ("warning", "A redrive of pay is paused", "40 of 100 commands sent, 0.5/s, 3 failed again"),
        ("info", "A redrive of pay is running", "40 of 100 commands sent, 0.5/s, 3 failed again"),
    ]
    places = {need.endpoint for need in found}
    assert places == {"console.queues.detail", "console.troubleshooting.find", "console.redrives.show"}


def test_a_high_rate_is_written_without_exponent() -> None:
    (need,) = needs([], [], [replace(REDRIVE, rate=1_500)], NOW)
    assert "1,500/s" in need.text


def test_what_is_known_is_kept_and_its_newest_piece_is_taken_anew() -> None:
    past = [at(40), at(30), at(20)]
    fresh = [replace(at(30), enqueued=None), replace(at(20), completed=41), at(10)]
    assert merge(past, fresh, at(30).at) == [at(30), replace(at(20), completed=41), at(10)]
    assert merge([], fresh, at(30).at) == fresh
    assert merge(past, [], at(60).at) == past[:2]
