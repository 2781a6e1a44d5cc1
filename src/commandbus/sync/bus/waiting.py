# Printed from ../../bus/waiting.py by tools/async_to_sync.py; edit that file.
"""Waiting: for a reply, for a batch, and for a batch in the background."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from commandbus._compat import Callback, call, sleep
from commandbus.errors import DatabaseUnavailableError, InvalidOperationError, PoolTimeoutError
from commandbus.models import BatchMetadata

logger = logging.getLogger(__name__)

_FIRST_LOOK = 0.002
_LONGEST_PAUSE = 0.25
_AFTER_TROUBLE = 5.0
_LONGEST_COMMIT = 300.0  # seconds that the caller's transaction may take after create_batch

OnComplete = Callback[BatchMetadata]
T = TypeVar("T")


def look_until(look: Callable[[], T | None], timeout: float) -> T | None:
    """Return what *look* finds, as soon as it finds something, or None after *timeout* seconds."""
    end = time.monotonic() + timeout
    pause = _FIRST_LOOK
    while (found := look()) is None:
        left = end - time.monotonic()
        if left <= 0:
            return None
        sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_PAUSE)
    return found


def tell(
    get_batch: Callable[[str, UUID], BatchMetadata | None],
    domain: str,
    batch_id: UUID,
    on_complete: OnComplete,
) -> None:
    """Call *on_complete* when the batch is complete; give up when it does not appear, or the pool is closed."""
    facts = {"domain": domain, "batch_id": batch_id}
    give_up_at = time.monotonic() + _LONGEST_COMMIT
    batch = None
    while batch is None or not batch.is_complete:
        sleep(_LONGEST_PAUSE)
        try:
            batch = get_batch(domain, batch_id)
        except (DatabaseUnavailableError, PoolTimeoutError):
            logger.warning("batch cannot be looked at now", extra=facts)
            sleep(_AFTER_TROUBLE)
            continue
        except InvalidOperationError:
            return  # the pool was closed
        if batch is None and time.monotonic() > give_up_at:
            logger.warning("batch was never committed, nobody will be told", extra=facts)
            return
    call(on_complete, batch)
