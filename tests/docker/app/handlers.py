"""What the worker container executes in the tests: it is mounted, and knows nothing of the tests."""

import asyncio
import os
import socket

from commandbus import Command, HandlerContext, HandlerRegistry

registry = HandlerRegistry()


@registry.handler("shop", "WhoAreYou")
async def who_are_you(_: Command, __: HandlerContext) -> dict[str, object]:
    """Tell where and as whom this runs."""
    return {"user": os.getuid(), "host": socket.gethostname()}


@registry.handler("shop", "TakeTime")
async def take_time(command: Command, _: HandlerContext) -> None:
    """Take as many seconds as asked for."""
    await asyncio.sleep(command.data["seconds"])
