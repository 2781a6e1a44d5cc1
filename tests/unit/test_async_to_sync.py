"""The printer of the sync twin: what it rewrites, what it keeps, what it refuses."""

import importlib.util
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "async_to_sync.py"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("async_to_sync", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()
MODULES = ["repositories.command", "pool"]


@pytest.mark.parametrize(
    ("source", "twin"),
    [
        ("async def f(): ...", "def f(): ..."),
        ("x = await f(1)", "x = f(1)"),
        ("x = (await f(1)).y", "x = (f(1)).y"),
        ("async with a as b: ...", "with a as b: ..."),
        ("async for a in b: ...", "for a in b: ..."),
        ("x = [a async for a in b]", "x = [a for a in b]"),
        ("def __aenter__(self): ...", "def __enter__(self): ..."),
        ("await c.aclose()", "c.close()"),
        ("from psycopg import AsyncConnection", "from psycopg import Connection"),
        ("p: AsyncConnectionPool[AsyncConnection[Any]]", "p: ConnectionPool[Connection[Any]]"),
        ("def f() -> AsyncIterator[int]: ...", "def f() -> Iterator[int]: ..."),
        ("@asynccontextmanager", "@contextmanager"),
        ("f: Callable[[int], Awaitable[list[int]]]", "f: Callable[[int], list[int]]"),
        ("import asyncio", "import time"),
        ("await asyncio.sleep(1)", "time.sleep(1)"),
        ("from commandbus._compat import asleep", "from commandbus._compat import sleep"),
        ("from commandbus.pool import P", "from commandbus.sync.pool import P"),
        ("from commandbus import pool", "from commandbus.sync import pool"),
        ("import commandbus.repositories.command as c", "import commandbus.sync.repositories.command as c"),
        ("from commandbus.pooling import P", "from commandbus.pooling import P"),
        ("from commandbus.errors import E", "from commandbus.errors import E"),
        ("x: 'AsyncConnection'", "x: 'Connection'"),
        ('"""Use `async with` and `await pool.open()`."""', '"""Use `with` and `pool.open()`."""'),
        ('x = f"{await f(1)} of AsyncConnection"', 'x = f"{f(1)} of Connection"'),
        ("x = 1  # an AsyncConnection: await f()", "x = 1  # an Connection: f()"),
        ("asyncs = awaiting = is_async = 1", "asyncs = awaiting = is_async = 1"),
        ("x = 'we await an async answer'", "x = 'we await an async answer'"),
    ],
)  # fmt: skip
def test_statement_is_rewritten(source: str, twin: str) -> None:
    assert tool.convert(source + "\n", MODULES) == twin + "\n"


def test_comments_docstrings_and_layout_survive() -> None:
    source = dedent('''
        async def f(pool):
            """Do it.

            All of it.
            """
            # first
            async with pool as p:  # why

                return await p.execute(
                    """
                    select 1  -- untouched
                    """,
                    [1, 2],  # last
                )
    ''')

    assert tool.convert(source, MODULES) == (
        source.replace("async def", "def").replace("async with", "with").replace("await ", "")
    )


def test_twin_is_the_same_when_printed_twice() -> None:
    source = "import asyncio\n\n\nasync def f() -> None:\n    await asyncio.sleep(1)\n"
    once = tool.convert(source, MODULES)

    assert tool.convert(once, MODULES) == once


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = await asyncio.gather(a, b)", "line 1: put this use of asyncio into _compat.py"),
        ("from .pool import P", "line 1: write absolute imports"),
        ("from ..pool import P", "line 1: write absolute imports"),
        ("\ndef f() -> AsyncGenerator[int, None]: ...", "line 2: write AsyncIterator"),
    ],
)
def test_what_has_no_twin_is_refused(source: str, reason: str) -> None:
    with pytest.raises(tool.PrintError, match=reason):
        tool.convert(source + "\n", MODULES)


def test_finish_sorts_imports_and_formats(tmp_path: Path) -> None:
    text = "# head\nimport time\nfrom b import x\nfrom a import y\nz = [ x,y ]\n"

    assert tool.finish(text, tmp_path / "x.py") == "# head\nfrom a import y\nfrom b import x\n\nz = [x, y]\n"


def make_package(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = root / "src" / "commandbus"
    (package / "repositories").mkdir(parents=True)
    (package / "pool.py").write_text("async def f() -> int:\n    return 1\n")
    (package / "repositories" / "a.py").write_text("from commandbus.pool import f\n\n__all__ = ['f']\n")
    monkeypatch.setattr(tool, "ROOT", root)
    monkeypatch.setattr(tool, "PACKAGE", package)
    monkeypatch.setattr(tool, "TWIN", package / "sync")
    return package


def test_check_tells_what_differs_and_printing_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = make_package(tmp_path, monkeypatch)

    assert tool.main(["--check"]) == 1
    assert "src/commandbus/sync/repositories/a.py" in capsys.readouterr().err
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0
    assert (package / "sync" / "repositories" / "a.py").read_text() == (
        "# Printed from ../../repositories/a.py by tools/async_to_sync.py; edit that file.\n"
        'from commandbus.sync.pool import f\n\n__all__ = ["f"]\n'
    )

    (package / "sync" / "pool.py").write_text("# edited\n")

    assert tool.main(["--check"]) == 1
    assert "src/commandbus/sync/pool.py" in capsys.readouterr().err


def test_twin_without_source_is_told_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = make_package(tmp_path, monkeypatch)
    tool.main([])
    (package / "repositories" / "a.py").unlink()
    (package / "sync" / "__init__.py").write_text('"""By hand."""\n')

    assert tool.main(["--check"]) == 1
    assert tool.main([]) == 0
    assert sorted(p.name for p in (package / "sync").rglob("*.py")) == ["__init__.py", "pool.py"]


def test_source_that_cannot_be_printed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = make_package(tmp_path, monkeypatch)
    (package / "troubleshooting.py").write_text("from .pool import f\n")

    assert tool.main([]) == 1
    assert "src/commandbus/troubleshooting.py: line 1: write absolute imports" in capsys.readouterr().err
    assert not (package / "sync").exists()


def test_the_committed_twin_is_what_is_printed() -> None:
    assert tool.main(["--check"]) == 0
