"""One file per page; each is a blueprint, found by the console as one of `PAGES`."""

from commandbus.console.pages import (
    audit,
    batches,
    commands,
    editing,
    health,
    overview,
    queues,
    redrives,
    send,
    troubleshooting,
)

PAGES = (
    overview.page,
    commands.page,
    editing.page,
    troubleshooting.page,
    redrives.page,
    batches.page,
    queues.page,
    audit.page,
    send.page,
    health.page,
)
