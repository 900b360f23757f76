"""What peers and clients send, checked on threads, and its signatures in processes (verifier.py).

A thread decodes, and hands all signatures of a batch to the process that it has for them. A process
that ends is replaced, and meanwhile the thread calculates itself. Repairs bring a batch again while
its check is under way, or waits for the loop to take it in: what was calculated lately is known.

One check of a peer runs at a time, so none can occupy the threads; what waits is bounded. A peer
whose batch was bad pays for it: its next check comes only after ten times as long as that one took.
No correct node passes on what it has not checked, so none ever waits for this.
"""

import asyncio
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from queue import LifoQueue
from typing import TypeVar

import structlog

from node.verifier import Verifier, VerifierError
from primitives.keys import Signed, verify_each

Result = TypeVar("Result")

CHECK_THREADS = 2
PEER_CHECKS_MAX = 64
"""Batches of one peer that may wait for their check."""
PEER_CHECK_BYTES_MAX = 8 * 1024 * 1024
REST_FACTOR = 10
VERIFIER_SIGNATURES_MIN = 8
"""Fewer signatures are checked on the thread: a message to a process and back costs as much."""
VERIFIER_RETRY_SECONDS = 60
"""How long the threads do without a process when one has ended, or could not be started."""
VERDICTS_MAX = 64
"""Lists of signatures whose verdicts are remembered: 10,000 bytes each at most."""

log = structlog.get_logger()


class Checks:
    """The threads, and how they are shared out."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(CHECK_THREADS, "check")
        self._verifiers: LifoQueue[Verifier | None] = LifoQueue()
        """One for each thread, begun when it is needed first."""
        for _ in range(CHECK_THREADS):
            self._verifiers.put(None)
        self._verifiers_from = 0.0
        """When they may be used again, by the clock that never jumps."""
        self.process_ids: set[int] = set()
        """Of the processes that there are."""
        self._verdicts: dict[bytes, Future[Sequence[int]]] = {}
        """By the hash of the signatures; oldest first, and also those under way."""
        self._verdicts_lock = threading.Lock()
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._waiting: Counter[str] = Counter()
        self._waiting_bytes: Counter[str] = Counter()

    def close(self) -> None:
        """Begin no more checks, and wait for those that run: about a second, or what a process that
        was stopped has to answer.
        """
        self._threads.shutdown(cancel_futures=True)
        while not self._verifiers.empty():
            self._end(self._verifiers.get())

    def verify_each(self, signed: Sequence[Signed]) -> Sequence[int]:
        """Tell of each signature whether it is good; for what `run` runs."""
        if len(signed) < VERIFIER_SIGNATURES_MIN:
            return verify_each(signed)
        signatures = hashlib.sha256(b"".join(chain.from_iterable(signed))).digest()
        with self._verdicts_lock:
            known = self._verdicts.get(signatures)
            if known is None:
                verdict = self._verdicts[signatures] = Future()
                if len(self._verdicts) > VERDICTS_MAX:
                    del self._verdicts[next(iter(self._verdicts))]
        if known is not None:
            return known.result()
        try:
            verdict.set_result(self._verify_each(signed))
        except BaseException as error:
            # Who asks again later may have better luck: it says nothing of the signatures.
            with self._verdicts_lock:
                self._verdicts.pop(signatures, None)
            verdict.set_exception(error)
            raise
        return verdict.result()

    def _verify_each(self, signed: Sequence[Signed]) -> Sequence[int]:
        if time.monotonic() < self._verifiers_from:
            return verify_each(signed)
        verifier = self._verifiers.get()
        try:
            if verifier is None:
                verifier = Verifier()
                self.process_ids.add(verifier.process_id)
            return verifier.verify_each(signed)
        except VerifierError as error:
            self._verifiers_from = time.monotonic() + VERIFIER_RETRY_SECONDS
            log.warning("verifier_lost", reason=str(error), retry_seconds=VERIFIER_RETRY_SECONDS)
            self._end(verifier)
            verifier = None
            return verify_each(signed)
        finally:
            self._verifiers.put(verifier)

    def _end(self, verifier: Verifier | None) -> None:
        if verifier is not None:
            verifier.close()
            self.process_ids.discard(verifier.process_id)

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
