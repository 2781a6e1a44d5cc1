"""sp_send_commands, sp_send_command and send_to_<domain>: what a send stores, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from tests.integration.sql_helpers import (
    DOMAIN,
    QUEUE,
    REPLIES,
    Bus,
    in_thread,
    json_text,
    new_ids,
    open_bus,
    refusal,
    send_one,
    send_own,
    send_set,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bus(database_url: str) -> Iterator[Bus]:
    """Give a database with one domain."""
    with open_bus(database_url) as found:
        found.create_domain()
        yield found


Send = Callable[..., int]
ANY_DOMAIN = pytest.mark.parametrize("send", [send_one, send_set])
EACH = pytest.mark.parametrize("send", [send_one, send_own, send_set])


@EACH
def test_a_send_stores_row_message_and_audit(bus: Bus, send: Send) -> None:
    command_id, correlation_id = uuid4(), uuid4()
    msg_id = send(
        bus,
        command_id=command_id,
        data=Jsonb({"amount": 7}),
        correlation_id=correlation_id,
        reply_queue=REPLIES,
        max_attempts=5,
    )

    row = bus.command(command_id)
    (message,) = bus.queue()
    (sent,) = bus.trail(command_id)
    assert {
        "domain": DOMAIN,
        "queue_name": QUEUE,
        "msg_id": msg_id,
        "command_type": "charge",
        "status": "PENDING",
        "attempts": 0,
        "max_attempts": 5,
        "reply_queue": REPLIES,
        "correlation_id": correlation_id,
        "batch_id": None,
        "read_ct": None,
        "finished_at": None,
    }.items() <= row.items()
    assert (message["msg_id"], message["read_ct"]) == (msg_id, 0)
    created_at = message["message"].pop("created_at")
    assert message["message"] == {
        "command_id": str(command_id),
        "command_type": "charge",
        "domain": DOMAIN,
        "data": {"amount": 7},
        "correlation_id": str(correlation_id),
        "reply_to": REPLIES,
    }
    assert bus.value("select %s::timestamptz = %s", created_at, row["created_at"])
    assert (sent["event_type"], sent["msg_id"], sent["attempt"], sent["details"]) == ("SENT", msg_id, None, None)


@EACH
def test_defaults_are_the_commands_own_id_as_correlation_no_reply_and_three_attempts(bus: Bus, send: Send) -> None:
    command_id = uuid4()
    send(bus, command_id=command_id)
    row = bus.command(command_id)
    body = bus.queue()[0]["message"]
    assert (row["correlation_id"], row["reply_queue"], row["max_attempts"]) == (command_id, "", 3)
    assert (body["correlation_id"], body["reply_to"]) == (str(command_id), None)


@EACH
def test_a_null_takes_the_default(bus: Bus, send: Send) -> None:
    command_id = uuid4()
    send(bus, command_id=command_id, correlation_id=None, reply_queue=None, max_attempts=None)
    row = bus.command(command_id)
    assert (row["correlation_id"], row["reply_queue"], row["max_attempts"]) == (command_id, "", 3)


def test_a_set_is_queued_in_the_order_given(bus: Bus) -> None:
    command_ids = new_ids(50)
    msg_ids = bus.send(*command_ids)
    assert [UUID(row["message"]["command_id"]) for row in bus.queue()] == command_ids
    assert sorted(command_ids, key=msg_ids.__getitem__) == command_ids
    assert [row["message"]["data"]["n"] for row in bus.queue()] == list(range(50))
    assert {c: bus.command(c)["msg_id"] for c in command_ids} == msg_ids


def test_a_send_joins_its_batch_and_counts_in_it(bus: Bus) -> None:
    batch_id = bus.create_batch()
    command_ids = bus.send_new(3, batch_id=batch_id)
    assert bus.counts(batch_id) == (3, 0, 0, 0, 0)
    assert {bus.command(c)["batch_id"] for c in command_ids} == {batch_id}


def test_ten_thousand_commands_go_in_one_call_and_none_or_more_do_not(bus: Bus) -> None:
    bus.send_new(10_000)
    assert len(bus.queue()) == 10_000
    for count in (0, 10_001):
        with refusal("CB007", "commands: 1 to 10,000 per call"):
            bus.send_new(count)


@EACH
def test_a_duplicate_is_refused_and_nothing_is_sent(bus: Bus, send: Send) -> None:
    (known,) = bus.send_new()
    before = bus.everything()
    with refusal("CB001", str(known)):
        send(bus, command_id=known)
    assert bus.everything() == before


def test_one_duplicate_refuses_the_whole_set(bus: Bus) -> None:
    (known,) = bus.send_new()
    before = bus.everything()
    with refusal("CB001", str(known)):
        bus.send(*new_ids(3), known, *new_ids(3))
    assert bus.everything() == before


def test_a_command_twice_in_one_call_is_refused(bus: Bus) -> None:
    twice = uuid4()
    before = bus.everything()
    with refusal("CB001", str(twice)):
        bus.send(twice, uuid4(), twice)
    assert bus.everything() == before


def test_the_same_id_in_another_domain_is_another_command(bus: Bus) -> None:
    bus.create_domain("ship")
    command_id = uuid4()
    bus.send(command_id)
    bus.send(command_id, domain="ship")
    assert [row["find_domains"] for row in bus.call("find_domains", command_id=command_id)] == [DOMAIN, "ship"]


def test_an_idempotent_send_returns_the_first_msg_id_and_sends_only_what_is_new(bus: Bus) -> None:
    batch_id = bus.create_batch()
    known, new = uuid4(), uuid4()
    first = bus.send(known, batch_id=batch_id)
    again = bus.send(known, new, batch_id=batch_id, idempotent=True)
    assert again[known] == first[known]
    assert again[new] == bus.command(new)["msg_id"]
    assert [UUID(row["message"]["command_id"]) for row in bus.queue()] == [known, new]
    assert bus.queue()[1]["message"]["data"] == {"n": 1}
    assert bus.counts(batch_id) == (2, 0, 0, 0, 0)
    assert bus.events(known) == ["SENT"]


def test_an_idempotent_send_of_known_commands_changes_nothing(bus: Bus) -> None:
    command_ids = new_ids(3)
    first = bus.send(*command_ids)
    before = bus.everything()
    assert bus.send(*command_ids, idempotent=True) == first
    assert bus.everything() == before


def test_an_idempotent_send_refuses_a_known_id_of_another_type(bus: Bus) -> None:
    known = uuid4()
    bus.send(known)
    before = bus.everything()
    with refusal("CB001", str(known)):
        bus.send(uuid4(), known, kind="refund", idempotent=True)
    assert bus.everything() == before


def test_a_command_twice_in_one_idempotent_call_is_sent_once(bus: Bus) -> None:
    twice, other = uuid4(), uuid4()
    rows = bus.call(
        "sp_send_commands",
        domain=DOMAIN,
        command_ids=[twice, other, twice],
        command_types=["charge"] * 3,
        data=[Jsonb({})] * 3,
        idempotent=True,
    )
    assert sorted(row["message"]["command_id"] for row in bus.queue()) == sorted([str(twice), str(other)])
    assert {(row["command_id"], row["msg_id"]) for row in rows} == {
        (command_id, bus.command(command_id)["msg_id"]) for command_id in (twice, other)
    }


@ANY_DOMAIN
def test_a_domain_without_queue_is_refused(bus: Bus, send: Send) -> None:
    with refusal("CB005", "nowhere"):
        send(bus, domain="nowhere")


BAD_DOMAINS = [None, "", "Pay", "1pay", "pay-1", "pay\n", "p" * 38, 'pay"; drop table x', "päy", "pay__commands "]


@ANY_DOMAIN
def test_a_domain_with_a_bad_name_is_refused(bus: Bus, send: Send) -> None:
    for domain in BAD_DOMAINS:
        with refusal("CB007", "domain: must match"):
            send(bus, domain=domain)


def test_a_domain_of_37_letters_works(bus: Bus) -> None:
    domain = "d" * 37
    bus.create_domain(domain)
    bus.send_new(domain=domain)
    assert len(bus.receive(domain=domain)) == 1


NO_REPLY_QUEUES = ["no__replies", QUEUE, "ship__commands", "pay", "pay__replies ", "x" * 300, '"', "meta"]


@EACH
def test_a_reply_queue_that_is_none_is_refused(bus: Bus, send: Send) -> None:
    bus.create_domain("ship")
    before = bus.everything()
    for reply_queue in NO_REPLY_QUEUES:
        with refusal("CB005", "reply_to"):
            send(bus, reply_queue=reply_queue)
    assert bus.everything() == before


def test_a_reply_may_go_to_the_reply_queue_of_another_domain(bus: Bus) -> None:
    bus.create_domain("ship")
    (command_id,) = bus.send_new(reply_queues=["ship__replies"])
    bus.settle(bus.receive(), "COMPLETED")
    assert [reply["command_id"] for reply in bus.replies("ship__replies")] == [str(command_id)]


def test_a_batch_that_is_missing_or_another_domains_is_refused(bus: Bus) -> None:
    bus.create_domain("ship")
    for batch_id in (uuid4(), bus.create_batch("ship")):
        with refusal("CB004", str(batch_id)):
            bus.send_new(batch_id=batch_id)
    assert bus.queue() == []


def test_a_complete_batch_takes_nothing_more(bus: Bus) -> None:
    batch_id = bus.create_batch()
    bus.send_new(batch_id=batch_id)
    bus.settle(bus.receive(), "COMPLETED")
    before = bus.everything()
    with refusal("CB006", "complete"):
        bus.send_new(batch_id=batch_id)
    assert bus.everything() == before


def test_a_send_that_waited_for_the_batchs_last_command_is_refused(bus: Bus) -> None:
    batch_id = bus.create_batch()
    bus.send_new(batch_id=batch_id)
    received = bus.receive()
    with open_bus(bus.url) as watcher, open_bus(bus.url) as sender:
        bus.run("begin")
        bus.settle(received, "COMPLETED")
        with in_thread(lambda: sender.send_new(batch_id=batch_id)) as late:
            watcher.wait_until_blocked()
            bus.run("commit")
            with refusal("CB006"):
                late.result()
    assert bus.counts(batch_id) == (1, 1, 0, 0, 0)
    assert bus.queue() == []


@EACH
def test_max_attempts_is_1_to_1000(bus: Bus, send: Send) -> None:
    for max_attempts in (0, -1, 1001):
        with refusal("CB007", "max_attempts"):
            send(bus, max_attempts=max_attempts)
    assert [send(bus, max_attempts=n) for n in (1, 1000)] == [row["msg_id"] for row in bus.queue()]


@EACH
def test_what_a_command_needs_must_not_be_null(bus: Bus, send: Send) -> None:
    for missing in ("command_id", "command_type", "data"):
        with refusal("CB007", "must not be null"):
            send(bus, **{missing: None})
    assert bus.queue() == []


@EACH
def test_data_of_the_largest_size_is_sent_and_one_byte_more_is_refused(bus: Bus, send: Send) -> None:
    largest = "x" * (10_000 - 2)
    send(bus, data=Jsonb(largest), max_payload_bytes=10_000)
    with refusal("CB007", "data: larger than 10000 bytes"):
        send(bus, data=Jsonb(largest + "x"), max_payload_bytes=10_000)
    assert len(bus.queue()) == 1


@EACH
def test_the_default_limit_is_256_kib(bus: Bus, send: Send) -> None:
    with refusal("CB007", "data: larger than 262144 bytes"):
        send(bus, data=Jsonb("x" * 262_144))


@EACH
def test_short_numbers_that_are_long_as_text_count_as_text(bus: Bus, send: Send) -> None:
    numbers = "[" + ",".join(["1e5000"] * 1000) + "]"
    with refusal("CB007", "data: larger than"):
        send(bus, data=json_text(numbers))


def test_data_that_is_stored_compressed_counts_as_text(bus: Bus) -> None:
    bus.run("create table public.outbox (data jsonb)")
    bus.run("""insert into public.outbox values (to_jsonb(repeat('a', 1000000)))""")
    for call in (
        "commandbus.sp_send_command('pay', gen_random_uuid(), 'charge', data)",
        "commandbus.send_to_pay(gen_random_uuid(), 'charge', data)",
        "commandbus.sp_send_commands('pay', array[gen_random_uuid()], array['x'], array_agg(data))",
    ):
        with refusal("CB007", "data: larger than"):
            bus.rows(f"select {call} from public.outbox")


@pytest.mark.parametrize("count", [1, 3])
def test_arrays_of_different_length_are_refused(bus: Bus, count: int) -> None:
    arrays: dict[str, object] = {
        "command_types": "charge",
        "data": Jsonb({}),
        "correlation_ids": uuid4(),
        "reply_queues": REPLIES,
        "max_attempts": 3,
    }
    for name, value in arrays.items():
        with refusal("CB007", "one element per command"):
            bus.send_new(2, **{name: [value] * count})
    assert bus.queue() == []


def test_a_connection_that_has_sent_notices_a_queue_that_was_dropped_and_made_again(bus: Bus) -> None:
    for _ in range(7):  # more often than a plan is made for each call
        send_own(bus)
    bus.rows("select pgmq.drop_queue(%s)", QUEUE)
    with refusal("CB005", 'domain "pay" has no command queue'):
        send_own(bus)
    bus.create_domain()
    assert [send_own(bus), send_own(bus)] == [message["msg_id"] for message in bus.queue()]


def test_making_a_domain_brings_a_missing_send_function_back(bus: Bus) -> None:
    bus.run("drop function commandbus.send_to_pay")
    assert bus.result("sp_create_domain", domain=DOMAIN) is True
    assert send_own(bus) == 1
    assert bus.result("sp_create_domain", domain=DOMAIN) is False
