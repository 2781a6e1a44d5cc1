"""The migration files: where they are, what their names say, and Flyway's checksum of their text."""

from __future__ import annotations

import importlib.resources
import re
import zlib
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from commandbus.errors import MigrationError

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA_VERSION = "001"
"""The highest packaged version this code needs."""

_FILE_NAME = re.compile(r"V(?P<version>[0-9]+(?:[._][0-9]+)*)__(?P<description>.+)\.sql")
LONGEST_VERSION = 50  # characters, the widths of the history's columns
LONGEST_DESCRIPTION = 200
LONGEST_SCRIPT = 1000


@dataclass(frozen=True, slots=True)
class Migration:
    """One versioned file.

    Attributes:
        version: as in the file's name, parts separated by dots, such as "001" or "2.1".
        description: the rest of the name, underscores read as spaces.
        script: the file's name.
        path: where the file is.
        checksum: Flyway's, a signed 32-bit number.
        text: the SQL, without a byte order mark.
    """

    version: str
    description: str
    script: str
    path: Path
    checksum: int
    text: str = field(repr=False)

    @property
    def order(self) -> tuple[int, ...]:
        """The version as numbers: "1", "001" and "1.0" are the same."""
        return version_order(self.version)

    @property
    def is_e2e(self) -> bool:
        """For tests only, applied on request."""
        return is_e2e(self.description)


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
    """Read all versioned migrations, tests' included, in the order they are applied.

    Files whose names do not start with "V" and end in ".sql" are none of ours and are passed over.

    Args:
        directories: one directory or several; by default `packaged_directory`.

    Raises:
        MigrationError: a directory or file cannot be read, holds no migration, or has a malformed name,
            or two files have the same version.
    """
    if directories is None:
        directories = packaged_directory()
    if isinstance(directories, (str, Path)):
        directories = [directories]
    found = [migration for directory in directories for migration in _read_directory(Path(directory))]
    found.sort(key=lambda migration: migration.order)
    for one, other in pairwise(found):
        if one.order == other.order:
            raise MigrationError(f"{one.path} and {other.path} have the same version")
    return found


def _read_directory(directory: Path) -> list[Migration]:
    if not directory.is_dir():
        raise MigrationError(f"{directory} is not a directory")
    try:
        paths = sorted(path for path in directory.iterdir() if re.fullmatch(r"(?i)V.*\.sql", path.name))
    except OSError as error:
        raise MigrationError(f"cannot read {directory}: {error.strerror}") from None
    if not paths:
        raise MigrationError(f"{directory} holds no migration")
    return [read_migration(path) for path in paths]


def read_migration(path: Path) -> Migration:
    """Read one file.

    Raises:
        MigrationError: its name is malformed or too long, or it cannot be read as UTF-8.
    """
    name = _FILE_NAME.fullmatch(path.name)
    if name is None:
        raise MigrationError(f"{path} is not named V<version>__<description>.sql, such as V001__tables.sql")
    version = name["version"].replace("_", ".")
    description = name["description"].replace("_", " ").strip()
    if len(version) > LONGEST_VERSION or len(description) > LONGEST_DESCRIPTION or len(path.name) > LONGEST_SCRIPT:
        raise MigrationError(
            f"{path}: a version has at most {LONGEST_VERSION} characters, a description {LONGEST_DESCRIPTION}"
        )
    try:
        text = path.read_bytes().decode().removeprefix("\ufeff")
    except OSError as error:
        raise MigrationError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise MigrationError(f"{path} is not UTF-8 at byte {error.start}") from None
    return Migration(version, description, path.name, path, checksum(text), text)
