"""A browser without JavaScript, and a database in which something of everything has happened."""

from __future__ import annotations

import asyncio
import html
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from commandbus import (
    BatchCommand,
    BusinessRuleException,
    CommandBus,
    CommandBusPool,
    PermanentCommandError,
    PostgresAuditLogger,
    Redrives,
    RetryPolicy,
    TransientCommandError,
    TroubleshootingQueue,
    Worker,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flask import Flask
    from werkzeug.routing import Rule
    from werkzeug.test import TestResponse

DOMAIN = "pay"
VIEWER_TOKEN, OPERATOR_TOKEN = "viewer-token-of-the-tests", "operator-token-of-the-tests"
TOKENS = {"viewer_token": VIEWER_TOKEN, "operator_token": OPERATOR_TOKEN}
CANARY = "canary-4711"  # business data, which viewers must not see
PLAIN = ("DebitAccount", "ACCOUNT_CLOSED", "the account was closed", "asked by the customer", "ada", "Month end")
_CSRF = re.compile(r'name="csrf_token" value="([^"]+)"')


@dataclass
class Browser:
    """Somebody at a console.

    Args:
        app: the console.
        token: logs in with it; without authentication when None.
        name: who it is.
    """

    app: Flask
    token: str | None = None
    name: str = "ada"
    environment: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._client = self.app.test_client()
        if self.token is not None:
            answer = self.post("/login", {"name": self.name, "token": self.token}, form="/login")
            assert answer.status_code == 302, answer.text

    def open(self, path: str, **options: Any) -> TestResponse:
        """Send any request; the answer is read to its end, unless it is a stream."""
        is_stream = path.endswith("/live/events")
        return self._client.open(path, environ_overrides=self.environment, buffered=not is_stream, **options)

    def get(self, path: str, **options: Any) -> TestResponse:
        """Get a page."""
        return self.open(path, **options)

    def csrf_token(self, form: str = "/send") -> str:
        """Return the token of a page with a form."""
        found = _CSRF.search(self.get(form).text)
        assert found, f"{form} has no token"
        return found[1]

    def post(
        self, path: str, data: dict[str, Any] | None = None, *, form: str = "/send", **options: Any
    ) -> TestResponse:
        """Send a form as its page would."""
        return self.post_raw(path, {"csrf_token": self.csrf_token(form), **(data or {})}, **options)

    def post_raw(self, path: str, data: dict[str, Any] | None = None, **options: Any) -> TestResponse:
        """Send a form as it is."""
        return self.open(path, method="POST", data=data, **options)

    def post_json(self, path: str, body: dict[str, Any]) -> TestResponse:
        """Send JSON as a program would."""
        return self.open(path, method="POST", json=body, headers={"X-CSRF-Token": self.csrf_token()})

    def cookie(self) -> str:
        """Return the session's cookie."""
        found = self._client.get_cookie("commandbus_console")
        assert found is not None
        return found.value

    def take_cookie(self, value: str, name: str = "commandbus_console") -> None:
        """Go on with another one's session, or another cookie."""
        self._client.set_cookie(name, value)


@dataclass
class World:
    """What is in the database.

    Attributes:
        parked: commands that wait for an operator.
        others: a command in every other state.
        edited: of these, those that an operator edited.
        batches: with some of them.
        redrives: of what waits, not begun, for no worker runs.
    """

    parked: list[UUID] = field(default_factory=list)
    others: list[UUID] = field(default_factory=list)
    edited: list[UUID] = field(default_factory=list)
    batches: list[UUID] = field(default_factory=list)
    redrives: list[UUID] = field(default_factory=list)

    def values(self, rule: Rule) -> dict[str, Any]:
        """Return values for the places of a route."""
        known = {
            "domain": DOMAIN, "command_id": self.parked[0], "batch_id": self.batches[0],
            "redrive_id": self.redrives[0], "action": "stop", "filename": "icon.svg",
        }  # fmt: skip
        return {name: known[name] for name in rule.arguments}


def routes(app: Flask, world: World, *methods: str) -> list[tuple[str, str, str]]:
    """Return method, address and endpoint of every route that takes one of the methods."""
    adapter = app.url_map.bind("localhost")
    return [
        (method, adapter.build(rule.endpoint, world.values(rule), method=method), rule.endpoint)
        for rule in app.url_map.iter_rules()
        for method in sorted((rule.methods or set()) & set(methods))
    ]


def words(page: str) -> str:
    """Return the text of a page, each white space as one blank."""
    return html.unescape(re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page)))


def make_world(url: str, texts: Sequence[tuple[str, str, str, str, str, str]] = (PLAIN,)) -> World:
    """Let something of everything happen, with these texts.

    Args:
        url: a migrated database.
        texts: command type, error code, error message, reason, operator and batch name, as often as wanted.
    """
    return asyncio.run(_make_world(url, texts))


async def _make_world(url: str, texts: Sequence[tuple[str, str, str, str, str, str]]) -> World:
    world = World()
    async with CommandBusPool(database_url=url) as pool:
        bus, tsq = CommandBus(pool), TroubleshootingQueue(pool)
        worker = Worker(pool, DOMAIN, retry_policy=RetryPolicy(backoff_schedule=[3600]))  # no test waits that long
        await bus.create_domain(DOMAIN)
        for kind, code, message, reason, operator, name in texts:
            data = {"secret": CANARY, kind: [message, {code: reason}]}

            async def send_batch(
                count: int, kind: str = kind, data: dict[str, Any] = data, name: str = name
            ) -> list[UUID]:
                commands = [BatchCommand(kind, uuid4(), data, correlation_id=UUID(int=7)) for _ in range(count)]
                made = await bus.create_batch(DOMAIN, commands, name=name, custom_data=data)
                world.batches.append(made.batch_id)
                return [command.command_id for command in commands]

            ids = await send_batch(8)
            errors = [PermanentCommandError(code, message, {kind: reason}) for _ in range(4)]
            received = await worker.receive(8)
            spoilt = received.pop()
            await worker.fail_permanent(spoilt, errors[0])
            world.edited += [
                await _edit(worker, tsq, spoilt.command.command_id, {kind: reason, "secret": CANARY}, operator, reason)
            ]
            for one, error in zip(received[:4], errors, strict=True):
                await worker.fail_permanent(one, error)
            await worker.complete(received[4], {"result": message})
            await worker.fail_business_rule(received[5], BusinessRuleException(code, message, {kind: reason}))
            await worker.fail(received[6], TransientCommandError(code, message))
            parked = [one.command.command_id for one in received[:4]]
            await tsq.operator_cancel(DOMAIN, parked[2], reason, operator)
            await tsq.operator_complete(DOMAIN, parked[3], {kind: message}, operator)
            await PostgresAuditLogger(pool).log(DOMAIN, parked[0], code, '{"note": "an event of the user\'s own"}')
            world.parked += parked[:2]
            world.others += [command_id for command_id in ids if command_id not in parked[:2]]
            redrives = Redrives(pool)
            for redrive_id in [
                await redrives.start(DOMAIN, rate=1, operator=operator, reason=reason) for _ in range(2)
            ]:
                world.redrives.append(redrive_id)
            await redrives.pause(world.redrives[-1], operator, reason)
        await bus.send(DOMAIN, texts[0][0], uuid4(), {"secret": CANARY})
    return world


async def _edit(
    worker: Worker, tsq: TroubleshootingQueue, command_id: UUID, data: dict[str, Any], operator: str, reason: str
) -> UUID:
    """Edit a command that waits, and let it complete; return its id."""
    await tsq.edit_and_retry(DOMAIN, command_id, data, operator, reason=reason)
    (received,) = await worker.receive(1)
    await worker.complete(received)
    return command_id
