"""Lets a worker maintain the database now and then; whoever is second leaves it to the first."""

import asyncio
import logging
import random

import psycopg
from psycopg.errors import InsufficientPrivilege

from commandbus.errors import CommandBusError
from commandbus.maintenance import Maintenance
from commandbus.worker.cancels import Cancels

logger = logging.getLogger(__name__)

_FIRST = (1.0, 30.0)  # seconds after the start: not all workers of a deployment at once
_INTERVAL = 3_600.0


async def keep_house(maintenance: Maintenance) -> None:
    """Run *maintenance* soon, then about every hour, until cancelled.

    A failure is logged, and tried again then. That the worker's role may not remove anything is said once.
    """
    is_refused = False
    cancels = Cancels()
    pause = random.uniform(*_FIRST)  # noqa: S311  (spreads workers)
    while True:
        await asyncio.sleep(pause)
        try:
            await maintenance.run()
        except InsufficientPrivilege as error:
            if not is_refused:
                logger.warning(
                    "nothing old is removed here: that needs a member of the operator's role, by default"
                    " commandbus_operator; unset COMMANDBUS_KEEP_..._DAYS here, and run commandbus maintain as one",
                    extra={"refused": error.diag.message_primary},
                )
            is_refused = True
        except (psycopg.Error, CommandBusError, OSError) as error:
            logger.warning(
                "maintenance failed, trying again later",
                extra={"error": type(error).__name__, "sqlstate": getattr(error, "sqlstate", None)},
            )
        cancels.check()
        pause = _INTERVAL * random.uniform(0.9, 1.1)  # noqa: S311  (spreads workers)
