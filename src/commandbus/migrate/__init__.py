"""Find, check and apply migrations, in step with Flyway: the same files, checksums and history."""

from commandbus.migrate.files import SCHEMA_VERSION, Migration, discover, packaged_directory
from commandbus.migrate.runner import MigrateResult, MigrationPlan, info, migrate, plan, validate
from commandbus.migrate.states import MigrationInfo, MigrationState
from commandbus.migrate.upkeep import RepairResult, baseline, repair

__all__ = [
    "SCHEMA_VERSION",
    "MigrateResult",
    "Migration",
    "MigrationInfo",
    "MigrationPlan",
    "MigrationState",
    "RepairResult",
    "baseline",
    "discover",
    "info",
    "migrate",
    "packaged_directory",
    "plan",
    "repair",
    "validate",
]
