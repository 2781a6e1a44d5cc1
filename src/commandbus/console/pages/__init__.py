"""One file per page; each is a blueprint, found by the console as one of `PAGES`."""

from commandbus.console.pages import audit, batches, commands, health, overview, queues, send, troubleshooting

PAGES = (
    overview.page,
    commands.page,
    troubleshooting.page,
    batches.page,
    queues.page,
    audit.page,
    send.page,
    health.page,
)
