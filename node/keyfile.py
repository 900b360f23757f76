"""Private keys in files: one line of 64 hexadecimal digits that only its owner may read."""

import os
import re
import shlex
import stat
from pathlib import Path

from node.home import StartError, create_file, printable, reason
from primitives.keys import PrivateKey

KEY_FILE_MODE = 0o600
NEXT_SUFFIX = ".next"
"""What the name of a key file ends in until a vote has made it the node's key."""
_FILE_BYTES_MAX = 1024
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_SEED = re.compile(rb"\s*([0-9a-fA-F]{64})\s*")


class KeyFileError(StartError):
    """A key file that cannot be used; the message never quotes what is in it."""


def write_key(path: Path, key: PrivateKey) -> None:
    """Write the key durably to a new file of mode 0600; raises KeyFileError if there is one."""
    try:
        create_file(path, key.seed.hex().encode() + b"\n", KEY_FILE_MODE)
    except FileExistsError as error:
        raise KeyFileError(
            f"{printable(path)} exists already and is left as it is: a key that is lost cannot be "
            "made again; choose another file name."
        ) from error
    except OSError as error:
        raise KeyFileError(
            f"The key file {printable(path)} cannot be written: {reason(error)}."
        ) from error


def next_key_file(path: Path) -> Path:
    """Where the key waits that is to replace the one in the key file `path`."""
    return path.with_name(path.name + NEXT_SUFFIX)


def replace_key(following: Path, path: Path) -> None:
    """Let a prepared key take the place of the one in `path`, which is then gone.

    Raises KeyFileError.
    """
    try:
        following.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise KeyFileError(
            f"The key file {printable(path)} cannot be replaced by {printable(following)}: "
            f"{reason(error)}."
        ) from error


def read_key(path: Path) -> PrivateKey:
    """The key in a file; raises KeyFileError if it is missing, readable by others, or not a key."""
    raw = _read(path)
    match = _SEED.fullmatch(raw)
    if match is None:
        raise KeyFileError(
            f"{printable(path)} is not a key file: it must hold one line of 64 hexadecimal digits, "
            "as `medpact keys generate -o FILE` writes it."
        )
    return PrivateKey(bytes.fromhex(match[1].decode()))


def _read(path: Path) -> bytes:
    try:
        # O_NONBLOCK: opening a named pipe would otherwise wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise KeyFileError(
            f"The key file {printable(path)} does not exist; check the name, or make a new key "
            f"with `medpact keys generate -o {shlex.quote(printable(path))}`."
        ) from error
    except OSError as error:
        raise KeyFileError(
            f"The key file {printable(path)} cannot be read: {reason(error)}."
        ) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise KeyFileError(f"{printable(path)} is not a key file but a directory or device.")
        if mode & _OTHERS:
            raise KeyFileError(
                f"The key file {printable(path)} may be read by other users of this machine (mode "
                f"{stat.S_IMODE(mode):04o}); run: chmod 600 {shlex.quote(printable(path))}"
            )
        return os.read(descriptor, _FILE_BYTES_MAX)
    except OSError as error:
        raise KeyFileError(
            f"The key file {printable(path)} cannot be read: {reason(error)}."
        ) from error
    finally:
        os.close(descriptor)
