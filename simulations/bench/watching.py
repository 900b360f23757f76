"""Seeing at one node which transactions are final, block by block."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

WAIT_MS = 10_000
"""How long one call waits for a transaction before it is made again."""


class Caller(Protocol):
    """A node's RPC."""

    async def call(self, method: str, /, **named: object) -> Any:
        """The result of a method."""
        ...


@dataclass(frozen=True, slots=True)
class Final:
    """A transaction of ours that was seen final."""

    due: float
    """When it was to be sent, in seconds of the monotonic clock."""
    seen: float


@dataclass(frozen=True, slots=True)
class Block:
    """A block with transactions of ours."""

    height: int
    seen: float
    view: int
    transactions: int
    """Of ours."""


@dataclass(slots=True)
class _Submitter:
    """What was submitted through one node and not seen final."""

    pending: dict[str, float] = field(default_factory=dict)
    order: deque[str] = field(default_factory=deque)
    submitted: asyncio.Event = field(default_factory=asyncio.Event)

    def oldest(self) -> str | None:
        """What was submitted first."""
        while self.order and self.order[0] not in self.pending:
            self.order.popleft()
        return self.order[0] if self.order else None


class Watch:
    """Follows the blocks of one node while others are submitted to."""

    def __init__(self, node: Caller, submitters: int, seen: Callable[[], None]) -> None:
        self._node = node
        self._submitters = [_Submitter() for _ in range(submitters)]
        self._seen = seen
        self._turn = asyncio.Lock()
        self._height = 0
        self.finals: list[Final] = []
        self.blocks: list[Block] = []
        self.failed: dict[str, int] = {}
        """Transactions without effect, by the name of the code in their receipt."""

    async def start(self) -> None:
        """Begin at the present head."""
        self._height = int((await self._node.call("chain_head"))["height"])

    def submitted(self, submitter: int, ids: list[str], due: float) -> None:
        """Expect transactions; called before they are sent."""
        to = self._submitters[submitter]
        to.pending.update(dict.fromkeys(ids, due))
        to.order.extend(ids)
        to.submitted.set()

    def refused(self, submitter: int, ids: list[str]) -> None:
        """Expect them no more."""
        for identity in ids:
            self._submitters[submitter].pending.pop(identity, None)

    def pending(self, submitter: int) -> int:
        """How many are expected."""
        return len(self._submitters[submitter].pending)

    @property
    def all_pending(self) -> int:
        """How many are expected of all."""
        return sum(len(each.pending) for each in self._submitters)

    async def follow(self, submitter: int) -> None:
        """Wait for the oldest transaction of a submitter, again and again. Never returns."""
        of = self._submitters[submitter]
        while True:
            oldest = of.oldest()
            if oldest is None:
                of.submitted.clear()
                await of.submitted.wait()
                continue
            answer = await self._node.call("transaction_wait", ids=[oldest], timeout_ms=WAIT_MS)
            # All blocks up to its head are final there; they are read to learn what they hold.
            seen = time.monotonic()
            async with self._turn:
                while self._height < answer["height"]:
                    self._height += 1
                    self._take(await self._node.call("block_get", height=self._height), seen)

    def _take(self, block: Any, seen: float) -> None:
        count = 0
        for transaction in block["transactions"]:
            for each in self._submitters:
                due = each.pending.pop(transaction["id"], None)
                if due is None:
                    continue
                count += 1
                self.finals.append(Final(due, seen))
                if transaction["code"] != 0:
                    name = transaction["name"]
                    self.failed[name] = self.failed.get(name, 0) + 1
                break
        if count:
            view = block["committed_view"] or 0
            self.blocks.append(Block(self._height, seen, view, count))
            self._seen()
