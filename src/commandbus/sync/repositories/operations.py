# Printed from ../../repositories/operations.py by tools/async_to_sync.py; edit that file.
"""What operators look at, and do to a whole domain; what workers tell about themselves."""

from collections.abc import Sequence
from uuid import UUID

from commandbus.models import DomainOverview, LeaseInfo, ThroughputPoint, WorkerInfo
from commandbus.sync.repositories._arrays import plain_array
from commandbus.sync.repositories._base import Repository

_OVERVIEW = (
    "domain, depth, in_flight, scheduled, waiting, archived, oldest_at, workers, capacity, paused_at, paused_by,"
    " pause_reason, dead_rows, vacuumed_at"
)
_WORKER = "worker_id, domain, host, pid, concurrency, in_flight, started_at, seen_at"
_LEASE = "command_id, command_type, attempts, max_attempts, msg_id, read_ct, leased_at, expires_at"
_THROUGHPUT = "at, enqueued, completed, failed, retried, parked, depth, oldest_at, waits, runs"


class PostgresOperations(Repository):
    """Operation, over the functions of schema ``commandbus``. Arguments must have been checked."""

    def overview(self, domain: str | None) -> list[DomainOverview]:
        """Return what each domain holds now. Source: ``commandbus.overview``."""
        rows = self._rows(f"select {_OVERVIEW} from commandbus.overview($1::text)", (domain,))  # noqa: S608  (a constant)
        return [DomainOverview(*row) for row in rows]

    def list_throughput(self, domain: str | None, seconds: int, step: int) -> list[ThroughputPoint]:
        """Return what was done in the last *seconds* by the server's clock. Source: ``commandbus.list_throughput``."""
        rows = self._rows(
            f"select {_THROUGHPUT} from commandbus.list_throughput($1::text,"  # noqa: S608  (a constant)
            " pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $2::int), $3::int)",
            (domain, seconds, step),
        )
        return [ThroughputPoint(*row) for row in rows]

    def list_workers(self, domain: str | None) -> list[WorkerInfo]:
        """Return the workers known. Source: ``commandbus.list_workers``."""
        rows = self._rows(f"select {_WORKER} from commandbus.list_workers($1::text)", (domain,))  # noqa: S608  (a constant)
        return [WorkerInfo(*row) for row in rows]

    def list_leases(self, domain: str, limit: int) -> list[LeaseInfo]:
        """Return commands that workers have now. Source: ``commandbus.list_leases``."""
        rows = self._rows(
            f"select {_LEASE} from commandbus.list_leases($1::text, $2::int)",  # noqa: S608  (a constant)
            (domain, limit),
        )
        return [LeaseInfo(*row) for row in rows]

    def pause(self, domain: str, operator: str | None, reason: str | None) -> bool:
        """Let no worker have a domain's commands. Source: ``commandbus.sp_pause_domain``."""
        paused: bool = self._value(
            "select commandbus.sp_pause_domain($1::text, $2::text, $3::text)", (domain, operator, reason)
        )
        return paused

    def resume(self, domain: str, operator: str | None, reason: str | None) -> bool:
        """Let workers have a domain's commands again. Source: ``commandbus.sp_resume_domain``."""
        resumed: bool = self._value(
            "select commandbus.sp_resume_domain($1::text, $2::text, $3::text, $4::boolean)",
            (domain, operator, reason, self._settings.notify),
        )
        return resumed

    def beat(
        self,
        worker: tuple[UUID, str, str, int, int],
        in_flight: int,
        counts: Sequence[int],
        waits: Sequence[int],
        runs: Sequence[int],
    ) -> None:
        """Say that a worker (id, domain, host, pid, concurrency) lives. Source: ``commandbus.sp_worker_beat``."""
        self._rows(
            "select commandbus.sp_worker_beat($1::uuid, $2::text, $3::text, $4::int, $5::int, $6::int, $7::bigint[],"
            " $8::bigint[], $9::bigint[])",
            (*worker, in_flight, plain_array(counts), plain_array(waits), plain_array(runs)),
            repeatable=False,
        )

    def gone(self, worker_id: UUID) -> None:
        """Say that a worker has ended. Source: ``commandbus.sp_worker_gone``."""
        self._rows("select commandbus.sp_worker_gone($1::uuid)", (worker_id,))
