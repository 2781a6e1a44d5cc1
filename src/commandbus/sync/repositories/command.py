# Printed from ../../repositories/command.py by tools/async_to_sync.py; edit that file.
"""Commands: all that can be done with them, each part in a file of its own."""

from commandbus.sync.repositories._attempts import Attempts, Delivery
from commandbus.sync.repositories._lookup import Lookup
from commandbus.sync.repositories._sending import OutgoingCommand, Sending
from commandbus.sync.repositories._troubleshooting import Troubleshooting

__all__ = ["Delivery", "OutgoingCommand", "PostgresCommandRepository"]


class PostgresCommandRepository(Sending, Attempts, Lookup, Troubleshooting):
    """Commands, over the functions of schema ``commandbus``. Arguments must have been checked."""
