"""For test suites of programs that use commandbus: migrated databases wherever PostgreSQL is, and workers to order.

The pytest fixtures made of these parts are in ``pytest_commandbus``, which pytest finds by itself.
"""

from commandbus.errors import ClusterError, MissingTablesError, PodNotReadyError, ServiceNotFoundError
from commandbus.testing.draining import Executed, drain, waiting_commands
from commandbus.testing.migrations import (
    MigrationConfig,
    apply_all_migrations,
    apply_core_migrations,
    apply_migrations,
    verify_migrations,
)
from commandbus.testing.server import DatabaseServer, temporary_server
from commandbus.testing.service import KubernetesTarget
from commandbus.testing.targets import Target, reach
from commandbus.testing.workers import SyncWorkerFactory, WorkerFactory

__all__ = [
    "apply_all_migrations",
    "apply_core_migrations",
    "apply_migrations",
    "verify_migrations",
    "MigrationConfig",
    "KubernetesTarget",
    "Target",
    "reach",
    "DatabaseServer",
    "temporary_server",
    "drain",
    "waiting_commands",
    "Executed",
    "WorkerFactory",
    "SyncWorkerFactory",
    "ClusterError",
    "MissingTablesError",
    "PodNotReadyError",
    "ServiceNotFoundError",
]
