"""The file outside the database that reveals a restored backup.

A replica that forgets what it has signed may sign the opposite, which is what Byzantine means. A
database restored from a backup forgets, and looks perfectly sound. So two numbers are kept in the
database and in this file: how often a node was started on the database, and how many promises were
ever made. Whichever way the file is ahead of the database, the database is an old copy.

The order of writing keeps false alarms out: the database first, this file after it, so that no
crash can leave the file ahead. The number of starts is made durable (fsync, then rename). The
number of promises is rewritten in place after every promise without waiting for the disk, which
costs microseconds: a power failure may set it back, and then the file is merely behind; but
restoring a backup is an act of people, not of power, and finds the number as it was. With starts
alone, a backup made since the last start would pass for a node that had just crashed.

A counter file that is restored along with the database fits it. So the first start makes a file
beside it, the mark, which is never written again, and the counter says when the mark's inode last
changed (st_ctime): no program can set that time, so a copy of the directory has another. Whoever
changes the mark's owner or mode is taken for a copier, once. Only an image of the whole disk shows
nothing. Keep `data/boot` out of backups.
"""

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from storage.errors import StorageError

_DIGITS: Final = 20
_COUNT_MAX: Final = 10**18
"""No node comes to start or promise so often, and SQLite holds little more."""
_MARK: Final = b"Shows the node whether this directory was copied. Never change or restore it.\n"


@dataclass(frozen=True, slots=True)
class BootVerdict:
    """What `Database.boot` found. `boots` counts the starts on this database, this one included.

    `restored` stays true over further starts until the node promises again: see `Database.boot`.
    """

    boots: int
    restored: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """Starts and promises ever made, each from 0."""

    boots: int = 0
    promises: int = 0

    def behind(self, other: Self) -> bool:
        """Tell whether `other` has seen a start or a promise that this has not."""
        return self.boots < other.boots or self.promises < other.promises


@dataclass(frozen=True, slots=True)
class Seen:
    """What a counter file says, and whether it was copied since it was put in place."""

    counts: Counts
    copied: bool


class CounterFile:
    """The open file. Its text is three decimal numbers of 20 digits: starts, promises, and the
    mark's time of change in nanoseconds.
    """

    def __init__(self, path: Path, counts: Counts) -> None:
        """Put a file with `counts` in place, durably, for the mark that is there, or make that.

        Raises StorageError.
        """
        self._path = path
        self._boots = counts.boots
        fresh = path.with_name(path.name + ".new")
        try:
            self._mark = _mark(path)
            self._descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                _write(self._descriptor, counts, self._mark)
                os.fsync(self._descriptor)
                fresh.replace(path)
                sync_directory(path.parent)
            except OSError:
                os.close(self._descriptor)
                raise
        except OSError as error:
            raise _failed(path, error) from error

    def promised(self, promises: int) -> None:
        """Note that so many promises were ever made; see the module. Raises StorageError."""
        try:
            _write(self._descriptor, Counts(self._boots, promises), self._mark)
        except OSError as error:
            raise _failed(self._path, error) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_counts(path: Path) -> Seen | None:
    """Return what the counter file at `path` says, None if there is none. Raises StorageError."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failed(path, error) from error
    fields = text.split()
    if len(fields) != 3 or not all(field.isdigit() and len(field) == _DIGITS for field in fields):
        raise _damaged(path)
    boots, promises, mark = map(int, fields)
    if max(boots, promises) > _COUNT_MAX:
        raise _damaged(path)
    try:
        copied = mark_of(path).stat().st_ctime_ns != mark
    except FileNotFoundError:
        copied = True
    except OSError as error:
        raise _failed(path, error) from error
    return Seen(Counts(boots, promises), copied)


def _damaged(path: Path) -> StorageError:
    return StorageError(
        f"The boot counter {path} is damaged: it should hold three numbers of {_DIGITS} digits. It "
        "protects the node from voting twice on a restored database. Delete the file; the node "
        "then abstains from voting until the others have gone on without it."
    )


def mark_of(counter_file: Path) -> Path:
    """Where the mark of a counter file is."""
    return counter_file.with_name(counter_file.name + ".mark")


def sync_directory(directory: Path) -> None:
    """Make names in `directory` durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mark(counter_file: Path) -> int:
    """When the mark's inode last changed, in nanoseconds; the mark is made if there is none."""
    path = mark_of(counter_file)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, _MARK)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return path.stat().st_ctime_ns


def _write(descriptor: int, counts: Counts, mark: int) -> None:
    numbers = (counts.boots, counts.promises, mark)
    text = b"%s\n" % b" ".join(b"%0*d" % (_DIGITS, number) for number in numbers)
    if os.pwrite(descriptor, text, 0) != len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _failed(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"The boot counter {path} cannot be kept: {error.strerror or error}. Check the disk, its "
        "free space and the rights of the node's user there, then start the node again."
    )
