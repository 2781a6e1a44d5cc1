"""Lets a worker maintain the database now and then; whoever is second leaves it to the first."""

import asyncio
import logging
import random

import psycopg

from commandbus.errors import CommandBusError
from commandbus.maintenance import Maintenance

logger = logging.getLogger(__name__)

_FIRST = (1.0, 30.0)  # seconds after the start: not all workers of a deployment at once
_INTERVAL = 3_600.0


async def keep_house(maintenance: Maintenance) -> None:
    """Run *maintenance* soon, then about every hour, until cancelled. A failure is logged, and tried again then."""
    pause = random.uniform(*_FIRST)  # noqa: S311  (spreads workers)
    while True:
        await asyncio.sleep(pause)
        try:
            await maintenance.run()
        except (psycopg.Error, CommandBusError) as error:
            logger.warning(
                "maintenance failed, trying again later",
                extra={"error": type(error).__name__, "sqlstate": getattr(error, "sqlstate", None)},
            )
        pause = _INTERVAL * random.uniform(0.9, 1.1)  # noqa: S311
