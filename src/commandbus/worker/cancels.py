"""Cancels that Python lost on their way."""

import asyncio


class Cancels:
    """Notices a cancel of the current task that raised nothing.

    `asyncio.wait_for` of Python 3.11, in which psycopg and its pools wait, loses one that comes in the moment in which
    what it waits for is there (CPython issue 86296). A loop that asks the database must look, or may never end.
    """

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (only coroutines make one)
        self._task = task
        self._before = task.cancelling()

    def check(self) -> None:
        """Raise what the lost one should have raised: CancelledError."""
        if self._task.cancelling() > self._before:
            raise asyncio.CancelledError
