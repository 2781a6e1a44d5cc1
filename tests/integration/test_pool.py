"""The pool on a real server: sessions as promised, every kind of wrong server named, no password anywhere."""

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import commandbus.pool
import commandbus.sync.pool
from commandbus import errors
from commandbus._conninfo import PoolLogFilter, connection_error, parse_url
from commandbus._parameters import connection_parameters
from commandbus.pool import CommandBusPool
from commandbus.settings import CommandBusSettings
from tests.integration.live import until
from tests.support import missing

pytestmark = pytest.mark.direct("it is about sessions that the pool sets up")

SECRET = "S3C"  # noqa: S105  (a canary)
NASTY_URLS = [
    "postgresql://app:S3C%RET@127.0.0.1:1/app",
    "postgresql://app:S3C RET@127.0.0.1:1/app",
    "postgresql://app:S3C@S3C@127.0.0.1:1/app",
    "postgresql://app:S3C/S3C@127.0.0.1:1/app",
    "postgresql://app:1/S3C@127.0.0.1:1/app",
    "postgresql://app:S3C?S3C@127.0.0.1:1/app",
    "postgresql://app:S3C?host=S3C@127.0.0.1:1/app",
    "postgresql://app:S3C#S3C@127.0.0.1:1/app",
    "postgresql://app:S3C:S3C@127.0.0.1:1/app",
    "postgresql://app:[S3C@127.0.0.1:1/app",
    "postgresql://app:S3C@127.0.0.1:S3C/app",
    "postgresql://app:S3C@127.0.0.1:99999/app",
    "postgresql://app:S3C@127.0.0.1:1/app?nosuch=S3C",
    "postgresql://app:S3C@127.0.0.1:1/app?sslmode=S3C",
    "postgresql://app:S3C@127.0.0.1:1/app?connect_timeout=S3C",
    "postgres//app:S3C@127.0.0.1:1/app",
    "mysql://app:S3C@127.0.0.1:1/app",
    "host=127.0.0.1 port=1 password=S3C S3C",
    "host=127.0.0.1 port=1 password='S3C",
    "host=127.0.0.1 port=1 user=app password=S3C\n",
    "postgresql://app:S3C\0@127.0.0.1:1/app",
    "postgresql://app:S3C\udcff@127.0.0.1:1/app",
]

_names = count(1)


@pytest.fixture(autouse=True)
def default_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pool asks for by itself is tested here, whatever the run sets."""
    monkeypatch.delenv("COMMANDBUS_SEARCH_PATH", raising=False)


def run(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement))


@contextmanager
def role(url: str, options: str = "") -> Iterator[str]:
    """Give the name of a role of the test's own, without any rights."""
    name = f"cb_test_{os.getpid()}_{next(_names)}"
    run(url, f"create role {name} login {options}")
    try:
        yield name
    finally:
        run(url, f"drop owned by {name}; drop role {name}")


@contextmanager
def password_required(url: str, name: str) -> Iterator[None]:
    """Let the server ask *name* for a password, where its rules can be written from here."""
    with psycopg.connect(url) as connection:
        (path,) = connection.execute("show hba_file").fetchone() or ("",)
    rules = Path(str(path))
    if not os.access(rules, os.W_OK):
        missing("the server's pg_hba.conf cannot be written from here")
    before = rules.read_text()
    rules.write_text(f"local all {name} scram-sha-256\nhost all {name} all scram-sha-256\n{before}")
    reload(url)
    try:
        yield
    finally:
        rules.write_text(before)
        reload(url)


def reload(url: str) -> None:
    """Let the server read its configuration, and wait until it has."""
    with psycopg.connect(url, autocommit=True) as connection:
        (before,) = connection.execute("select pg_conf_load_time()").fetchone() or (None,)
        connection.execute("select pg_reload_conf()")
        deadline = time.monotonic() + 10
        while connection.execute("select pg_conf_load_time()").fetchone() == (before,):
            assert time.monotonic() < deadline
            time.sleep(0.01)


async def opening_error(url: str, **overrides: Any) -> errors.CommandBusError:
    """Return the error that opening a pool raises; its text and log must hold no password."""
    with pytest.raises(errors.CommandBusError) as caught:
        async with CommandBusPool(database_url=url, **overrides):
            pass
    assert SECRET not in str(caught.value)
    return caught.value


async def show(pool: CommandBusPool, name: str) -> object:
    async with pool.connection() as connection:
        cursor = await connection.execute(sql.SQL("show {}").format(sql.Identifier(name)))
        return (await cursor.fetchone() or (None,))[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("search_path", "commandbus, pgmq, public"),
        ("default_transaction_isolation", "read committed"),
        ("application_name", "commandbus"),
        ("client_encoding", "UTF8"),
        ("statement_timeout", "2500ms"),
    ],
)
async def test_sessions_are_set_up(database_url: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "latin1")

    async with CommandBusPool(database_url=database_url, statement_timeout=2.5) as pool:
        assert await show(pool, name) == value


async def test_connections_are_in_autocommit(database_url: str) -> None:
    async with CommandBusPool(database_url=database_url) as pool, pool.connection() as connection:
        await connection.execute("select 1")

        assert connection.autocommit
        assert connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE


async def test_options_in_the_url_are_kept(database_url: str) -> None:
    url = make_conninfo(database_url, options="-c work_mem=5MB -c search_path=elsewhere", application_name="mine")

    async with CommandBusPool(database_url=url, search_path='public, "odd name"') as pool:
        assert await show(pool, "work_mem") == "5MB"
        assert await show(pool, "search_path") == 'public, "odd name"'
        assert await show(pool, "application_name") == "mine"


async def test_open_finds_out_about_the_server(database_url: str) -> None:
    async with CommandBusPool(database_url=database_url) as pool:
        assert pool.server.server_version >= 150_000
        assert pool.server.visible_schemas == ["commandbus", "pgmq", "public"]
        assert pool.server.may_use_schema
        await pool.open()


def test_server_is_unknown_before_open(database_url: str) -> None:
    with pytest.raises(errors.InvalidOperationError, match="the pool is not open"):
        _ = CommandBusPool(database_url=database_url).server


def test_settings_and_overrides(database_url: str) -> None:
    settings = CommandBusSettings.load(database_url="dbname=other", pool_max_size=3)
    pool = CommandBusPool(settings, database_url=database_url, pool_timeout=2)

    assert (pool.max_size, pool.timeout) == (3, 2)
    assert pool.settings.database_url.get_secret_value() == database_url
    assert CommandBusPool(settings).settings is settings


async def test_empty_database_has_no_pgmq(empty_database_url: str) -> None:
    error = await opening_error(empty_database_url)

    assert type(error) is errors.PgmqMissingError
    assert str(error).endswith("has no PGMQ: run `commandbus migrate`")


@pytest.mark.counters_off
@pytest.mark.parametrize(
    ("statement", "kind", "text"),
    [
        ("drop schema commandbus cascade", errors.NotMigratedError, "is not migrated: run `commandbus migrate`"),
        ("drop table commandbus.command cascade", errors.NotMigratedError, "is not migrated"),
        ("alter type pgmq.message_record drop attribute last_read_at", errors.PgmqTooOldError, "1.10 or newer"),
        (
            "create or replace function commandbus.schema_version() returns int language sql as 'select 3'",
            errors.SchemaTooNewError,
            "schema commandbus has version 3; this release works on versions 1 and 2: update commandbus",
        ),
    ],
)
async def test_unfit_schema_is_refused(database_url: str, statement: str, kind: type, text: str) -> None:
    run(database_url, statement)

    error = await opening_error(database_url)

    assert type(error) is kind
    assert text in str(error)


async def test_read_only_server_is_refused(database_url: str) -> None:
    url = make_conninfo(database_url, options="-c default_transaction_read_only=on")

    error = await opening_error(url)

    assert type(error) is errors.ReadOnlyServerError
    assert "are read-only" in str(error)


async def test_role_without_rights_is_told_which(database_url: str) -> None:
    with role(database_url) as name:
        error = await opening_error(make_conninfo(database_url, user=name))

    assert type(error) is errors.SchemaError
    assert f'role "{name}" may not use schema commandbus' in str(error)


async def test_wrong_password(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with role(database_url, "password 'right'") as name, password_required(database_url, name):
        wrong = await opening_error(make_conninfo(database_url, user=name, password=SECRET))
        absent = await opening_error(make_conninfo(database_url, user=name))

    assert type(wrong) is type(absent) is errors.AuthenticationFailedError
    assert str(wrong) == f'wrong password for user "{name}", or no such user'
    assert "no password supplied" in str(absent)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://app:S3C@/app?host=/nonexistent", "No such file or directory"),
        ("postgresql://app:S3C@127.0.0.1:1/app", "Connection refused"),
    ],
)
async def test_unreachable_server(url: str, text: str) -> None:
    error = await opening_error(url)

    assert type(error) is errors.DatabaseUnavailableError
    assert text in str(error)


async def test_missing_database(database_url: str) -> None:
    error = await opening_error(make_conninfo(database_url, dbname="no_such_database"))

    assert type(error) is errors.DatabaseNotFoundError
    assert 'database "no_such_database" does not exist' in str(error)


async def test_pool_that_cannot_fill_says_why(database_url: str) -> None:
    with role(database_url, "connection limit 1") as name:
        run(database_url, f"grant usage on schema commandbus to {name}")
        run(database_url, f"grant execute on all functions in schema commandbus to {name}")
        pool = CommandBusPool(database_url=make_conninfo(database_url, user=name), pool_min_size=2)
        with pytest.raises(errors.DatabaseUnavailableError, match="too many connections for role"):
            await pool.open(timeout=1)


@pytest.mark.parametrize("url", NASTY_URLS, ids=ascii)
async def test_nasty_url_never_shows_its_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    error = await opening_error(url)

    assert SECRET not in repr(error) + caplog.text
    assert SECRET not in repr(error.__context__) + repr(error.__cause__)


@pytest.mark.parametrize("url", [*NASTY_URLS[:5], *NASTY_URLS[10:13], *NASTY_URLS[15:]], ids=ascii)
def test_unreadable_url_is_an_invalid_argument(url: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match="percent-encoded") as caught:
        CommandBusPool(database_url=url)

    assert caught.value.field == "database_url"


@pytest.mark.parametrize(
    "url", ["", "postgresql://", "postgresql://u:p%40@h1:1,h2:2/d?target_session_attrs=read-write", "host=a port=5432"]
)
def test_sound_urls_are_read(url: str) -> None:
    assert isinstance(parse_url(url, "database_url"), dict)


@pytest.mark.parametrize("password", ["S3C", "S3C%/"])
def test_pools_log_is_scrubbed_and_tells_the_cause(password: str) -> None:
    pool_filter = PoolLogFilter("pool-x", {"password": password})
    error = psycopg.OperationalError(f"failed to resolve host '{password}@h'")
    record = logging.LogRecord(
        "psycopg.pool", logging.WARNING, "", 0, "error connecting in %r: %s", ("pool-x", error), None
    )

    assert pool_filter.filter(record)
    assert record.getMessage() == "error connecting in 'pool-x': failed to resolve host '***@h'"
    assert SECRET not in str(pool_filter.last_failure)
    assert "failed to resolve host" in str(pool_filter.last_failure)


def test_of_attempts_that_fail_alike_one_a_minute_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def told(name: str) -> str | None:
        error = psycopg.OperationalError("connection failed: no such file\n\tIs the server running?")
        record = logging.LogRecord("psycopg.pool", logging.WARNING, "", 0, "error in %r: %s", (name, error), None)
        return record.getMessage() if pool_filter.filter(record) else None

    pool_filter = PoolLogFilter("pool-x", {})
    begun = time.monotonic()
    for seconds, is_told in ((0, True), (1, False), (59, False), (61, True), (62, False)):
        monkeypatch.setattr(time, "monotonic", lambda now=begun + seconds: now)
        line = "error in {!r}: connection failed: no such file Is the server running?"
        for name in ("pool-x", "commandbus-worker-pay"):
            assert told(name) == (line.format(name) if is_told else None), (name, seconds)
        assert told("of somebody else") == line.format("of somebody else")
    caplog.set_level(logging.DEBUG, "psycopg.pool")
    assert told("pool-x")


def test_pgbouncers_refusal_has_a_hint() -> None:
    error = connection_error(psycopg.OperationalError("FATAL: unsupported startup parameter: options"), {})

    assert "set COMMANDBUS_PGBOUNCER=true" in str(error)


def test_pgbouncer_mode_leaves_out_what_it_refuses() -> None:
    settings = CommandBusSettings.load(pgbouncer=True, listen_database_url="host=direct")

    assert "options" not in connection_parameters(settings)
    assert connection_parameters(settings)["prepare_threshold"] is None
    assert connection_parameters(settings, listen=True)["host"] == "direct"
    assert "search_path" in connection_parameters(settings, listen=True)["options"]


async def test_pgbouncer_mode_works_without_options(database_url: str) -> None:
    async with CommandBusPool(database_url=database_url, pgbouncer=True) as pool:
        assert "commandbus" not in str(await show(pool, "search_path"))
        assert "commandbus" not in pool.server.visible_schemas
        with pytest.raises(errors.InvalidOperationError, match="set listen_database_url"):
            await pool.listen_connection()


async def test_other_isolation_is_warned_of(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    url = make_conninfo(database_url, options="-c default_transaction_isolation=serializable")

    async with CommandBusPool(database_url=url):
        assert caplog.messages == []
    async with CommandBusPool(database_url=url, pgbouncer=True):
        assert caplog.messages == ["transactions are not READ COMMITTED by default and will fail under load"]


async def test_listen_connection_is_not_of_the_pool(database_url: str) -> None:
    async with CommandBusPool(database_url=database_url, pool_max_size=1) as pool, pool.connection() as connection:
        listener = await pool.listen_connection()
        async with listener:
            await listener.execute("listen here")
            await connection.execute("notify here")
            received = [n.channel async for n in listener.notifies(timeout=10, stop_after=1)]

    assert received == ["here"]


async def test_one_recovery_replaces_all_broken_connections(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with CommandBusPool(database_url=database_url, pool_min_size=4, pool_max_size=4) as pool:
        run(
            database_url,
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
            " where datname = current_database() and application_name = 'commandbus'",
        )
        with pytest.raises(psycopg.OperationalError):
            await show(pool, "work_mem")

        await asyncio.gather(*(pool.recover() for _ in range(20)))

        assert await asyncio.gather(*(show(pool, "search_path") for _ in range(20))) == (
            ["commandbus, pgmq, public"] * 20
        )
    assert len([m for m in caplog.messages if m.startswith("discarding")]) == 4


@pytest.mark.parametrize("is_asked", [True, False], ids=["while somebody waits", "while nobody asks"])
async def test_a_pool_is_back_soon_after_a_long_outage(
    database_url: str, caplog: pytest.LogCaptureFixture, is_asked: bool
) -> None:
    async def is_long() -> bool:
        # With pauses that double, the fifth attempt would come after 15 s, and the next after 31.
        return sum(message.startswith("error connecting") for message in caplog.messages) >= 5

    caplog.set_level(logging.DEBUG, "psycopg.pool")  # where all attempts are told

    async def ask(patience: float) -> str:
        async with pool.connection(timeout=patience) as connection:
            await connection.execute("select 1")
        return "an answer"

    with role(database_url) as name:
        run(database_url, f"grant usage on schema commandbus to {name}")
        run(database_url, f"grant execute on all functions in schema commandbus to {name}")
        url = make_conninfo(database_url, user=name)
        async with CommandBusPool(database_url=url, pool_min_size=1, pool_max_size=1) as pool:
            run(database_url, f"alter role {name} nologin")
            run(
                database_url,
                f"select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = '{name}'",
            )
            await pool.recover()
            waiting = asyncio.create_task(ask(12)) if is_asked else None
            await until(is_long)
            run(database_url, f"alter role {name} login")
            assert await (waiting or ask(5)) == "an answer"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_pool_is_not_shared_over_a_fork(database_url: str) -> None:
    with commandbus.sync.pool.CommandBusPool(database_url=database_url) as pool:
        child = os.fork()
        if child == 0:
            try:
                pool.getconn(timeout=1)
            except errors.InvalidOperationError:
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("twin", [commandbus.pool, commandbus.sync.pool], ids=lambda m: m.__name__)
def test_both_pools_leave_no_log_filter_behind(twin: ModuleType, database_url: str) -> None:
    log = logging.getLogger("psycopg.pool")
    before = list(log.filters)

    async def open_and_close() -> None:
        async with CommandBusPool(database_url=database_url):
            assert len(log.filters) == len(before) + 1

    if twin is commandbus.pool:
        asyncio.run(open_and_close())
    else:
        with twin.CommandBusPool(database_url=database_url):
            assert len(log.filters) == len(before) + 1

    assert log.filters == before


def test_sync_pool_does_the_same(database_url: str, empty_database_url: str) -> None:
    with commandbus.sync.pool.CommandBusPool(database_url=database_url, pool_min_size=2) as pool:
        with pool.connection() as connection:
            assert connection.execute("show search_path").fetchone() == ("commandbus, pgmq, public",)
        pool.recover()
        pool.listen_connection().close()
        assert pool.server.visible_schemas == ["commandbus", "pgmq", "public"]
    with pytest.raises(errors.PgmqMissingError):
        commandbus.sync.pool.CommandBusPool(database_url=empty_database_url).open()


def test_a_way_to_listen_that_cannot_be_read_is_refused_at_once() -> None:
    with pytest.raises(errors.InvalidArgumentError, match="listen_database_url"):
        CommandBusPool(database_url="postgresql:///app", listen_database_url="postgresql://u:S3C@127.0.0.1:99999/app")
