"""The bus: send commands, alone, in sets or as batches; wait for replies; look things up."""

from commandbus.bus.bus import MAX_SET, CommandBus
from commandbus.bus.waiting import OnComplete

__all__ = ["MAX_SET", "CommandBus", "OnComplete"]
