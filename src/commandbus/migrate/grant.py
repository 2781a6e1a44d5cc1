"""Give the schema to four roles, so that senders and workers need no right on any table."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.errors import DeadlockDetected, InsufficientPrivilege, LockNotAvailable

from commandbus.errors import InvalidArgumentError, MigrationError, NotMigratedError
from commandbus.migrate.connection import connected, locked_transaction, select, translated
from commandbus.migrate.rights import steps
from commandbus.migrate.roles import RoleNames, read_names, unfit_roles

if TYPE_CHECKING:
    from psycopg import Connection

logger = logging.getLogger(__name__)

_LOCK_TIMEOUT = "5s"  # tables change their owner: workers must not wait behind this for long

_HELP = 'nothing was changed; run it as a superuser, or have one run what "commandbus grant --dry-run" prints'


@dataclass(frozen=True, slots=True)
class GrantResult:
    """What `grant` did, or would do.

    Attributes:
        names: the four roles.
        statements: as SQL, in order, none where all was as it should be.
    """

    names: RoleNames
    statements: tuple[str, ...]


def grant(
    url_or_connection: str | Connection[Any],
    *,
    owner: str | None = None,
    app: str | None = None,
    operator: str | None = None,
    readonly: str | None = None,
    dry_run: bool = False,
) -> GrantResult:
    """Bring roles, owners and rights to what `commandbus.migrate.roles` says, in one transaction.

    The owner's role owns tables, functions and queues of domains, public functions run with its rights, and
    everybody else may call functions only. Every other right on schema ``commandbus`` is taken away, and from an owner
    of before what it needed of PGMQ. Missing roles are made, without login. Repeat it after each migration; nothing
    happens when all is as it should be.

    Args:
        url_or_connection: as for `migrate`; a superuser, or the owner of the objects with CREATEROLE.
        owner, app, operator, readonly: the roles' names; those left out are called as the last time, by default
            commandbus_owner and so on.
        dry_run: change nothing.

    Raises:
        InvalidArgumentError: a name cannot be used.
        NotMigratedError: there is no schema ``commandbus``.
        MigrationError: a statement was refused, or had to wait for too long; nothing was changed.
    """
    with connected(url_or_connection) as connection, locked_transaction(connection, changes=not dry_run):
        connection.execute("set local search_path = pg_catalog, pg_temp")
        connection.execute("select pg_catalog.set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
        if not select(connection, "select from pg_catalog.pg_namespace where nspname = 'commandbus'"):
            raise NotMigratedError("there is no schema commandbus: run `commandbus migrate`")
        recorded = read_names(connection)
        given = {"owner": owner, "app": app, "operator": operator, "readonly": readonly}
        chosen = replace(recorded or RoleNames(), **{role: name for role, name in given.items() if name is not None})
        former = None if recorded is None else recorded.owner
        statements = [*_make_roles(connection, chosen), *(step.statement for step in steps(connection, chosen, former))]
        if chosen != recorded:
            statements.append(sql.SQL("comment on schema commandbus is {}").format(sql.Literal(chosen.record())))
        result = GrantResult(chosen, tuple(statement.as_string(connection) for statement in statements))
        if not dry_run:
            _execute(connection, statements)
            left = steps(connection, chosen, former) if statements else []
            if left:  # a grant of what one may not give away is only a warning
                raise MigrationError(f"{left[0].difference} could not be mended; {_HELP}")
    if statements and not dry_run:
        logger.info("Rights granted.", extra={"statements": len(statements), "roles": asdict(chosen)})
    return result


def _make_roles(connection: Connection[Any], names: RoleNames) -> list[sql.Composed]:
    """Return the statements that make missing roles, and let the caller hand things over to the owner."""
    rows = select(
        connection,
        "select r.rolname, pg_catalog.pg_has_role(r.oid, case"
        " when current_setting('server_version_num')::int >= 160000 then 'SET' else 'MEMBER' end)"
        " from pg_catalog.pg_roles r where r.rolname = any (%s)",
        (list(asdict(names).values()),),
    )
    found: dict[str, bool] = dict(rows)
    for role, name, reason in unfit_roles(connection, names):
        raise InvalidArgumentError(role, f'must not be "{name}": {reason}')
    statements = [
        sql.SQL("create role {} nologin").format(sql.Identifier(name))
        for name in asdict(names).values()
        if name not in found
    ]
    if not found.get(names.owner, _is_superuser(connection)):
        statements.append(sql.SQL("grant {} to current_user").format(sql.Identifier(names.owner)))
    return statements


def _is_superuser(connection: Connection[Any]) -> bool:
    ((answer,),) = select(connection, "select rolsuper from pg_catalog.pg_roles where rolname = current_user")
    return bool(answer)


def _execute(connection: Connection[Any], statements: list[sql.Composed]) -> None:
    for statement in statements:
        text = statement.as_string(connection)
        with translated(text):
            try:
                connection.execute(statement)
            except (LockNotAvailable, DeadlockDetected):
                raise MigrationError("the tables are too busy now: nothing was changed; run it again") from None
            except InsufficientPrivilege as error:
                raise MigrationError(f"{text}: {error.diag.message_primary}; {_HELP}") from None
