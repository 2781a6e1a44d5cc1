"""Which PostgreSQL of a Kubernetes cluster is meant, checked before anything is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from commandbus.errors import InvalidArgumentError
from commandbus.payload import check_count, check_text, check_timeout

_NAME = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"  # as Kubernetes names things
_LONGEST = 1_000  # characters; none of what is meant here is nearly as long


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesTarget:
    """A PostgreSQL that a service of a Kubernetes cluster leads to.

    Attributes:
        namespace: of the service.
        kubeconfig: the file that says how to reach the cluster; by default ``$KUBECONFIG`` or ``~/.kube/config``.
        context: of that file; by default its current one.
        service: the name of the service.
        port: the service's port, needed where it has several and none is 5432.
        user: who migrates.
        database: what is migrated.
        password: of the user; when it and *secret* are None, libpq's own ways (``PGPASSWORD``, ``~/.pgpass``).
        secret: the name of a secret in the same namespace to read the password from.
        secret_key: which of its entries.
        ready_timeout: seconds to wait until a pod is ready and its PostgreSQL answers, up to 86,400.

    Raises:
        InvalidArgumentError: one of them cannot be, such as a kubeconfig that is not there; the field is named.
    """

    namespace: str
    kubeconfig: Path | str | None = None
    context: str | None = None
    service: str = "postgres"
    port: int | None = None
    user: str = "commandbus"
    database: str = "commandbus"
    password: str | None = field(default=None, repr=False)
    secret: str | None = None
    secret_key: str = "password"  # noqa: S105  (the name of an entry)
    ready_timeout: float = 60.0

    def __post_init__(self) -> None:
        _check_name("namespace", self.namespace, 63)
        _check_name("service", self.service, 63)
        check_text(self.user, "user", _LONGEST)
        check_text(self.database, "database", _LONGEST)
        check_timeout(self.ready_timeout, "ready_timeout")
        if self.port is not None:
            check_count(self.port, "port", 1, 65_535)
        if self.context is not None:
            check_text(self.context, "context", _LONGEST)
        if self.password is not None:
            check_text(self.password, "password", _LONGEST)
        if self.secret is not None:
            _check_name("secret", self.secret, 253, rf"{_NAME}(\.{_NAME})*")
        _check_name("secret_key", self.secret_key, 253, "[-._A-Za-z0-9]+")
        if self.password is not None and self.secret is not None:
            raise InvalidArgumentError("password", "is given, and so is secret: leave one out")
        if self.kubeconfig is not None:
            _check_file("kubeconfig", self.kubeconfig)


def _check_name(field: str, name: object, longest: int, pattern: str = _NAME) -> None:
    if not isinstance(name, str) or len(name) > longest or not re.fullmatch(pattern, name):
        raise InvalidArgumentError(field, f"must be a name as Kubernetes takes it, of up to {longest} characters")


def _check_file(field: str, path: object) -> None:
    if not isinstance(path, Path | str) or not str(path):
        raise InvalidArgumentError(field, "must be the path of a file")
    if not Path(path).expanduser().is_file():
        raise InvalidArgumentError(field, f"there is no file {path}")
