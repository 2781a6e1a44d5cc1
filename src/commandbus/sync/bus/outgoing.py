# Printed from ../../bus/outgoing.py by tools/async_to_sync.py; edit that file.
"""What is to be sent: every part checked, and put into sets."""

from collections.abc import Sequence
from uuid import UUID

from commandbus.errors import InvalidArgumentError
from commandbus.models import BatchCommand, SendRequest
from commandbus.payload import check_command_type, check_count, check_domain, check_reply_queue, check_uuid, encode
from commandbus.retry import MAX_ATTEMPTS
from commandbus.sync.repositories.command import OutgoingCommand

Target = tuple[str, UUID | None]  # domain and batch
Chunk = tuple[Target, list[tuple[int, OutgoingCommand]]]  # with each command's place in the request
Targets = dict[Target, list[tuple[int, OutgoingCommand]]]


class Checker:
    """Makes commands of what users pass, by the limits of one bus.

    Args:
        max_payload_bytes: largest data of a command, as JSON.
        default_max_attempts: for commands without their own, 1 to 1,000.

    Raises:
        InvalidArgumentError: *default_max_attempts* is out of its range.
    """

    def __init__(self, max_payload_bytes: int, default_max_attempts: int) -> None:
        self._max_payload_bytes = max_payload_bytes
        self._default_max_attempts = check_count(default_max_attempts, "default_max_attempts", 1, MAX_ATTEMPTS)

    def encode(self, data: object, field: str) -> str:
        """Return the JSON text of *data*; an error names *field*."""
        return encode(data, field, self._max_payload_bytes)

    def command(
        self,
        command_type: str,
        command_id: UUID,
        data: object,
        correlation_id: UUID | None,
        reply_to: str | None,
        max_attempts: int | None,
    ) -> OutgoingCommand:
        """Return a command whose every part was checked."""
        return OutgoingCommand(
            check_uuid(command_id, "command_id"),
            check_command_type(command_type),
            self.encode(data, "data"),
            None if correlation_id is None else check_uuid(correlation_id, "correlation_id"),
            None if reply_to is None else check_reply_queue(reply_to),
            self._default_max_attempts
            if max_attempts is None
            else check_count(max_attempts, "max_attempts", 1, MAX_ATTEMPTS),
        )

    def command_of(self, asked: SendRequest | BatchCommand, where: str) -> OutgoingCommand:
        """Return a checked command; an error names its place in the list."""
        try:
            return self.command(
                asked.command_type,
                asked.command_id,
                asked.data,
                asked.correlation_id,
                asked.reply_to,
                asked.max_attempts,
            )
        except InvalidArgumentError as error:
            raise InvalidArgumentError(where, str(error)) from None

    def by_target(self, requests: Sequence[SendRequest]) -> Targets:
        """Return (index, command) lists for each (domain, batch) in the order of their first appearance."""
        targets: Targets = {}
        for index, request in enumerate(requests):
            where = f"requests[{index}]"
            command = self.command_of(request, where)
            batch_id = None if request.batch_id is None else check_uuid(request.batch_id, f"{where}.batch_id")
            target = (check_domain(request.domain, f"{where}.domain"), batch_id)
            targets.setdefault(target, []).append((index, command))
        return targets


def chunked(targets: Targets, size: int) -> list[Chunk]:
    """Return sets of at most *size* commands that go to the same domain and batch."""
    return [
        (target, commands[start : start + size])
        for target, commands in targets.items()
        for start in range(0, len(commands), size)
    ]
