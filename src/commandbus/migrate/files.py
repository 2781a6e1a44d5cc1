"""The migration files: where they are, what their names say, and Flyway's checksum of their text."""

from __future__ import annotations

import importlib.resources
import os
import re
import stat
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from commandbus.errors import InvalidArgumentError, MigrationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SCHEMA_VERSION = "001"
"""The highest packaged version this code needs."""

CORE_SCRIPT = "V001__commandbus_schema.sql"
"""The packaged file that makes schema ``commandbus``."""

_FILE_NAME = re.compile(r"(?:V(?P<version>[0-9]+(?:[._][0-9]+)*)|R)__(?P<description>.+)\.sql")
_CONFIGURATION = ".conf"
_CALLBACK = re.compile(r"(?:before|after)[A-Z][A-Za-z]*(?:__.*)?\.sql")
# Whatever somebody may have meant as a migration, or Flyway would run: never passed over in silence.
_LOOKS_LIKE_ONE = re.compile(
    rf"((?i:[VUB][0-9._].*|[VR].*__.*|R_.*)\.(?i:sql)|{_CALLBACK.pattern})(?:{re.escape(_CONFIGURATION)})?", re.DOTALL
)
_NEVER_APPLIED = {"U": "an undo migration", "B": "a baseline migration"}
LONGEST_VERSION = 50  # characters, the widths of the history's columns
LONGEST_DESCRIPTION = 200
LONGEST_SCRIPT = 1000

Key = tuple[int, ...] | str
"""What tells migrations apart: a version's numbers, or a repeatable migration's description."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: versioned and applied once, or repeatable and applied again whenever it has changed.

    Attributes:
        version: as in the file's name, parts separated by dots, such as "001" or "2.1"; None when repeatable.
        description: the rest of the name, underscores read as spaces.
        script: the file's name, below the directory that was searched.
        path: where the file is.
        checksum: Flyway's, a signed 32-bit number; a repeatable one's is taken with placeholders replaced.
        text: the SQL as it is in the file, without a byte order mark.
    """

    version: str | None
    description: str
    script: str
    path: Path
    checksum: int
    text: str = field(repr=False)

    @property
    def key(self) -> Key:
        """The version as numbers, so that "1", "001" and "1.0" are the same; or else the description."""
        return key_of(self.version, self.description)

    @property
    def is_e2e(self) -> bool:
        """For tests only, applied on request."""
        return is_e2e(self.description)

    def matches(self, recorded: int | None) -> bool:
        """Say whether this is what was applied with that checksum, be it with or without placeholders replaced."""
        return recorded in (self.checksum, checksum(self.text))


def key_of(version: str | None, description: str) -> Key:
    """Return what a migration is told apart by."""
    return description if version is None else version_order(version)


def sort_key(key: Key) -> tuple[bool, tuple[int, ...], str]:
    """Return what sorts migrations as they are applied: repeatable ones last, by description."""
    return (True, (), key) if isinstance(key, str) else (False, key, "")


def is_e2e(description: str) -> bool:
    """Say whether a migration so described is for tests only."""
    return description == "e2e" or description.startswith("e2e ")


def version_order(version: str) -> tuple[int, ...]:
    """Return the key by which versions are compared; trailing zero parts do not count."""
    parts = [int(part) for part in version.replace("_", ".").split(".")]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def checksum(text: str) -> int:
    """Return Flyway's checksum: CRC-32 of the UTF-8 lines without their ends, as a signed 32-bit number."""
    lines = text.removeprefix("\ufeff").replace("\r", "").replace("\n", "")
    value = zlib.crc32(lines.encode())
    return value - 2**32 if value >= 2**31 else value


def packaged_directory() -> Path:
    """Return where the library's own migrations are: in the wheel, or in ``migrations/`` of a source tree.

    Raises:
        MigrationError: the installation is incomplete.
    """
    inside = Path(str(importlib.resources.files("commandbus"))) / "migrations"
    beside = inside.parents[2] / "migrations"
    for directory in (inside, beside):
        if any(directory.glob(f"V{SCHEMA_VERSION}__*.sql")):
            return directory
    raise MigrationError(f"the installed package lacks its migrations: {inside} is missing")


def discover(directories: Path | str | Iterable[Path | str] | None = None) -> list[Migration]:
    """Read all migrations, tests' included, in the order they are applied: by version, then the repeatable ones.

    Directories below are searched too, but for hidden ones. Files that do not look like migrations are passed over.

    Args:
        directories: one directory or several; by default `packaged_directory`.

    Raises:
        InvalidArgumentError: a directory's name is empty.
        MigrationError: a directory or file cannot be read, there is no migration, one has a malformed name or is of
            a kind that is never applied (undo, baseline), or two files have the same version or description.
    """
    if directories is None:
        directories = packaged_directory()
    if isinstance(directories, (str, Path)):
        directories = [directories]
    directories = list(directories)
    if "" in directories:  # which would be the current one
        raise InvalidArgumentError("directory", "is empty: name one, or leave it out for the library's own files")
    found: dict[Key, Migration] = {}
    for directory in map(Path, directories):
        for migration in _read_directory(directory):
            other = found.setdefault(migration.key, migration)
            if other is not migration:
                same = "description" if migration.version is None else "version"
                raise MigrationError(f"{other.path} and {migration.path} have the same {same}")
    return [found[key] for key in sorted(found, key=sort_key)]


def _read_directory(directory: Path) -> list[Migration]:
    if not directory.is_dir():
        raise MigrationError(f"{directory} is not a directory")
    found = [read_migration(path, directory) for path in _candidates(directory)]
    if not found:
        raise MigrationError(f"{directory} holds no migration")
    return found


def _candidates(directory: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise MigrationError(f"cannot read {error.filename}: {error.strerror}") from None

    for place, below, names in os.walk(directory, onerror=refuse):
        here = Path(place)
        # os.walk lists a directory, or a link to one, among those below, whatever its name.
        yield from (here / name for name in sorted([*names, *below]) if _LOOKS_LIKE_ONE.fullmatch(name))
        below[:] = sorted(name for name in below if not name.startswith("."))


def read_migration(path: Path, directory: Path) -> Migration:
    """Read one file somewhere below *directory*.

    Raises:
        MigrationError: its name is malformed or too long, it is no regular file or cannot be read as UTF-8 without
            NUL, or Flyway would treat it in a way that this runner does not.
    """
    try:
        str(path.relative_to(directory)).encode()
    except UnicodeEncodeError:
        raise MigrationError(f"{_shown(path)}: the name is not UTF-8") from None
    name = _FILE_NAME.fullmatch(path.name)
    if name is None:
        raise MigrationError(_not_a_migration(path))
    version = name["version"] and name["version"].replace("_", ".")
    description = name["description"].replace("_", " ")
    script = path.relative_to(directory).as_posix()
    if len(version or "") > LONGEST_VERSION or len(description) > LONGEST_DESCRIPTION or len(script) > LONGEST_SCRIPT:
        raise MigrationError(
            f"{path}: a version has at most {LONGEST_VERSION} characters, a description {LONGEST_DESCRIPTION}"
        )
    text = _read(path)
    return Migration(version, description, script, path, checksum(text), text)


def _read(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, and a device may have no end
            raise MigrationError(f"{path} is no regular file: a migration must be one, or a link to one")
        text = path.read_bytes().decode().removeprefix("\ufeff")
    except OSError as error:
        raise MigrationError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise MigrationError(f"{path} is not UTF-8 at byte {error.start}") from None
    before, nul, _ = text.partition("\0")
    if nul:
        line = before.count("\n") + 1
        raise MigrationError(f"{path} line {line}: a NUL character, at which the server would stop reading: remove it")
    return text


def _shown(path: Path) -> str:
    """Return the path as one line, whatever a file may be called."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def _not_a_migration(path: Path) -> str:
    if path.suffix == _CONFIGURATION:
        return f"{_shown(path)} is a script configuration file of Flyway, which this runner cannot follow"
    kind = "a callback of Flyway" if _CALLBACK.fullmatch(path.name) else _NEVER_APPLIED.get(path.name[0])
    if kind is not None:
        return f"{_shown(path)} is {kind}, which commandbus does not run: move it to another directory"
    return (
        f"{_shown(path)} is not named V<version>__<description>.sql or R__<description>.sql,"
        " such as V001__tables.sql or R__views.sql"
    )
