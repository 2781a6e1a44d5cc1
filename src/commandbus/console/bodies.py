"""Bodies that are too large, as waitress reads them: to their end, so that browsers see the page that says so.

A server that answers and closes before a browser has sent everything resets the connection, and its answer is lost.
So what is beyond the limit is read and dropped; the app answers 413 by the length alone.
"""

from io import BytesIO
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import BaseWSGIServer, MultiSocketServer

from commandbus.console.security import MAX_BODY

LONGEST = 256 * 1024 * 1024  # beyond it nobody is waited for


class _Dropped:
    """Takes the place of waitress's buffer: it counts, and keeps nothing."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def append(self, data: bytes) -> None:
        self._length += len(data)

    def getfile(self) -> BytesIO:
        return BytesIO()

    def close(self) -> None:
        pass


class Parser(HTTPRequestParser):
    """Reads one request."""

    def received(self, data: bytes) -> int:
        """Take some bytes, and return how many were of this request."""
        consumed = int(super().received(data))
        body: Any = self.body_rcv
        if body is None or isinstance(body.buf, _Dropped):
            return consumed
        if max(self.content_length, len(body.buf)) > MAX_BODY and self.error is None:
            if self.expect_continue:  # who asks first is answered at once, and sends nothing
                self.expect_continue, self.completed, self.connection_close = False, True, True
                self.headers = {**self.headers, "CONNECTION": "close"}
            kept, body.buf = body.buf, _Dropped(len(body.buf))
            kept.close()
        return consumed


class Channel(HTTPChannel):
    """One connection."""

    parser_class = Parser


def read_to_the_end(server: MultiSocketServer | BaseWSGIServer) -> None:
    """Let a server that does not run yet read bodies so."""
    listening = (server.map or {}).values() if isinstance(server, MultiSocketServer) else (server,)
    for one in listening:
        if isinstance(one, BaseWSGIServer):
            one.channel_class = Channel
