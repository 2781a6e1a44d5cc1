"""How the files and the history of a database fit: a state for each migration, and a sentence for each problem."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from commandbus.migrate.files import Migration, sort_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from commandbus.migrate.files import Key
    from commandbus.migrate.history import Entry, History


class MigrationState(StrEnum):
    """How a migration stands in one database."""

    APPLIED = "applied"
    OUT_OF_ORDER = "out of order"  # applied, after a higher version
    PENDING = "pending"
    OUTDATED = "outdated"  # repeatable, to be applied again
    OPTIONAL = "optional"  # for tests only, and not asked for
    IGNORED = "ignored"  # never applied, and too old to be applied now
    BASELINE = "baseline"  # at or below the version that was taken over
    CHANGED = "changed"  # the file is not what was applied
    FAILED = "failed"  # Flyway recorded a failure
    UNKNOWN = "unknown"  # applied, but there is no file


@dataclass(frozen=True, slots=True)
class MigrationInfo:
    """One migration, seen from the files and the database.

    Attributes:
        version: None for a repeatable migration.
        type: "SQL", or what the history says, such as "BASELINE".
        checksum: of the file, or of the history where there is no file.
        installed_on: UTC; None while not applied.
        execution_time: milliseconds; None while not applied.
    """

    version: str | None
    description: str
    type: str
    script: str
    state: MigrationState
    checksum: int | None
    installed_on: datetime | None = None
    execution_time: int | None = None


def all_states(files: Sequence[Migration], history: History, *, with_e2e: bool) -> list[MigrationInfo]:
    """Return how each file, and each row without a file, stands; in the order in which they are applied."""
    found = {migration.key: _of_file(migration, history, with_e2e) for migration in files}
    found |= {key: _of_entry(entry) for key, entry in history.entries.items() if key not in found}
    return [found[key] for key in sorted(found, key=sort_key)]


def _of_file(migration: Migration, history: History, with_e2e: bool) -> MigrationInfo:
    entry = history.entries.get(migration.key)
    state = _state(migration, entry, history, with_e2e)
    kind = "SQL" if entry is None else entry.type
    names = (migration.version, migration.description, kind, migration.script)
    times = (None, None) if entry is None else (entry.installed_on, entry.execution_time)
    return MigrationInfo(*names, state, migration.checksum, *times)


def _state(migration: Migration, entry: Entry | None, history: History, with_e2e: bool) -> MigrationState:
    if entry is None:
        return _state_unapplied(migration, history, with_e2e)
    if not entry.success:
        return MigrationState.FAILED
    if entry.is_baseline:
        return MigrationState.BASELINE
    if migration.version is None and not migration.matches(entry.checksum):
        return MigrationState.OUTDATED
    if _difference(migration, entry):
        return MigrationState.CHANGED
    return MigrationState.OUT_OF_ORDER if migration.key in history.out_of_order else MigrationState.APPLIED


def _state_unapplied(migration: Migration, history: History, with_e2e: bool) -> MigrationState:
    if history.is_below_baseline(migration):
        return MigrationState.BASELINE
    if migration.is_e2e:
        return MigrationState.PENDING if with_e2e else MigrationState.OPTIONAL
    return MigrationState.IGNORED if _comes_too_late(migration, history) else MigrationState.PENDING


def _comes_too_late(migration: Migration, history: History) -> bool:
    """Say whether a higher version is there already. Files for tests have no place in the order of the others."""
    above = (key for key, entry in history.entries.items() if isinstance(key, tuple) and not entry.is_e2e)
    return isinstance(migration.key, tuple) and migration.key < max(above, default=())


def _of_entry(entry: Entry) -> MigrationInfo:
    state = MigrationState.BASELINE if entry.is_baseline else MigrationState.UNKNOWN
    names = (entry.version, entry.description, entry.type, entry.script)
    return MigrationInfo(*names, state, entry.checksum, entry.installed_on, entry.execution_time)


def problems(files: Sequence[Migration], history: History) -> Iterator[str]:
    """Return a sentence for each reason not to touch this database: failed, changed, unknown or late migrations."""
    known = {migration.key: migration for migration in files}
    failed = {entry.key for entry in history.failed}
    for entry in history.failed:
        yield (
            f"{entry.script} failed when it was applied: undo what it left,"
            ' then run "commandbus migrate repair" to remove it from the history'
        )
    for key, entry in history.entries.items():
        migration = known.get(key)
        if key in failed or entry.is_baseline:
            continue
        if migration is None:
            if not entry.is_e2e:
                yield _unknown(entry, files)
        elif difference := _difference(migration, entry):
            yield f"{migration.script} {difference}"
    for migration in files:
        if not history.covers(migration) and not migration.is_e2e and _comes_too_late(migration, history):
            yield f"{migration.script} is older than what the database has, but was never applied"


def _difference(migration: Migration, entry: Entry) -> str | None:
    changed = "was changed after it was applied:"
    if entry.type != "SQL":
        return None
    if migration.version is None:
        # Another text is no fault, it is applied again. Flyway refuses this one case, and so must we.
        if entry.checksum == migration.checksum or not migration.matches(entry.checksum):
            return None
        return (
            "was applied without its placeholders replaced: change the file, if only a comment, to apply it again,"
            ' or run "commandbus migrate repair" to leave it as it was applied'
        )
    if migration.description != entry.description and entry.checksum not in (None, migration.checksum):
        return (
            f"has the version of {entry.script}, which the history has:"
            " where that is another project's, give one of the two a history table of its own"
        )
    if entry.checksum not in (None, migration.checksum):
        return f"{changed} its checksum is {migration.checksum}, the history has {entry.checksum}"
    if entry.description != migration.description:
        return f'{changed} its description is "{migration.description}", the history has "{entry.description}"'
    return None


def is_missing(entry: Entry, files: Sequence[Migration]) -> bool:
    """Say whether *entry* should have a file: it is for no tests, no baseline, and not newer than all files."""
    if entry.is_e2e or entry.is_baseline:
        return False
    known: set[Key] = {migration.key for migration in files}
    return entry.key not in known and not _is_newer(entry, files)


def _is_newer(entry: Entry, files: Sequence[Migration]) -> bool:
    newest = max((migration.key for migration in files if isinstance(migration.key, tuple)), default=())
    return isinstance(entry.key, tuple) and entry.key > newest


_MEND = 'put it back, or run "commandbus migrate repair" to forget it'


def _unknown(entry: Entry, files: Sequence[Migration]) -> str:
    versions = [migration.version for migration in files if migration.version is not None] or ["none"]
    supported = f"versions {versions[0]} to {versions[-1]} are supported"
    if entry.version is None:
        return f"the database has {entry.script}, which has no file: {_MEND}"
    if _is_newer(entry, files):
        return (
            f"the database is newer than this installation: it has version {entry.version}, {supported}:"
            " update commandbus, or put the file back"
        )
    return f"the database has version {entry.version} ({entry.script}), which has no file, {supported}: {_MEND}"
