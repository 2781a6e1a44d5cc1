# Printed from ../../repositories/_attempts.py by tools/async_to_sync.py; edit that file.
"""Attempts: commands leased from a queue, and what became of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from commandbus.models import Lease
from commandbus.retry import Settlement
from commandbus.sync.repositories._arrays import optional_array, plain_array, uuid_array
from commandbus.sync.repositories._base import Repository

_SETTLE = (
    "select command_id, verdict from commandbus.sp_settle_commands($1::text, $2::uuid[], $3::bigint[], $4::int[],"
    " $5::text[], $6::jsonb[], $7::text[], $8::text[], $9::text[], $10::jsonb[], $11::text[], $12::float8[],"
    " $13::boolean, $14::boolean, $15::text[])"
)


class Delivery(NamedTuple):
    """One message that was leased.

    Attributes:
        data: JSON text, or None when the message has none.
        waited: seconds that the message was in the queue, or None with a fault.
        fault: None, or why the message was taken out of the queue: STRAY, TAMPERED, CRASHED.
    """

    command_id: UUID
    command_type: str
    data: str | None
    correlation_id: UUID | None
    reply_queue: str
    attempts: int
    max_attempts: int
    msg_id: int
    read_ct: int
    batch_id: UUID | None
    created_at: datetime
    waited: float | None
    fault: str | None


class Attempts(Repository):
    """What a worker calls."""

    def receive(self, domain: str, *, limit: int, visibility_timeout: int) -> list[Delivery]:
        """Lease up to *limit* messages and begin an attempt of each one's command.

        Args:
            domain: whose queue to read.
            limit: most messages, 1 to 10,000.
            visibility_timeout: seconds until an unsettled command is delivered again, 1 to 86,400.

        Returns:
            0 to *limit* deliveries in queue order; those with a fault are no longer in the queue, and last.

        Raises:
            QueueNotFoundError: the domain has no queue (CB005).

        Source: ``commandbus.sp_receive_commands``; one round trip, which waits for no disk on a pool: a
        delivery that a server crash undoes is only made again.
        """
        rows = self._rows(
            "select * from commandbus.sp_receive_commands($1::text, $2::int, $3::int, $4::boolean)",
            (domain, limit, visibility_timeout, not self._owns_transactions),
        )
        deliveries: list[Any] = rows
        for place, row in enumerate(rows):  # in place: each row is gone before the next delivery is made
            deliveries[place] = Delivery._make(row)
        return deliveries

    def settle(self, domain: str, leases: Sequence[Lease], ends: Sequence[Settlement]) -> dict[UUID, str]:
        """End attempts, each by the lease it was given.

        Args:
            domain: the domain of all.
            leases: 1 to 10,000, by rising msg_id.
            ends: what became of the attempt of each.

        Returns:
            The leases that were not settled now, by command id: STALE, no longer the holder's, or DONE,
            settled by an earlier try of the same call.

        Source: ``commandbus.sp_settle_commands``; one round trip.
        """
        rows = self._rows(_SETTLE, self._settle_parameters(domain, leases, ends, strict=False))
        return dict(rows)

    def settle_unfetched(self, domain: str, lease: Lease, end: Settlement) -> None:
        """Send one settle in the caller's pipeline, and leave it to the pipeline's end to fail if the lease is stale.

        Only for a repository on a connection. Arguments as in `settle`.

        Source: ``commandbus.sp_settle_commands``.
        """
        self._send(_SETTLE, self._settle_parameters(domain, [lease], [end], strict=True))

    def _settle_parameters(
        self, domain: str, leases: Sequence[Lease], ends: Sequence[Settlement], *, strict: bool
    ) -> tuple[object, ...]:
        failures = ends if any(end.error_type is not None for end in ends) else ()  # mostly none: nothing to gather
        return (
            domain,
            uuid_array([lease.command_id for lease in leases]),
            plain_array([lease.msg_id for lease in leases]),
            plain_array([lease.read_ct for lease in leases]),
            plain_array([end.outcome for end in ends]),
            optional_array([end.result for end in ends]),
            optional_array([end.error_type for end in failures]),
            optional_array([end.error_code for end in failures]),
            optional_array([end.error_msg for end in failures]),
            optional_array([end.details for end in failures]),
            optional_array([end.reason for end in failures]),
            optional_array([end.delay for end in failures]),
            self._settings.notify,
            strict,
            optional_array([end.error_place for end in failures]),
        )

    def warm_up(self, domain: str) -> None:
        """Let the connection plan what a worker calls; without it, its first commands take milliseconds longer.

        Source: ``commandbus.sp_warm_up``; changes nothing.
        """
        self._rows("select commandbus.sp_warm_up($1::text)", (domain,))

    def extend(self, domain: str, leases: Sequence[Lease], *, visibility_timeout: int) -> set[UUID]:
        """Keep leased commands from being delivered again for *visibility_timeout* seconds from now.

        Returns:
            The ids of commands whose lease is no longer the holder's.

        Source: ``commandbus.sp_extend_leases``; one round trip.
        """
        rows = self._rows(
            "select command_id, renewed from commandbus.sp_extend_leases($1::text, $2::uuid[], $3::bigint[],"
            " $4::int[], $5::int)",
            (
                domain,
                uuid_array([lease.command_id for lease in leases]),
                plain_array([lease.msg_id for lease in leases]),
                plain_array([lease.read_ct for lease in leases]),
                visibility_timeout,
            ),
        )
        return {command_id for command_id, renewed in rows if not renewed}
