"""Forms that were sent, by the ids that their pages gave them: a second click starts nothing twice."""

import threading
from uuid import UUID

SENT_ALREADY = "This form was sent already: look at what it did before you send it once more."
_MOST = 10_000


class SentForms:
    """The newest forms of this process. A session would not do: two clicks can carry the same cookie."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[UUID, None] = {}

    def is_first(self, form_id: UUID) -> bool:
        """Return whether a form is sent for the first time, and remember it."""
        with self._lock:
            if form_id in self._known:
                return False
            self._known[form_id] = None
            if len(self._known) > _MOST:
                del self._known[next(iter(self._known))]
            return True
