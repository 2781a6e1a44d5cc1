"""Print the sync twin: src/commandbus/sync/ from the async sources that FILES names.

    python tools/async_to_sync.py           write the twin
    python tools/async_to_sync.py --check   exit 1 and name the files when it is not what would be written

Tokens are rewritten in place, so comments and layout survive. What renaming cannot translate belongs into
commandbus/_compat.py, in pairs; other uses of asyncio, relative imports and AsyncGenerator stop the printing.
"""

import argparse
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "commandbus"
TWIN = PACKAGE / "sync"
FILES = (
    "pool.py",
    "bus/*.py",
    "troubleshooting.py",
    "redrives.py",
    "operations.py",
    "maintenance.py",
    "repositories/*.py",
)
HEADER = "# Printed from {source} by tools/async_to_sync.py; edit that file.\n"
MARK = "by tools/async_to_sync.py; edit that file."

NAMES = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "AbstractAsyncContextManager": "AbstractContextManager",
    "StopAsyncIteration": "StopIteration",
    "acall": "call",
    "aclose": "close",
    "aclosing": "closing",
    "aiter": "iter",
    "anext": "next",
    "asleep": "sleep",
    "aspawn": "spawn",
    "asynccontextmanager": "contextmanager",
}
_PROSE = re.compile(r"\basync (?=with\b|for\b|def\b)|\bawait (?=[\w.]+\()")
_SKIPPED = {tokenize.COMMENT, tokenize.NL}
# Before Python 3.12 an f-string is one token, its expressions included.
_TEXTS = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}

Token = tokenize.TokenInfo
Edit = tuple[tuple[int, int], tuple[int, int], str]


class PrintError(Exception):
    """A source holds something that has no twin."""


def sources() -> list[Path]:
    """Return the async sources that exist, in order."""
    return sorted(path for pattern in FILES for path in PACKAGE.glob(pattern))


def twin_of(source: Path) -> Path:
    """Return where the twin of *source* is written."""
    return TWIN / source.relative_to(PACKAGE)


def twin_modules(paths: list[Path]) -> list[str]:
    """Return the names below ``commandbus`` of modules that have a twin, such as "pool", longest first."""
    names = {".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in paths}
    return sorted((name.removesuffix(".__init__") for name in names), key=len, reverse=True)


def convert(text: str, modules: list[str]) -> str:
    """Return the sync form of a source, not yet formatted.

    Args:
        text: the async source.
        modules: names below ``commandbus`` whose imports go to ``commandbus.sync``.

    Raises:
        PrintError: a relative import, an AsyncGenerator, or a use of asyncio other than ``sleep``.
    """
    lines = text.splitlines(keepends=True)
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    for (row, start), (end_row, end), new in sorted(_edits(tokens), reverse=True):
        lines[row - 1 : end_row] = [lines[row - 1][:start] + new + lines[end_row - 1][end:]]
    return _redirect("".join(lines), modules)


def _edits(tokens: list[Token]) -> list[Edit]:
    """Return what to replace."""
    edits: list[Edit] = []
    code = [t for t in tokens if t.type not in _SKIPPED]
    for index, token in enumerate(code[:-1]):
        if token.type == tokenize.NAME:
            edits += _edits_of_name(code, index)
        elif token.string in {".", "..."} and code[index - 1].string == "from":
            raise PrintError(f"line {token.start[0]}: write absolute imports")
    texts = [t for t in tokens if t.type in _TEXTS]
    return edits + [(t.start, t.end, _rename_text(t.string)) for t in texts if _rename_text(t.string) != t.string]


def _edits_of_name(code: list[Token], index: int) -> list[Edit]:
    token, following = code[index], code[index + 1]
    match token.string:
        case "async" | "await":
            end = following.start if following.start[0] == token.end[0] else token.end
            return [(token.start, end, "")]
        case "Awaitable" if following.string == "[":  # Awaitable[X] is X
            closing = _closing(code, index + 1)
            return [(token.start, following.end, ""), (closing.start, closing.end, "")]
        case "asyncio":
            return [(token.start, token.end, _replace_asyncio(code, index))]
        case "AsyncGenerator":
            raise PrintError(f"line {token.start[0]}: write AsyncIterator, whose twin has as many parameters")
    new = _rename(token.string)
    return [] if new == token.string else [(token.start, token.end, new)]


def _replace_asyncio(code: list[Token], index: int) -> str:
    """Return "time" for asyncio where it is imported or sleeps."""
    if code[index - 1].string == "import" or [t.string for t in code[index + 1 : index + 3]] == [
        ".",
        "sleep",
    ]:
        return "time"
    raise PrintError(f"line {code[index].start[0]}: put this use of asyncio into _compat.py, in a pair")


def _closing(code: list[Token], opening: int) -> Token:
    depth = 0
    for token in code[opening:]:
        depth += {"[": 1, "]": -1}.get(token.string, 0)
        if depth == 0:
            return token
    raise PrintError(f"line {code[opening].start[0]}: [ is not closed")


def _rename(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    return name.removeprefix("Async") if re.match(r"Async[A-Z]", name) else name


def _rename_text(text: str) -> str:
    """Rename within a string or comment, and take async and await out of examples of code."""
    return _PROSE.sub("", re.sub(r"\b\w+\b", lambda word: _rename(word[0]), text))


def _redirect(text: str, modules: list[str]) -> str:
    """Let imports of twin modules, and words about them, go to the twin."""
    for module in modules:
        text = re.sub(rf"\bcommandbus\.{re.escape(module)}\b", f"commandbus.sync.{module}", text)
        text = re.sub(
            rf"^(\s*)from commandbus import {module}$",
            rf"\1from commandbus.sync import {module}",
            text,
            flags=re.MULTILINE,
        )
    return text


def finish(text: str, path: Path) -> str:
    """Return *text* with its imports sorted, unused ones gone, and formatted as *path* will be."""
    name = ["--stdin-filename", str(path)]
    # Said here because ruff finds it out from files, and those of a new twin are not there yet.
    ours = ["--config", 'lint.isort.known-first-party=["commandbus"]']
    for command in (
        ["check", "--select", "I,F401", "--fix", "--quiet", *ours, *name, "-"],
        ["format", *name, "-"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command],
            input=text,
            text=True,
            capture_output=True,
            check=False,
            cwd=ROOT,
        )
        if done.returncode:
            raise PrintError(f"{path.name}: ruff: {done.stderr.strip() or done.stdout.strip()}")
        text = done.stdout
    return text


def print_twin(source: Path, modules: list[str]) -> str:
    """Return the whole text of the twin of *source*."""
    up = "../" * len(twin_of(source).parent.relative_to(PACKAGE).parts)
    header = HEADER.format(source=f"{up}{source.relative_to(PACKAGE).as_posix()}")
    try:
        return finish(header + convert(source.read_text("utf-8"), modules), twin_of(source))
    except PrintError as error:
        raise PrintError(f"{source.relative_to(ROOT)}: {error}") from None


def stale(wanted: set[Path]) -> list[Path]:
    """Return printed files whose source is gone."""
    return [p for p in sorted(TWIN.rglob("*.py")) if p not in wanted and MARK in p.read_text("utf-8")[:200]]


def main(arguments: list[str] | None = None) -> int:
    """Write or check the twin; return the exit code."""
    parser = argparse.ArgumentParser(description="Print src/commandbus/sync/ from the async sources.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file differs")
    check = parser.parse_args(arguments).check
    try:
        modules = twin_modules(sources())
        wanted = {twin_of(source): print_twin(source, modules) for source in sources()}
    except PrintError as error:
        print(error, file=sys.stderr)
        return 1
    different = [p for p, text in wanted.items() if not p.exists() or p.read_text("utf-8") != text]
    left = stale(set(wanted))
    if check:
        for path in different + left:
            print(f"{path.relative_to(ROOT)} is not what tools/async_to_sync.py prints", file=sys.stderr)
        return 1 if different or left else 0
    for path in different:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], "utf-8")
    for path in left:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
