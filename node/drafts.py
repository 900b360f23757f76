"""Drafts: the voters execute a large block while its proposer does, not after it.

A proposal names the roots that its batches lead to. So its proposer executes the block before it
can propose it, and every voter executes it again before it votes: one after the other, and whoever
waits has nothing to do. Therefore a primary that is about to execute a large block first tells the
voters what the block will list and how it is dated. Whoever executes that comes to the very block
that is going to be proposed, header and all, and has it at hand when the proposal arrives.

A draft is no promise and no vote. It is neither signed nor stored, nobody passes it on, and nothing
follows from it but work: a proposal is checked as if there had been no draft, except that a block
which is exactly the one executed here is not executed again (docs/ARCHITECTURE.md section 4). At
each height one draft counts, that of the first view's primary, while nothing else is known of the
height. So a primary whose draft is not what it proposes makes each voter execute one block more at
its turn.
"""

from dataclasses import dataclass

from ledger.execution import BlockError, ExecutedBlock, select_batches
from ledger.transactions import CheckedBatch
from node.chain import Chain
from node.mempool import Mempool
from node.outbox import Outbox
from node.wire import Draft
from primitives.block import Block

WORK_PER_MS = 2_000
"""Units of work of our block for each ms that we wait after its draft before we build it, less than
a tenth of what they take to execute: nothing leaves a node that executes, and a batch of ours that
has just been sealed, and is sent before the draft, takes the network a few milliseconds.
"""
HEARD_HEIGHTS = 2
"""Heights, from the present one on, of each of which one draft is heard."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a block of ours is to list on our head, and its time."""

    time_ms: int
    batches: tuple[CheckedBatch, ...]


class Drafts:
    """Our draft and the others' at the current height, and those that came early for the next."""

    def __init__(self, work_min: int, chain: Chain, mempool: Mempool, outbox: Outbox) -> None:
        self._work_min = work_min
        self._chain = chain
        self._mempool = mempool
        self._outbox = outbox
        self._due_at: int | None = None
        self._own: Listing | None = None
        self._build_at: int | None = None
        """When to build what `_own` lists; None until the shell has sent the draft."""
        self._told = False
        """Whether the voters have our draft of this height."""
        self._heard: dict[int, tuple[str, Draft] | None] = {}
        """By height, who sent the draft that counts; None if it is of no use any more."""
        self._executed: ExecutedBlock | None = None

    @property
    def deadline(self) -> int | None:
        """When our block is to be built, or a draft executed."""
        return self._due_at

    def take_due(self) -> bool:
        """Whether it is time for that, which is said once. If nobody asked for our block when it
        was, since all that it lists has died meanwhile, it is not kept for what comes later.
        """
        now = self._outbox.now
        if self._due_at is None:
            self._own = None
            return False
        if self._due_at > now:
            return False
        self._due_at = None
        if self._own is None or self._build_at is not None:
            return True
        # What the last step said is written and sent only now.
        work = sum(batch.work for batch in self._own.batches)
        self._due_at = self._build_at = now + work // WORK_PER_MS
        return self.take_due()

    def clear(self) -> None:
        """A block was applied: what was drafted on the old head is of no use."""
        height = self._chain.next_height
        self._own, self._told, self._executed = None, False, None
        self._heard = {at: heard for at, heard in self._heard.items() if at >= height}
        self._due_at = self._outbox.now if height in self._heard else None

    # ---- ours ------------------------------------------------------------------------------------

    def listing(self, view: int) -> Listing | None:
        """What our block of this view is to list; None if the voters are to be told first. Whoever
        asks again at the `deadline` gets it: until then the network has the processor.
        """
        if self._own is not None and view == 0 and self._waits:
            return None
        own, self._own = self._own, None
        if own is not None and view == 0 and not self._is_old(own):
            return own
        listing = self._choose()
        work = sum(batch.work for batch in listing.batches)
        if view > 0 or self._told or work < self._work_min or not self._outbox.connected:
            return listing
        self._own, self._told = listing, True
        self._due_at, self._build_at = self._outbox.now, None
        ids = tuple(batch.id for batch in listing.batches)
        draft = Draft(self._chain.next_height, listing.time_ms, ids)
        self._outbox.send_all(self._chain.committee.by_id, draft)
        return None

    def _choose(self) -> Listing:
        """What waits now, and the time now."""
        chain = self._chain
        time_ms = max(self._outbox.wall, chain.head.time_ms + 1)
        chosen = select_batches(
            self._mempool.proposable(chain.next_height, time_ms, chain.replay),
            chain.next_height,
            chain.reader,
            chain.replay,
            chain.genesis,
        )
        return Listing(time_ms, tuple(chosen))

    @property
    def _waits(self) -> bool:
        return self._build_at is None or self._outbox.now < self._build_at

    def _is_old(self, listing: Listing) -> bool:
        """Whether the voters might find that a block of it has the wrong time: we were held up, or
        our clock was set.
        """
        skew_ms = abs(self._outbox.wall - listing.time_ms)
        return skew_ms > self._chain.genesis.clock_drift_ms_max // 2

    # ---- the others' -----------------------------------------------------------------------------

    def hear(self, peer: str, draft: Draft) -> None:
        """A voter tells us what it is about to propose. It may have come to the next height before
        us.
        """
        chain, height = self._chain, draft.height
        current = chain.next_height <= height < chain.next_height + HEARD_HEIGHTS
        if not current or height in self._heard or not self._is_first(peer, height):
            self._outbox.counters["draft_ignored"] += 1
            return
        self._heard[height] = peer, draft
        if height == chain.next_height:
            self._due_at = self._outbox.now

    def execute(self) -> None:
        """Execute the draft of this height if all that it lists is here."""
        chain, height = self._chain, self._chain.next_height
        heard = self._heard.get(height)
        if heard is None:
            return
        peer, draft = heard
        late_ms = abs(draft.time_ms - self._outbox.wall)
        if late_ms > chain.genesis.clock_drift_ms_max or not self._is_first(peer, height):
            self._heard[height] = None
            self._outbox.counters["draft_ignored"] += 1
            return
        batches = [batch for id in draft.batches if (batch := self._mempool.get(id)) is not None]
        if len(batches) < len(draft.batches):
            return
        self._heard[height] = None
        try:
            self._executed = chain.execute(0, peer, draft.time_ms, batches)
        except BlockError as error:
            self._outbox.blame(peer, "draft_invalid", str(error))

    def executed(self, block: Block) -> ExecutedBlock | None:
        """What follows from this very block of the current height, if it was drafted to us."""
        executed = self._executed
        return executed if executed is not None and executed.block == block else None

    def _is_first(self, peer: str, height: int) -> bool:
        return self._chain.committee.primary(height, 0) == peer
