"""The way to a PostgreSQL service inside a Kubernetes cluster, such as one made by Kind."""

from __future__ import annotations

import base64
import binascii
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from commandbus.errors import (
    AuthenticationFailedError,
    ClusterError,
    DatabaseNotFoundError,
    DatabaseUnavailableError,
    InvalidArgumentError,
    PodNotReadyError,
    SchemaError,
    ServiceNotFoundError,
)
from commandbus.migrate.connection import connected
from commandbus.testing.forward import Bridge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kubernetes.client import Configuration, CoreV1Api

    from commandbus.testing.service import KubernetesTarget

_PAUSE = 0.25  # seconds between looks at pods, or at a server that is coming up
_REQUEST = (5, 20)  # seconds to connect to the API server, and to wait for its answer
_POSTGRES = 5432


@contextmanager
def forwarded(target: KubernetesTarget, say: Callable[[str], None]) -> Iterator[str]:
    """Give a URL on 127.0.0.1 that leads to the target's database for the duration of the block.

    Raises:
        ClusterError: the cluster cannot be reached or refuses; see its subclasses.
        AuthenticationFailedError: PostgreSQL refuses the user or the password.
        DatabaseNotFoundError: it has no such database.
        SchemaError: it is too old.
    """
    deadline = time.monotonic() + target.ready_timeout
    settings = _settings(target)
    from kubernetes import client

    with client.ApiClient(settings) as connection:
        api = client.CoreV1Api(connection)
        with _translated(settings.host):
            service = _read_service(api, target)
            password = _password(api, target)
            pod, port = _ready_pod(api, target, service, deadline, say)
        with Bridge(lambda: _open_stream(api, target, pod, port)) as bridge:
            say(f"pod {pod}: ready, 127.0.0.1:{bridge.port} leads to its port {port}")
            url = _url(target, password, bridge.port)
            _await_postgres(url, target, pod, bridge, deadline)
            yield url


def _settings(target: KubernetesTarget) -> Configuration:
    """Return how to reach the cluster, from the kubeconfig."""
    try:
        from kubernetes import client, config
        from kubernetes.config.config_exception import ConfigException
        from yaml import YAMLError
    except ImportError:
        raise ClusterError('the Kubernetes client is not installed: pip install "commandbus-pg[kubernetes]"') from None

    settings = client.Configuration()
    where = "the kubeconfig" if target.kubeconfig is None else f"kubeconfig {target.kubeconfig}"
    file = None if target.kubeconfig is None else str(Path(target.kubeconfig).expanduser())
    load: Callable[..., None] = config.load_kube_config
    try:
        load(file, target.context, client_configuration=settings, persist_config=False)
    except ConfigException as error:
        raise ClusterError(f"{where} cannot be used: {_first_line(error)}") from None
    except (OSError, UnicodeError, YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        # Text from the file could be a token: only the kind of complaint is passed on.
        raise ClusterError(f"{where} cannot be read: {type(error).__name__}") from None
    settings.retries = False
    return settings


@contextmanager
def _translated(server: str) -> Iterator[None]:
    """Turn the client's errors into ours."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        raise ClusterError(f"the cluster refuses: {error.status} {error.reason}") from None
    except HTTPError as error:
        reason = _first_line(getattr(error, "reason", None) or error)
        raise ClusterError(f"the Kubernetes API server at {server} does not answer: {reason}") from None


def _read_service(api: CoreV1Api, target: KubernetesTarget) -> Any:
    """Return the service; it must lead to pods."""
    named = f'service "{target.service}" in namespace "{target.namespace}"'
    service = _get(api.read_namespaced_service, target.service, target.namespace)
    if service is None:
        raise ServiceNotFoundError(f"there is no {named}")
    if not service.spec.selector:
        raise ServiceNotFoundError(f"{named} selects no pods: a port can be forwarded to a pod only")
    return service


def _get(read: Callable[..., Any], name: str, namespace: str) -> Any:
    """Return an object of the cluster, or None when there is none."""
    from kubernetes.client import ApiException

    try:
        return read(name, namespace, _request_timeout=_REQUEST)
    except ApiException as error:
        if error.status == 404:
            return None
        raise


def _password(api: CoreV1Api, target: KubernetesTarget) -> str | None:
    if target.password is not None or target.secret is None:
        return target.password
    secret = _get(api.read_namespaced_secret, target.secret, target.namespace)
    value = None if secret is None else (secret.data or {}).get(target.secret_key)
    if value is None:
        raise ClusterError(
            f'there is no secret "{target.secret}" with entry "{target.secret_key}" in namespace "{target.namespace}"'
        )
    try:
        return base64.b64decode(value).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ClusterError(f'entry "{target.secret_key}" of secret "{target.secret}" is no text') from None


def _ready_pod(
    api: CoreV1Api,
    target: KubernetesTarget,
    service: Any,
    deadline: float,
    say: Callable[[str], None],
) -> tuple[str, int]:
    """Return the name and port of a ready pod behind the service."""
    selector = ",".join(f"{name}={value}" for name, value in service.spec.selector.items())
    said = ""
    while True:
        answer = api.list_namespaced_pod(target.namespace, label_selector=selector, _request_timeout=_REQUEST)
        pods: list[Any] = answer.items
        for pod in pods:
            if _is_ready(pod):
                return pod.metadata.name, _pod_port(target, service, pod)
        seen = ", ".join(_describe(pod) for pod in pods) or f"no pod has the labels {selector}"
        if seen != said:
            said = seen
            say(f'service "{target.service}": waiting for a ready pod ({seen})')
        if time.monotonic() > deadline:
            raise PodNotReadyError(
                f'no pod behind service "{target.service}" in namespace "{target.namespace}" became ready in'
                f" {target.ready_timeout:g} s: {seen}"
            )
        time.sleep(_PAUSE)


def _is_ready(pod: Any) -> bool:
    conditions = pod.status.conditions or []
    ready = any(condition.type == "Ready" and condition.status == "True" for condition in conditions)
    return ready and pod.metadata.deletion_timestamp is None


def _describe(pod: Any) -> str:
    """Return a pod's name and phase, and what its containers wait for."""
    waiting = [status.state.waiting for status in pod.status.container_statuses or [] if status.state is not None]
    reasons = [state.reason for state in waiting if state is not None and state.reason]
    phase = "Terminating" if pod.metadata.deletion_timestamp is not None else pod.status.phase
    return f"{pod.metadata.name} is {' '.join([str(phase), *reasons])}"


def _pod_port(target: KubernetesTarget, service: Any, pod: Any) -> int:
    """Return the pod's port that the service's port stands for."""
    ports = service.spec.ports or []
    wanted = _POSTGRES if target.port is None else target.port
    chosen = [port for port in ports if port.port == wanted]
    if not chosen and target.port is None and len(ports) == 1:
        chosen = ports
    if not chosen:
        numbers = ", ".join(str(port.port) for port in ports) or "none"
        raise InvalidArgumentError("port", f'service "{target.service}" has no port {wanted}; it has {numbers}')
    number = chosen[0].target_port or chosen[0].port
    if isinstance(number, int) or str(number).isdecimal():
        return int(number)
    for container in pod.spec.containers:
        for port in container.ports or []:
            if port.name == number:
                return int(port.container_port)
    raise ClusterError(f'pod {pod.metadata.name} has no port named "{number}"')


def _open_stream(api: CoreV1Api, target: KubernetesTarget, pod: str, port: int) -> Any:
    """Return a new websocket to a pod's port."""
    from kubernetes.stream import stream

    forward = api.connect_get_namespaced_pod_portforward
    opened = stream(forward, pod, target.namespace, ports=str(port), binary=True, _preload_content=False)
    return opened.sock


def _await_postgres(url: str, target: KubernetesTarget, pod: str, bridge: Bridge, deadline: float) -> None:
    """Return when PostgreSQL answers: a pod without a readiness probe counts as ready from its start."""
    while True:
        try:
            with connected(url):
                return
        except (AuthenticationFailedError, DatabaseNotFoundError, SchemaError):
            raise
        except DatabaseUnavailableError as error:
            failure = PodNotReadyError(
                f"PostgreSQL in pod {pod} did not answer in {target.ready_timeout:g} s: {bridge.last_error or error}"
            )
        if time.monotonic() > deadline:
            raise failure
        time.sleep(_PAUSE)


def _url(target: KubernetesTarget, password: str | None, port: int) -> str:
    user = quote(target.user, safe="")
    if password is not None:
        user += f":{quote(password, safe='')}"
    return f"postgresql://{user}@127.0.0.1:{port}/{quote(target.database, safe='')}"


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
