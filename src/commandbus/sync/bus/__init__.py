# Printed from ../../bus/__init__.py by tools/async_to_sync.py; edit that file.
"""The bus: send commands, alone, in sets or as batches; wait for replies; look things up."""

from commandbus.sync.bus.bus import MAX_SET, CommandBus
from commandbus.sync.bus.waiting import OnComplete

__all__ = ["MAX_SET", "CommandBus", "OnComplete"]
