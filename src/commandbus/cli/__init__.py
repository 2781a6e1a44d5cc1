"""The command line `commandbus`: thin, over public calls of the library.

Results go to stdout; progress, questions, logs and errors to stderr. Exit codes: 0 done, 1 the operation failed,
2 bad input, 130 interrupted; a worker that must leave handlers behind ends with 3.
"""

from commandbus.cli.app import main

__all__ = ["main"]
