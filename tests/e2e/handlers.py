"""Handlers of the console's browser tests: for a real worker, and for the models that check what operators write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from commandbus import HandlerRegistry, PermanentCommandError

if TYPE_CHECKING:
    from commandbus import Command, HandlerContext

DOMAIN = "pay"

registry = HandlerRegistry()


class Debit(BaseModel):
    """What a debit must say."""

    amount: int = Field(gt=0)
    currency: str


@registry.handler(DOMAIN, "DebitAccount")
async def debit(debit: Debit, _: HandlerContext) -> dict[str, int]:
    """Always work."""
    return {"debited": debit.amount}


@registry.handler(DOMAIN, "Ship")
async def ship(_command: Command, _context: HandlerContext) -> None:
    """Always work: what was missing is there again."""


@registry.handler(DOMAIN, "Print")
async def print_label(_command: Command, _context: HandlerContext) -> None:
    """Never work."""
    raise PermanentCommandError("OUT_OF_PAPER", "the printer has no paper")
