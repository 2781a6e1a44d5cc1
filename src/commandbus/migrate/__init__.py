"""Find, check, apply and verify migrations, in step with Flyway; give what they make to roles."""

from commandbus.migrate.difference import Difference, Finding
from commandbus.migrate.drift import verify
from commandbus.migrate.files import SCHEMA_VERSION, Migration, discover, packaged_directory
from commandbus.migrate.grant import GrantResult, grant
from commandbus.migrate.roles import Role, RoleNames, roles_of
from commandbus.migrate.runner import MigrateResult, MigrationInfo, MigrationState, info, migrate, validate

__all__ = [
    "SCHEMA_VERSION",
    "Difference",
    "Finding",
    "GrantResult",
    "MigrateResult",
    "Migration",
    "MigrationInfo",
    "MigrationState",
    "Role",
    "RoleNames",
    "discover",
    "grant",
    "info",
    "migrate",
    "packaged_directory",
    "roles_of",
    "validate",
    "verify",
]
