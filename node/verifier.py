"""A process that checks signatures, and nothing else.

PyNaCl lets go of the interpreter's lock for each signature. A thread that checks many beside a loop
that never rests waits for the lock twice a signature, which makes it half as dear again and holds
up both (docs/adr/0024-verifiers.md). So the signatures of a batch are written to a process of their
own in one go, and its verdicts are read in one go.

It knows no secret, opens no file, and holds nothing from one request to the next. It ends with the
node, however that ends: then its input does.

A request is a count, 4 bytes, and for each signature the public key, the message, which is the id
of a transaction, and the signature: 128 bytes. The answer is a byte for each: 1 if it is good, else
0. Both ends are of one program, on one machine.
"""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from typing import BinaryIO, Final

from primitives.hashing import DIGEST_BYTES
from primitives.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Signed, verify

_COUNT: Final = struct.Struct("=I")
_SIGNED: Final = struct.Struct(f"{PUBLIC_KEY_BYTES}s{DIGEST_BYTES}s{SIGNATURE_BYTES}s")


class VerifierError(Exception):
    """The process has ended, or cannot be started; the message says why."""


class Verifier:
    """Such a process, used by one thread at a time."""

    def __init__(self) -> None:
        """Start it. Raises VerifierError."""
        # It finds our modules where we did, and nothing in the directory that we were started in.
        places = os.pathsep.join(place for place in sys.path if place)
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "node.verifier"],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    env=os.environ | {"PYTHONPATH": places},
                )
        except OSError as error:
            self._socket.close()
            raise VerifierError(f"No process can be started ({error})") from error

    @property
    def process_id(self) -> int:
        """What the system calls it."""
        return self._process.pid

    def verify_each(self, signed: Sequence[Signed]) -> bytes:
        """Tell of each signature whether it is good: 1 or 0. Keys, messages and signatures have the
        lengths that they are to have. Raises VerifierError.
        """
        try:
            self._socket.sendall(_COUNT.pack(len(signed)) + b"".join(chain.from_iterable(signed)))
            good = self._socket.recv(len(signed), socket.MSG_WAITALL)
        except ConnectionError:
            good = b""
        if len(good) != len(signed):
            raise VerifierError(f"The process {self.process_id} has ended")
        return good

    def close(self) -> None:
        """Have it end, and wait until it has, which takes no longer than the request it is at."""
        self._socket.close()
        self._process.wait()


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more, or half of one: the node was killed."""
    while len(head := requests.read(_COUNT.size)) == _COUNT.size:
        size = _COUNT.unpack(head)[0] * _SIGNED.size
        packed = requests.read(size)
        if len(packed) < size:
            break
        answers.write(bytes(verify(*signed) for signed in _SIGNED.iter_unpack(packed)))
        answers.flush()


def main() -> None:
    """Serve on the standard streams."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Sent to all processes of a terminal or service at once: the node still needs this one.
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
