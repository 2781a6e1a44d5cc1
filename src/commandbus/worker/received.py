"""A command in a worker's hands: what was delivered, and the lease that lets its attempt be ended."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from commandbus.errors import InvalidPayloadError
from commandbus.handlers import HandlerContext
from commandbus.models import Command, CommandMetadata, CommandStatus, Lease
from commandbus.payload import decode
from commandbus.repositories.command import Delivery

logger = logging.getLogger(__name__)

_STRAY = "STRAY"


@dataclass(slots=True, eq=False)
class ReceivedCommand:
    """One delivery of a command; whoever has it must settle it.

    Attributes:
        command: what was sent. Its data is None where it cannot be decoded, and `problem` says why.
        context: what a handler is given besides.
        lease: names this delivery to the database.
        problem: the error of undecodable data, or None.
        renewed_at: when the lease last began to hold for its usual time, by the monotonic clock.
        task: what runs its handler, or None.
        is_settling: whether its end is on the way to the database.
        is_lost: whether the lease was found to be somebody else's.
    """

    command: Command
    context: HandlerContext
    lease: Lease
    delivery: Delivery = field(repr=False)
    problem: InvalidPayloadError | None = None
    renewed_at: float = field(default_factory=time.monotonic)
    task: asyncio.Task[Any] | None = field(default=None, repr=False)
    is_settling: bool = False
    is_lost: bool = False

    @property
    def msg_id(self) -> int:
        """The message that delivered it."""
        return self.lease.msg_id

    @property
    def metadata(self) -> CommandMetadata:
        """The command's stored state as it was delivered."""
        row = self.delivery
        return CommandMetadata(
            domain=self.command.domain,
            command_id=row.command_id,
            command_type=row.command_type,
            status=CommandStatus.IN_PROGRESS,
            attempts=row.attempts,
            max_attempts=row.max_attempts,
            msg_id=row.msg_id,
            correlation_id=row.correlation_id,
            reply_to=row.reply_queue or None,
            last_error_type=None,
            last_error_code=None,
            last_error_msg=None,
            created_at=row.created_at,
            updated_at=row.created_at,
            batch_id=row.batch_id,
        )


def without_faults(domain: str, deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Return the deliveries that can be worked on; tell of the others, which the database has taken out of the queue.

    Messages without a command share one line: somebody who fills the queue past `CommandBus.send` fills no log.
    """
    good = [delivery for delivery in deliveries if delivery.fault is None]
    if len(good) == len(deliveries):
        return good
    stray = [delivery.msg_id for delivery in deliveries if delivery.fault == _STRAY]
    if stray:
        logger.warning(
            "messages without a command, taken out of the queue",
            extra={"domain": domain, "fault": _STRAY, "count": len(stray), "msg_id": stray[0]},
        )
    for delivery in deliveries:
        if delivery.fault not in (None, _STRAY):
            logger.warning(
                "message cannot be worked on, taken out of the queue",
                extra={
                    "domain": domain,
                    "fault": delivery.fault,
                    "msg_id": delivery.msg_id,
                    "command_id": delivery.command_id,
                },
            )
    return good


def to_received(domain: str, delivery: Delivery) -> ReceivedCommand:
    """Return a delivery as a received command; undecodable data becomes its problem, not an error."""
    problem = None
    data = None
    try:
        data = decode(delivery.data or "null")
    except InvalidPayloadError as error:
        problem = error
    command = Command(
        domain,
        delivery.command_type,
        delivery.command_id,
        data,
        delivery.correlation_id,
        delivery.reply_queue or None,
        delivery.created_at,
    )
    context = HandlerContext(command, delivery.attempts, delivery.max_attempts, delivery.msg_id, delivery.batch_id)
    lease = Lease(delivery.command_id, delivery.msg_id, delivery.read_ct)
    return ReceivedCommand(command, context, lease, delivery, problem)
