"""Catching up: which peer to ask for which decided blocks, and when.

Blocks certify themselves, so any member may serve them. A voter usually decides by itself an
instant after the others, so a small lag is given `patience_ms` before it is treated as one; a node
without a vote asks at once.
"""

from collections import deque
from collections.abc import Sequence

from node.events import SyncedBlock
from node.wire import WANTED_BLOCKS_MAX, BlocksWanted


class Sync:
    """What is known of the peers' heads, the one request under way, and the blocks that wait to be
    applied.
    """

    def __init__(self, patience_ms: int, penalty_ms: int) -> None:
        self._patience_ms = patience_ms
        self._penalty_ms = penalty_ms
        self._heads: dict[str, int] = {}
        self._penalised: dict[str, int] = {}
        self._behind_since: int | None = None
        self.asked: str | None = None
        self.ready: deque[SyncedBlock] = deque()
        self.source: str = ""

    def heard(self, peer: str, height: int) -> None:
        """A peer says that it has applied this height."""
        self._heads[peer] = max(height, self._heads.get(peer, 0))

    def forget(self, peer: str) -> None:
        """A peer went away."""
        self._heads.pop(peer, None)

    def heads(self) -> dict[str, int]:
        """The newest height heard of every connected peer."""
        return dict(self._heads)

    def target(self) -> int:
        """The highest height that any peer speaks of."""
        return max(self._heads.values(), default=0)

    def advanced(self, height: int) -> None:
        """Our head moved: patience starts again, and blocks that we have by now are dropped."""
        self._behind_since = None
        while self.ready and self.ready[0].decision.block.header.height <= height:
            self.ready.popleft()

    def answered(self, peer: str, blocks: Sequence[SyncedBlock], head_height: int) -> None:
        """A peer's answer: what it has to give replaces what it was heard to have."""
        self._heads[peer] = head_height
        self.source = peer
        self.ready.extend(blocks)

    def ended(self, peer: str, answered: bool, now: int) -> None:
        """The request is over; a peer that did not answer is left alone for a while."""
        if self.asked == peer:
            self.asked = None
        if not answered:
            self.penalise(peer, now)

    def penalise(self, peer: str, now: int) -> None:
        """A peer did not answer, or sent invalid blocks: ask others first for a while."""
        self._penalised[peer] = now + self._penalty_ms
        self.ready.clear()

    def deadline(self, height: int, votes: bool) -> int | None:
        """When `due` may have a request to make."""
        if self.asked is not None or self.ready or self.target() <= height:
            return None
        if self._behind_since is None or not votes or self.target() > height + 1:
            return 0
        return self._behind_since + self._patience_ms

    def due(self, height: int, votes: bool, now: int) -> tuple[str, BlocksWanted] | None:
        """The request to make now, if we are behind and nothing is under way."""
        if self.asked is not None or self.ready or self.target() <= height:
            return None
        if self._behind_since is None:
            self._behind_since = now
        slight = votes and self.target() == height + 1
        if slight and now < self._behind_since + self._patience_ms:
            return None
        ahead = sorted(peer for peer, head in self._heads.items() if head > height)
        willing = [peer for peer in ahead if self._penalised.get(peer, 0) <= now] or ahead
        peer = willing[height % len(willing)]
        self.asked = peer
        count = min(WANTED_BLOCKS_MAX, self._heads[peer] - height)
        return peer, BlocksWanted(height + 1, count)
