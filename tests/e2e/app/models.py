"""Test commands: the table e2e.test_command, and how rows of it are made, found, changed and deleted."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import datetime  # noqa: TC003  (SQLAlchemy reads the annotations)
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
from sqlalchemy import Row, Select, column, create_engine, delete, exists, insert, select, table
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from commandbus import BatchCommand, CommandStatus, InvalidOperationError
from tests.e2e.app.config import COMMAND_TYPE, DOMAIN
from tests.e2e.app.schemas import TestCommandOut, TestCommandPage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from commandbus.sync import CommandBus
    from tests.e2e.app.schemas import Behavior, NewTestCommand, TestCommandChange, TestCommandQuery

FINAL = (CommandStatus.COMPLETED, CommandStatus.FAILED, CommandStatus.CANCELED)

# What is shown of the bus's own table.
_command = table(
    "command",
    *map(column, ("domain", "command_id", "status", "max_attempts", "last_error_code", "last_error_msg")),
    schema="commandbus",
).alias()


class Base(DeclarativeBase):
    """The tables of schema e2e that this application writes."""


class TestCommand(Base):
    """How the handler of one test command shall behave, and what came of it."""

    __test__ = False
    __tablename__ = "test_command"
    __table_args__ = {"schema": "e2e"}  # noqa: RUF012  (SQLAlchemy's way)

    id: Mapped[int] = mapped_column(primary_key=True)
    command_id: Mapped[UUID] = mapped_column(unique=True)
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    behavior: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default="now()")
    processed_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(server_default="0")
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))


class TestCommands:
    """Test commands and the commands they belong to: both are there, or neither.

    Args:
        database_url: as libpq takes it.
        bus: sends the commands.
    """

    __test__ = False

    def __init__(self, database_url: str, bus: CommandBus) -> None:
        self._engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database_url))
        self._bus = bus

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def create(self, new: NewTestCommand, max_attempts: int) -> UUID:
        """Send one test command; return its id.

        Raises:
            InvalidArgumentError: the payload breaks a limit of the bus.
        """
        command_id = uuid4()
        attempts = max_attempts if new.max_attempts is None else new.max_attempts
        with self._transaction() as (session, connection):
            # First, since it checks the payload; nobody sees either before both are there.
            self._bus.send(DOMAIN, COMMAND_TYPE, command_id, new.payload, max_attempts=attempts, conn=connection)
            session.add(TestCommand(command_id=command_id, payload=new.payload, behavior=_json(new.behavior)))
        return command_id

    def create_set(
        self, behaviors: Sequence[Behavior], payloads: Sequence[dict[str, Any]], max_attempts: int, name: str
    ) -> UUID:
        """Send many test commands as a batch, all or none; return the batch's id."""
        commands = [BatchCommand(COMMAND_TYPE, uuid4(), data, max_attempts=max_attempts) for data in payloads]
        rows = [
            {"command_id": command.command_id, "payload": command.data, "behavior": _json(behavior)}
            for command, behavior in zip(commands, behaviors, strict=True)
        ]
        with self._transaction() as (session, connection):
            session.execute(insert(TestCommand), rows)
            return self._bus.create_batch(DOMAIN, commands, name=name, conn=connection).batch_id

    def get(self, command_id: UUID) -> TestCommandOut | None:
        """Return one test command, or None."""
        with Session(self._engine) as session:
            row = session.execute(_everything().where(TestCommand.command_id == command_id)).one_or_none()
        return None if row is None else _out(row)

    def find(self, query: TestCommandQuery) -> TestCommandPage:
        """Return a page of test commands, newest first."""
        statement = _everything().order_by(TestCommand.id.desc()).limit(query.limit + 1)
        if query.behavior is not None:
            statement = statement.where(TestCommand.behavior["type"].astext == query.behavior)
        if query.status is not None:
            statement = statement.where(_command.c.status == query.status)
        if query.before is not None:
            statement = statement.where(TestCommand.id < query.before)
        with Session(self._engine) as session:
            rows = [_out(row) for row in session.execute(statement)]
        shown = rows[: query.limit]
        return TestCommandPage(test_commands=shown, next_before=shown[-1].id if len(rows) > query.limit else None)

    def change(self, command_id: UUID, change: TestCommandChange) -> TestCommandOut | None:
        """Change how a test command behaves from its next attempt on; return it, or None when it is gone.

        Raises:
            InvalidOperationError: its command has ended.
        """
        with Session(self._engine) as session, session.begin():
            row = session.scalar(select(TestCommand).where(TestCommand.command_id == command_id).with_for_update())
            if row is None:
                return None
            found = session.execute(_everything().where(TestCommand.command_id == command_id)).one()
            if found.status in FINAL:
                raise InvalidOperationError(f"test command {command_id} has ended: it can no longer be changed")
            row.behavior = _json(change.behavior)
        return self.get(command_id)

    def delete(self, command_id: UUID) -> bool:
        """Delete one test command that has ended; return whether it was there.

        Raises:
            InvalidOperationError: its command has not ended: its handler needs the row.
        """
        with Session(self._engine) as session, session.begin():
            here = TestCommand.command_id == command_id
            if session.scalar(delete(TestCommand).where(here, _has_ended()).returning(TestCommand.id)) is not None:
                return True
            if session.scalar(select(TestCommand.id).where(here)) is None:
                return False
        raise InvalidOperationError(f"test command {command_id} has not ended: it cannot be deleted")

    def delete_finished(self) -> int:
        """Delete all test commands that have ended; return how many. Their commands stay with the bus."""
        with Session(self._engine) as session, session.begin():
            return len(session.scalars(delete(TestCommand).where(_has_ended()).returning(TestCommand.id)).all())

    @contextmanager
    def _transaction(self) -> Iterator[tuple[Session, psycopg.Connection[Any]]]:
        """Give a session, and the connection in whose transaction it is."""
        with Session(self._engine) as session, session.begin():
            connection = session.connection().connection.driver_connection
            assert isinstance(connection, psycopg.Connection)
            yield session, connection


def _everything() -> Select[Any]:
    """Return the query for test commands with what the bus knows of them."""
    joined = (_command.c.domain == DOMAIN) & (_command.c.command_id == TestCommand.command_id)
    shown = (_command.c.status, _command.c.max_attempts, _command.c.last_error_code, _command.c.last_error_msg)
    return select(TestCommand, *shown).outerjoin(_command, joined)


def _has_ended() -> Any:
    """Return the condition that the command is final, or was removed by housekeeping."""
    own = (_command.c.domain == DOMAIN) & (_command.c.command_id == TestCommand.command_id)
    return ~exists().where(own, _command.c.status.notin_(FINAL))


def _json(behavior: Behavior) -> dict[str, Any]:
    return behavior.model_dump(mode="json", exclude_defaults=True)


def _out(row: Row[Any]) -> TestCommandOut:
    one: TestCommand = row[0]
    return TestCommandOut(
        id=one.id,
        command_id=one.command_id,
        behavior=one.behavior,
        payload=one.payload,
        status=row.status,
        attempts=one.attempts,
        max_attempts=row.max_attempts,
        error_code=row.last_error_code,
        error_message=row.last_error_msg,
        result=one.result,
        created_at=one.created_at,
        processed_at=one.processed_at,
    )
