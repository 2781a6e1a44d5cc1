"""The migration library and a PostgreSQL inside a Kubernetes cluster, through the official client.

Every test runs against a stand-in that speaks the API over HTTPS, and against a real API server where
COMMANDBUS_TEST_KUBERNETES names its programs.
"""

from __future__ import annotations

import gc
import io
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from urllib3.exceptions import HTTPError

from commandbus.errors import (
    ClusterError,
    CommandBusError,
    InvalidArgumentError,
    PodNotReadyError,
    ServiceNotFoundError,
)
from commandbus.testing import KubernetesTarget, apply_core_migrations, reach, verify_migrations
from tests.cli_process import wait_for
from tests.kubernetes_api import NAMESPACE, StandIn, stand_in, write_kubeconfig
from tests.kubernetes_cluster import RealCluster, is_available, real_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "ca nary/@"  # noqa: S105  (nobody's)


@pytest.fixture(scope="module", params=["stand-in", *(["real"] if is_available() else [])])
def any_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A running cluster."""
    make = stand_in if request.param == "stand-in" else real_cluster
    with make(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(any_cluster: StandIn, empty_database_url: str) -> Iterator[StandIn]:
    """A cluster without objects; what listens in its pods is our server."""
    any_cluster.postgres = empty_database_url
    yield any_cluster
    if isinstance(any_cluster, RealCluster):
        any_cluster.reset()
    any_cluster.objects.clear()


@pytest.fixture
def target(cluster: StandIn, empty_database_url: str) -> KubernetesTarget:
    """The way to the test's database, once the cluster has a service and a pod."""
    return make_target(cluster, empty_database_url)


def make_target(cluster: StandIn, url: str, **options: Any) -> KubernetesTarget:
    parts = conninfo_to_dict(url)
    given = {"password": PASSWORD, "ready_timeout": 30.0, "kubeconfig": cluster.kubeconfig, "namespace": NAMESPACE}
    return KubernetesTarget(**{**given, "user": str(parts["user"]), "database": str(parts["dbname"]), **options})


def refusal(target: KubernetesTarget) -> str:
    """Return why a target is refused; no text may show the password."""
    output = io.StringIO()
    with pytest.raises(CommandBusError) as caught:
        apply_core_migrations(target, output)
    assert PASSWORD not in f"{caught.value!r}{output.getvalue()}{target}"
    return f"{type(caught.value).__name__}: {caught.value}"


def bridges() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "commandbus-port-forward"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_database_in_the_cluster_is_migrated_and_verified(
    cluster: StandIn, target: KubernetesTarget, empty_database_url: str
) -> None:
    cluster.add_service()
    cluster.add_pod()
    output = io.StringIO()
    apply_core_migrations(target, output)
    assert "pod postgres-0: ready, 127.0.0.1:" in output.getvalue()
    assert verify_migrations(target) == verify_migrations(empty_database_url)
    assert apply_core_migrations(target).applied == ()


def test_the_bridge_forgets_connections_that_ended(cluster: StandIn, target: KubernetesTarget) -> None:
    cluster.add_service()
    cluster.add_pod()
    with reach(target) as url:
        for _ in range(5):
            psycopg.connect(url).close()
            wait_for(lambda: len(bridges()) == 1)  # the one that accepts
        psycopg.connect(url).close()
        remembered = [each for each in gc.get_objects() if isinstance(each, threading.Thread)]
        assert sum(thread.name == bridges()[0].name for thread in remembered) <= 2


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("namespace", ["", "Shop", "a b", "-a", "a" * 64, "a/b", "a.b", "a\n", None, 5]),
        ("service", ["", "Shop", "a/../b", "a" * 64, None, 5]),
        ("port", [0, 65_536, True, "5432", 1.5]),
        ("user", ["", "a\0", None, 5]),
        ("database", ["", "a\0", None, 5]),
        ("context", ["", 5]),
        ("password", ["", "a\0", 5]),
        ("secret", ["", "A", "a/b", "a" * 254, 5]),
        ("secret_key", ["", "a/b", "a b", None]),
        ("ready_timeout", [-1, float("nan"), float("inf"), "60", True, None]),
        ("kubeconfig", ["", "/nowhere/at/all", "/", 5]),
    ],
)
def test_a_target_refuses_what_cannot_be_when_it_is_made(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidArgumentError, match=f"^{field}: ") as caught:
            KubernetesTarget(**{"namespace": "shop", field: value})
        assert caught.value.field == field, value


def test_a_target_has_its_password_from_one_place() -> None:
    with pytest.raises(InvalidArgumentError, match=r"^password: is given, and so is secret: leave one out$"):
        KubernetesTarget(namespace="shop", password=PASSWORD, secret="postgres")  # noqa: S106  (its name)


def test_a_pod_that_becomes_ready_in_time_is_waited_for(cluster: StandIn, target: KubernetesTarget) -> None:
    cluster.add_service()
    cluster.add_pod(ready=False)

    class ReadyOnceSeen(io.StringIO):
        def write(self, text: str) -> int:
            if "waiting for a ready pod (postgres-0 is Pending" in text:
                cluster.add_pod()
            return super().write(text)

    output = ReadyOnceSeen()
    apply_core_migrations(target, output)
    assert "waiting for a ready pod" in output.getvalue()


def test_a_postgres_that_comes_up_in_time_is_waited_for(
    cluster: StandIn, target: KubernetesTarget, empty_database_url: str
) -> None:
    cluster.add_service()
    cluster.add_pod()
    cluster.postgres = None

    class UpOnceSeen(io.StringIO):
        def write(self, text: str) -> int:
            if "ready, 127.0.0.1" in text:
                starting.start()
            return super().write(text)

    def start() -> None:
        cluster.postgres = empty_database_url

    starting = threading.Timer(0.5, start)
    apply_core_migrations(target, UpOnceSeen())
    starting.join()


def test_many_connections_share_the_way_and_none_disturbs_another(cluster: StandIn, target: KubernetesTarget) -> None:
    cluster.add_service()
    cluster.add_pod()
    with reach(target) as url:

        def work(number: int) -> bool:
            sent = f"{number}" * 700_000
            with psycopg.connect(url, autocommit=True) as connection:
                return all(connection.execute("select %s::text", (sent,)).fetchone() == (sent,) for _ in range(5))

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(work, range(8)))


def test_a_client_that_sends_before_it_reads_does_not_stall(cluster: StandIn, target: KubernetesTarget) -> None:
    cluster.add_service()
    cluster.add_pod()
    with reach(target) as url, psycopg.connect(url, autocommit=True) as connection, connection.pipeline():
        cursors = [connection.execute("select %s::text", ("x" * 100_000,)) for _ in range(200)]
        assert all(cursor.fetchone() == ("x" * 100_000,) for cursor in cursors)


def test_the_way_is_closed_with_the_block_also_under_open_connections(
    cluster: StandIn, target: KubernetesTarget
) -> None:
    cluster.add_service()
    cluster.add_pod()
    with reach(target) as url:
        left_open = psycopg.connect(url)
    with left_open, pytest.raises(psycopg.OperationalError):
        left_open.execute("select 1")
    port = int(str(conninfo_to_dict(url)["port"]))
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0
    assert bridges() == []
    if not isinstance(cluster, RealCluster):  # KWOK keeps its own connection until PostgreSQL ends it
        deadline = time.monotonic() + 10
        while cluster.connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert cluster.connections == 0


def test_the_way_is_closed_after_an_error_too_which_passes_as_it_is(cluster: StandIn, target: KubernetesTarget) -> None:
    cluster.add_service()
    cluster.add_pod()
    with pytest.raises(HTTPError, match="of my own"), reach(target):
        raise HTTPError("of my own")
    assert bridges() == []


def test_the_password_comes_from_a_secret(cluster: StandIn, empty_database_url: str) -> None:
    cluster.add_service()
    cluster.add_pod()
    cluster.add_secret("postgres", password=PASSWORD)
    target = make_target(cluster, empty_database_url, password=None, secret="postgres")  # noqa: S106  (its name)
    with reach(target) as url:
        assert conninfo_to_dict(url)["password"] == PASSWORD
    message = refusal(make_target(cluster, empty_database_url, password=None, secret="other"))  # noqa: S106  (its name)
    assert message == f'ClusterError: there is no secret "other" with entry "password" in namespace "{NAMESPACE}"'


def test_the_services_port_leads_to_the_pods(cluster: StandIn, empty_database_url: str) -> None:
    cluster.add_service("numbered", port=6000, targetPort=5432)
    cluster.add_pod()
    apply_core_migrations(make_target(cluster, empty_database_url, service="numbered"))
    message = refusal(make_target(cluster, empty_database_url, service="numbered", port=7000))
    assert message == 'InvalidArgumentError: port: service "numbered" has no port 7000; it has 6000'
    cluster.add_service("misnamed", targetPort="sql")
    assert 'pod postgres-0 has no port named "sql"' in refusal(
        make_target(cluster, empty_database_url, service="misnamed")
    )


def test_a_service_that_does_not_exist_is_named(target: KubernetesTarget) -> None:
    assert refusal(target) == f'{ServiceNotFoundError.__name__}: there is no service "postgres" in namespace "shop"'


def test_a_service_that_selects_no_pods_is_refused(cluster: StandIn, target: KubernetesTarget) -> None:
    cluster.add_service(selector={})
    assert refusal(target).startswith('ServiceNotFoundError: service "postgres" in namespace "shop" selects no pods')


def test_pods_that_never_become_ready_are_named_with_their_phases(cluster: StandIn, empty_database_url: str) -> None:
    cluster.add_service()
    target = make_target(cluster, empty_database_url, ready_timeout=0.5)
    assert refusal(target).endswith("became ready in 0.5 s: no pod has the labels app=postgres")
    cluster.add_pod("postgres-0", ready=False)
    cluster.add_pod("postgres-1", ready=False)
    assert refusal(target) == (
        f'{PodNotReadyError.__name__}: no pod behind service "postgres" in namespace "shop" became ready in 0.5 s:'
        " postgres-0 is Pending, postgres-1 is Pending"
    )


def test_a_postgres_that_never_answers_is_given_up(cluster: StandIn, empty_database_url: str) -> None:
    cluster.add_service()
    cluster.add_pod()
    cluster.postgres = None
    message = refusal(make_target(cluster, empty_database_url, ready_timeout=0.5))
    assert message.startswith("PodNotReadyError: PostgreSQL in pod postgres-0 did not answer in 0.5 s: ")


@pytest.mark.direct("what a pooler says of a database or role that is not there is its own")
def test_what_postgres_refuses_for_good_is_passed_on_at_once(cluster: StandIn, empty_database_url: str) -> None:
    cluster.add_service()
    cluster.add_pod()
    options = {"ready_timeout": 3_600}  # by far longer than a test may take
    message = refusal(make_target(cluster, empty_database_url, database="nowhere", **options))
    assert message == 'DatabaseNotFoundError: database "nowhere" does not exist'
    message = refusal(make_target(cluster, empty_database_url, user="nobody_at_all", **options))
    assert message.startswith("AuthenticationFailedError: the database refuses this user: ")


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path, cluster: StandIn, empty_database_url: str) -> None:
    server = f"https://127.0.0.1:{free_port()}"
    write_kubeconfig(tmp_path / "kubeconfig", server, cluster.kubeconfig)
    message = refusal(make_target(cluster, empty_database_url, kubeconfig=tmp_path / "kubeconfig"))
    assert message.startswith(f"{ClusterError.__name__}: the Kubernetes API server at {server} does not answer: ")


def test_a_cluster_that_refuses_the_token_says_so(tmp_path: Path, cluster: StandIn, empty_database_url: str) -> None:
    copy = tmp_path / "kubeconfig"
    copy.write_text(cluster.kubeconfig.read_text().replace("a-token-for-tests", "another"))
    message = refusal(make_target(cluster, empty_database_url, kubeconfig=copy))
    assert message == "ClusterError: the cluster refuses: 401 Unauthorized"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", ""),
        ("{", "cannot be read: ParserError"),
        ("just text", ""),
        ("{clusters: [], users: [], contexts: []}", ""),
        ("apiVersion: v1\nclusters: 5\ncurrent-context: a\ncontexts: [{name: a}]", ""),
        ("token: canary\n\t- broken", "cannot be read: ScannerError"),
        (b"\xff\xfe\x00", ""),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named_and_not_quoted(
    tmp_path: Path, text: str | bytes, complaint: str
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refusal(KubernetesTarget(namespace="shop", kubeconfig=path, password=PASSWORD))
    assert message.startswith(f"ClusterError: kubeconfig {path} cannot be ")
    assert complaint in message
    assert "canary" not in message


def test_a_context_that_the_kubeconfig_lacks_is_named(cluster: StandIn, empty_database_url: str) -> None:
    assert "Expected object with name elsewhere" in refusal(
        make_target(cluster, empty_database_url, context="elsewhere")
    )


def test_no_kubeconfig_at_all_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from kubernetes.config import kube_config

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    assert refusal(KubernetesTarget(namespace="shop")).startswith("ClusterError: the kubeconfig cannot be used: ")
