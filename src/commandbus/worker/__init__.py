"""The worker: takes commands from a domain's queue, runs their handlers, and settles them."""

from commandbus.worker.received import ReceivedCommand
from commandbus.worker.worker import Worker

__all__ = ["ReceivedCommand", "Worker"]
