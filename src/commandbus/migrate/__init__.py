"""Find, check, apply and verify migrations, in step with Flyway; give what they make to roles."""

from commandbus.migrate.difference import Difference, Finding
from commandbus.migrate.drift import verify
from commandbus.migrate.files import SCHEMA_VERSION, Migration, discover, packaged_directory
from commandbus.migrate.grant import GrantResult, grant
from commandbus.migrate.roles import Role, RoleNames, roles_of
from commandbus.migrate.runner import MigrateResult, MigrationPlan, info, migrate, plan, validate
from commandbus.migrate.states import MigrationInfo, MigrationState
from commandbus.migrate.upkeep import RepairResult, baseline, repair

__all__ = [
    "SCHEMA_VERSION",
    "Difference",
    "Finding",
    "GrantResult",
    "MigrateResult",
    "Migration",
    "MigrationInfo",
    "MigrationPlan",
    "MigrationState",
    "RepairResult",
    "Role",
    "RoleNames",
    "baseline",
    "discover",
    "grant",
    "info",
    "migrate",
    "packaged_directory",
    "plan",
    "repair",
    "roles_of",
    "validate",
    "verify",
]
