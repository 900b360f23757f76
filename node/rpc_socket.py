"""The sockets that the RPC listens on: a unix socket that is never open to others, and loopback
TCP.

A unix socket's address holds 107 bytes of path. A longer one is reached on Linux through
/proc/self/fd/N/name, N being an open descriptor of its directory, for listening as well as for
connecting.
"""

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from node.home import StartError, printable, reason

SOCKET_PATH_BYTES_MAX: Final = 107
"""What fits sun_path of 108 bytes, the last one zero (unix(7))."""
BACKLOG: Final = 128
_PRIVATE_UMASK: Final = 0o177


class UnixListener:
    """A listening unix socket of mode 0600, removed from the file system when closed."""

    def __init__(self, path: Path) -> None:
        """Bind and listen; raises StartError if another process listens there or the path cannot be
        used.
        """
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale(path)
            with connectable(path) as address:
                # The mode is the one at birth, so there is no moment at which others may connect.
                umask = os.umask(_PRIVATE_UMASK)
                try:
                    self.socket.bind(address)
                finally:
                    os.umask(umask)
            self.socket.listen(BACKLOG)
            self.socket.setblocking(False)
            status = path.lstat()
        except OSError as error:
            self.socket.close()
            raise StartError(
                f"The RPC cannot listen on the socket {printable(path)}: {reason(error)}."
            ) from error
        except BaseException:
            self.socket.close()
            raise
        self._identity = (status.st_dev, status.st_ino)

    def close(self) -> None:
        """Stop listening, and delete the socket's file if it is still ours."""
        self.socket.close()
        with suppress(FileNotFoundError):
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == self._identity:
                self.path.unlink()


@contextmanager
def connectable(path: Path) -> Iterator[str]:
    """An address for `path` that is short enough, good while the block runs; raises OSError if
    there is none.
    """
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        address = f"/proc/self/fd/{directory}/{path.name}"
        if len(os.fsencode(address)) > SOCKET_PATH_BYTES_MAX or not Path("/proc/self/fd").is_dir():
            raise OSError(
                errno.ENAMETOOLONG,
                f"its path has more than the {SOCKET_PATH_BYTES_MAX} bytes that the system allows; "
                "choose a shorter one",
            )
        yield address
    finally:
        os.close(directory)


def loopback_socket(host: str, port: int) -> socket.socket:
    """A listening TCP socket on a loopback address; raises StartError. Port 0 takes a free one."""
    if host == "localhost":
        host = "127.0.0.1"
    if not _is_loopback(host):
        raise StartError(
            f"The RPC refuses to listen on {host!a}, an address that others can reach; "
            "use 127.0.0.1:PORT and put a reverse proxy in front for remote apps."
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise StartError(
            f"The RPC cannot listen on {host}:{port}: {reason(error)}; "
            "set the key 'rpc.tcp' to another port."
        ) from error
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _remove_stale(path: Path) -> None:
    """Delete the socket of a process that is gone; raises StartError if there is a live one or
    another file.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise StartError(
            f"{printable(path)} is in the way of the RPC's socket and is no socket: "
            "move it, or set the key 'rpc.socket' to another path."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, connectable(path) as address:
        # A full backlog would make connect wait; a process that listens is alive in any case.
        probe.setblocking(False)
        refused = probe.connect_ex(address) in (errno.ECONNREFUSED, errno.ENOENT)
    if not refused:
        raise StartError(
            f"Another process serves the RPC's socket {printable(path)}: "
            "stop that node first, or set the key 'rpc.socket' to another path."
        )
    path.unlink(missing_ok=True)
