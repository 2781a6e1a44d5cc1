"""`commandbus demo --console`: a shop that goes on by itself on a scratch server, and the console to look at it."""

import logging
import math
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from uuid import uuid4

from commandbus.demo.shop import BILLING, EXPORTS, MAIL, ORDERS, REPORTS, make_data, registry
from commandbus.demo.show import say
from commandbus.demo.stage import interruptible, scratch_directory, scratch_server, workers
from commandbus.errors import CommandBusError
from commandbus.migrate import migrate
from commandbus.models import BatchCommand, RedriveStatus, SendRequest
from commandbus.sync import CommandBus, CommandBusPool, Operations, PgmqClient, Redrives, TroubleshootingQueue

logger = logging.getLogger(__name__)

HANDLERS = "commandbus.demo.shop:registry"
_CREWS = ((ORDERS, 2, 10), (BILLING, 1, 10), (MAIL, 1, 20), (REPORTS, 1, 4))  # domain, processes, concurrency
# How many commands per second, in the mean.
_PACE = (
    (ORDERS, "ReserveStock", 5.0),
    (ORDERS, "ChargeCard", 4.0),
    (ORDERS, "ShipParcel", 3.0),
    (BILLING, "BookPayment", 4.0),
    (BILLING, "CreateInvoice", 2.0),
    (MAIL, "SendReceipt", 8.0),
    (REPORTS, "BuildReport", 0.3),
)
_REPLIES = f"{ORDERS}__replies"
_TIDE = 240  # seconds from one rush to the next
_BATCH = 60
_chance = random.Random()  # noqa: S311  (a demo's luck)


def run_console(port: int | None) -> None:
    """Serve a console on a shop of its own until it is interrupted; nothing is left behind.

    Raises:
        EmbeddedServerError: there is no server to be had.
        InvalidArgumentError: the console cannot listen there.
        ModuleNotFoundError: the extra "console" is not installed.
    """
    from commandbus.console import ConsoleSettings, check_address, serve, url_of

    settings = ConsoleSettings.load() if port is None else ConsoleSettings.load(port=port)
    check_address(settings)
    with interruptible(), ExitStack() as stack:
        directory = stack.enter_context(scratch_directory(False))
        server = stack.enter_context(scratch_server(directory, False))
        say("migrating")
        migrate(server.url())
        url = server.url()
        pool = stack.enter_context(
            CommandBusPool(database_url=url, listen_database_url=None, pgbouncer=False, pool_max_size=20)
        )
        open_shop(pool)
        say("starting workers")
        for domain, processes, concurrency in _CREWS:
            options = ("--retry-delays", "1,4", "--concurrency", str(concurrency))
            stack.enter_context(
                workers(url, processes, directory / f"{domain}.log", domain=domain, handlers=HANDLERS, options=options)
            )
        stack.enter_context(going_on(pool))
        say(f"its database, for other programs: COMMANDBUS_DATABASE_URL={url!r}")
        serve(pool, settings, registry, lambda: say(f"console on {url_of(settings)}; end it with Ctrl-C"))
        say("closing the shop")


def open_shop(pool: CommandBusPool) -> None:
    """Make the domains; one is paused, and on one nobody works."""
    bus = CommandBus(pool)
    for domain in (ORDERS, BILLING, MAIL, REPORTS, EXPORTS):
        bus.create_domain(domain)
    Operations(pool).pause(REPORTS, "grace", "the warehouse is being moved")
    bus.send_batch([SendRequest(EXPORTS, "ExportOrders", uuid4(), {"day": day}) for day in range(1, 13)])


@contextmanager
def going_on(pool: CommandBusPool) -> Iterator[None]:
    """Let customers order and operators decide in the background."""
    end = threading.Event()
    thread = threading.Thread(target=_go_on, args=(pool, end), name="shop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _go_on(pool: CommandBusPool, end: threading.Event) -> None:
    shop, second = Shop(pool), 0
    while not end.wait(1.0):
        second += 1
        try:
            shop.live(second)
        except CommandBusError as error:
            logger.warning("the shop stumbled", extra={"error": str(error)})


class Shop:
    """Who sends, who takes replies, and who decides."""

    def __init__(self, pool: CommandBusPool) -> None:
        self._bus = CommandBus(pool)
        self._queues = PgmqClient(pool)
        self._tsq = TroubleshootingQueue(pool)
        self._redrives = Redrives(pool)

    def live(self, second: int) -> None:
        """Do what is due in this second."""
        self.order(second)
        self.take_replies()
        if second % 25 == 2:
            self.invoice()
        if second % 30 == 15:
            self.decide()
        if second % 40 == 20:
            self.redrive()

    def order(self, second: int) -> None:
        """Send what customers want: more at some times than at others."""
        tide = 1 + 0.6 * math.sin(2 * math.pi * second / _TIDE)
        requests = [
            SendRequest(domain, kind, uuid4(), make_data(kind), reply_to=_REPLIES if domain == ORDERS else None)
            for domain, kind, pace in _PACE
            for _ in range(_about(pace * tide))
        ]
        if requests:
            self._bus.send_batch(requests)

    def take_replies(self) -> None:
        """Empty the reply queue, as the web shop would."""
        for message in self._queues.read(_REPLIES, batch_size=100):
            self._queues.delete(_REPLIES, message.msg_id)

    def invoice(self) -> None:
        """Send invoices as a batch."""
        commands = [BatchCommand("CreateInvoice", uuid4(), make_data("CreateInvoice")) for _ in range(_BATCH)]
        self._bus.create_batch(BILLING, commands, name=f"Invoices {datetime.now(UTC):%H:%M:%S}")

    def decide(self) -> None:
        """Decide about some commands that wait, as operators do."""
        for domain in self._tsq.list_domains():
            waiting = self._tsq.list_command_ids(domain)[:5]
            if len(waiting) == 5:
                self._tsq.retry_many(domain, waiting[:3], "ada")
                self._tsq.cancel_many(domain, waiting[3:4], "the customer called it off", "grace")

    def redrive(self) -> None:
        """Send the largest group of failures again, slowly, unless that is under way."""
        if any(redrive.status is RedriveStatus.RUNNING for redrive in self._redrives.list(limit=10)):
            return
        for group in self._tsq.list_failure_groups(limit=1):
            rate = max(group.waiting / 45, 0.05)
            reason = f"{group.error_code or group.error_type} was mended"
            self._redrives.start(
                group.domain, rate=rate, failure_key=group.failure_key, stop_after=20, operator="ada", reason=reason
            )


def _about(mean: float) -> int:
    """Return a whole number that is *mean* on average."""
    return int(mean * _chance.uniform(0.6, 1.4) + _chance.random())
