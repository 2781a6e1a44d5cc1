"""The few true differences between async and sync code, in pairs: the printer takes the second of each.

A name that begins with ``Async`` or ``a`` is for the written source; its twin has the name without that.
"""

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

AsyncCallback = Callable[[T], Awaitable[None] | None]
Callback = Callable[[T], None]

AsyncLock = asyncio.Lock
Lock = threading.Lock

asleep = asyncio.sleep
sleep = time.sleep

_running: set[asyncio.Task[None]] = set()  # the loop itself holds its tasks only weakly


def aspawn(function: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
    """Let *function* run in the background, in a task of the running loop."""
    task = asyncio.create_task(function(*args))
    _running.add(task)
    task.add_done_callback(_running.discard)


def spawn(function: Callable[..., None], *args: object) -> None:
    """Let *function* run in the background, in a thread that does not keep the process alive."""
    threading.Thread(target=function, args=args, daemon=True).start()


async def acall(function: Callable[..., Awaitable[None] | None], *args: object) -> None:
    """Call a plain or async function."""
    result = function(*args)
    if inspect.isawaitable(result):
        await result


def call(function: Callable[..., None], *args: object) -> None:
    """Call a plain function."""
    function(*args)
