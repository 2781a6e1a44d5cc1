"""Verdicts of the doctor on what no test can bring about: clocks that differ, and what takes minutes or gigabytes."""

from __future__ import annotations

import pytest

from commandbus.cli.output import counted
from commandbus.doctor.check import Status
from commandbus.doctor.housekeeping import judge_oldest
from commandbus.doctor.listening import judge_usage
from commandbus.doctor.server import judge_clock


@pytest.mark.parametrize(
    ("took", "ahead", "status", "words"),
    [
        (0.001, 0.9, Status.OK, "0.900 s ahead of this machine's"),
        (0.001, 1.1, Status.WARNING, "1.100 s ahead of this machine's"),
        (0.001, -30.0, Status.WARNING, "30.000 s behind this machine's"),
        (4.0, 2.5, Status.OK, "only the server's counts"),  # the answer was that slow
    ],
)
def test_clocks_may_differ_by_a_second(took: float, ahead: float, status: Status, words: str) -> None:
    check = judge_clock((took, ahead))
    assert check.status is status
    assert words in check.found


@pytest.mark.parametrize(
    ("who", "seconds", "status", "run"),
    [
        ("pid 4711", 299.0, Status.OK, None),
        ("pid 4711", 301.0, Status.WARNING, "pg_terminate_backend(4711)"),
        ("prepared transaction x", 301.0, Status.WARNING, "rollback prepared"),
    ],
)
def test_a_transaction_may_last_five_minutes(who: str, seconds: float, status: Status, run: str | None) -> None:
    check = judge_oldest(who, "report", seconds)
    assert check.status is status
    assert f'{who} ("report")' in check.found
    assert (check.run is None) if run is None else (run in str(check.run))


@pytest.mark.parametrize(("usage", "status"), [(0.0, Status.OK), (0.5, Status.OK), (0.51, Status.WARNING)])
def test_half_of_the_queue_for_notifications_may_be_in_use(usage: float, status: Status) -> None:
    assert judge_usage(usage).status is status


def test_one_is_not_many() -> None:
    words = [counted(n, what) for n, what in ((0, "command"), (1, "command"), (2_000, "command"), (1, "process"))]
    assert words == ["0 commands", "1 command", "2,000 commands", "1 process"]
    assert counted(2, "process") == "2 processes"
