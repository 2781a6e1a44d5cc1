"""Wrong tokens, and how long who sends them must wait. Nobody else does, and no thread sleeps."""

import math
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from werkzeug.exceptions import TooManyRequests

T = TypeVar("T")

_EACH, _FREE = 30.0, 10  # seconds after which one wrong token is forgiven; so many are free
_EACH_OF_ALL, _FREE_OF_ALL = 1.0, 300  # of all clients together; beyond that, each has fewer
_FREE_WHEN_MANY = 3
_MOST = 10_000


class Guesses:
    """Counts the wrong tokens of each client; the newest clients of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_all = _Count(_EACH_OF_ALL)
        self._clients: dict[str, _Count] = {}

    def check(self, client: str, look: Callable[[], T | None]) -> T | None:
        """Return what *look* finds, which must be quick; None counts as a wrong guess of *client*.

        Raises:
            TooManyRequests: this client guessed wrong too often, and nothing was looked at.
        """
        with self._lock:  # so that guesses at the same time are no way around
            free = _FREE_WHEN_MANY if self._of_all.now() >= _FREE_OF_ALL else _FREE
            count = self._clients.get(client)
            if count is not None and (excess := count.now() - free + 1) > 0:
                raise TooManyRequests("Too many wrong tokens: wait.", retry_after=math.ceil(excess * _EACH))
            found = look()
            if found is None:
                self._of_all.add()
                self._count(client)
            return found

    def _count(self, client: str) -> None:
        count = self._clients.pop(client, None) or _Count(_EACH)
        count.add()
        self._clients[client] = count
        if len(self._clients) > _MOST:
            del self._clients[next(iter(self._clients))]


class _Count:
    """A number that falls by one every *each* seconds."""

    def __init__(self, each: float) -> None:
        self._each = each
        self._value, self._at = 0.0, 0.0

    def now(self) -> float:
        """Return it."""
        return max(0.0, self._value - (time.monotonic() - self._at) / self._each)

    def add(self) -> None:
        """Add one."""
        self._value, self._at = self.now() + 1, time.monotonic()
