"""The shop behind `commandbus demo --console`: handlers that succeed, stumble and fail as a real one's would."""

import asyncio
import random
from typing import Any

from pydantic import BaseModel, Field

from commandbus.errors import BusinessRuleException, PermanentCommandError, TransientCommandError
from commandbus.handlers import HandlerContext, HandlerRegistry
from commandbus.models import Command

ORDERS, BILLING, MAIL, REPORTS, EXPORTS = "orders", "billing", "mail", "reports", "exports"

registry = HandlerRegistry()
_chance = random.Random()  # noqa: S311  (a demo's luck)


class Payment(BaseModel):
    """The data of commands about money; what an operator edits is checked by it."""

    customer: str = Field(min_length=1)
    amount: float = Field(gt=0)
    account: str = Field(pattern="[A-Z]{2}[0-9]{6}")


@registry.handler(ORDERS, "ReserveStock")
async def reserve_stock(command: Command, _: HandlerContext) -> dict[str, Any]:
    """Mostly works, and tells what it reserved."""
    await _work(0.02, 0.12)
    if _happens(0.02):
        raise BusinessRuleException("OUT_OF_STOCK", f"article {command.data['article']} is sold out")
    return {"reserved": command.data["article"]}


@registry.handler(ORDERS, "ChargeCard")
async def charge_card(payment: Payment, _: HandlerContext) -> dict[str, Any]:
    """Goes through a gateway that is slow at times."""
    await _work(0.05, 0.6)
    if _happens(0.05):
        raise TransientCommandError("GATEWAY_TIMEOUT", f"no answer after {_chance.randint(900, 4_000)} ms")
    if _happens(0.02):
        raise PermanentCommandError("CARD_DECLINED", f"the card of customer {payment.customer} was declined")
    return {"charged": payment.amount}


@registry.handler(ORDERS, "ShipParcel")
async def ship_parcel(command: Command, _: HandlerContext) -> None:
    """Needs an address."""
    await _work(0.03, 0.2)
    if _happens(0.01):
        raise PermanentCommandError("ADDRESS_UNKNOWN", f'no street "{command.data["street"]}" in this town')


@registry.handler(BILLING, "BookPayment")
async def book_payment(payment: Payment, _: HandlerContext) -> dict[str, Any]:
    """Meets closed accounts."""
    await _work(0.01, 0.08)
    if _happens(0.015):
        raise PermanentCommandError("ACCOUNT_CLOSED", f"account {payment.account} was closed")
    return {"booked": payment.amount}


@registry.handler(BILLING, "CreateInvoice")
async def create_invoice(command: Command, _: HandlerContext) -> dict[str, Any]:
    """Fails in a way that nobody has thought of."""
    await _work(0.05, 0.3)
    if _happens(0.01):
        raise KeyError("tax_rate")
    return {"invoice": command.data["number"]}


@registry.handler(MAIL, "SendReceipt")
async def send_receipt(command: Command, _: HandlerContext) -> None:
    """Depends on somebody else's server."""
    await _work(0.02, 0.25)
    if _happens(0.12):
        raise TransientCommandError("SMTP_BUSY", "421 try again later")
    if _happens(0.005):
        raise PermanentCommandError("MAILBOX_UNKNOWN", f"550 no such mailbox {command.data['to']}")


@registry.handler(REPORTS, "BuildReport")
async def build_report(_: Command, __: HandlerContext) -> None:
    """Takes its time."""
    await _work(0.5, 3.0)


def make_data(command_type: str) -> dict[str, Any]:
    """Return data for a command."""
    customer = f"c-{_chance.randint(1_000, 9_999)}"
    match command_type:
        case "ReserveStock":
            return {"article": f"A-{_chance.randint(100, 140)}", "pieces": _chance.randint(1, 5)}
        case "ChargeCard" | "BookPayment":
            account = f"DE{_chance.randint(100_000, 999_999)}"
            return {"customer": customer, "amount": _chance.randint(500, 20_000) / 100, "account": account}
        case "ShipParcel":
            return {"customer": customer, "street": _chance.choice(("Elm Road", "Mill Lane", "Main Street"))}
        case "CreateInvoice":
            return {"number": _chance.randint(10_000, 99_999), "customer": customer}
        case "SendReceipt":
            return {"to": f"{customer}@example.org", "order": _chance.randint(10_000, 99_999)}
        case _:
            return {"month": f"2030-{_chance.randint(1, 12):02}"}


async def _work(least: float, most: float) -> None:
    await asyncio.sleep(_chance.uniform(least, most))


def _happens(chance: float) -> bool:
    return _chance.random() < chance
