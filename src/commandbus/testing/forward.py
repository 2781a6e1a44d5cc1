"""A port of this machine that leads to a port of a pod, over websockets of the Kubernetes API."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_CHUNK = 65_536
_RECORD = 8_192  # bytes that a socket which can be written to takes without waiting
_ENOUGH = 1_048_576  # bytes on their way, from which on no more are taken
_LOOK = 0.05  # seconds between looks whether the bridge is to be closed
_LAST_WORDS = 1.0  # seconds for the cluster to answer a close
_PATIENCE = 5.0  # seconds for a connection to end
_DATA, _ERROR = 0, 1  # channels of the port-forward protocol; the first frame of each only repeats the port


class Bridge:
    """Listens on 127.0.0.1 while its block lasts, and opens one websocket for each connection.

    The end of the block ends the connections as well.

    Args:
        open_stream: returns a new websocket that speaks the port-forward protocol, or raises.

    Attributes:
        port: where it listens.
        last_error: why the cluster made or kept no connection the last time, or None.
    """

    def __init__(self, open_stream: Callable[[], Any]) -> None:
        self.last_error: str | None = None
        self._open_stream = open_stream
        self._opening = threading.Lock()  # the client's API object is not made for threads
        self._closing = threading.Event()
        self._clients: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_LOOK)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        accepting, *_ = self._threads
        accepting.join()
        self._listener.close()
        for client in list(self._clients):
            _end(client)
        for thread in self._threads:
            thread.join(_PATIENCE)

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, name="commandbus-port-forward", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                self._clients.add(client)
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        """Carry one connection until either side ends it."""
        from kubernetes.client import ApiException
        from websocket import WebSocketException

        with client:
            try:
                with self._opening:
                    stream = self._open_stream()
            except (ApiException, WebSocketException, OSError) as error:
                self.last_error = " ".join(str(getattr(error, "reason", None) or error).split())[:300]
            else:
                with contextlib.suppress(WebSocketException, OSError):
                    self.last_error = _carry(client, stream)
                stream.close(timeout=_LAST_WORDS)
                stream.shutdown()  # a stream that the cluster closed is not shut down by close
            self._clients.discard(client)


def _carry(client: socket.socket, stream: Any) -> str | None:  # noqa: ANN401  (a class without types)
    """Pass bytes both ways until one side ends, and return the cluster's complaint if it has one.

    One thread does both, as a TLS connection is not made for two. Neither way waits for the other: a server that
    writes does not read.
    """
    remote = stream.sock
    ways = _Ways()
    client.setblocking(False)
    while not ways.is_over:
        reading = [*([client] if ways.takes_from_client else []), *([remote] if ways.takes_from_pod else [])]
        writing = [*([client] if ways.to_client else []), *([remote] if ways.to_pod else [])]
        is_waiting = remote in reading and getattr(remote, "pending", int)() > 0  # decrypted, not yet read
        readable, writable, _ = select.select(reading, writing, [], 0 if is_waiting else None)
        if client in readable:
            ways.from_client(client.recv(_CHUNK))
        if remote in readable or is_waiting:
            ways.from_pod(stream.recv())
        if client in writable:
            del ways.to_client[: client.send(ways.to_client)]
        if remote in writable:
            # A whole frame: the answer to a ping may follow, and must not get into the middle of one.
            stream.send_binary(bytes([_DATA]) + ways.to_pod[:_RECORD])
            del ways.to_pod[:_RECORD]
    return ways.complaint


class _Ways:
    """What is on its way in both directions, and whether more may follow."""

    def __init__(self) -> None:
        self.to_client = bytearray()
        self.to_pod = bytearray()
        self.complaint: str | None = None
        self._begun: set[int] = set()
        self._client_ended = False
        self._pod_ended = False

    @property
    def takes_from_client(self) -> bool:
        return not self._client_ended and not self._pod_ended and len(self.to_pod) < _ENOUGH

    @property
    def takes_from_pod(self) -> bool:
        return not self._pod_ended and len(self.to_client) < _ENOUGH

    @property
    def is_over(self) -> bool:
        """Whether one side ended, and the other has everything it sent."""
        return (self._pod_ended and not self.to_client) or (self._client_ended and not self.to_pod)

    def from_client(self, data: bytes) -> None:
        self.to_pod += data
        if not data:
            self._client_ended = True
            self.to_client.clear()

    def from_pod(self, frame: bytes | str) -> None:
        if not isinstance(frame, bytes) or not frame:
            self._pod_ended = True
            return
        channel, data = frame[0], frame[1:]
        if channel not in self._begun:
            self._begun.add(channel)
        elif channel == _DATA:
            self.to_client += b"" if self._client_ended else data
        elif channel == _ERROR:
            self.complaint = " ".join(data.decode(errors="replace").split())
            self._pod_ended = True


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
