"""A command in a worker's hands: what was delivered, and the lease that lets its attempt be ended."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from commandbus.errors import InvalidPayloadError
from commandbus.handlers import Extender, HandlerContext
from commandbus.models import Command, CommandMetadata, CommandStatus, Lease
from commandbus.payload import decode
from commandbus.repositories.command import Delivery
from commandbus.retry import RELEASE, RetryPolicy, Settlement, settle_error
from commandbus.worker.places import place_of

logger = logging.getLogger(__name__)

_STRAY = "STRAY"


@dataclass(slots=True, eq=False)
class ReceivedCommand:
    """One delivery of a command; whoever has it must settle it.

    Attributes:
        command: what was sent. Its data is None where it cannot be decoded, and `problem` says why.
        context: what a handler is given besides.
        lease: names this delivery to the database.
        queued_at: when its message was put into the queue, by the monotonic clock.
        problem: the error of undecodable data, or None.
        end: what became of the attempt, once it has ended.
        task: what runs its handler, or None.
        is_settling: whether its end is on the way to the database.
        is_lost: whether the lease was found to be somebody else's.
    """

    command: Command
    context: HandlerContext
    lease: Lease
    queued_at: float
    problem: InvalidPayloadError | None = None
    end: Settlement = RELEASE
    task: asyncio.Task[Any] | None = field(default=None, repr=False)
    is_settling: bool = False
    is_lost: bool = False

    def failed(
        self, error: BaseException, policy: RetryPolicy, handler: Callable[..., Any] | None = None
    ) -> Settlement:
        """Return what an error means for its attempt, and where it came from."""
        return settle_error(
            error,
            attempt=self.context.attempt,
            max_attempts=self.context.max_attempts,
            policy=policy,
            place=place_of(error, handler),
        )

    @property
    def msg_id(self) -> int:
        """The message that delivered it."""
        return self.lease.msg_id

    @property
    def metadata(self) -> CommandMetadata:
        """The command's stored state as it was delivered."""
        command, context = self.command, self.context
        return CommandMetadata(
            domain=command.domain,
            command_id=command.command_id,
            command_type=command.command_type,
            status=CommandStatus.IN_PROGRESS,
            attempts=context.attempt,
            max_attempts=context.max_attempts,
            msg_id=context.msg_id,
            correlation_id=command.correlation_id,
            reply_to=command.reply_to,
            last_error_type=None,
            last_error_code=None,
            last_error_msg=None,
            created_at=command.created_at,
            updated_at=command.created_at,
            batch_id=context.batch_id,
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


def to_received(domain: str, delivery: Delivery, extender: Extender) -> ReceivedCommand:
    """Return a delivery as a received command; undecodable data becomes its problem, not an error.

    Nothing of it refers to itself, and there are few objects: what the collector has to find, or to look at again and
    again, would cost a worker more than all its own work.
    """
    (
        command_id,
        command_type,
        text,
        correlation_id,
        reply_queue,
        attempts,
        max_attempts,
        msg_id,
        read_ct,
        batch_id,
        created_at,
        waited,
        _,
    ) = delivery
    problem = data = None
    try:
        data = decode(text or "null")
    except InvalidPayloadError as error:
        problem = error
    command = Command(domain, command_type, command_id, data, correlation_id, reply_queue or None, created_at)
    lease = Lease(command_id, msg_id, read_ct)
    context = HandlerContext(command, attempts, max_attempts, msg_id, batch_id, None, lease, extender)
    return ReceivedCommand(command, context, lease, lease.renewed_at - (waited or 0.0), problem)
