"""Several worker processes under one parent: replaced when they die, stopped together."""

import asyncio
import contextlib
import logging
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence

from commandbus.cli.problem import BAD_INPUT
from commandbus.cli.serve import SIGNALS
from commandbus.pool import CommandBusPool
from commandbus.settings import CommandBusSettings

logger = logging.getLogger("commandbus.cli.worker")

_SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_STEADY = 60.0  # seconds after which a process counts as having worked
_PATIENCE = 15.0  # seconds after grace until a process that does not stop is killed


class Supervisor:
    """Keeps a number of equal processes running.

    Each has a session of its own, so that ctrl-c reaches it once, through this parent; and a pipe as stdin,
    whose end tells it that the parent is gone.

    Args:
        command: what each process runs.
        environment: what it is given.
        grace: seconds that a process may take to stop.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], grace: float) -> None:
        self._command = command
        self._environment = environment
        self._grace = grace
        self._children: set[Process] = set()
        self._stopping = asyncio.Event()

    async def run(self, count: int, settings: CommandBusSettings) -> int:
        """Run *count* processes until SIGTERM or SIGINT; return 0 when all of them stopped cleanly.

        Raises:
            CommandBusError: the database cannot be used, which is better said once, and before.
        """
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._stop)
        async with CommandBusPool(settings, pool_min_size=0):
            pass
        logger.info("worker processes starting", extra={"processes": count})
        codes = await asyncio.gather(*(self._keep() for _ in range(count)))
        logger.info("worker processes stopped", extra={"exit_codes": codes})
        return max(map(_exit_code, codes))

    def _stop(self) -> None:
        """Pass a signal on, the first one and every further one."""
        if not self._stopping.is_set():
            self._stopping.set()
            asyncio.get_running_loop().call_later(self._grace + _PATIENCE, self._kill)
        for child in self._children:
            _send(child, signal.SIGTERM)

    def _kill(self) -> None:
        for child in self._children:
            logger.error("worker process does not stop, killing it", extra={"child": child.pid})
            _send(child, signal.SIGKILL)

    async def _keep(self) -> int:
        """Run one process, and another one whenever it dies; return the last one's exit code."""
        pause = _SHORTEST_PAUSE
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started = loop.time()
            child, code = await self._run_one()
            if self._stopping.is_set():
                return code
            if code == BAD_INPUT:  # another one would say the same
                self._stop()
                return code
            if loop.time() - started > _STEADY:
                pause = _SHORTEST_PAUSE
            logger.error(
                "worker process ended unexpectedly, starting another",
                extra={"child": child.pid, "exit_code": code, "pause": pause},
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        return 0

    async def _run_one(self) -> tuple[Process, int]:
        child = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, env=self._environment, start_new_session=True
        )
        self._children.add(child)
        if self._stopping.is_set():  # since it was started
            _send(child, signal.SIGTERM)
        try:
            return child, await child.wait()
        finally:
            self._children.discard(child)


def _send(child: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, number)


def _exit_code(code: int) -> int:
    """Return a process's exit code as a shell would; one that SIGTERM met before it began has stopped cleanly."""
    if code == -signal.SIGTERM:
        return 0
    return 128 - code if code < 0 else code
