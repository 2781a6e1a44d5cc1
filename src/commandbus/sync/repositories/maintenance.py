# Printed from ../../repositories/maintenance.py by tools/async_to_sync.py; edit that file.
"""What keeps a database from growing for ever: partitions ahead, old things away, one bounded step per call."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from commandbus.sync.repositories._base import Repository

_FIRST_ID = "'00000000-0000-0000-0000-000000000000'"
_CUTOFF = "pg_catalog.now() - pg_catalog.make_interval(days => $1::int)"


class Pruned(NamedTuple):
    """One step of a walk over old commands; `resume_at` is None at the end of it."""

    deleted: int
    resume_at: tuple[datetime, UUID] | None


class PostgresMaintenance(Repository):
    """Maintenance, over the functions of schema ``commandbus``. Arguments must have been checked.

    Every method returns None when another session maintains the database at this moment: there is nothing to do.
    """

    def make_partitions(self, months_ahead: int) -> list[str] | None:
        """Return the audit's partitions that were made. Source: ``commandbus.sp_make_partitions``."""
        made: list[str] | None = self._value("select commandbus.sp_make_partitions($1::int)", (months_ahead,))
        return made

    def drop_partitions(self, days: int) -> list[str] | None:
        """Empty or drop one of the audit's partitions that ended more than *days* ago; return its name, or nothing.

        Source: ``commandbus.sp_drop_partitions``.
        """
        dropped: list[str] | None = self._value(
            f"select commandbus.sp_drop_partitions({_CUTOFF})",
            (days,),
        )
        return dropped

    def prune_commands(self, days: int, resume_at: tuple[datetime, UUID] | None = None) -> Pruned | None:
        """Delete commands of no batch that ended more than *days* ago, among the next 10,000 old ones.

        Source: ``commandbus.sp_prune_commands``.
        """
        after_at, after_id = (None, None) if resume_at is None else resume_at
        rows = self._rows(
            "select deleted, last_at, last_id from commandbus.sp_prune_commands("  # noqa: S608  (a constant)
            f"{_CUTOFF}, coalesce($2::timestamptz, '-infinity'), coalesce($3::uuid, {_FIRST_ID}))",
            (days, after_at, after_id),
        )
        if not rows:
            return None
        deleted, last_at, last_id = rows[0]
        return Pruned(deleted, None if last_at is None else (last_at, last_id))

    def prune_payloads(self, days: int, resume_at: datetime | None = None) -> tuple[int, datetime | None] | None:
        """Delete payloads older than *days* of commands that have ended, among the next 10,000.

        Returns:
            How many were deleted, and where to go on; None for the end.

        Source: ``commandbus.sp_prune_payloads``.
        """
        rows = self._rows(
            f"select deleted, last_at from commandbus.sp_prune_payloads({_CUTOFF},"  # noqa: S608  (a constant)
            " coalesce($2::timestamptz, '-infinity'))",
            (days, resume_at),
        )
        return (rows[0][0], rows[0][1]) if rows else None

    def prune_audit(self, days: int) -> int | None:
        """Delete events older than *days* that are in no month's partition. Source: ``commandbus.sp_prune_audit``."""
        deleted: int | None = self._value(f"select commandbus.sp_prune_audit({_CUTOFF})", (days,))
        return deleted

    def prune_throughput(self) -> int:
        """Forget what workers told long ago; return how many rows. Source: ``commandbus.sp_prune_throughput``."""
        deleted: int = self._value("select commandbus.sp_prune_throughput()")
        return deleted

    def prune_redrives(self, days: int) -> int | None:
        """Delete redrives that ended more than *days* ago. Source: ``commandbus.sp_prune_redrives``."""
        deleted: int | None = self._value(f"select commandbus.sp_prune_redrives({_CUTOFF})", (days,))
        return deleted

    def list_domains(self) -> list[str]:
        """Return all domains of which anything is left. Source: ``commandbus.list_known_domains``."""
        return [row[0] for row in self._rows("select * from commandbus.list_known_domains()")]

    def prune_batches(self, domain: str, days: int) -> int | None:
        """Delete batches that were complete more than *days* ago, with their commands; return how many rows.

        Source: ``commandbus.sp_prune_batches``; 0 when there are no more.
        """
        return self._prune("sp_prune_batches", domain, days)

    def prune_archives(self, domain: str, days: int) -> int | None:
        """Delete messages that PGMQ archived more than *days* ago. Source: ``commandbus.sp_prune_archives``."""
        return self._prune("sp_prune_archives", domain, days)

    def prune_replies(self, domain: str, days: int) -> int | None:
        """Delete replies that nobody took for *days*. Source: ``commandbus.sp_prune_replies``."""
        return self._prune("sp_prune_replies", domain, days)

    def _prune(self, function: str, domain: str, days: int) -> int | None:
        deleted: int | None = self._value(
            f"select commandbus.{function}($2::text, {_CUTOFF})",
            (days, domain),
        )
        return deleted
