"""The demo's settings: what they may be, and what the library makes of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from commandbus import CommandBusPool
from tests.e2e.app.config import ConfigStore, RetryConfig, SyncConfigStore, WorkerConfig
from tests.e2e.browser import in_thread

if TYPE_CHECKING:
    from commandbus.sync import CommandBusPool as SyncCommandBusPool


def test_the_migration_s_defaults_are_the_demo_s(database_url: str) -> None:
    async def look() -> None:
        async with CommandBusPool(database_url=database_url) as pool:
            store = ConfigStore(pool)
            assert await store.get_worker_config() == WorkerConfig(30, 4, 1.0, 10)
            assert await store.get_retry_config() == RetryConfig(3, 1_000, 60_000, 2.0)
            async with pool.connection() as connection:
                await connection.execute("delete from e2e.config")
            assert await store.get_worker_config() == WorkerConfig()
            assert await store.get_retry_config() == RetryConfig()

    in_thread(look())


def test_what_is_stored_is_read_back(database_url: str) -> None:
    async def look() -> None:
        async with CommandBusPool(database_url=database_url) as pool:
            store = ConfigStore(pool)
            worker, retry = WorkerConfig(1, 500, 0.01, 1_000), RetryConfig(1_000, 0, 86_400_000, 1.5)
            await store.set_worker_config(worker)
            await store.set_retry_config(retry)
            assert (await store.get_worker_config(), await store.get_retry_config()) == (worker, retry)

    in_thread(look())


def test_both_stores_are_one(sync_pool: SyncCommandBusPool) -> None:
    store = SyncConfigStore(sync_pool)
    store.set(RetryConfig(max_attempts=7))
    assert store.get(RetryConfig) == RetryConfig(max_attempts=7)
    assert store.get(WorkerConfig) == WorkerConfig()


@pytest.mark.parametrize(
    ("kind", "field", "bad"),
    [
        (WorkerConfig, "visibility_timeout", (0, 3_601, 1.5, "x", None)),
        (WorkerConfig, "concurrency", (0, 501)),
        (WorkerConfig, "poll_interval", (0, 60.1, float("nan"), float("inf"))),
        (WorkerConfig, "batch_size", (0, 1_001)),
        (RetryConfig, "max_attempts", (0, 1_001)),
        (RetryConfig, "base_delay_ms", (-1, 3_600_001)),
        (RetryConfig, "max_delay_ms", (-1, 86_400_001)),
        (RetryConfig, "backoff_multiplier", (0.9, 101, float("nan"))),
        (RetryConfig, "color", ("red",)),
    ],
)
def test_settings_out_of_their_limits_are_refused(kind: type[Any], field: str, bad: tuple[Any, ...]) -> None:
    for value in bad:
        with pytest.raises(ValidationError, match=field):
            kind(**{field: value})


@pytest.mark.parametrize(
    ("config", "delays"),
    [
        (RetryConfig(), (1, 2, 4)),
        (RetryConfig(max_attempts=9, base_delay_ms=100, max_delay_ms=350), (0.1, 0.2, 0.35)),
        (RetryConfig(max_attempts=1), (1,)),
        (RetryConfig(max_attempts=1_000, backoff_multiplier=1), (1,)),
        (RetryConfig(max_attempts=1_000, base_delay_ms=0), (0,)),
        (RetryConfig(base_delay_ms=5_000, max_delay_ms=100), (0.1,)),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else "",
)
def test_delays_grow_by_the_multiplier_up_to_their_limit(config: RetryConfig, delays: tuple[float, ...]) -> None:
    policy = config.policy()
    assert policy.backoff_schedule == delays
    assert (policy.jitter, policy.max_attempts) == (0, asdict(config)["max_attempts"])
