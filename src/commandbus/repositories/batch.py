"""Batches: make, find, list."""

from uuid import UUID

from commandbus.models import BatchMetadata, BatchStatus
from commandbus.payload import decode_leniently
from commandbus.repositories._base import Repository, Row

_COLUMNS = (
    "domain, batch_id, name, custom_data::text, status, total_count, completed_count, failed_count, canceled_count,"
    " in_troubleshooting_count, created_at, started_at, completed_at"
)


class PostgresBatchRepository(Repository):
    """Batches, over the functions of schema ``commandbus``. Arguments must have been checked."""

    async def create(
        self,
        domain: str,
        batch_id: UUID,
        *,
        name: str | None = None,
        custom_data: str | None = None,
        completion_queue: str | None = None,
    ) -> None:
        """Make an empty batch; commands join it as they are sent.

        Args:
            domain: the domain of all its commands.
            batch_id: unique in the domain.
            name: for people.
            custom_data: JSON text of an object.
            completion_queue: a reply queue that is told when the batch is complete.

        Raises:
            InvalidOperationError: the batch exists (CB006).
            QueueNotFoundError: there is no such reply queue (CB005).

        Source: ``commandbus.sp_create_batch``.
        """
        await self._rows(
            "select commandbus.sp_create_batch($1::text, $2::uuid, $3::text, $4::jsonb, $5::text)",
            (domain, batch_id, name, custom_data, completion_queue),
            repeatable=False,
        )

    async def get(self, domain: str, batch_id: UUID) -> BatchMetadata | None:
        """Return a batch, or None. Source: ``commandbus.get_batch``."""
        rows = await self._rows(
            f"select {_COLUMNS} from commandbus.get_batch($1::text, $2::uuid)",  # noqa: S608  (a constant)
            (domain, batch_id),
        )
        return _to_batch(rows[0]) if rows else None

    async def list(
        self, domain: str | None = None, *, status: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[BatchMetadata]:
        """Return the batches of a domain, or all, newest first. Source: ``commandbus.list_batches``."""
        rows = await self._rows(
            f"select {_COLUMNS} from commandbus.list_batches($1::text, $2::text, $3::int, $4::int)",  # noqa: S608  (a constant)
            (domain, status, limit, offset),
        )
        return [_to_batch(row) for row in rows]


def _to_batch(row: Row) -> BatchMetadata:
    """Return the record of a row of _COLUMNS."""
    domain, batch_id, name, custom_data, status, *rest = row
    return BatchMetadata(domain, batch_id, name, decode_leniently(custom_data), BatchStatus(status), *rest)
