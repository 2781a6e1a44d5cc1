"""The tests' own tools: fresh databases, the recount after each test, and skips that a full run refuses."""

from __future__ import annotations

import psycopg
import pytest

from tests.support import batch_counters_off, missing


@pytest.mark.counters_off
def test_the_recount_finds_a_batch_whose_counters_are_wrong(database_url: str) -> None:
    assert batch_counters_off(database_url) == []
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "insert into commandbus.batch (domain, batch_id, total_count)"
            " values ('a', '00000000-0000-0000-0000-000000000001', 2)"
        )
    assert batch_counters_off(database_url) == [
        ("a", "00000000-0000-0000-0000-000000000001", [2, 0, 0, 0, 0], [0, 0, 0, 0, 0])
    ]


def test_every_test_has_a_database_of_its_own(database_url: str, empty_database_url: str) -> None:
    assert database_url != empty_database_url
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        assert connection.execute("select to_regnamespace('pgmq')").fetchone() == (None,)


def test_a_missing_part_skips_the_test_unless_all_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMMANDBUS_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no such part"):
        missing("no such part")
    monkeypatch.setenv("COMMANDBUS_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="no such part"):
        missing("no such part")
