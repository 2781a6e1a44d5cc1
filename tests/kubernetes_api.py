"""A stand-in for a Kubernetes API server: the calls that a port-forward needs, over HTTPS, before a real PostgreSQL.

It speaks what the documentation of the API says: GET of services, secrets and pods by label, and port-forward over a
websocket with the protocol v4.channel.k8s.io. `tests.kubernetes_cluster` has a real API server with the same methods.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import select
import shutil
import socket
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from psycopg.conninfo import conninfo_to_dict
from websocket import ABNF
from websocket._abnf import frame_buffer

from tests.support import missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "a-token-for-tests"  # noqa: S105  (of a server that lives for a test)
NAMESPACE = "shop"
LABELS = {"app": "postgres"}
_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # of RFC 6455


def connect(url: str) -> socket.socket:
    """Return a connection to the server that a URL leads to."""
    parts = conninfo_to_dict(url)
    host, port = str(parts["host"]), int(str(parts.get("port") or 5432))
    if not host.startswith("/"):
        return socket.create_connection((host, port))
    client = socket.socket(socket.AF_UNIX)
    client.connect(f"{host}/.s.PGSQL.{port}")
    return client


class StandIn:
    """The objects of one namespace, the socket of the PostgreSQL in all pods, and what was asked.

    Attributes:
        kubeconfig: the file that leads here.
        postgres: a URL of that PostgreSQL, or None while nothing listens in the pods.
        connections: how many port-forwards are open now.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.postgres: str | None = None
        self.connections = 0
        self.objects: dict[str, dict[str, Any]] = {}

    def add_service(self, name: str = "postgres", *, selector: dict[str, str] | None = None, **port: Any) -> None:
        """Add a service with one port; to the pods with our labels unless told otherwise."""
        ports = [{"port": 5432, "targetPort": "pg", **port}]
        self._add("services", name, {"spec": {"selector": LABELS if selector is None else selector, "ports": ports}})

    def add_secret(self, name: str, **entries: str) -> None:
        """Add a secret."""
        data = {key: base64.b64encode(value.encode()).decode() for key, value in entries.items()}
        self._add("secrets", name, {"data": data})

    def add_pod(self, name: str = "postgres-0", *, ready: bool = True) -> None:
        """Add a pod of PostgreSQL, or let it change its state."""
        container = {"name": "postgres", "image": "postgres", "ports": [{"name": "pg", "containerPort": 5432}]}
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        status = {"phase": "Running" if ready else "Pending", "conditions": conditions}
        self._add("pods", name, {"spec": {"containers": [container]}, "status": status}, LABELS)

    def _add(self, kind: str, name: str, body: dict[str, Any], labels: dict[str, str] | None = None) -> None:
        metadata = {"name": name, "namespace": NAMESPACE, "labels": labels or {}}
        self.objects[f"/api/v1/namespaces/{NAMESPACE}/{kind}/{name}"] = {"metadata": metadata, **body}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: StandIn
    connection: ssl.SSLSocket

    def do_GET(self) -> None:
        """Answer one request."""
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        path, _, last = url.path.rpartition("/")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"kind": "Status", "status": "Failure", "reason": "Unauthorized"})
        elif last == "portforward" and path in self.cluster.objects:
            self._forward(int(query["ports"][0]))
        elif last == "pods":
            wanted = dict(pair.split("=") for pair in query["labelSelector"][0].split(","))
            pods = [found for name, found in self.cluster.objects.items() if name.startswith(f"{url.path}/")]
            items = [pod for pod in pods if wanted.items() <= pod["metadata"]["labels"].items()]
            self._answer(200, {"kind": "PodList", "items": items})
        elif url.path in self.cluster.objects:
            self._answer(200, self.cluster.objects[url.path])
        else:
            self._answer(404, {"kind": "Status", "status": "Failure", "reason": "NotFound"})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (as in http.server)
        """Print nothing."""

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _forward(self, port: int) -> None:
        assert "v4.channel.k8s.io" in self.headers["Sec-WebSocket-Protocol"]
        key = hashlib.sha1((self.headers["Sec-WebSocket-Key"] + _MAGIC).encode(), usedforsecurity=False).digest()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(key).decode())
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        self.end_headers()
        self.close_connection = True
        for channel in (0, 1):
            self._send(channel, port.to_bytes(2, "little"))
        self.cluster.connections += 1
        try:
            if self.cluster.postgres is None:
                self._send(1, b"dial tcp4 127.0.0.1:5432: connect: connection refused")
            else:
                with connect(self.cluster.postgres) as postgres:
                    self._carry(postgres)
            self.connection.sendall(ABNF(1, 0, 0, 0, ABNF.OPCODE_CLOSE, 0, b"\x03\xe8").format())
        except OSError:
            pass  # the client was gone
        finally:
            self.cluster.connections -= 1

    def _carry(self, postgres: socket.socket) -> None:
        frames = frame_buffer(self._read, skip_utf8_validation=True)
        while True:
            waiting = self.connection.pending()  # decrypted, not yet read
            ready, _, _ = select.select([self.connection, postgres], [], [], 0 if waiting else None)
            if self.connection in ready or waiting:
                frame = frames.recv_frame()
                if frame.opcode == ABNF.OPCODE_CLOSE:
                    return
                assert isinstance(frame.data, bytes)
                postgres.sendall(frame.data[1:])
            if postgres in ready:
                data = postgres.recv(30_000)
                if not data:
                    return
                self._send(0, data)

    def _read(self, count: int) -> bytes:
        data = self.connection.recv(count)
        if not data:
            raise ConnectionResetError
        return data

    def _send(self, channel: int, data: bytes) -> None:
        self.connection.sendall(ABNF(1, 0, 0, 0, ABNF.OPCODE_BINARY, 0, bytes([channel]) + data).format())


@contextlib.contextmanager
def stand_in(directory: Path) -> Iterator[StandIn]:
    """Give a running stand-in whose certificate and kubeconfig lie in *directory*."""
    certificate, key = _certificate(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    cluster = StandIn(directory / "kubeconfig")
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    with _Server(("127.0.0.1", 0), handler, context) as server:
        write_kubeconfig(cluster.kubeconfig, f"https://127.0.0.1:{server.server_port}", certificate)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield cluster
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[_Handler], context: ssl.SSLContext) -> None:
        super().__init__(address, handler)
        self._context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the request's own thread."""
        with contextlib.suppress(OSError), self._context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)


def write_kubeconfig(path: Path, server: str, authority: Path, token: str = TOKEN) -> None:
    """Write a kubeconfig with one context; JSON is YAML as well."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tests",
        "clusters": [{"name": "tests", "cluster": {"server": server, "certificate-authority": str(authority)}}],
        "users": [{"name": "tests", "user": {"token": token}}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
    }
    path.write_text(json.dumps(config))


def _certificate(directory: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that signs itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("openssl is not installed")
    certificate, key = directory / "server.crt", directory / "server.key"
    options = ("-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests")
    names = ("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "keyUsage=digitalSignature,keyCertSign")
    files = ("-keyout", str(key), "-out", str(certificate))
    subprocess.run((openssl, "req", *options, *names, *files), check=True, capture_output=True)
    return certificate, key
