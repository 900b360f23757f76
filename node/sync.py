"""Catching up: which peer to ask for which decided blocks, and when.

Blocks certify themselves, so any member may serve them. A voter usually decides by itself an
instant after the others, and a member without a vote is told of each block by a voter
(following.py). So a lag of few blocks is given some time before it is treated as one (`Patience`).

While blocks wait to be applied the next are asked for already, so that the network and the threads
that decode work while the core executes. How many may wait is bounded, and so is what one answer
can add to them.

Liars cannot keep us from catching up. One request is under way at a time and ends within the
shell's time-out T. Asked is, of the peers that claim to be ahead, one that never failed before one
that did, and among equals one that gives its blocks quickly. So while one honest peer that never
failed is ahead of us, each of k liars wastes at most one request before that peer is asked, k * T
in all, whether it stalls, claims what it has not, sends false blocks or sends true ones drop by
drop; where false blocks come to light after more was asked for, that answer is wasted as well.
Afterwards a liar is asked again only if it has kept its rank by giving true blocks as quickly as
the honest one. Where everybody has failed before, whoever failed first is asked first, so that the
same holds from the end of the honest peer's penalty.
"""

from collections import deque
from collections.abc import Container, Sequence
from dataclasses import dataclass

from node.events import SyncedBlock
from node.penalties import Penalties
from node.wire import WANTED_BLOCKS_MAX, BlocksWanted

READY_BYTES_MIN = 2 * 1024 * 1024
"""While blocks with fewer bytes of bodies wait to be applied, more are asked for."""
READY_BLOCKS_MIN = WANTED_BLOCKS_MAX
"""The same, in blocks. So there are never more than those of two answers."""
PACE_STEP_MS = 100
"""Peers whose milliseconds per block differ by less are equally quick: they share the work."""


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long we do not ask while we are behind by at most so many blocks."""

    blocks: int
    ms: int


class Sync:
    """What is known of the peers' heads, the one request under way, and the blocks that wait to be
    applied. `place` is our number among the members: equal ones ask different peers.
    """

    def __init__(self, penalties: Penalties, place: int) -> None:
        self._place = place
        self._penalties = penalties
        self._heads: dict[str, int] = {}
        self._highest = 0
        """Of them."""
        self._doubted: dict[str, None] = {}
        self._paces: dict[str, int] = {}
        self._behind_since: int | None = None
        self._asked_at = 0
        self._gave = 0
        self.asked: str | None = None
        self._ready: deque[tuple[str, SyncedBlock]] = deque()
        self._ready_bytes = 0
        self.source: str = ""
        """Who gave the block that was taken last."""

    @property
    def ready(self) -> int:
        """How many blocks wait to be applied."""
        return len(self._ready)

    def heard(self, peer: str, height: int) -> None:
        """A peer says that it has applied this height."""
        self._heads[peer] = max(height, self._heads.get(peer, 0))
        self._highest = max(height, self._highest)

    def forget(self, peer: str) -> None:
        """A peer went away; what it owes us stays in mind."""
        self._heads.pop(peer, None)
        self._highest = max(self._heads.values(), default=0)

    def keep(self, peers: Container[str]) -> None:
        """Forget all about others: they are no members any more."""
        self._penalties.keep(peers)
        self._doubted = {peer: None for peer in self._doubted if peer in peers}
        self._paces = {peer: pace for peer, pace in self._paces.items() if peer in peers}

    def heads(self) -> dict[str, int]:
        """The newest height heard of every connected peer."""
        return dict(self._heads)

    def target(self) -> int:
        """The highest height that any peer speaks of, but for those whose last word was not kept:
        they do not count until they give a block.
        """
        if not self._doubted:
            return self._highest
        claims = (head for peer, head in self._heads.items() if peer not in self._doubted)
        return max(claims, default=0)

    def advanced(self) -> None:
        """Our head moved: patience starts again."""
        self._behind_since = None

    def take(self, height: int) -> SyncedBlock | None:
        """The block above `height`, if it waits; those that we have by now are dropped, and those
        that do not follow, as what came before them was false.
        """
        while self._ready:
            peer, synced = self._ready.popleft()
            self._ready_bytes -= synced.size_bytes
            above = synced.decision.block.header.height
            if above == height + 1:
                self.source = peer
                return synced
            if above > height:
                self._drop()
        return None

    def _drop(self) -> None:
        self._ready.clear()
        self._ready_bytes = 0

    def answered(self, peer: str, blocks: Sequence[SyncedBlock], head_height: int) -> None:
        """A peer's answer: what it says to have replaces what it was heard to have."""
        if peer in self._heads:
            self._heads[peer] = head_height
            self._highest = max(self._heads.values())
        given = blocks[:WANTED_BLOCKS_MAX]
        self._gave = len(given)
        self._ready.extend((peer, synced) for synced in given)
        self._ready_bytes += sum(synced.size_bytes for synced in given)

    def ended(self, peer: str, now: int, *, answered: bool, invalid: bool = False) -> bool:
        """The request is over; whether the peer answered that it has nothing, which is a lie: it
        had said that it has more than we.
        """
        gave, self._gave = self._gave, 0
        if self.asked != peer:
            return False
        self.asked = None
        if answered and gave:
            self._paces[peer] = (now - self._asked_at) // (gave * PACE_STEP_MS)
            return False
        if answered or invalid:
            self.lied(peer, now)
        else:
            self._doubted[peer] = None
            self._penalties.failed(peer, now)
        return answered

    def lied(self, peer: str, now: int) -> None:
        """A peer sent nothing or false blocks: it is not asked for a while."""
        self._doubted[peer] = None
        self._penalties.lied(peer, now)

    def refuted(self, now: int) -> None:
        """The block that was taken last is false, and what came after it is of no use."""
        self.lied(self.source, now)
        self._drop()

    def proved(self) -> None:
        """The block that was taken last is true."""
        self._doubted.pop(self.source, None)
        self._penalties.proved(self.source)

    def deadline(self, height: int, patience: Patience) -> int | None:
        """When there is a block to apply, or `due` may have a request to make."""
        if self._ready:
            return 0
        if self.asked is not None:
            return None
        return min((at for _, at in self._ahead(height, patience)), default=None)

    def due(self, height: int, patience: Patience, now: int) -> tuple[str, BlocksWanted] | None:
        """The request to make now, if we are behind, none is under way and little waits. `height`
        is up to where we have or are about to have all blocks.
        """
        if self._highest <= height:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        plenty = self._ready_bytes >= READY_BYTES_MIN or len(self._ready) >= READY_BLOCKS_MIN
        if self.asked is not None or plenty:
            return None
        if self._ready:
            height = max(height, self._ready[-1][1].decision.block.header.height)
        willing = [peer for peer, at in self._ahead(height, patience) if at <= now]
        if not willing:
            return None
        best = min(self._rank(peer) for peer in willing)
        equals = [peer for peer in willing if self._rank(peer) == best]
        peer = equals[(height + self._place) % len(equals)]
        self.asked, self._asked_at = peer, now
        count = min(WANTED_BLOCKS_MAX, self._heads[peer] - height)
        return peer, BlocksWanted(height + 1, count)

    def _rank(self, peer: str) -> tuple[int, int]:
        """Whoever failed last is asked last, or two silent peers could take turns for ever."""
        return self._penalties.until(peer), self._paces.get(peer, 0)

    def _ahead(self, height: int, patience: Patience) -> list[tuple[str, int]]:
        """The peers that say to be ahead of us, and when each may be asked."""
        asked_at: list[tuple[str, int]] = []
        if self._highest <= height:
            # So it is nearly always, and asked at every turn.
            return asked_at
        for peer, head in sorted(self._heads.items()):
            if head > height:
                until = 0
                if head <= height + patience.blocks and self._behind_since is not None:
                    until = self._behind_since + patience.ms
                asked_at.append((peer, max(until, self._penalties.until(peer))))
        return asked_at
