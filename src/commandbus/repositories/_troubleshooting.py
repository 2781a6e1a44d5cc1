"""Commands that wait for an operator, and the operator's verdicts."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from commandbus.models import ErrorType, FailureGroup, PageKey, TroubleshootingItem, Verdict
from commandbus.payload import decode_leniently
from commandbus.repositories._arrays import uuid_array
from commandbus.repositories._base import Repository, Row


def _list(function: str, payload: str) -> str:
    """Return the statement that lists commands; a function of commands alone gives its rows as *command* too."""
    return (
        "select (command).domain, (command).command_id, (command).command_type, (command).attempts,"  # noqa: S608  (constants)
        " (command).max_attempts, (command).last_error_type, (command).last_error_code, (command).last_error_msg,"
        f" (command).correlation_id, (command).reply_queue, {payload}, (command).created_at,"
        " (command).updated_at, (command).batch_id, (command).attention_at"
        f" from commandbus.{function}($1::text, $2::text, $3::int, $4::int, $5::uuid, $6::timestamptz, $7::uuid)"
        " as command"
    )


_WITH_PAYLOAD = _list("list_troubleshooting", "payload::text")
_WITHOUT = _list("list_waiting", "null")


class Troubleshooting(Repository):
    """What an operator calls."""

    async def list_troubleshooting(
        self,
        domain: str | None,
        command_type: str | None,
        *,
        limit: int,
        offset: int,
        failure_key: UUID | None = None,
        start: PageKey | None = None,
        with_payload: bool = True,
        exact: bool = False,
    ) -> list[TroubleshootingItem]:
        """Return commands that wait for an operator, longest waiting first.

        A payload that cannot be decoded is given as its text, so that one bad row hides no other.

        Source: ``commandbus.list_troubleshooting``, or ``commandbus.list_waiting`` without payloads.
        """
        rows = await self._rows(
            _WITH_PAYLOAD if with_payload else _WITHOUT,
            (domain, command_type, limit, offset, failure_key, *_place(start)),
        )
        return [_to_item(row, exact) for row in rows]

    async def list_troubleshooting_ids(
        self,
        domain: str,
        command_type: str | None = None,
        failure_key: UUID | None = None,
        start: PageKey | None = None,
        limit: int | None = None,
    ) -> list[UUID]:
        """Return the ids of commands of a domain that wait for an operator, longest waiting first.

        Source: ``commandbus.list_troubleshooting_ids``.
        """
        rows = await self._rows(
            "select * from commandbus.list_troubleshooting_ids($1::text, $2::text, $3::uuid, $4::timestamptz, $5::uuid,"
            " $6::int)",
            (domain, command_type, failure_key, *_place(start), limit),
        )
        return [command_id for (command_id,) in rows]

    async def count_troubleshooting(
        self, domain: str | None = None, command_type: str | None = None
    ) -> list[tuple[str, str, int]]:
        """Return (domain, command_type, waiting) of all that wait for an operator.

        Source: ``commandbus.count_troubleshooting``.
        """
        rows = await self._rows(
            "select domain, command_type, waiting from commandbus.count_troubleshooting($1::text, $2::text)",
            (domain, command_type),
        )
        return [(found, kind, waiting) for found, kind, waiting in rows]

    async def list_failure_groups(
        self, domain: str | None, limit: int, failure_keys: Sequence[UUID] | None = None
    ) -> list[FailureGroup]:
        """Return waiting commands by what their failures look like. Source: ``commandbus.list_failure_groups``."""
        rows = await self._rows(
            "select domain, failure_key, waiting, first_seen, last_seen, command_type, error_type, error_code,"
            " error_text, example_id from commandbus.list_failure_groups($1::text, $2::int, $3::uuid[])",
            (domain, limit, None if failure_keys is None else uuid_array(failure_keys)),
        )
        return [_to_group(row) for row in rows]

    async def operator_edit(
        self, domain: str, command_id: UUID, data: str, operator: str | None, reason: str | None
    ) -> int:
        """Queue a command of the TSQ again with other *data*, JSON text. Source: ``commandbus.sp_operator_edit``."""
        msg_id: int = await self._value(
            "select commandbus.sp_operator_edit($1::text, $2::uuid, $3::jsonb, $4::text, $5::text, $6::boolean,"
            " $7::int)",
            (domain, command_id, data, operator, reason, self._settings.notify, self._settings.max_payload_bytes),
            repeatable=False,
        )
        return msg_id

    async def operator_retry(
        self, domain: str, command_ids: Sequence[UUID], operator: str | None, reason: str | None = None
    ) -> list[Verdict]:
        """Queue commands of the TSQ again, all attempts before them. Source: ``commandbus.sp_operator_retry``."""
        rows = await self._rows(
            "select command_id, msg_id, refusal from commandbus.sp_operator_retry($1::text, $2::uuid[], $3::text,"
            " $4::boolean, $5::text)",
            (domain, uuid_array(command_ids), operator, self._settings.notify, reason),
            repeatable=False,
        )
        return [Verdict._make(row) for row in rows]

    async def operator_cancel(
        self, domain: str, command_ids: Sequence[UUID], reason: str, operator: str | None
    ) -> list[Verdict]:
        """Give up commands of the TSQ. Source: ``commandbus.sp_operator_cancel``."""
        rows = await self._rows(
            "select command_id, null, refusal from commandbus.sp_operator_cancel($1::text, $2::uuid[], $3::text,"
            " $4::text, $5::boolean)",
            (domain, uuid_array(command_ids), reason, operator, self._settings.notify),
            repeatable=False,
        )
        return [Verdict._make(row) for row in rows]

    async def park_lost(self, domain: str, seconds: float) -> list[UUID]:
        """Park commands sent more than *seconds* ago that have no message. Source: ``commandbus.sp_park_lost``."""
        rows = await self._rows(
            "select * from commandbus.sp_park_lost("
            "$1::text, pg_catalog.now() - pg_catalog.make_interval(secs => $2::float8))",
            (domain, seconds),
            repeatable=False,
        )
        return [row[0] for row in rows]

    async def operator_complete(
        self,
        domain: str,
        command_ids: Sequence[UUID],
        result: str | None,
        operator: str | None,
        reason: str | None = None,
    ) -> list[Verdict]:
        """Complete commands of the TSQ; *result* is JSON text. Source: ``commandbus.sp_operator_complete``."""
        rows = await self._rows(
            "select command_id, null, refusal from commandbus.sp_operator_complete($1::text, $2::uuid[], $3::jsonb,"
            " $4::text, $5::boolean, $6::text)",
            (domain, uuid_array(command_ids), result, operator, self._settings.notify, reason),
            repeatable=False,
        )
        return [Verdict._make(row) for row in rows]


def _place(start: PageKey | None) -> tuple[datetime | None, UUID | None]:
    return (None, None) if start is None else (start.created_at, start.command_id)


def _to_group(row: Row) -> FailureGroup:
    """Return the record of a row of list_failure_groups."""
    domain, failure_key, waiting, first_seen, last_seen, kind, error, *rest = row
    return FailureGroup(
        domain, failure_key, waiting, first_seen, last_seen, kind, None if error is None else ErrorType(error), *rest
    )


def _to_item(row: Row, exact: bool) -> TroubleshootingItem:
    """Return the record of a row of list_troubleshooting."""
    (
        domain,
        command_id,
        kind,
        attempts,
        most,
        error,
        code,
        text,
        correlation_id,
        reply_queue,
        payload,
        *rest,
    ) = row
    return TroubleshootingItem(
        domain,
        command_id,
        kind,
        attempts,
        most,
        None if error is None else ErrorType(error),
        code,
        text,
        correlation_id,
        reply_queue or None,
        decode_leniently(payload, exact=exact),
        *rest,
    )
