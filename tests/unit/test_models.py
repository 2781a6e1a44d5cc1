"""The records: frozen, slotted, and silent about business data."""

import dataclasses
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

import pytest

from commandbus import models

ID = UUID("9d4c0c1e-54a5-4e39-9a0b-7f7c3f7f1c11")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
RECORDS = [c for c in vars(models).values() if dataclasses.is_dataclass(c)]
BUSINESS = {"data", "custom_data", "payload", "result", "message", "details"}


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_record_is_frozen_and_slotted(record: type) -> None:
    is_renewed = record is models.Lease  # in place, by who holds it
    assert record.__dataclass_params__.frozen is not is_renewed  # type: ignore[attr-defined]  # typeshed leaves it out
    assert "__slots__" in vars(record)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_repr_leaves_out_business_data(record: type) -> None:
    shown = {f.name for f in dataclasses.fields(record) if f.repr}

    assert shown & BUSINESS == set()


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_record_documents_each_field(record: type) -> None:
    text = record.__doc__ or ""
    if "Fields as in" not in text:
        assert [f.name for f in dataclasses.fields(record) if f"        {f.name}: " not in text] == []


def test_command_keeps_its_data_out_of_the_repr() -> None:
    command = models.Command("orders", "Ship", ID, {"iban": "canary"}, None, None, NOW)

    assert command.data == {"iban": "canary"}
    assert "canary" not in repr(command)


@pytest.mark.parametrize(
    ("status", "complete"),
    [("PENDING", False), ("IN_PROGRESS", False), ("COMPLETED", True), ("COMPLETED_WITH_FAILURES", True)],
)
def test_batch_is_complete_in_its_final_states(status: str, complete: bool) -> None:
    batch = models.BatchMetadata(
        domain="orders",
        batch_id=ID,
        name=None,
        custom_data=None,
        status=models.BatchStatus(status),
        total_count=1,
        completed_count=0,
        failed_count=0,
        canceled_count=0,
        in_troubleshooting_count=0,
        created_at=NOW,
        started_at=None,
        completed_at=None,
    )

    assert batch.is_complete is complete


def test_enum_members_are_their_names() -> None:
    enums = [c for c in vars(models).values() if isinstance(c, type) and issubclass(c, StrEnum)]

    assert [m for e in enums for m in e if m.name != m.value] == []
