# Printed from ../../repositories/__init__.py by tools/async_to_sync.py; edit that file.
"""The typed doorway to schema ``commandbus``: one class per subject, one method per function call."""

from commandbus.sync.repositories.audit import PostgresAuditLogger
from commandbus.sync.repositories.batch import PostgresBatchRepository
from commandbus.sync.repositories.command import PostgresCommandRepository
from commandbus.sync.repositories.maintenance import PostgresMaintenance
from commandbus.sync.repositories.operations import PostgresOperations
from commandbus.sync.repositories.payload_archive import PostgresPayloadArchive
from commandbus.sync.repositories.queue import PgmqClient
from commandbus.sync.repositories.redrives import PostgresRedrives

__all__ = [
    "PgmqClient",
    "PostgresAuditLogger",
    "PostgresBatchRepository",
    "PostgresCommandRepository",
    "PostgresMaintenance",
    "PostgresOperations",
    "PostgresPayloadArchive",
    "PostgresRedrives",
]
