"""The files that commands read and write: data of any name and size, sidecars, proofs.

Every failure is one sentence that names the file.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from node.console import CommandError, ExitCode, Steps
from node.home import create_file, printable, reason

CHUNK_BYTES = 1024 * 1024
PRIVATE_MODE = 0o600


def size_of(path: Path) -> int:
    """The bytes of a regular file that may be read; raises CommandError naming the file."""
    with open_data(path) as f:
        return os.fstat(f.fileno()).st_size


@contextmanager
def open_data(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading; raises CommandError naming the file."""
    try:
        # O_NONBLOCK: opening a named pipe would otherwise wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise CommandError(
                f"{printable(path)} is a directory; name the files in it, for example with a "
                "pattern of your shell.",
                ExitCode.FILE,
                file=printable(path),
            )
        if not stat.S_ISREG(mode):
            raise CommandError(
                f"{printable(path)} is a device or pipe, not a file with a size of its own.",
                ExitCode.FILE,
                file=printable(path),
            )
        with os.fdopen(descriptor, "rb", closefd=False) as f:
            yield f
    finally:
        os.close(descriptor)


def chunks(path: Path, f: BinaryIO, steps: Steps) -> Iterator[bytes]:
    """The content of an open file, in pieces; raises CommandError naming the file."""
    while True:
        try:
            chunk = f.read(CHUNK_BYTES)
        except OSError as error:
            raise _unreadable(path, error) from error
        if not chunk:
            return
        steps.advance(len(chunk))
        yield chunk


def read_small(path: Path, bytes_max: int) -> bytes:
    """The content of a file that has at most `bytes_max`; raises CommandError naming the file."""
    with open_data(path) as f:
        size = os.fstat(f.fileno()).st_size
        if size > bytes_max:
            raise CommandError(
                f"{printable(path)} has {size} bytes; a file of its kind has at most {bytes_max}.",
                ExitCode.FILE,
                file=printable(path),
            )
        try:
            return f.read(bytes_max)
        except OSError as error:
            raise _unreadable(path, error) from error


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a new file durably; raises CommandError, also if the file exists."""
    try:
        create_file(path, content, mode)
    except FileExistsError as error:
        raise CommandError(
            f"{printable(path)} exists already and is left as it is; choose another name.",
            ExitCode.FILE,
            file=printable(path),
        ) from error
    except (OSError, ValueError) as error:
        raise CommandError(
            f"{printable(path)} cannot be written: {_why(error)}.",
            ExitCode.FILE,
            file=printable(path),
        ) from error


def _unreadable(path: Path, error: OSError | ValueError) -> CommandError:
    return CommandError(
        f"{printable(path)} cannot be read: {_why(error)}.", ExitCode.FILE, file=printable(path)
    )


def _why(error: OSError | ValueError) -> str:
    return reason(error) if isinstance(error, OSError) else str(error)
