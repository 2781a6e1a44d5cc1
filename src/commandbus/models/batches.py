"""Batches: commands counted together."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from commandbus.models.commands import SendResult
from commandbus.models.states import BatchStatus


@dataclass(frozen=True, slots=True)
class BatchCommand:
    """One command of ``create_batch``; its domain is the batch's. Fields as in `SendRequest`."""

    command_type: str
    command_id: UUID
    data: Any = field(repr=False)
    correlation_id: UUID | None = None
    reply_to: str | None = None
    max_attempts: int | None = None


@dataclass(frozen=True, slots=True)
class CreateBatchResult:
    """The outcome of ``create_batch``.

    Attributes:
        batch_id: given or made.
        command_results: one per command, in the same order.
        total_commands: how many commands were sent.
    """

    batch_id: UUID
    command_results: list[SendResult]
    total_commands: int


@dataclass(frozen=True, slots=True)
class BatchMetadata:
    """A batch and its counters.

    Attributes:
        domain: the domain of all its commands.
        batch_id: unique in the domain.
        name: for people, or None.
        custom_data: the JSON object given at creation, or None.
        status: see `BatchStatus`.
        total_count: commands in the batch.
        completed_count: of these, COMPLETED.
        failed_count: of these, FAILED.
        canceled_count: of these, CANCELED.
        in_troubleshooting_count: of these, waiting for an operator.
        created_at: when it was made.
        started_at: when its first command was received, or None.
        completed_at: when its last command became final, or None.
    """

    domain: str
    batch_id: UUID
    name: str | None
    custom_data: Any = field(repr=False)
    status: BatchStatus
    total_count: int
    completed_count: int
    failed_count: int
    canceled_count: int
    in_troubleshooting_count: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @property
    def is_complete(self) -> bool:
        """Whether every command is final; one that waits for an operator is not."""
        return self.status in (BatchStatus.COMPLETED, BatchStatus.COMPLETED_WITH_FAILURES)
