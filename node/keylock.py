"""One process per key on one machine, whatever homes, ports and copies of the key file it is given.

Two processes that vote with one key contradict each other sooner or later, which proves their
institution dishonest. The lock of a home does not see a copy of that home; this one is named after
the key. It is a socket in Linux's abstract namespace, which no file stands for: the kernel frees it
when the process dies, however it dies. Containers with networks of their own do not see each other;
neither do two machines: there the ledger's evidence is what is left.
"""

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from node.home import LOCK_RETRY_MS, LOCK_WAIT_MS_MAX, StartError, reason
from primitives.hashing import digest

_PEER = struct.Struct("3i")
"""struct ucred: process, user, group."""
_ASK_SECONDS_MAX = 0.2


class KeyInUseError(StartError):
    """Another process of this machine runs with the same key."""


@contextmanager
def key_held(public_key: bytes) -> Iterator[None]:
    """Hold the key with this public half for this process; raises StartError."""
    name = b"\0medpact/" + digest("key-lock", public_key).hex().encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as held:
        if not _bind(held, name):
            raise KeyInUseError(_sentence(public_key, _holder(name)))
        # Whoever finds the name taken can then ask the kernel by whom.
        held.listen()
        yield


def _bind(held: socket.socket, name: bytes) -> bool:
    for _ in range(LOCK_WAIT_MS_MAX // LOCK_RETRY_MS):
        try:
            held.bind(name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise StartError(
                    f"The node's key cannot be held against a second process: {reason(error)}. Let "
                    "the node's user open unix sockets in the abstract namespace."
                ) from error
            # A process that is just dying lets go of its files one by one.
            time.sleep(LOCK_RETRY_MS / 1000)
        else:
            return True
    return False


def _holder(name: bytes) -> tuple[int, int] | None:
    """The process and user that hold the name; None if that cannot be known."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_ASK_SECONDS_MAX)
        try:
            asking.connect(name)
            told = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        except OSError:
            return None
    pid, uid, _ = _PEER.unpack(told)
    # Of a process that we cannot see, in another container, the kernel says 0.
    return (pid, uid) if pid else None


def _sentence(public_key: bytes, holder: tuple[int, int] | None) -> str:
    who = "another process"
    if holder is not None:
        who = f"the process {holder[0]}"
        if holder[1] != os.getuid():
            who += f" of the user {holder[1]}"
    return (
        f"The key {public_key.hex()} is in use by {who} of this machine, with another home. Two "
        "nodes with one key contradict each other, which counts as dishonesty: stop the other one "
        "first, and keep a single home for this key."
    )
