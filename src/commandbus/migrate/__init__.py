"""Find, check and apply migrations, in step with Flyway: the same files, checksums and history."""

from commandbus.migrate.files import SCHEMA_VERSION, Migration, discover, packaged_directory
from commandbus.migrate.runner import MigrateResult, MigrationInfo, MigrationState, info, migrate, validate

__all__ = [
    "SCHEMA_VERSION",
    "MigrateResult",
    "Migration",
    "MigrationInfo",
    "MigrationState",
    "discover",
    "info",
    "migrate",
    "packaged_directory",
    "validate",
]
