"""How a worker may be set up: what its options are checked with, wherever they are given."""

from commandbus.payload import check_count, check_timeout

MAX_BATCH_SIZE = 1_000


def check_concurrency(value: object) -> int:
    """Return *value* when it is a number of handlers: 1 to 10,000.

    Raises:
        InvalidArgumentError: it is none.
    """
    return check_count(value, "concurrency", 1, 10_000)


def check_poll_interval(value: object) -> float:
    """Return *value* when it is seconds between looks at an empty queue: 0.01 to 3,600.

    Raises:
        InvalidArgumentError: it is none.
    """
    return check_timeout(value, "poll_interval", 0.01, 3_600)


def check_visibility_timeout(value: object) -> int:
    """Return *value* when it is seconds of a lease: 1 to 86,400.

    Raises:
        InvalidArgumentError: it is none.
    """
    return check_count(value, "visibility_timeout", 1, 86_400)
