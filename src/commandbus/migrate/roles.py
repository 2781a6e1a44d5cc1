"""The four roles of a granted installation, and who may call which function."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from commandbus.errors import InvalidArgumentError
from commandbus.migrate.connection import connected, select

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import Connection

LONGEST_ROLE = 63  # bytes; the server would cut a longer name, and then not find it


class Role(StrEnum):
    """What a role is for."""

    OWNER = "owner"  # owns tables, queues and functions, which run with its rights; nobody logs in as it
    APP = "app"  # senders and workers
    OPERATOR = "operator"  # people who decide about commands that failed, and see payloads
    READONLY = "readonly"  # dashboards: lists and counts without payloads


@dataclass(frozen=True, slots=True)
class RoleNames:
    """What the four roles are called in one database.

    Raises:
        InvalidArgumentError: a name is empty, too long or given twice.
    """

    owner: str = "commandbus_owner"
    app: str = "commandbus_app"
    operator: str = "commandbus_operator"
    readonly: str = "commandbus_readonly"

    def __post_init__(self) -> None:
        for role, name in asdict(self).items():
            if not isinstance(name, str) or not 1 <= len(name.encode()) <= LONGEST_ROLE or not name.isprintable():
                raise InvalidArgumentError(role, f"must be a role's name of 1 to {LONGEST_ROLE} bytes")
            if name == "public" or name.startswith("pg_"):
                raise InvalidArgumentError(role, f'must not be "{name}", which is the server\'s own')
        if len(set(asdict(self).values())) < len(Role):
            raise InvalidArgumentError("roles", "must have four different names")

    def __getitem__(self, role: Role) -> str:
        return str(getattr(self, role))

    def record(self) -> str:
        """Return the comment on schema ``commandbus`` that tells these names to `read_names`."""
        return json.dumps({"commandbus roles": asdict(self)}, ensure_ascii=False)


def roles_of(url_or_connection: str | Connection[Any]) -> RoleNames | None:
    """Return the roles that a database was granted to by `grant`, or None.

    Raises:
        DatabaseUnavailableError, MigrationError: the catalogs cannot be read.
    """
    with connected(url_or_connection) as connection:
        return read_names(connection)


def read_names(connection: Connection[Any]) -> RoleNames | None:
    """Return the roles that this database was granted to, or None."""
    rows = select(
        connection,
        "select pg_catalog.obj_description(n.oid, 'pg_namespace') from pg_catalog.pg_namespace n"
        " where n.nspname = 'commandbus'",
    )
    try:
        return RoleNames(**json.loads(rows[0][0])["commandbus roles"])
    except (IndexError, KeyError, TypeError, ValueError):
        return None  # there is no comment, or it is somebody else's


def unfit_roles(connection: Connection[Any], names: RoleNames | None) -> list[tuple[Role, str, str]]:
    """Return each role whose rights go beyond what `grant` gives: what it is for, its name, and what is wrong."""
    if names is None:
        return []
    roles = {name: Role(role) for role, name in asdict(names).items()}
    rows = select(
        connection,
        "select r.rolname, r.rolsuper from pg_catalog.pg_roles r"
        " left join pg_catalog.pg_roles o on o.rolname = %s and o.oid <> r.oid"
        " where r.rolname = any (%s) and (r.rolsuper or pg_catalog.pg_has_role(r.oid, o.oid, 'MEMBER'))"
        " order by r.rolname",
        (names.owner, list(roles)),
    )
    return [
        (roles[name], name, "functions would run as a superuser")
        if roles[name] is Role.OWNER
        else (roles[name], name, "is a superuser" if is_super else f'has the rights of "{names.owner}"')
        for name, is_super in rows
    ]


_EVERYBODY = frozenset({Role.APP, Role.OPERATOR, Role.READONLY})
_APP = frozenset({Role.APP})
_OPERATOR = frozenset({Role.OPERATOR})

_SENDING_AND_WORKING = (
    "sp_create_batch",
    "sp_send_commands",
    "sp_send_command",
    "sp_receive_commands",
    "sp_receive_command",
    "sp_warm_up",
    "sp_extend_leases",
    "sp_settle_commands",
    "sp_finish_command",
    "sp_start_batch",
    "sp_take_replies",
    "sp_worker_beat",
    "sp_worker_gone",
    "sp_step_redrives",  # carries on what an operator started
    "queue_create",
    "queue_send",
    "queue_read",
    "queue_delete",
    "queue_archive",
    "queue_set_vt",
    "queue_notify",
)
_DECIDING = (
    "list_troubleshooting",  # with payloads
    "get_payload",
    "sp_operator_retry",
    "sp_operator_cancel",
    "sp_operator_complete",
    "sp_operator_edit",
    "get_message",
    "sp_start_redrive",
    "sp_control_redrive",
    "sp_pause_domain",
    "sp_resume_domain",
    "sp_tsq_retry",
    "sp_tsq_cancel",
    "sp_tsq_complete",
    "sp_update_batch_counters",  # any of the three before by another name
    "sp_park_lost",
    "sp_drop_partitions",  # who may forget the past is not who makes it
    "sp_prune_audit",
    "sp_prune_commands",
    "sp_prune_payloads",
    "sp_prune_batches",
    "sp_prune_redrives",
    "sp_prune_archives",
    "sp_prune_replies",
)
_READING = (
    "schema_version",
    "get_command",
    "query_commands",
    "find_commands",
    "overview",
    "list_throughput",
    "list_workers",
    "list_leases",
    "list_failure_groups",
    "list_redrives",
    "get_redrive",
    "get_audit_trail",
    "query_audit",
    "get_batch",
    "list_batches",
    "list_batch_commands",
    "list_waiting",
    "list_troubleshooting_ids",
    "count_troubleshooting",
    "find_domains",
    "find_by_id",
    "list_domains",
    "list_known_domains",
    "domain_metrics",
)

MAY_CALL: Mapping[str, frozenset[Role]] = MappingProxyType(
    {
        **dict.fromkeys(_SENDING_AND_WORKING, _APP),
        **dict.fromkeys(_DECIDING, _OPERATOR),
        **dict.fromkeys(_READING, _EVERYBODY),
        # Workers call these by themselves. They add what is missing, and forget only what nothing depends on.
        "sp_create_domain": _APP | _OPERATOR,
        "sp_make_partitions": _APP | _OPERATOR,
        "sp_prune_throughput": _APP | _OPERATOR,
        "log_event": _APP | _OPERATOR,
    }
)
"""Who may call a function of schema ``commandbus``; nobody may call one that is not listed."""


def callers(function: str) -> frozenset[Role]:
    """Return the roles that may call a function; a domain's own send function is as sp_send_command."""
    return MAY_CALL.get("sp_send_command" if function.startswith("send_to_") else function, frozenset())


def is_internal(function: str) -> bool:
    """Say whether a function is for other functions only, which call it with the owner's rights."""
    return function.startswith("_")
