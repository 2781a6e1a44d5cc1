"""A real Kubernetes API server with etcd, and KWOK in the place of kubelets, before a real PostgreSQL.

The programs are looked for in the directory that COMMANDBUS_TEST_KUBERNETES names; docs/testing.md says how to build
them. Without it, the tests have `tests.kubernetes_api` only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import urllib3

from tests.kubernetes_api import NAMESPACE, TOKEN, StandIn, connect, write_kubeconfig
from tests.support import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VARIABLE = "COMMANDBUS_TEST_KUBERNETES"
PATIENCE = 60.0

# Without a stage KWOK refuses to start; this one never applies.
_KWOK = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {{name: none}}
spec:
  resourceRef: {{apiGroup: v1, kind: Pod}}
  selector: {{matchLabels: {{none: none}}}}
  next: {{statusTemplate: ""}}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: ClusterPortForward
metadata: {{name: postgres}}
spec:
  forwards:
  - ports: [5432]
    target: {{address: 127.0.0.1, port: {port}}}
"""


class RealCluster(StandIn):
    """A cluster with the same methods as the stand-in; its objects live in the real API server.

    Attributes:
        connections: how many connections to PostgreSQL are open now.
    """

    def __init__(self, kubeconfig: Path, server: str, authority: Path) -> None:
        super().__init__(kubeconfig)
        self._server = server
        self._http = urllib3.PoolManager(ca_certs=str(authority))

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> int:
        """Send one request and return the status of its answer."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
        text = None if body is None else json.dumps(body)
        return int(self._http.request(method, self._server + path, body=text, headers=headers, retries=False).status)

    def create(self, path: str, body: dict[str, Any]) -> None:
        """Create an object with its status, or change it."""
        if self.request("POST", path, body) == 409:
            self.request("PATCH", f"{path}/{body['metadata']['name']}", body)
        if "status" in body:
            status = self.request("PATCH", f"{path}/{body['metadata']['name']}/status", {"status": body["status"]})
            assert status == 200

    def reset(self) -> None:
        """Delete what a test may have added."""
        for kind in ("services", "secrets", "pods"):
            names = {path.rpartition("/")[2] for path in self.objects if f"/{kind}/" in path}
            for name in names:
                self.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}/{kind}/{name}?gracePeriodSeconds=0")
        self.objects.clear()

    def _add(self, kind: str, name: str, body: dict[str, Any], labels: dict[str, str] | None = None) -> None:
        super()._add(kind, name, body, labels)
        if kind == "pods":
            body["spec"]["nodeName"] = "node"
            body["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:00:00Z"
        path = f"/api/v1/namespaces/{NAMESPACE}/{kind}"
        self.create(path, {"metadata": {"name": name, "labels": labels or {}}, **body})


def is_available() -> bool:
    """Return whether the programs are said to be there."""
    return bool(os.environ.get(VARIABLE))


@contextlib.contextmanager
def real_cluster(directory: Path) -> Iterator[RealCluster]:
    """Give a cluster whose data and logs lie in *directory*."""
    etcd_port, peer_port, api_port, kubelet_port = (_free_port() for _ in range(4))
    server, pki = f"https://127.0.0.1:{api_port}", directory / "pki"
    kubeconfig, authority = directory / "kubeconfig", pki / "apiserver.crt"
    (directory / "tokens").write_text(f'{TOKEN},tests,tests,"system:masters"\n')
    key = directory / "accounts.key"
    command = (shutil.which("openssl") or missing("openssl is not installed"), "genrsa", "-out", str(key), "2048")
    subprocess.run(command, check=True, capture_output=True)
    cluster = RealCluster(kubeconfig, server, authority)
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(_relay(cluster))
        (directory / "kwok.yaml").write_text(_KWOK.format(port=relay))
        etcd = f"http://127.0.0.1:{etcd_port}"
        peers = f"http://127.0.0.1:{peer_port}"
        stack.enter_context(
            _program(
                directory,
                "etcd",
                *("--data-dir", str(directory / "etcd"), "--listen-client-urls", etcd, "--advertise-client-urls", etcd),
                *("--listen-peer-urls", peers),
            )
        )
        stack.enter_context(
            _program(
                directory,
                "kube-apiserver",
                *(f"--etcd-servers={etcd}", f"--secure-port={api_port}", "--bind-address=127.0.0.1"),
                *(f"--cert-dir={pki}", f"--token-auth-file={directory / 'tokens'}", "--authorization-mode=RBAC"),
                *("--service-account-issuer=https://tests", f"--service-account-key-file={key}"),
                *(f"--service-account-signing-key-file={key}", "--service-cluster-ip-range=10.0.0.0/24"),
                "--disable-admission-plugins=ServiceAccount",
            )
        )
        _wait(authority.exists)
        write_kubeconfig(kubeconfig, server, authority)
        _wait(lambda: _is_up(cluster))
        stack.enter_context(
            _program(
                directory,
                "kwok",
                *("--kubeconfig", str(kubeconfig), "--config", str(directory / "kwok.yaml"), "--manage-all-nodes"),
                *("--node-ip", "127.0.0.1", "--node-port", str(kubelet_port)),
                *("--server-address", f"127.0.0.1:{kubelet_port}"),
                *("--tls-cert-file", str(authority), "--tls-private-key-file", str(pki / "apiserver.key")),
            )
        )
        _wait(lambda: _answers(kubelet_port))
        cluster.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        address = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}
        endpoint = {"daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet_port}}}
        cluster.create("/api/v1/nodes", {"metadata": {"name": "node"}, "status": {**address, **endpoint}})
        yield cluster


@contextlib.contextmanager
def _program(directory: Path, name: str, *options: str) -> Iterator[None]:
    program = Path(os.environ[VARIABLE]) / name
    with (directory / f"{name}.log").open("w") as log:
        process = subprocess.Popen((str(program), *options), stdout=log, stderr=log, cwd=directory)
        try:
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)


@contextlib.contextmanager
def _relay(cluster: RealCluster) -> Iterator[int]:
    """Listen on a TCP port in the pods' place, and lead to the cluster's PostgreSQL while it has one."""

    def carry(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65_536):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)

    def serve(client: socket.socket) -> None:
        if cluster.postgres is None:
            client.close()
            return
        with client, connect(cluster.postgres) as postgres:
            cluster.connections += 1
            back = threading.Thread(target=carry, args=(postgres, client))
            back.start()
            carry(client, postgres)
            back.join()
            cluster.connections -= 1

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the cluster does not come up; its logs are beside its data"
        time.sleep(0.1)


def _is_up(cluster: RealCluster) -> bool:
    try:
        return cluster.request("GET", "/readyz") == 200
    except (urllib3.exceptions.HTTPError, OSError):
        return False


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
