"""Waiting for transactions: one task follows the chain for all waits and looks up only what
somebody waits for, in memory: the disk is read for a wait's first look, and by who lags behind.

A wait registers its ids first and looks them up second, so a block between the two is seen by at
least one of them.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ledger.receipts import ReceiptCode
from node.jsonrpc import ErrorCode, RpcError
from node.methods.blocks import Outcome, outcomes, outcomes_in, outcomes_of

if TYPE_CHECKING:
    from node.methods.service import Service


class _Wait:
    """One call under way."""

    __slots__ = ("done", "found", "pending")

    def __init__(self, ids: Iterable[bytes]) -> None:
        self.pending = dict.fromkeys(ids)
        self.found: dict[bytes, Outcome] = {}
        self.done = asyncio.Event()

    def resolve(self, outcome: Outcome) -> None:
        """Take a final outcome. What has run can be listed again when it has expired."""
        if outcome.code == ReceiptCode.EXPIRED and outcome.id in self.found:
            return
        self.pending.pop(outcome.id, None)
        self.found[outcome.id] = outcome
        if not self.pending:
            self.done.set()


class Waits:
    """All waits under way, by transaction id."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._waits: dict[_Wait, None] = {}
        self._by_id: dict[bytes, dict[_Wait, None]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow the chain."""
        seen = self._service.backend.status().height
        self._task = asyncio.get_running_loop().create_task(self._follow(seen))
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """End all waits with what is known so far."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def count(self) -> int:
        """Waits under way."""
        return len(self._waits)

    async def outcomes(self, ids: Sequence[bytes], timeout_ms: int) -> dict[bytes, Outcome]:
        """The final outcomes known after at most `timeout_ms`; as soon as all are, at once."""
        if self.count >= self._service.limits.waits_max:
            raise RpcError(
                ErrorCode.BUSY,
                f"{self.count} calls wait already, which is the limit; try again, or wait "
                "for many transactions in one call.",
            )
        if self._task is None or self._task.done():
            raise RpcError(
                ErrorCode.STOPPING, "The node is stopping or has failed; its log says which."
            )
        wait = _Wait(ids)
        self._register(wait)
        try:
            for outcome in await self._service.read(outcomes, tuple(wait.pending)):
                wait.resolve(outcome)
            async with asyncio.timeout(timeout_ms / 1000):
                await wait.done.wait()
        except TimeoutError:
            pass
        finally:
            self._forget(wait)
        return wait.found

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nobody follows the chain any more: no wait could learn more than it knows."""
        if not task.cancelled():
            self._service.log.error("rpc_follower_failed", error=type(task.exception()).__name__)
        for wait in self._waits:
            wait.done.set()

    def _register(self, wait: _Wait) -> None:
        self._waits[wait] = None
        for identity in wait.pending:
            self._by_id.setdefault(identity, {})[wait] = None

    def _forget(self, wait: _Wait) -> None:
        del self._waits[wait]
        for identity in [*wait.pending, *wait.found]:
            waits = self._by_id.get(identity, {})
            waits.pop(wait, None)
            if not waits:
                self._by_id.pop(identity, None)

    async def _follow(self, seen: int) -> None:
        while True:
            height = await self._service.backend.applied(seen)
            while seen < height:
                seen = seen + 1 if self._by_id else height
                await self._look(seen)

    async def _look(self, height: int) -> None:
        if not self._by_id:
            return
        recent = self._service.backend.recent(height)
        if recent is not None:
            found = outcomes_of(recent, height, self._by_id)
        else:
            # The reader's thread only asks whether an id is in the dictionary.
            found = await self._service.read(outcomes_in, height, self._by_id)
        for outcome in found:
            for wait in list(self._by_id.get(outcome.id, ())):
                wait.resolve(outcome)
