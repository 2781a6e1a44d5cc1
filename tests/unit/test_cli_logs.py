"""The command line's log: one line per record, its facts as words."""

from __future__ import annotations

import logging

from commandbus.cli.logs import TextFormatter


def test_a_list_among_the_facts_is_its_members() -> None:
    facts = {"msg": "pool opened", "visible_schemas": ["commandbus", "public"], "host": "a b"}
    line = TextFormatter().format(logging.makeLogRecord(facts))
    assert line.endswith('pool opened visible_schemas=commandbus,public host="a b"')
