"""The troubleshooting queue: what operators see and do."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg_pool import AsyncConnectionPool

from commandbus.errors import CommandNotFoundError, InvalidArgumentError, InvalidOperationError
from commandbus.handlers import HandlerRegistry
from commandbus.models import FailureGroup, PageKey, TroubleshootingItem, Verdict
from commandbus.payload import (
    check_command_type,
    check_count,
    check_domain,
    check_items,
    check_limit,
    check_offset,
    check_operator,
    check_reason,
    check_some_reason,
    check_timeout,
    check_uuid,
    decode,
    encode,
    encode_value,
)
from commandbus.repositories import PostgresCommandRepository
from commandbus.repositories._base import check_pool, settings_of

MAX_IDS = 10_000
_MAX_AGE = 31_536_000
_MOST_LISTED = 1_000_000


class TroubleshootingQueue:
    """Commands that failed and wait for an operator.

    The methods for one command raise when it does not wait there; those for many say so per command.

    Args:
        pool: a `CommandBusPool`, or any psycopg pool on a migrated database.
    """

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._settings = settings_of(check_pool(pool))
        self._commands = PostgresCommandRepository(pool)

    async def list_troubleshooting(
        self,
        domain: str,
        command_type: str | None = None,
        limit: int = 50,
        offset: int = 0,
        *,
        failure_key: UUID | None = None,
        start: PageKey | None = None,
        with_payload: bool = True,
        exact: bool = False,
    ) -> list[TroubleshootingItem]:
        """Return a domain's waiting commands with their payloads, longest waiting first.

        Args:
            domain: the domain.
            command_type: only of this one.
            limit: 1 to 1,000.
            offset: from 0; what it skips costs as much as what is returned.
            failure_key: only of this group of failures.
            start: ``PageKey(item.waiting_since, item.command_id)`` of the last one of the page before: each page costs
                as much as the first, and what was decided about meanwhile shifts nothing.
            with_payload: False: payloads are None, and roles may ask that see none.
            exact: numbers that a float would change are `JsonNumber`, which `edit_and_retry` stores as they were.
        """
        return await self._list(
            check_domain(domain), command_type, limit, offset, failure_key, start, with_payload, exact
        )

    async def list_all_troubleshooting(
        self,
        command_type: str | None = None,
        limit: int = 50,
        offset: int = 0,
        *,
        start: PageKey | None = None,
        with_payload: bool = True,
        exact: bool = False,
    ) -> list[TroubleshootingItem]:
        """Return the waiting commands of all domains; as `list_troubleshooting`."""
        return await self._list(None, command_type, limit, offset, None, start, with_payload, exact)

    async def count_troubleshooting(self, domain: str | None = None, command_type: str | None = None) -> int:
        """Return how many commands wait, of one domain or all, of one type or all."""
        counts = await self._commands.count_troubleshooting(
            None if domain is None else check_domain(domain),
            None if command_type is None else check_command_type(command_type),
        )
        return sum(waiting for _, _, waiting in counts)

    async def list_domains(self) -> list[str]:
        """Return the domains in which commands wait, by name."""
        return sorted({domain for domain, _, _ in await self._commands.count_troubleshooting()})

    async def list_command_ids(
        self,
        domain: str,
        command_type: str | None = None,
        *,
        failure_key: UUID | None = None,
        start: PageKey | None = None,
        limit: int | None = None,
    ) -> list[UUID]:
        """Return the ids of waiting commands of a domain, longest waiting first.

        Args:
            domain: the domain.
            command_type: only of this one.
            failure_key: only of this group of failures.
            start: only those behind this place, as in `list_troubleshooting`.
            limit: the first so many, 1 to 1,000,000; all when None.
        """
        return await self._commands.list_troubleshooting_ids(
            check_domain(domain),
            None if command_type is None else check_command_type(command_type),
            None if failure_key is None else check_uuid(failure_key, "failure_key"),
            _check_start(start),
            None if limit is None else check_count(limit, "limit", 1, _MOST_LISTED),
        )

    async def list_failure_groups(
        self, domain: str | None = None, limit: int = 100, *, failure_key: UUID | Sequence[UUID] | None = None
    ) -> list[FailureGroup]:
        """Return the waiting commands of a domain, or all, by what their failures look like; the largest group first.

        Args:
            domain: the domain.
            limit: most groups, 1 to 1,000.
            failure_key: only this one, or these; of several domains, where they fail alike.
        """
        if failure_key is not None and not isinstance(failure_key, Sequence):
            failure_key = [failure_key]
        return await self._commands.list_failure_groups(
            None if domain is None else check_domain(domain),
            check_limit(limit),
            None if failure_key is None else [check_uuid(key, "failure_key") for key in failure_key],
        )

    async def get_command_domain(self, command_id: UUID) -> str:
        """Return the domain of a command.

        Raises:
            CommandNotFoundError: no domain knows it.
            InvalidOperationError: several domains use the same id.
        """
        command_id = check_uuid(command_id, "command_id")
        domains = await self._commands.find_domains(command_id)
        if not domains:
            raise CommandNotFoundError(None, command_id, f"command {command_id} not found in any domain")
        if len(domains) > 1:
            raise InvalidOperationError(f"command {command_id} exists in domains {', '.join(domains)}")
        return domains[0]

    async def operator_retry(
        self, domain: str, command_id: UUID, operator: str | None = None, *, reason: str | None = None
    ) -> int:
        """Queue a command again, with all its attempts before it.

        Args:
            domain: the command's domain.
            command_id: a command that waits.
            operator: who decides, for the audit trail; up to 200 characters.
            reason: and why; up to 2,000.

        Returns:
            The new msg_id.

        Raises:
            CommandNotFoundError: there is no such command.
            InvalidOperationError: it does not wait (any more); somebody else may have been first.
        """
        verdict = self._single(domain, await self.retry_many(domain, [command_id], operator, reason=reason))
        if verdict.msg_id is None:
            raise InvalidOperationError(f"command {command_id} got no message")
        return verdict.msg_id

    async def operator_cancel(self, domain: str, command_id: UUID, reason: str, operator: str | None = None) -> None:
        """Give a command up; who waits for its reply is told CANCELED and the reason.

        Args:
            domain: the command's domain.
            command_id: a command that waits.
            reason: 1 to 2,000 characters.
            operator: as in `operator_retry`.

        Raises:
            CommandNotFoundError, InvalidOperationError: as `operator_retry`.
        """
        self._single(domain, await self.cancel_many(domain, [command_id], reason, operator))

    async def operator_complete(
        self,
        domain: str,
        command_id: UUID,
        result_data: Any | None = None,  # noqa: ANN401  (any JSON)
        operator: str | None = None,
        *,
        reason: str | None = None,
    ) -> None:
        """Complete a command whose work was done by hand; who waits for its reply is told SUCCESS.

        Args:
            domain: the command's domain.
            command_id: a command that waits.
            result_data: the reply's result, any JSON value.
            operator, reason: as in `operator_retry`.

        Raises:
            CommandNotFoundError, InvalidOperationError: as `operator_retry`.
        """
        self._single(domain, await self.complete_many(domain, [command_id], result_data, operator, reason=reason))

    async def edit_and_retry(
        self,
        domain: str,
        command_id: UUID,
        data: Any,  # noqa: ANN401  (a JSON object, or a pydantic model)
        operator: str | None = None,
        *,
        reason: str | None = None,
        registry: HandlerRegistry | None = None,
    ) -> int:
        """Queue a command again with other data; what it was before and is now stands in the audit.

        Args:
            domain: the command's domain.
            command_id: a command that waits.
            data: the JSON object to take the place of what was sent. A `JsonNumber` in it keeps its digits: what
                ``get_message(..., exact=True)`` gave comes back as it was, but for what was changed.
            operator, reason: as in `operator_retry`.
            registry: the handlers; *data* must then fit the model that the command's handler asks for.

        Returns:
            The new msg_id.

        Raises:
            InvalidPayloadError: *data* does not fit the handler's model; nothing was changed.
            CommandNotFoundError, InvalidOperationError: as `operator_retry`.
        """
        domain, command_id = check_domain(domain), check_uuid(command_id, "command_id")
        text = encode(data, "data", self._settings.max_payload_bytes, any_number=True)
        if registry is not None:
            command = await self._commands.get(domain, command_id)
            if command is None:
                raise CommandNotFoundError(domain, command_id)
            registry.check(domain, command.command_type, decode(text))
        return await self._commands.operator_edit(
            domain, command_id, text, check_operator(operator), check_reason(reason)
        )

    async def park_lost(self, domain: str, older_than: float = 3_600.0) -> list[UUID]:
        """Let commands wait here whose message is gone, so that no worker would ever see them.

        That happens when somebody purges a queue, deletes messages by hand, or drops a queue and makes it again.
        Such a command can be retried only where PGMQ's archive still has its message.

        Args:
            domain: the domain.
            older_than: seconds since the send, 0 to 31,536,000. Each command that is older is looked at.

        Returns:
            Up to 10,000 commands that wait now.

        Raises:
            QueueNotFoundError: the domain has no queue: make it again first.
        """
        seconds = check_timeout(older_than, "older_than", 0, _MAX_AGE)
        return await self._commands.park_lost(check_domain(domain), seconds)

    async def retry_many(
        self, domain: str, command_ids: Sequence[UUID], operator: str | None = None, *, reason: str | None = None
    ) -> list[Verdict]:
        """Queue 1 to 10,000 commands again; return one verdict per command, in no promised order."""
        return await self._commands.operator_retry(
            check_domain(domain), _ids(command_ids), check_operator(operator), check_reason(reason)
        )

    async def cancel_many(
        self, domain: str, command_ids: Sequence[UUID], reason: str, operator: str | None = None
    ) -> list[Verdict]:
        """Give 1 to 10,000 commands up; return one verdict per command, in no promised order."""
        return await self._commands.operator_cancel(
            check_domain(domain),
            _ids(command_ids),
            check_some_reason(reason),
            check_operator(operator),
        )

    async def complete_many(
        self,
        domain: str,
        command_ids: Sequence[UUID],
        result_data: Any | None = None,  # noqa: ANN401  (any JSON)
        operator: str | None = None,
        *,
        reason: str | None = None,
    ) -> list[Verdict]:
        """Complete 1 to 10,000 commands; return one verdict per command, in no promised order."""
        result = (
            None if result_data is None else encode_value(result_data, "result_data", self._settings.max_payload_bytes)
        )
        return await self._commands.operator_complete(
            check_domain(domain), _ids(command_ids), result, check_operator(operator), check_reason(reason)
        )

    async def _list(
        self,
        domain: str | None,
        command_type: str | None,
        limit: int,
        offset: int,
        failure_key: UUID | None,
        start: PageKey | None,
        with_payload: bool,
        exact: bool,
    ) -> list[TroubleshootingItem]:
        return await self._commands.list_troubleshooting(
            domain,
            None if command_type is None else check_command_type(command_type),
            limit=check_limit(limit),
            offset=check_offset(offset),
            failure_key=None if failure_key is None else check_uuid(failure_key, "failure_key"),
            start=_check_start(start),
            with_payload=with_payload,
            exact=exact,
        )

    @staticmethod
    def _single(domain: str, verdicts: list[Verdict]) -> Verdict:
        """Return the only verdict, or raise why it was refused."""
        verdict = verdicts[0]
        if verdict.refusal == "NOT_FOUND":
            raise CommandNotFoundError(domain, verdict.command_id)
        if verdict.refusal == "NO_PAYLOAD":
            raise InvalidOperationError(
                f"command {verdict.command_id} cannot be retried: what was sent is lost; complete or cancel it"
            )
        if verdict.refusal is not None:
            raise InvalidOperationError(
                f"command {verdict.command_id} is {verdict.refusal}: it does not wait for an operator"
            )
        return verdict


def _check_start(start: PageKey | None) -> PageKey | None:
    if not isinstance(start, PageKey | None):
        raise InvalidArgumentError("start", "must be a PageKey")
    return start


def _ids(command_ids: Sequence[UUID]) -> list[UUID]:
    check_items(command_ids, "command_ids", object, MAX_IDS)
    return list(dict.fromkeys(check_uuid(command_id, "command_id") for command_id in command_ids))
