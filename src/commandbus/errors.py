"""Every error that commandbus raises on purpose.

CommandBusError
├── InvalidArgumentError (also ValueError)             CB007  an argument breaks a documented limit
├── DuplicateCommandError                              CB001  the id exists with other content
├── CommandNotFoundError                               CB002
├── StaleLeaseError                                    CB003  somebody else holds the command now
├── BatchNotFoundError                                 CB004
├── QueueNotFoundError                                 CB005
├── InvalidOperationError                              CB006  not in this state
├── HandlerNotFoundError
├── HandlerAlreadyRegisteredError
├── HandlerError                                       raised by handlers, decides what becomes of the command
│   ├── TransientCommandError                          retried with backoff
│   ├── PermanentCommandError                          parked for an operator
│   └── BusinessRuleException                          failed for good, no operator
├── InvalidPayloadError                                stored data that a handler cannot take: parked
├── ReplyTimeoutError (also TimeoutError)              no reply in time; the command goes on
├── CommandFailedError                                 the reply says FAILED
├── CommandCanceledError                               the reply says CANCELED
├── DatabaseUnavailableError
│   ├── AuthenticationFailedError                      trying again will not help
│   └── DatabaseNotFoundError                          nor here
├── SchemaError                                        the server does not fit this version of commandbus
│   ├── ReadOnlyServerError
│   ├── ServerTooOldError
│   ├── PgmqMissingError
│   ├── PgmqTooOldError
│   ├── NotMigratedError
│   │   └── MissingTablesError                         names them
│   └── SchemaTooNewError
├── MigrationError
├── EmbeddedServerError
├── ClusterError                                       no way to a PostgreSQL inside a Kubernetes cluster
│   ├── ServiceNotFoundError
│   └── PodNotReadyError (also TimeoutError)
└── PoolTimeoutError (also TimeoutError)               all connections are in use

Codes are the SQLSTATEs of the functions in schema ``commandbus``; `from_sqlstate` is the only place that maps
them. All errors can be pickled. None of their texts contains a payload or a password.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self
from uuid import UUID

MAX_CODE_LENGTH = 100


class CommandBusError(Exception):
    """The base of all errors of this library."""

    @classmethod
    def from_message(cls, message: str) -> Self:
        """Return an error that has only a text, as the server sends it; identifying attributes stay empty."""
        return cls(message)

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is normally rebuilt as cls(*args), which fits no __init__ of more than a message.
        return _restore, (type(self), self.args, self.__dict__.copy())


def _restore(cls: type[CommandBusError], args: tuple[Any, ...], attributes: dict[str, Any]) -> CommandBusError:
    """Rebuild a pickled error without running its __init__."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class InvalidArgumentError(CommandBusError, ValueError):
    """An argument breaks a documented limit; nothing was done.

    Attributes:
        field: the argument's name; empty when the server found it (then the text begins with the name).
        problem: what is wrong with it: the text without the name.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem

    @classmethod
    def from_message(cls, message: str) -> Self:
        """Return an error with the server's text and no field."""
        return cls("", message)


class _AboutCommandError(CommandBusError):
    """An error about one command; domain and command_id are None when only the server's text is known."""

    def __init__(self, domain: str | None, command_id: UUID | None, message: str | None = None) -> None:
        super().__init__(message or self._describe(domain, command_id))
        self.domain = domain
        self.command_id = command_id

    @classmethod
    def from_message(cls, message: str) -> Self:
        """Return an error with the server's text; domain and command_id are None."""
        return cls(None, None, message)

    def _describe(self, domain: str | None, command_id: UUID | None) -> str:
        raise NotImplementedError  # each error below has its own words


class DuplicateCommandError(_AboutCommandError):
    """The command exists already, with other content or on its way (CB001)."""

    def _describe(self, domain: str | None, command_id: UUID | None) -> str:
        return f'command {command_id} exists in domain "{domain}"'


class CommandNotFoundError(_AboutCommandError):
    """There is no such command (CB002)."""

    def _describe(self, domain: str | None, command_id: UUID | None) -> str:
        return f'command {command_id} not found in domain "{domain}"'


class StaleLeaseError(CommandBusError):
    """The lease ended and somebody else may hold the command; nothing was written (CB003)."""


class BatchNotFoundError(CommandBusError):
    """There is no such batch (CB004)."""


class QueueNotFoundError(CommandBusError):
    """The domain has no command queue, or the reply queue does not exist (CB005)."""


class InvalidOperationError(CommandBusError):
    """The operation does not fit the present state (CB006)."""


class _AboutHandlerError(CommandBusError):
    def __init__(self, domain: str, command_type: str) -> None:
        super().__init__(self._describe(domain, command_type))
        self.domain = domain
        self.command_type = command_type

    def _describe(self, domain: str, command_type: str) -> str:
        raise NotImplementedError  # each error below has its own words


class HandlerNotFoundError(_AboutHandlerError):
    """No handler is registered for (domain, command_type)."""

    def _describe(self, domain: str, command_type: str) -> str:
        return f'no handler for command type "{command_type}" in domain "{domain}"'


class HandlerAlreadyRegisteredError(_AboutHandlerError):
    """(domain, command_type) has a handler already."""

    def _describe(self, domain: str, command_type: str) -> str:
        return f'command type "{command_type}" in domain "{domain}" has a handler already'


class HandlerError(CommandBusError):
    """The base of the errors that a handler raises to say what becomes of its command.

    Args:
        code: what happened, for programs; cut after 100 characters, and the class's name where it is empty.
        message: what happened, for people; stored up to 2,000 characters, so it should hold no secrets.
        details: JSON object of further facts; those of a BusinessRuleException go into the reply, others nowhere.
    """

    def __init__(self, code: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        # Never refused: what the handler decided matters more than how it is labelled.
        code = str(code or "")[:MAX_CODE_LENGTH] or type(self).__name__
        super().__init__(f"{code}: {message}")
        self.code = code
        self.error_message = message
        self.details = None if details is None else dict(details)


class TransientCommandError(HandlerError):
    """It may work later: the command is retried with backoff while it has attempts left."""


class PermanentCommandError(HandlerError):
    """It will not work as it is: the command is parked in the troubleshooting queue at once."""


class BusinessRuleException(HandlerError):  # noqa: N818  (public name, kept for those who know it)
    """The business says no: the command is FAILED, nobody needs to look at it."""


class InvalidPayloadError(CommandBusError):
    """Stored data cannot be taken as it is; the command is parked with reason INVALID_PAYLOAD."""

    code = "INVALID_PAYLOAD"


class ReplyTimeoutError(CommandBusError, TimeoutError):
    """No reply came in time. The command itself goes on and may still succeed."""

    def __init__(self, message: str, *, command_id: UUID | None = None) -> None:
        super().__init__(message)
        self.command_id = command_id


class CommandFailedError(CommandBusError):
    """The command was answered with FAILED.

    Attributes:
        command_id: the command's id.
        code: the error code that was stored, or None.
        error_message: the error text that was stored, or None.
        details: further facts of the error, or None.
    """

    def __init__(
        self,
        command_id: UUID,
        code: str | None = None,
        message: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"command {command_id} failed: {code or 'no code'}: {message or 'no message'}")
        self.command_id = command_id
        self.code = code
        self.error_message = message
        self.details = None if details is None else dict(details)


class CommandCanceledError(CommandBusError):
    """The command was answered with CANCELED: an operator ended it.

    Attributes:
        command_id: the command's id.
        reason: what the operator gave as reason, or None.
    """

    def __init__(self, command_id: UUID, reason: str | None = None) -> None:
        super().__init__(f"command {command_id} was canceled: {reason or 'no reason given'}")
        self.command_id = command_id
        self.reason = reason


class DatabaseUnavailableError(CommandBusError):
    """The server cannot be reached or does not accept connections now."""


class AuthenticationFailedError(DatabaseUnavailableError):
    """The server refuses this user or password."""


class DatabaseNotFoundError(DatabaseUnavailableError):
    """The server has no database of this name."""


class SchemaError(CommandBusError):
    """The server was reached but does not fit this version of commandbus."""


class ReadOnlyServerError(SchemaError):
    """The server is a replica, or read-only."""


class ServerTooOldError(SchemaError):
    """PostgreSQL is older than 15."""


class PgmqMissingError(SchemaError):
    """PGMQ is not installed in this database."""


class PgmqTooOldError(SchemaError):
    """PGMQ is older than 1.10."""


class NotMigratedError(SchemaError):
    """Schema ``commandbus`` is missing or incomplete."""


class MissingTablesError(NotMigratedError):
    """Tables that a migration makes are not there.

    Attributes:
        tables: their names with schema, such as "commandbus.command".
    """

    def __init__(self, message: str, tables: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.tables = tuple(tables)


class SchemaTooNewError(SchemaError):
    """Schema ``commandbus`` is of a newer version than this code knows."""


class MigrationError(CommandBusError):
    """Migrations cannot be found, do not fit the history, or failed.

    Attributes:
        problems: one sentence each; usually the error's text is the only one.
        sqlstate: the server's code, where a statement was refused; otherwise None.
    """

    def __init__(self, message: str, *more: str, sqlstate: str | None = None) -> None:
        super().__init__("; ".join((message, *more)))
        self.problems = (message, *more)
        self.sqlstate = sqlstate


class EmbeddedServerError(CommandBusError):
    """The embedded PostgreSQL cannot be made, started or stopped."""


class ClusterError(CommandBusError):
    """A Kubernetes cluster, or PostgreSQL inside it, cannot be reached."""


class ServiceNotFoundError(ClusterError):
    """The cluster has no such service, or none that leads to pods."""


class PodNotReadyError(ClusterError, TimeoutError):
    """No pod behind the service became ready in time."""


class PoolTimeoutError(CommandBusError, TimeoutError):
    """No connection became free in time."""


SQLSTATES: Mapping[str, type[CommandBusError]] = MappingProxyType(
    {
        "CB001": DuplicateCommandError,
        "CB002": CommandNotFoundError,
        "CB003": StaleLeaseError,
        "CB004": BatchNotFoundError,
        "CB005": QueueNotFoundError,
        "CB006": InvalidOperationError,
        "CB007": InvalidArgumentError,
    }
)


def from_sqlstate(sqlstate: str | None, message: str) -> CommandBusError | None:
    """Return our error for a SQLSTATE that schema ``commandbus`` raises, or None for any other.

    Args:
        sqlstate: five characters, or None when the error did not come from the server.
        message: the server's primary message; it becomes the error's text as it is.
    """
    error = SQLSTATES.get(sqlstate or "")
    return None if error is None else error.from_message(message)
