"""The checker itself: it finds what it is there to find."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from tests.faults.handlers import TABLES
from tests.faults.invariants import Ledger, broken_rules

SENT = "select commandbus.sp_send_command('pay', '{id}', 'effect', '{{}}', p_reply_queue => 'pay__replies')"
RECEIVED = "select commandbus.sp_receive_commands('pay', 10, 30)"
SETTLED = "select commandbus.sp_settle_commands('pay', array['{id}'::uuid], array[1], array[1], array['COMPLETED'])"
EFFECT = "insert into public.effect values ('{id}', 1)"
WELL = [SENT, RECEIVED, EFFECT, SETTLED]


@pytest.mark.parametrize(
    ("statements", "letters"),
    [
        (WELL, ""),
        ([SENT], ""),
        ([*WELL, "delete from pgmq.q_pay__replies"], "R"),
        ([*WELL, ("insert into commandbus.undelivered_reply (queue_name, message)"
                 " select 'pay__replies', message from pgmq.q_pay__replies")], "R"),
        ([*WELL, EFFECT], "E"),
        ([*WELL, "delete from public.effect"], "E"),
        ([*WELL, "insert into public.effect values (gen_random_uuid(), 1)"], "G"),
        ([*WELL, "insert into commandbus.audit (domain, command_id, event_type) values ('pay', '{id}', 'COMPLETED')"],
         "DT"),
        ([*WELL, "delete from commandbus.audit where event_type = 'RECEIVED'"], "T"),
        ([SENT, "delete from pgmq.q_pay__commands"], "S"),
        ([*WELL, "insert into pgmq.q_pay__commands (vt, message) values (now(), '{{}}')"], "S"),
        ([SENT, RECEIVED, *[("insert into commandbus.audit (domain, command_id, event_type)"
                            " values ('pay', '{id}', 'RECEIVED')")] * 3], "A"),
        (["select 1"], "L"),
    ],
)  # fmt: skip
def test_each_rule_finds_what_breaks_it(database_url: str, statements: list[str], letters: str) -> None:
    command_id = uuid4()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(TABLES)
        connection.execute("select commandbus.sp_create_domain('pay')")
        for statement in statements:
            connection.execute(statement.format(id=command_id).encode())
    found = broken_rules(database_url, Ledger(acknowledged={command_id}))
    assert {rule[0] for rule in found} == set(letters)


@pytest.mark.counters_off
def test_a_batch_whose_books_do_not_agree_is_found(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(TABLES)
        connection.execute("select commandbus.sp_create_domain('pay')")
        connection.execute("select commandbus.sp_create_batch('pay', gen_random_uuid())")
        assert broken_rules(database_url, Ledger()).keys() == {"B: counters that differ from a recount"}
        connection.execute("update commandbus.batch set total_count = 1")
        assert {rule[0] for rule in broken_rules(database_url, Ledger())} == {"B"}
