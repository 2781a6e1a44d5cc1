"""The demo's handlers: what `commandbus worker commandbus.demo.handlers:registry` runs."""

from typing import Any

from pydantic import BaseModel

from commandbus.demo.plan import BOOK_PAYMENT, DOMAIN, FETCH_RATE, SEND_RECEIPT, Fate
from commandbus.errors import BusinessRuleException, PermanentCommandError, TransientCommandError
from commandbus.handlers import HandlerContext, HandlerRegistry
from commandbus.models import Command

TABLES = """
    create schema commandbus_demo;
    create table commandbus_demo.effect (
        command_id uuid        not null, -- not unique: what was done twice must show
        booked_at  timestamptz not null default clock_timestamp()
    );
    create table commandbus_demo.unlocking (operator text not null);
"""

registry = HandlerRegistry()


class Payment(BaseModel):
    """The data of a BookPayment command."""

    number: int
    fate: Fate


@registry.handler(DOMAIN, SEND_RECEIPT)
def send_receipt(command: Command, _: HandlerContext) -> dict[str, Any]:
    """Send a receipt; a plain function, run in a thread."""
    if command.data["fate"] == Fate.NO_ADDRESS:
        raise BusinessRuleException("NO_ADDRESS", "the customer wants no receipts")
    return {"sent": command.data["number"]}


@registry.handler(DOMAIN, FETCH_RATE)
async def fetch_rate(command: Command, context: HandlerContext) -> dict[str, Any]:
    """Fetch a rate from a service that is sometimes not there at first."""
    if command.data["fate"] == Fate.FLAKY and context.attempt == 1:
        raise TransientCommandError("SERVICE_BUSY", "the rate service did not answer")
    return {"rate": 1.0}


@registry.handler(DOMAIN, BOOK_PAYMENT, transactional=True)
async def book_payment(payment: Payment, context: HandlerContext) -> None:
    """Book a payment, in the transaction that completes the command."""
    await context.connection.execute(
        "insert into commandbus_demo.effect (command_id) values (%s)", (context.command_id,)
    )
    if payment.fate is Fate.CLOSED:
        raise PermanentCommandError("ACCOUNT_CLOSED", "the account was closed")
    if payment.fate is Fate.LOCKED and not await _are_unlocked(context):
        raise PermanentCommandError("ACCOUNT_LOCKED", "the account is locked")


async def _are_unlocked(context: HandlerContext) -> bool:
    cursor = await context.connection.execute("select from commandbus_demo.unlocking limit 1")
    return cursor.rowcount == 1
