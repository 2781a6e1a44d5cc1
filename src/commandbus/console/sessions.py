"""When sessions end: by themselves, or by a logout that also holds for copies of the cookie.

A session is a signed cookie. The server remembers only those that were logged out, in this process.
"""

import secrets
import threading
import time

from flask import session

_ID, _BEGUN, _SEEN = "commandbus_id", "commandbus_begun", "commandbus_seen"
_MOST = 10_000
_STEP = 60.0  # seconds between two notes of when somebody was seen


class Sessions:
    """Tells which session of a request is alive.

    Args:
        longest: seconds from login to the next one.
        idle: seconds without a request after which it is over before that.
    """

    def __init__(self, longest: float, idle: float) -> None:
        self._longest = longest
        self._idle = idle
        self._lock = threading.Lock()
        self._ended: dict[str, float] = {}
        self._all_ended_until = 0.0

    def begin(self) -> None:
        """Begin the session of this request; what it held is gone."""
        self.end()
        session.permanent = True
        session[_ID], session[_BEGUN] = secrets.token_urlsafe(16), time.time()
        session[_SEEN] = session[_BEGUN]

    def is_alive(self) -> bool:
        """Return whether the session of this request holds, and note that somebody was seen."""
        identity, begun, seen = session.get(_ID), session.get(_BEGUN), session.get(_SEEN)
        if not isinstance(identity, str) or not isinstance(begun, float) or not isinstance(seen, float):
            return False
        now = time.time()
        if now - begun >= self._longest or now - seen >= self._idle or self._was_ended(identity, begun):
            return False
        if now - seen >= _STEP:
            session[_SEEN] = now
        return True

    def end(self) -> None:
        """End the session of this request, wherever else its cookie is."""
        identity, begun = session.get(_ID), session.get(_BEGUN)
        session.clear()
        if not isinstance(identity, str) or not isinstance(begun, float):
            return
        with self._lock:
            self._ended[identity] = begun
            if len(self._ended) > _MOST:  # then all that began as early have ended: memory must not bring one back
                oldest = min(self._ended, key=self._ended.__getitem__)
                self._all_ended_until = max(self._all_ended_until, self._ended.pop(oldest))

    def _was_ended(self, identity: str, begun: float) -> bool:
        with self._lock:
            return identity in self._ended or begun <= self._all_ended_until
