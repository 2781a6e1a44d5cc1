"""The records and enumerations that cross the library's border: frozen, slotted, and without behaviour.

Times are aware and in UTC. Fields that may hold business data are left out of every repr.
"""

from commandbus.models.batches import BatchCommand, BatchMetadata, CreateBatchResult
from commandbus.models.commands import (
    AuditEvent,
    BatchSendResult,
    Command,
    CommandMetadata,
    Lease,
    Reply,
    SendRequest,
    SendResult,
    TroubleshootingItem,
)
from commandbus.models.operation import (
    CommandPage,
    DomainOverview,
    FailureGroup,
    LeaseInfo,
    MessagePlace,
    PageKey,
    Redrive,
    RedriveProgress,
    RedriveStatus,
    StoredMessage,
    ThroughputPoint,
    Verdict,
    WorkerInfo,
)
from commandbus.models.states import AuditEventType, BatchStatus, CommandStatus, ErrorType, ReplyOutcome, TsqReason
from commandbus.models.upkeep import MaintenanceReport, PgmqMessage, QueueMetrics

__all__ = [
    "AuditEvent",
    "AuditEventType",
    "BatchCommand",
    "BatchMetadata",
    "BatchSendResult",
    "BatchStatus",
    "Command",
    "CommandMetadata",
    "CommandPage",
    "CommandStatus",
    "CreateBatchResult",
    "DomainOverview",
    "ErrorType",
    "FailureGroup",
    "Lease",
    "LeaseInfo",
    "MaintenanceReport",
    "MessagePlace",
    "PageKey",
    "PgmqMessage",
    "QueueMetrics",
    "Redrive",
    "RedriveProgress",
    "RedriveStatus",
    "Reply",
    "ReplyOutcome",
    "SendRequest",
    "SendResult",
    "StoredMessage",
    "ThroughputPoint",
    "TroubleshootingItem",
    "TsqReason",
    "Verdict",
    "WorkerInfo",
]
