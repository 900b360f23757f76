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
        self._gave = False
        self.asked: str | None = None
        self.ready: deque[SyncedBlock] = deque()
        self.source: str = ""

    def heard(self, peer: str, height: int) -> None:
        """A peer says that it has applied this height."""
        self._heads[peer] = max(height, self._heads.get(peer, 0))

    def forget(self, peer: str) -> None:
        """A peer went away; what it owes us stays in mind."""
        self._heads.pop(peer, None)

    def heads(self) -> dict[str, int]:
        """The newest height heard of every connected peer."""
        return dict(self._heads)

    def target(self) -> int:
        """The highest height that any peer speaks of."""
        return max(self._heads.values(), default=0)

    def advanced(self) -> None:
        """Our head moved: patience starts again."""
        self._behind_since = None

    def take(self, height: int) -> SyncedBlock | None:
        """The next block above `height`, if one waits; those that we have by now are dropped."""
        while self.ready:
            synced = self.ready.popleft()
            if synced.decision.block.header.height > height:
                return synced
        return None

    def answered(self, peer: str, blocks: Sequence[SyncedBlock], head_height: int) -> None:
        """A peer's answer: what it says to have replaces what it was heard to have."""
        if peer in self._heads:
            self._heads[peer] = head_height
        self.source = peer
        self._gave = len(blocks) > 0
        self.ready.extend(blocks)

    def ended(self, peer: str, answered: bool, now: int) -> None:
        """The request is over; a peer that gave nothing is left alone for a while, even if it
        answered: it had said that it has more than we.
        """
        gave, self._gave = self._gave, False
        if self.asked == peer:
            self.asked = None
        if not (answered and gave):
            self.penalise(peer, now)

    def penalise(self, peer: str, now: int) -> None:
        """A peer did not answer, or sent nothing or invalid blocks: it is not asked for a while."""
        self._penalised[peer] = now + self._penalty_ms
        self.ready.clear()

    def deadline(self, height: int, votes: bool) -> int | None:
        """When `due` may have a request to make."""
        if self.asked is not None or self.ready:
            return None
        return min((at for _, at in self._ahead(height, votes)), default=None)

    def due(self, height: int, votes: bool, now: int) -> tuple[str, BlocksWanted] | None:
        """The request to make now, if we are behind and nothing is under way."""
        if self._behind_since is None and self.target() > height:
            self._behind_since = now
        if self.asked is not None or self.ready:
            return None
        willing = [peer for peer, at in self._ahead(height, votes) if at <= now]
        if not willing:
            return None
        # Whoever failed last is asked last, or two silent peers could take turns for ever.
        longest_ago = min(self._penalised.get(peer, 0) for peer in willing)
        trusted = [peer for peer in willing if self._penalised.get(peer, 0) == longest_ago]
        peer = trusted[height % len(trusted)]
        self.asked = peer
        count = min(WANTED_BLOCKS_MAX, self._heads[peer] - height)
        return peer, BlocksWanted(height + 1, count)

    def _ahead(self, height: int, votes: bool) -> list[tuple[str, int]]:
        """The peers that say to be ahead of us, and when each may be asked."""
        asked_at: list[tuple[str, int]] = []
        for peer, head in sorted(self._heads.items()):
            if head > height:
                slight = votes and head == height + 1
                patient = 0
                if slight and self._behind_since is not None:
                    patient = self._behind_since + self._patience_ms
                asked_at.append((peer, max(patient, self._penalised.get(peer, 0))))
        return asked_at
