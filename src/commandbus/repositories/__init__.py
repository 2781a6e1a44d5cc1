"""The typed doorway to schema ``commandbus``: one class per subject, one method per function call."""

from commandbus.repositories.audit import PostgresAuditLogger
from commandbus.repositories.batch import PostgresBatchRepository
from commandbus.repositories.command import PostgresCommandRepository
from commandbus.repositories.maintenance import PostgresMaintenance
from commandbus.repositories.operations import PostgresOperations
from commandbus.repositories.payload_archive import PostgresPayloadArchive
from commandbus.repositories.queue import PgmqClient
from commandbus.repositories.redrives import PostgresRedrives

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
