"""Where the demo's database is, and its settings in e2e.config."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg.types.json import Jsonb
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from commandbus import RetryPolicy
from tests.e2e.app.schemas import read

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

C = TypeVar("C", "WorkerConfig", "RetryConfig")

DATABASE = "commandbus_e2e"
DOMAIN, COMMAND_TYPE = "test", "TestCommand"
PORT = 5001

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)
_GET = "select value from e2e.config where key = %s"
_SET = """
insert into e2e.config (key, value) values (%s, %s)
on conflict (key) do update set value = excluded.value, updated_at = now()
"""


@dataclass(frozen=True, config=_STRICT)
class WorkerConfig:
    """How the worker runs; times are in seconds."""

    visibility_timeout: int = Field(default=30, ge=1, le=3_600)
    concurrency: int = Field(default=4, ge=1, le=500)
    poll_interval: float = Field(default=1.0, ge=0.01, le=60)
    batch_size: int = Field(default=10, ge=1, le=1_000)


@dataclass(frozen=True, config=_STRICT)
class RetryConfig:
    """How often and how soon a command is tried again; times are in milliseconds."""

    max_attempts: int = Field(default=3, ge=1, le=1_000)
    base_delay_ms: int = Field(default=1_000, ge=0, le=3_600_000)
    max_delay_ms: int = Field(default=60_000, ge=0, le=86_400_000)
    backoff_multiplier: float = Field(default=2.0, ge=1, le=100)

    def policy(self) -> RetryPolicy:
        """Return the library's form of it; the delays are exact."""
        delays = [float(min(self.base_delay_ms, self.max_delay_ms))]
        while len(delays) < self.max_attempts and 0 < delays[-1] < self.max_delay_ms:
            following = min(delays[-1] * self.backoff_multiplier, float(self.max_delay_ms))
            if following == delays[-1]:
                break  # the last delay repeats by itself
            delays.append(following)
        return RetryPolicy(self.max_attempts, [delay / 1_000 for delay in delays], jitter=0)


KEYS: dict[type[Any], str] = {WorkerConfig: "worker", RetryConfig: "retry"}


class ConfigStore:
    """The settings, for code with an event loop."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def get_worker_config(self) -> WorkerConfig:
        """Return the worker's settings."""
        return await self._get(WorkerConfig)

    async def set_worker_config(self, config: WorkerConfig) -> None:
        """Store the worker's settings."""
        await self._set(config)

    async def get_retry_config(self) -> RetryConfig:
        """Return the retry settings."""
        return await self._get(RetryConfig)

    async def set_retry_config(self, config: RetryConfig) -> None:
        """Store the retry settings."""
        await self._set(config)

    async def _get(self, kind: type[C]) -> C:
        async with self._pool.connection() as connection:
            row = await (await connection.execute(_GET, (KEYS[kind],))).fetchone()
        return kind() if row is None else read(kind, row[0])

    async def _set(self, config: C) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(_SET, (KEYS[type(config)], Jsonb(asdict(config))))


class SyncConfigStore:
    """The same for Flask."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool

    def get(self, kind: type[C]) -> C:
        """Return the settings of this kind."""
        with self._pool.connection() as connection:
            row = connection.execute(_GET, (KEYS[kind],)).fetchone()
        return kind() if row is None else read(kind, row[0])

    def set(self, config: C) -> None:
        """Store settings."""
        with self._pool.connection() as connection:
            connection.execute(_SET, (KEYS[type(config)], Jsonb(asdict(config))))
