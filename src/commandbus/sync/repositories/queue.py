# Printed from ../../repositories/queue.py by tools/async_to_sync.py; edit that file.
"""PGMQ's queues: the message level below commands, and the queues of domains."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from commandbus.errors import InvalidPayloadError
from commandbus.models import PgmqMessage, QueueMetrics, Reply, ReplyOutcome
from commandbus.payload import (
    check_count,
    check_domain,
    check_items,
    check_queue,
    check_reply_queue,
    check_uuid,
    decode_leniently,
    encode_value,
)
from commandbus.sync.repositories._arrays import text_array, uuid_array
from commandbus.sync.repositories._base import Repository

_MOST_SECONDS = 86_400
_MOST_MESSAGES = 10_000


class PgmqClient(Repository):
    """Queues and their messages, over the functions of schema ``commandbus`` that call PGMQ's."""

    def create_domain(self, domain: str) -> bool:
        """Make a domain's command queue and reply queue, if they are not there yet.

        Returns:
            Whether anything had to be made.

        Raises:
            InvalidArgumentError: *domain* is no domain name.

        Source: ``commandbus.sp_create_domain``.
        """
        return bool(self._value("select commandbus.sp_create_domain($1::text)", (check_domain(domain),)))

    def list_domains(self) -> list[str]:
        """Return the domains that have a command queue, by name. Source: ``commandbus.list_domains``."""
        rows = self._rows("select * from commandbus.list_domains()")
        return [domain for (domain,) in rows]

    def metrics(self, domain: str) -> QueueMetrics:
        """Return what a domain's command queue holds now; it is counted, which walks the whole queue.

        Raises:
            QueueNotFoundError: the domain has no queue (CB005).

        Source: ``commandbus.domain_metrics``.
        """
        rows = self._rows(
            "select queue_name, length, visible, in_flight, scheduled, archived, newest_age_seconds,"
            " oldest_age_seconds from commandbus.domain_metrics($1::text)",
            (check_domain(domain),),
        )
        return QueueMetrics(*rows[0])

    def take_replies(self, queue: str, command_ids: Sequence[UUID], domain: str | None = None) -> list[Reply]:
        """Take the replies to certain commands out of a reply queue, and leave all others.

        Args:
            queue: a reply queue.
            command_ids: 1 to 10,000.
            domain: the commands' domain; None where no other domain that replies here uses the same ids.

        Returns:
            The replies that are there, at most one per command.

        Raises:
            InvalidArgumentError: an argument breaks its limit.
            QueueNotFoundError: there is no such reply queue (CB005).
            InvalidPayloadError: what was there is no reply; somebody put it there by hand. It is gone.

        Source: ``commandbus.sp_take_replies``.
        """
        check_items(command_ids, "command_ids", object, _MOST_MESSAGES)
        ids = [check_uuid(command_id, "command_id") for command_id in command_ids]
        rows = self._rows(
            "select r::text from commandbus.sp_take_replies($1::text, $2::uuid[], $3::text) r",
            (check_reply_queue(queue, "queue"), uuid_array(ids), None if domain is None else check_domain(domain)),
            repeatable=False,
        )
        return [to_reply(decode_leniently(text)) for (text,) in rows]

    def create_queue(self, queue: str) -> bool:
        """Make a plain queue, if it is not there yet.

        Returns:
            Whether it had to be made.

        Raises:
            InvalidArgumentError: *queue* is no queue name.

        Source: ``commandbus.queue_create``.
        """
        return bool(self._value("select commandbus.queue_create($1::text)", (check_queue(queue),)))

    def send(self, queue: str, message: Any, delay: int = 0) -> int:  # noqa: ANN401  (any JSON)
        """Put one message into a queue.

        Args:
            queue: an existing queue.
            message: any JSON value, see `commandbus.payload.encode_value`.
            delay: seconds until it is visible, 0 to 86,400.

        Returns:
            Its msg_id.

        Raises:
            InvalidArgumentError: an argument breaks its limit.
            QueueNotFoundError: there is no such queue (CB005).

        Source: ``commandbus.queue_send``.
        """
        return (self.send_batch(queue, [message], delay))[0]

    def send_batch(self, queue: str, messages: Sequence[Any], delay: int = 0) -> list[int]:
        """Put 1 to 10,000 messages into a queue, all or none; otherwise as `send`.

        Returns:
            Their msg_ids, in the same order.
        """
        check_items(messages, "messages", object, _MOST_MESSAGES)
        texts = [encode_value(m, "message", self._settings.max_payload_bytes) for m in messages]
        rows = self._rows(
            "select * from commandbus.queue_send($1::text, $2::jsonb[], $3::int)",
            (check_queue(queue), text_array(texts), check_count(delay, "delay", 0, _MOST_SECONDS)),
            repeatable=False,
        )
        return [msg_id for (msg_id,) in rows]

    def read(self, queue: str, visibility_timeout: int = 30, batch_size: int = 1) -> list[PgmqMessage]:
        """Lease up to *batch_size* messages, oldest first.

        Args:
            queue: an existing queue.
            visibility_timeout: seconds until they are visible again, 0 to 86,400.
            batch_size: most messages, 1 to 10,000.

        Returns:
            0 to *batch_size* messages; one that Python cannot decode is given as its text.

        Raises:
            InvalidArgumentError: an argument breaks its limit.
            QueueNotFoundError: there is no such queue (CB005).

        Source: ``commandbus.queue_read``.
        """
        rows = self._rows(
            "select msg_id, read_ct, enqueued_at, vt, message::text"
            " from commandbus.queue_read($1::text, $2::int, $3::int)",
            (
                check_queue(queue),
                check_count(visibility_timeout, "visibility_timeout", 0, _MOST_SECONDS),
                check_count(batch_size, "batch_size", 1, _MOST_MESSAGES),
            ),
            repeatable=False,
        )
        return [
            PgmqMessage(msg_id, read_ct, enqueued_at, vt, decode_leniently(text))
            for msg_id, read_ct, enqueued_at, vt, text in rows
        ]

    def delete(self, queue: str, msg_id: int) -> bool:
        """Remove a message; return whether it was there. Source: ``commandbus.queue_delete``."""
        return self._about_message("select commandbus.queue_delete($1::text, $2::bigint)", queue, msg_id)

    def archive(self, queue: str, msg_id: int) -> bool:
        """Move a message to the queue's archive; return whether it was there.

        Source: ``commandbus.queue_archive``.
        """
        return self._about_message("select commandbus.queue_archive($1::text, $2::bigint)", queue, msg_id)

    def set_vt(self, queue: str, msg_id: int, seconds: int) -> bool:
        """Let a message be visible in *seconds*, 0 to 86,400; return whether it was there.

        Source: ``commandbus.queue_set_vt``.
        """
        check_count(seconds, "seconds", 0, _MOST_SECONDS)
        return self._about_message(
            "select commandbus.queue_set_vt($1::text, $2::bigint, $3::int)", queue, msg_id, seconds
        )

    def notify(self, queue: str) -> None:
        """Wake those who listen for a queue. Source: ``commandbus.queue_notify``."""
        self._rows("select commandbus.queue_notify($1::text)", (check_queue(queue),))

    def _about_message(self, sql: str, queue: str, msg_id: int, *more: object) -> bool:
        check_count(msg_id, "msg_id", 1, 2**63 - 1)
        return bool(self._value(sql, (check_queue(queue), msg_id, *more), repeatable=False))


def to_reply(message: Any) -> Reply:  # noqa: ANN401  (any JSON)
    """Return the record of a reply message.

    Raises:
        InvalidPayloadError: it is none.
    """
    try:
        correlation_id = message.get("correlation_id")
        return Reply(
            UUID(message["command_id"]),
            None if correlation_id is None else UUID(correlation_id),
            ReplyOutcome(message["outcome"]),
            message.get("result"),
            message.get("error_type"),
            message.get("error_code"),
            message.get("error_message"),
            message.get("details"),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InvalidPayloadError("a message in the reply queue is no reply") from None
