"""Lets ctrl-c end the command line without a word even while it loads, which takes half a second.

Importing any module of commandbus imports all of it, so this must come first there. Other programs keep the
interrupts they have.
"""

import os
import signal
import sys
from itertools import pairwise
from pathlib import Path
from types import FrameType

INTERRUPTED = 130


def _is_command_line() -> bool:
    """Return whether this process is `commandbus`, or `python -m commandbus` that still looks for its module."""
    started = Path(sys.argv[0]).name if sys.argv else ""
    return started == "commandbus" or (started == "-m" and ("-m", "commandbus") in pairwise(sys.orig_argv))


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)  # nothing has begun, or all is done


def end_quietly() -> None:
    """Let SIGINT end the process at once, unless somebody decided otherwise about it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """Let SIGINT raise KeyboardInterrupt, as usual."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if _is_command_line():
    end_quietly()
