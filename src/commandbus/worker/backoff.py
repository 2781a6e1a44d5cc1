"""How long to pause while the database cannot be used, and what counts as that."""

import random

import psycopg

from commandbus.errors import DatabaseUnavailableError, PoolTimeoutError, QueueNotFoundError

_SHORTEST = 0.1
_LONGEST = 10.0

# All that passes by itself, or by somebody's hand elsewhere; a worker lives through it. psycopg's OperationalError
# covers what a server says of itself: too many connections, disk full, lock or statement timeout. A server that became
# read-only is a replica now; the pool finds the primary when it connects again.
TROUBLE = (
    DatabaseUnavailableError,
    PoolTimeoutError,
    QueueNotFoundError,
    psycopg.OperationalError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.UndefinedTable,  # the queue, dropped at this very moment
)


class Backoff:
    """Pauses that grow from 0.1 to 10 seconds, each within half and one and a half of its mean."""

    def __init__(self) -> None:
        self._mean = _SHORTEST

    def next(self) -> float:
        """Return the seconds to pause now."""
        pause = self._mean * random.uniform(0.5, 1.5)  # noqa: S311  (spreads workers, hides nothing)
        self._mean = min(self._mean * 2, _LONGEST)
        return pause

    def reset(self) -> None:
        """Begin with the shortest pause again: something worked."""
        self._mean = _SHORTEST
