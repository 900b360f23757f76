"""Sets a damaged database aside, so that the next start makes a new one and fetches the ledger.

Nothing is deleted. The boot counter stays, or is made anew if it is missing or damaged, ahead of
the database that will be made: so the node knows that it has a past which it has forgotten, and
abstains until no promise of that past can matter (storage/boots.py).
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storage.boots import CounterFile, Counts, mark_of, read_counts, sync_directory
from storage.errors import StorageError, derived_path

_SUFFIXES = ("", "-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class SetAside:
    """Where the files went; None if there was none to move."""

    directory: Path | None
    names: tuple[str, ...]


def set_aside(database: Path, counter_file: Path, name: str) -> SetAside:
    """Move the database into the new directory `name` beside it; see the module.

    The node must not run. Raises StorageError; what was moved by then stays where it is, and the
    same call with another name moves the rest.
    """
    data = database.parent
    try:
        data.mkdir(mode=0o700, exist_ok=True)
        moving = [*_present(database), *_spoilt(counter_file)]
        directory = data / name
        if moving:
            directory.mkdir(mode=0o700)
        # The counter first: a new database must never meet a home without one.
        for path in reversed(moving):
            path.rename(directory / path.name)
            if path == counter_file:
                _begin_counter(counter_file)
        if not counter_file.exists():
            _begin_counter(counter_file)
        if moving:
            sync_directory(directory)
        sync_directory(data)
    except OSError as error:
        raise StorageError(
            f"The database {database} cannot be set aside: {error.strerror or error}. Free space "
            "on its disk, let the node's user write there, then run this again."
        ) from error
    return SetAside(directory if moving else None, tuple(path.name for path in moving))


def _present(database: Path) -> Iterator[Path]:
    for file in (database, derived_path(database)):
        for suffix in _SUFFIXES:
            path = file.with_name(file.name + suffix)
            if os.path.lexists(path):
                yield path


def _spoilt(counter_file: Path) -> Iterator[Path]:
    try:
        read_counts(counter_file)
    except StorageError:
        yield counter_file
        if os.path.lexists(mark_of(counter_file)):
            yield mark_of(counter_file)


def _begin_counter(counter_file: Path) -> None:
    """Put a counter in place that has seen one start more than a new database."""
    with contextlib.closing(CounterFile(counter_file, Counts(boots=1))):
        pass
