"""A process that checks signatures, and nothing else.

PyNaCl lets go of the interpreter's lock for each signature. A thread that checks many beside a loop
that never rests waits for the lock twice a signature, which makes it half as dear again and holds
up both (docs/adr/0024-verifiers.md). So the signatures of a batch are written to a process of their
own in one go, and its verdicts are read in one go.

Here is the node's side; node/verifying.py is what the process runs.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from typing import Final

from node.verifying import COUNT
from primitives.keys import Signed

ANSWER_SECONDS_MAX: Final = 10
"""Then it counts as lost: it may have been stopped. The signatures of a largest batch take 1 s."""


class VerifierError(Exception):
    """The process has ended, does not answer, or cannot be started; the message says why."""


class Verifier:
    """Such a process, used by one thread at a time."""

    def __init__(self) -> None:
        """Start it. Raises VerifierError."""
        try:
            self._socket, self._process = _begin()
        except OSError as error:
            raise VerifierError(f"No process can be started ({error})") from error
        self._socket.settimeout(ANSWER_SECONDS_MAX)
        self._answers = self._socket.makefile("rb")

    @property
    def process_id(self) -> int:
        """What the system calls it."""
        return self._process.pid

    def verify_each(self, signed: Sequence[Signed]) -> bytes:
        """Tell of each signature whether it is good: 1 or 0. Keys, messages and signatures have the
        lengths that they are to have. Raises VerifierError; then it is closed.
        """
        try:
            return self._ask(signed)
        except BaseException:
            # What it answers late must not be taken for the answer to the next request.
            self.close()
            raise

    def _ask(self, signed: Sequence[Signed]) -> bytes:
        try:
            self._socket.sendall(COUNT.pack(len(signed)) + b"".join(chain.from_iterable(signed)))
            good = self._answers.read(len(signed))
        except OSError as error:
            raise VerifierError(
                f"The process {self.process_id} has ended, or does not answer ({error})"
            ) from error
        if len(good) < len(signed):
            raise VerifierError(f"The process {self.process_id} has ended")
        return good

    def close(self) -> None:
        """End it, whatever it is at. Harmless if repeated."""
        self._process.kill()
        self._process.wait()
        self._answers.close()
        self._socket.close()


def _begin() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    # It finds our modules where we did, and nothing in the directory that we were started in.
    places = os.pathsep.join(place for place in sys.path if place)
    ours, theirs = socket.socketpair()
    with theirs:
        # It inherits what this thread blocks, and so never sees what is sent to all processes of a
        # terminal or service at once: the node still needs it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        # Its standard streams are none of ours: what a site's start-up code prints is no verdict.
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "node.verifying", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": places},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return ours, process
