"""One worker process: runs until it is told to stop, and never hangs on handlers that do not end."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import FrameType
from typing import Any

from commandbus.handlers import HandlerRegistry
from commandbus.pool import CommandBusPool
from commandbus.retry import RetryPolicy
from commandbus.settings import CommandBusSettings
from commandbus.worker import Worker

logger = logging.getLogger("commandbus.cli.worker")

LEFT_BEHIND = 3  # exit code: handlers did not end and were left behind
SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HANDLER_THREADS = "commandbus-handler"
_LAST_WAIT = 1.0  # seconds for threads without work to end
_PATIENCE = 8.0  # seconds after grace until the process ends in any case; stopping itself may take five


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How a worker process runs; see `Worker` and `Worker.run`. *grace*: seconds for handlers after a signal."""

    domain: str
    concurrency: int
    poll_interval: float
    visibility_timeout: int
    use_notify: bool
    grace: float
    policy: RetryPolicy


async def serve(options: ServeOptions, registry: HandlerRegistry, settings: CommandBusSettings) -> int:
    """Execute commands until SIGTERM or SIGINT; return 0, or LEFT_BEHIND when handlers' threads still run.

    Raises:
        CommandBusError: the worker cannot start.
    """
    asked = asyncio.Event()
    _stop_on_signals(asked, options.grace)
    async with CommandBusPool(settings) as pool:
        worker = Worker(pool, options.domain, registry, options.visibility_timeout, options.policy)
        running = asyncio.create_task(
            worker.run(options.concurrency, options.poll_interval, use_notify=options.use_notify)
        )
        waiting = asyncio.create_task(asked.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if worker.is_running:
            await worker.stop(options.grace)
        else:
            running.cancel()  # it had not begun to work; nothing happens when it failed
        with contextlib.suppress(asyncio.CancelledError):
            await running
    if await _have_threads_ended():
        return 0
    logger.error("handlers did not end in time, leaving them behind", extra={"domain": options.domain})
    return LEFT_BEHIND


def run(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Return what a coroutine does, run in an event loop of its own.

    Ctrl-c while the loop is made waits until it is: half a loop cannot be closed, and complains.

    Raises:
        KeyboardInterrupt: it came before *work* could begin, or *work* let it through.
    """
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    with asyncio.Runner() as runner:
        runner.get_loop()
        signal.signal(signal.SIGINT, before)
        if came:
            raise KeyboardInterrupt
        return runner.run(work())


def leave(code: int) -> None:
    """End the process without waiting for threads."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def stop_at_end_of_input() -> None:
    """Stop as by SIGTERM when stdin ends: whoever started this process is gone, however it ended."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="commandbus-watch-input", daemon=True).start()


def _stop_on_signals(asked: asyncio.Event, grace: float) -> None:
    """Set *asked* on the first signal; end the process on the second, or when stopping takes too long."""
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    # Not the loop's own signal handlers: those wait for a handler that blocks the loop.
    def on_signal(number: int, _: FrameType | None) -> None:
        if seen:
            os._exit(128 + number)
        seen.append(number)
        watchdog = threading.Timer(grace + _PATIENCE, _give_up)
        watchdog.daemon = True
        watchdog.start()
        with contextlib.suppress(RuntimeError):  # the loop ended in this very moment
            loop.call_soon_threadsafe(asked.set)

    for number in SIGNALS:
        signal.signal(number, on_signal)


def _give_up() -> None:
    logger.error("handlers block the process, leaving them behind")
    leave(LEFT_BEHIND)


async def _have_threads_ended() -> bool:
    """Return whether no handler's thread is left; those that only wait for work need a moment."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _LAST_WAIT
    while any(thread.name.startswith(_HANDLER_THREADS) for thread in threading.enumerate()):
        if loop.time() > end:
            return False
        await asyncio.sleep(0.02)
    return True
