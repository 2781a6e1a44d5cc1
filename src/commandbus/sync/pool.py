# Printed from ../pool.py by tools/async_to_sync.py; edit that file.
"""The connection pool: made from settings, and sure of its server before it opens."""

import logging
import os
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow, class_row, scalar_row
from psycopg_pool import ConnectionPool, PoolTimeout

from commandbus._compat import Lock
from commandbus._conninfo import PoolLogFilter, connection_error
from commandbus._parameters import connection_parameters
from commandbus._probe import PROBE, SCHEMA_VERSION, ServerFacts, check_schema_version, check_server
from commandbus.errors import DatabaseUnavailableError, InvalidOperationError
from commandbus.settings import CommandBusSettings

logger = logging.getLogger(__name__)

# psycopg_pool's pauses between attempts to connect double for five minutes: after a long outage the pool would come
# back as late again. Here they begin anew after so many seconds, so that none is longer than half of them.
RECONNECT_TIMEOUT = 4.0


def keep_trying(pool: ConnectionPool[Any]) -> None:
    """Begin a new series of attempts to connect where a pool gave one up that somebody needs.

    A pool that need not hold connections ready, and that nobody has asked, connects when it is asked.
    """
    found = pool.get_stats()
    if found["requests_waiting"] or found["pool_size"] < found["pool_min"]:
        pool.check()  # which begins one, where there are too few


class CommandBusPool(ConnectionPool[Connection[TupleRow]]):
    """Connections to one migrated database, in autocommit: a call of a function is one round trip.

    ``with CommandBusPool(...) as pool`` opens and closes it; after that it cannot be opened again. A
    process that forks makes its pool afterwards.

    Args:
        settings: where to connect and how; from the environment when None.
        database_url: wins over the settings' one.
        overrides: any other fields of `CommandBusSettings`, which win as well.

    Raises:
        InvalidArgumentError: a setting breaks its limit, or the URL cannot be read.
    """

    def __init__(
        self,
        settings: CommandBusSettings | None = None,
        *,
        database_url: str | None = None,
        **overrides: Any,  # noqa: ANN401  (whatever the settings take)
    ) -> None:
        if database_url is not None:
            overrides["database_url"] = database_url
        if settings is None:
            settings = CommandBusSettings.load(**overrides)
        elif overrides:
            settings = settings.replace(**overrides)
        self._settings = settings
        self._parameters = connection_parameters(settings)
        connection_parameters(settings, listen=True)  # a wrong listen_database_url is refused here, not when listening
        self._server: ServerFacts | None = None
        self._owner = os.getpid()
        self._recovery_lock = Lock()
        self._recoveries = 0
        super().__init__(
            kwargs=self._parameters,
            min_size=settings.pool_min_size,
            max_size=settings.pool_max_size,
            timeout=settings.pool_timeout,
            reconnect_timeout=RECONNECT_TIMEOUT,
            reconnect_failed=keep_trying,
            open=False,
        )
        self._log_filter = PoolLogFilter(self.name, self._parameters)

    @property
    def settings(self) -> CommandBusSettings:
        """The settings it was made from."""
        return self._settings

    @property
    def server(self) -> ServerFacts:
        """What was found out about the server when the pool was opened.

        Raises:
            InvalidOperationError: the pool was never open.
        """
        if self._server is None:
            raise InvalidOperationError("the pool is not open: `pool.open()`, or use it in `with`")
        return self._server

    @property
    def last_failure(self) -> DatabaseUnavailableError | None:
        """Why the pool last failed to make a connection, or None; psycopg's own PoolTimeout has no cause."""
        return self._log_filter.last_failure

    @property
    def can_listen(self) -> bool:
        """Whether there is a direct way to the server for LISTEN; through PgBouncer alone there is none."""
        return not self._settings.pgbouncer or bool(self._settings.listen_database_url)

    @property
    def restrictions(self) -> dict[str, str]:
        """What the way to the server lacks, and what happens instead; empty on a direct way."""
        found = {}
        if self._settings.pgbouncer:
            found["search_path"] = "not set: the one of the role or the database"
            found["prepared statements"] = "not used"
        if not self.can_listen:
            found["LISTEN"] = "not used: workers poll, unless COMMANDBUS_LISTEN_DATABASE_URL gives a direct way"
        return found

    def open(self, wait: bool = True, timeout: float = 30.0) -> None:
        """Look at the server, then open the pool. Nothing happens when it is open.

        Args:
            wait: return when ``pool_min_size`` connections are open, not before.
            timeout: seconds to wait for them.

        Raises:
            DatabaseUnavailableError: the server cannot be reached, or not often enough.
            AuthenticationFailedError: it refuses the user or the password.
            DatabaseNotFoundError: it has no such database.
            SchemaError: one of its subclasses says what the server lacks, and what to run.
        """
        if not self.closed:
            return
        self._server = self._probe()
        logging.getLogger("psycopg.pool").addFilter(self._log_filter)
        try:
            super().open(wait=wait, timeout=timeout)
        except PoolTimeout:
            raise self.last_failure or DatabaseUnavailableError(
                f"{self.min_size} connections could not be opened within {timeout:g} seconds"
            ) from None
        logger.info(
            "command bus pool opened",
            extra={
                "database": self._server.database,
                "server_version": self._server.server_version,
                "visible_schemas": self._server.visible_schemas,
                "pool_max_size": self.max_size,
                "restrictions": self.restrictions,
            },
        )

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool and its connections.

        Args:
            timeout: seconds to wait for the pool's own tasks.
        """
        super().close(timeout)
        logging.getLogger("psycopg.pool").removeFilter(self._log_filter)

    def getconn(self, timeout: float | None = None) -> Connection[TupleRow]:
        """Return a connection that must be given back; `connection` is the better way.

        Raises:
            InvalidOperationError: the pool was made in another process, whose connections it would share.
            PoolTimeout: no connection became free in *timeout* seconds.
        """
        if os.getpid() != self._owner:
            raise InvalidOperationError("the pool was made before a fork: make one pool in each process")
        if self.closed:
            state = "is not open" if self._server is None else "was closed"
            raise InvalidOperationError(f"the pool {state}: use it in `with`, or call `open`")
        return super().getconn(timeout)

    def recover(self) -> None:
        """Replace the connections that broke; call it once after a connection error, then try again.

        Callers that come while others are at it wait for them and leave the rest to that one check.
        """
        seen = self._recoveries
        with self._recovery_lock:
            if seen != self._recoveries:
                return
            self.check()
            self._recoveries += 1

    def listen_connection(self) -> Connection[TupleRow]:
        """Return a new connection outside of the pool, in autocommit, for LISTEN; the caller closes it.

        Raises:
            InvalidOperationError: there is no direct way to the server, see `can_listen`.
            DatabaseUnavailableError: the server cannot be reached.
            AuthenticationFailedError: it refuses the user or the password.
        """
        if not self.can_listen:
            raise InvalidOperationError("LISTEN does not work through PgBouncer: set listen_database_url, or poll only")
        return self._connect_once(connection_parameters(self._settings, listen=True))

    def _connect_once(self, parameters: dict[str, Any]) -> Connection[TupleRow]:
        try:
            return Connection.connect(**parameters)
        except (psycopg.Error, OSError, UnicodeError) as error:
            failure = connection_error(error, parameters)
        raise failure

    def _probe(self) -> ServerFacts:
        """Return what the server is, or raise what is wrong with it."""
        connection = self._connect_once(self._parameters)
        try:
            with connection:
                facts = self._look(connection)
        except psycopg.OperationalError as error:
            raise connection_error(error, self._parameters) from None
        if facts.isolation != "read committed":
            logger.warning(
                "transactions are not READ COMMITTED by default and will fail under load",
                extra={"isolation": facts.isolation, "role": facts.role, "database": facts.database},
            )
        if not self._settings.pgbouncer and facts.search_path != self._settings.search_path:
            logger.warning(
                "startup options do not reach the server: if a pooler is in between, set COMMANDBUS_PGBOUNCER=true",
                extra={"search_path": facts.search_path, "database": facts.database},
            )
        return facts

    def _look(self, connection: Connection[TupleRow]) -> ServerFacts:
        with connection.cursor(row_factory=class_row(ServerFacts)) as cursor:
            cursor.execute(PROBE)
            facts = cursor.fetchone()
        assert facts is not None  # noqa: S101  (a select without from has one row)
        check_server(facts)
        with connection.cursor(row_factory=scalar_row) as cursor:
            cursor.execute(SCHEMA_VERSION)
            version = cursor.fetchone()
        assert isinstance(version, int)  # noqa: S101  (as the function is declared)
        check_schema_version(version)
        return facts
