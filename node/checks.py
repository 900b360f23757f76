"""Signatures of what peers send, checked on threads, since PyNaCl lets go of the interpreter lock
while it calculates.

One check of a peer runs at a time, so none can occupy the threads; what waits is bounded. A peer
whose batch was bad pays for it: its next check comes only after ten times as long as that one took.
No correct node passes on what it has not checked, so none ever waits for this.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

CHECK_THREADS = 2
PEER_CHECKS_MAX = 64
"""Batches of one peer that may wait for their check."""
PEER_CHECK_BYTES_MAX = 8 * 1024 * 1024
REST_FACTOR = 10


class Checks:
    """The threads, and how they are shared out."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(CHECK_THREADS, "check")
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._waiting: Counter[str] = Counter()
        self._waiting_bytes: Counter[str] = Counter()

    def close(self) -> None:
        """Begin no more checks."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def admit(self, peer: str, size_bytes: int) -> bool:
        """Whether one more batch of `peer` may wait; then call `leave` once."""
        full = self._waiting_bytes[peer] + size_bytes > PEER_CHECK_BYTES_MAX
        if self._waiting[peer] >= PEER_CHECKS_MAX or (full and self._waiting[peer] > 0):
            return False
        self._waiting[peer] += 1
        self._waiting_bytes[peer] += size_bytes
        return True

    def leave(self, peer: str, size_bytes: int) -> None:
        """What was admitted waits no more."""
        self._waiting[peer] -= 1
        self._waiting_bytes[peer] -= size_bytes

    async def run(self, function: Callable[[], Result]) -> Result:
        """Run `function` on a thread, as soon as one is free."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def run_for(self, peer: str, function: Callable[[], Result]) -> Result:
        """Run `function` on a thread when it is the peer's turn. A ValueError of it is the peer's
        fault.
        """
        turn = self._turns.setdefault(peer, asyncio.Semaphore(1))
        await turn.acquire()
        began, rest_s = time.monotonic(), 0.0
        try:
            return await self.run(function)
        except ValueError:
            rest_s = REST_FACTOR * (time.monotonic() - began)
            raise
        finally:
            asyncio.get_running_loop().call_later(rest_s, turn.release)
