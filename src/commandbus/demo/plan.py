"""What the demo sends, and what must have become of it in the end."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import uuid4

from commandbus.models import BatchCommand

DOMAIN = "demo"
MOST_COMMANDS = 1_000_000

SEND_RECEIPT = "SendReceipt"
FETCH_RATE = "FetchRate"
BOOK_PAYMENT = "BookPayment"


class Fate(StrEnum):
    """What will happen to a command; its handler finds it in the data."""

    SMOOTH = "smooth"
    NO_ADDRESS = "no address"  # SendReceipt: the business says no
    FLAKY = "flaky"  # FetchRate: the first attempt fails
    LOCKED = "locked"  # BookPayment: fails until an operator has unlocked the accounts
    CLOSED = "closed"  # BookPayment: never works


@dataclass(frozen=True, slots=True)
class Plan:
    """The commands of one run.

    Attributes:
        commands: in the order they are sent, the three types in turn.
        fates: how many commands have which fate.
    """

    commands: Sequence[BatchCommand]
    fates: Counter[Fate]

    def expected_statuses(self) -> dict[str, int]:
        """Return how many commands must end in which status."""
        closed, refused = self.fates[Fate.CLOSED], self.fates[Fate.NO_ADDRESS]
        return {"CANCELED": closed, "COMPLETED": len(self.commands) - closed - refused, "FAILED": refused}

    def expected_events(self) -> dict[str, int]:
        """Return how many audit events of which type there must be; RECEIVED is left out, it may repeat."""
        statuses = self.expected_statuses()
        locked, closed = self.fates[Fate.LOCKED], self.fates[Fate.CLOSED]
        return {
            "BATCH_COMPLETED": 1,
            "BATCH_STARTED": 1,
            "BUSINESS_RULE_FAILED": statuses["FAILED"],
            "COMPLETED": statuses["COMPLETED"],
            "MOVED_TO_TSQ": locked + 2 * closed,
            "OPERATOR_CANCEL": closed,
            "OPERATOR_RETRY": locked + closed,
            "RETRY_SCHEDULED": self.fates[Fate.FLAKY],
            "SENT": len(self.commands),
        }


def make_plan(count: int) -> Plan:
    """Return a plan of *count* commands, at least one of each fate from 100 on."""
    chosen = [_choose(number) for number in range(count)]
    commands = [
        BatchCommand(command_type, uuid4(), {"number": number, "fate": fate})
        for number, (command_type, fate) in enumerate(chosen)
    ]
    return Plan(commands, Counter(fate for _, fate in chosen))


def _choose(number: int) -> tuple[str, Fate]:
    """Return a command's type and fate; the same for the same number."""
    turn = number // 3
    match number % 3:
        case 0:
            special = {3: Fate.LOCKED, 7: Fate.CLOSED}.get(turn % 30, Fate.SMOOTH)
            return BOOK_PAYMENT, special
        case 1:
            return FETCH_RATE, Fate.FLAKY if turn % 10 == 1 else Fate.SMOOTH
        case _:
            return SEND_RECEIPT, Fate.NO_ADDRESS if turn % 25 == 2 else Fate.SMOOTH
