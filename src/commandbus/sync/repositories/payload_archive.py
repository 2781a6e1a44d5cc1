# Printed from ../../repositories/payload_archive.py by tools/async_to_sync.py; edit that file.
"""The messages of commands that wait for an operator."""

from typing import Any
from uuid import UUID

from commandbus.payload import decode_leniently
from commandbus.sync.repositories._base import Repository


class PostgresPayloadArchive(Repository):
    """The payload archive, over the functions of schema ``commandbus``. Arguments must have been checked."""

    def get(self, domain: str, command_id: UUID, *, exact: bool = False) -> Any | None:  # noqa: ANN401  (any JSON)
        """Return the archived message of a command, or None.

        It is written when the message leaves its queue for the TSQ, and removed when an operator retries. *exact* is
        as in `CommandBus.get_message`.

        Source: ``commandbus.get_payload``.
        """
        rows = self._rows("select message::text from commandbus.get_payload($1::text, $2::uuid)", (domain, command_id))
        return decode_leniently(rows[0][0], exact=exact) if rows else None
