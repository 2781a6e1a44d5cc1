"""When sessions end: by themselves, or by a logout that also holds for copies of the cookie.

A session is a signed cookie. The server remembers only those that were logged out, in this process.
"""

import secrets
import threading
import time
from collections import defaultdict

from flask import session

ROLE = "commandbus_role"
_ID, _BEGUN, _SEEN = "commandbus_id", "commandbus_begun", "commandbus_seen"
_OURS = "commandbus_"  # how all names begin that the console keeps; others are those of a host
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
        self._ended: defaultdict[str, _Ended] = defaultdict(_Ended)  # by role: viewers cannot log operators out

    def begin(self, role: str) -> None:
        """Begin the session of this request; what the console held in it is gone."""
        self.end()
        session.permanent = True
        session[ROLE], session[_ID], session[_BEGUN] = role, secrets.token_urlsafe(16), time.time()
        session[_SEEN] = session[_BEGUN]

    def is_alive(self) -> bool:
        """Return whether the session of this request holds, and note that somebody was seen."""
        identity, begun, seen = session.get(_ID), session.get(_BEGUN), session.get(_SEEN)
        if not isinstance(identity, str) or not isinstance(begun, float) or not isinstance(seen, float):
            return False
        now = time.time()
        if now - begun >= self._longest or now - seen >= self._idle:
            return False
        with self._lock:
            if self._ended[session[ROLE]].has(identity, begun):
                return False
        if now - seen >= _STEP:
            session[_SEEN] = now
        return True

    def end(self) -> None:
        """End the session of this request, wherever else its cookie is."""
        role, identity, begun = session.get(ROLE), session.get(_ID), session.get(_BEGUN)
        for name in [name for name in session if name.startswith(_OURS)]:
            del session[name]
        if set(session) == {"_permanent"}:
            session.clear()  # then the cookie goes
        if isinstance(role, str) and isinstance(identity, str) and isinstance(begun, float):
            with self._lock:
                self._ended[role].add(identity, begun)


class _Ended:
    """The newest sessions that were logged out, and when they began."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._all_until = 0.0

    def add(self, identity: str, begun: float) -> None:
        """Remember one."""
        self._begun[identity] = begun
        if len(self._begun) > _MOST:  # then all that began as early have ended: memory must not bring one back
            oldest = min(self._begun, key=self._begun.__getitem__)
            self._all_until = max(self._all_until, self._begun.pop(oldest))

    def has(self, identity: str, begun: float) -> bool:
        """Return whether one was logged out."""
        return identity in self._begun or begun <= self._all_until
