"""A node's home directory: where everything lies, and the lock that keeps a second daemon out."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

LOCK_WAIT_MS_MAX = 300
"""How long a start waits for the lock: a look at it (`running_pid`) holds it for microseconds."""
LOCK_RETRY_MS = 20
_PID_BYTES_MAX = 32
PATH_BYTES_MAX = 480
"""SQLite opens no file whose whole name, with those that it makes beside it, has over 512 bytes."""


class StartError(Exception):
    """Why a node cannot start or a command cannot begin: one sentence, with what to do about it."""


class HomeError(StartError):
    """The home directory is missing, unusable, or in use."""


def printable(path: str | bytes | os.PathLike[str]) -> str:
    """A file name as it may be shown: control characters and what is not UTF-8 are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def reason(error: OSError) -> str:
    """What the operating system says, in lower case and without number or file name."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def read_file(path: Path, bytes_max: int) -> bytes:
    """The first `bytes_max` bytes of a regular file; raises OSError."""

    def opened(name: str, flags: int) -> int:
        # A named pipe would otherwise wait for a writer for ever.
        return os.open(name, flags | os.O_NONBLOCK)

    with FileIO(path, opener=opened) as f:
        if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is a device or pipe")
        return f.read(bytes_max)


def create_file(path: Path, content: bytes, mode: int) -> None:
    """Write a new file durably; raises OSError and leaves none behind if it cannot be completed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(descriptor)
    except OSError:
        path.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class Home:
    """The layout of a home directory. Only its owner may read it: it holds the node's key."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The settings of this node."""
        return self.path / "config.toml"

    @property
    def genesis_file(self) -> Path:
        """The genesis file, unless the settings name another."""
        return self.path / "genesis.toml"

    @property
    def key_file(self) -> Path:
        """The node's private key, unless the settings name another."""
        return self.path / "node.key"

    @property
    def data(self) -> Path:
        """Everything that the daemon itself writes."""
        return self.path / "data"

    @property
    def database(self) -> Path:
        """The ledger."""
        return self.data / "ledger.db"

    @property
    def boot_counter(self) -> Path:
        """The counter outside the database that reveals a restored backup."""
        return self.data / "boot"

    @property
    def rpc_socket(self) -> Path:
        """The RPC's unix socket, unless the settings name another."""
        return self.path / "rpc.sock"

    @property
    def rpc_token(self) -> Path:
        """The token for the RPC over TCP; exists only where that is turned on."""
        return self.path / "rpc.token"

    @property
    def lock_file(self) -> Path:
        """Locked, and holding the process id, while a daemon uses this home."""
        return self.path / "node.lock"

    @property
    def sidecars(self) -> Path:
        """Salts and fingerprints of registered records, which stay with the holder."""
        return self.path / "sidecars"

    @property
    def log_file(self) -> Path:
        """Where `medpact testnet up` sends the daemon's log."""
        return self.path / "node.log"

    def sidecar(self, record: bytes) -> Path:
        """Where the sidecar of a record lies, by record id."""
        return self.sidecars / self.sidecar_name(record)

    @staticmethod
    def sidecar_name(record: bytes) -> str:
        """How the sidecar of a record is called, wherever it is."""
        return f"{record.hex()}.sidecar"

    def check_length(self) -> None:
        """Raise HomeError if the path is too long for the ledger in it."""
        length = len(os.fsencode(self.path.absolute()))
        if length > PATH_BYTES_MAX:
            raise HomeError(
                f"The home {printable(self.path)} has a path of {length} bytes, and the database "
                f"in it can be reached up to {PATH_BYTES_MAX}; choose a shorter one."
            )

    def create(self) -> None:
        """Make the directory, readable by its owner only; raises HomeError."""
        try:
            self.path.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise HomeError(
                f"The home {printable(self.path)} cannot be created: {reason(error)}."
            ) from error

    def check(self) -> None:
        """Raise HomeError unless this is a directory that this user may enter."""
        try:
            mode = self.path.stat().st_mode
        except FileNotFoundError as error:
            raise HomeError(
                f"The home {printable(self.path)} does not exist; give the node's directory with "
                "--home or MEDPACT_HOME, or make a trial network with `medpact testnet create`."
            ) from error
        except OSError as error:
            raise HomeError(
                f"The home {printable(self.path)} cannot be used: {reason(error)}; give the node's "
                "directory with --home or MEDPACT_HOME."
            ) from error
        if not stat.S_ISDIR(mode):
            raise HomeError(f"The home {printable(self.path)} is a file, not a directory.")
        self.check_length()
        if not os.access(self.path, os.R_OK | os.X_OK):
            raise HomeError(
                f"The home {printable(self.path)} may not be read by this user; "
                "run the command as the user that owns it."
            )

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold the home for this process; raises HomeError naming the process that has it.

        Gives whether it was held before, by whichever process: what a daemon leaves for good.
        """
        descriptor = self._open_lock()
        try:
            if not _lock(descriptor):
                raise HomeError(self._in_use(_read_pid(descriptor)))
            known = os.fstat(descriptor).st_size > 0
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield known
        finally:
            os.close(descriptor)

    def running_pid(self) -> int | None:
        """The process id of the daemon that uses this home, or None."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY)
        except OSError:
            return None
        try:
            # Only the lock tells the truth; the process id may be another program's by now.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_pid(descriptor)
        else:
            return None
        finally:
            os.close(descriptor)

    def _open_lock(self) -> int:
        try:
            return os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise HomeError(
                f"The home {printable(self.path)} cannot be written: {reason(error)}; free or "
                "remount the disk, or run the command as the user that owns the home."
            ) from error

    def _in_use(self, pid: int | None) -> str:
        who = "another process" if pid is None else f"the process {pid}"
        return (
            f"The home {printable(self.path)} is in use by {who}; "
            "one home serves one daemon: stop that one first, or give another --home."
        )


def _lock(descriptor: int) -> bool:
    for _ in range(LOCK_WAIT_MS_MAX // LOCK_RETRY_MS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_RETRY_MS / 1000)
        else:
            return True
    return False


def _read_pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, _PID_BYTES_MAX, 0).strip()
    return int(text) if text.isdigit() else None
