"""A database as it looks on a working day: for the pictures of the console, and for looking at all its pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from commandbus.sync import Operations, Redrives, TroubleshootingQueue
from tests.e2e.handlers import DOMAIN
from tests.integration.console.browser import World, make_world
from tests.integration.sql_helpers import errors, open_bus

if TYPE_CHECKING:
    from uuid import UUID

    from commandbus.sync import CommandBusPool
    from tests.integration.sql_helpers import Bus

# Command type, error code, error message, reason, operator, name of the batch.
TEXTS = (
    (
        "DebitAccount",
        "ACCOUNT_CLOSED",
        "account 4711 was closed on 31 May",
        "asked by the customer",
        "ada",
        "Month end",
    ),
    (
        "CreditAccount",
        "LIMIT_EXCEEDED",
        "limit of 5000 EUR is exceeded by 250 EUR",
        "limit raised",
        "grace",
        "Salaries",
    ),
    ("SendStatement", "ADDRESS_UNKNOWN", "no address of customer 'A-77'", "moved away", "ada", "Statements of May"),
)
# Domain, command type, how many, error type, code, message.
FAILURES = (
    ("orders", "ChargeCard", 48, "TRANSIENT", "GATEWAY_TIMEOUT", "the gateway did not answer within 5000 ms"),
    ("orders", "ShipParcel", 21, "PERMANENT", "LABEL_REFUSED", "carrier refused label 88213: weight is missing"),
    ("mail", "SendReceipt", 36, "PERMANENT", "MAILBOX_FULL", "mailbox of customer 'A-12' is full"),
    ("orders", "ReserveStock", 9, "PERMANENT", "ARTICLE_UNKNOWN", "article 'X-9' is in no catalogue"),
)
THROUGHPUT = """
insert into commandbus.throughput
    (domain, seconds, at, completed, failed, retried, parked, enqueued, depth, oldest_at, waits, runs)
select %(domain)s, seconds, at, rate * tens, rate * tens / 40, rate * tens / 15, rate * tens / 60,
    (130 + 50 * cos(n / 7.0))::int * tens, 25 + (rate / 3), at - interval '2 s',
    array[0, 2, 9, 30, 60, 40, 12, 4, 1], array[0, 0, 1, 5, 20, 50, 30, 9, 2]
from (
    select p.seconds, p.seconds / 10 as tens, n * p.seconds / 10 as n,
        date_bin(make_interval(secs => p.seconds), now(), '2000-01-01 00:00:00+00')
            - n * make_interval(secs => p.seconds) as at,
        (%(scale)s * (110 + 60 * sin(n * p.seconds / 140.0) + 20 * sin(n * p.seconds / 30.0)))::int as rate
    from commandbus._pieces() p, generate_series(-60, 600) n
    where n * p.seconds between -600 and 6000
) m
"""
WORKERS = """
insert into commandbus.worker (worker_id, domain, host, pid, concurrency, in_flight, started_at, seen_at)
select gen_random_uuid(), domain, host, pid, 10, busy, now() - interval '5 h', now()
from (values ('pay', 'worker-1', 812, 4), ('orders', 'worker-1', 813, 9), ('orders', 'worker-2', 644, 7),
             ('mail', 'worker-2', 645, 3)) w (domain, host, pid, busy)
"""


def make_showroom(pool: CommandBusPool, url: str) -> World:
    """Fill a migrated database; return what stands in the domain "pay"."""
    world = make_world(url, TEXTS)
    with open_bus(url) as bus:
        for domain in ("orders", "mail", "reports", "exports"):
            bus.create_domain(domain)
        for domain, kind, count, error, code, message in FAILURES:
            _fail(bus, domain, kind, count, error, code, message)
        for redrive_id in world.redrives[:-1]:
            Redrives(pool).stop(redrive_id, "ada", "the other one will do")
        world.redrives.insert(0, _half_a_redrive(bus, pool))
        for domain, scale in ((DOMAIN, 0.6), ("orders", 1.0), ("mail", 0.4)):
            bus.connection.execute(THROUGHPUT, {"domain": domain, "scale": scale})
            bus.send_new(30, domain=domain, kind="ReserveStock")
            bus.receive(limit=3, timeout=3600, domain=domain)
        bus.send_new(12, domain="exports", kind="ExportOrders")
        bus.run(WORKERS)
        Operations(pool).pause("reports", "grace", "the warehouse is being moved")
    return world


def beat(url: str) -> None:
    """Let the workers be seen now."""
    with open_bus(url) as bus:
        bus.run("update commandbus.worker set seen_at = now()")


def _fail(bus: Bus, domain: str, kind: str, count: int, error: str, code: str, message: str) -> None:
    bus.send_new(count, domain=domain, kind=kind)
    received = bus.receive(limit=count, domain=domain)
    facts = errors(count, error) | {"error_codes": [code] * count, "error_msgs": [message] * count}
    bus.settle(received, "TROUBLESHOOT", domain=domain, **facts)


def _half_a_redrive(bus: Bus, pool: CommandBusPool) -> UUID:
    (group,) = [g for g in TroubleshootingQueue(pool).list_failure_groups("orders") if g.command_type == "ChargeCard"]
    redrive_id = Redrives(pool).start(
        "orders", rate=2, failure_key=group.failure_key, stop_after=10, operator="ada", reason="the gateway is back"
    )
    bus.run("update commandbus.redrive set stepped_at = now() - interval '15 s' where redrive_id = %s", redrive_id)
    bus.call("sp_step_redrives", domain="orders")
    received = [row for row in bus.receive(limit=200, domain="orders") if row["command_type"] == "ChargeCard"]
    half = len(received) * 2 // 3
    bus.settle(received[:half], "COMPLETED", domain="orders")
    return redrive_id
