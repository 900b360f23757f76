"""How a member without a vote follows the ledger: it holds the batches that their authors carry to
it, and of each height a voter tells it the decided block, so that nothing large is left to fetch.

What waits here has not been checked as a voter must check it: the signatures of transactions are
left to the certificate of the block that lists them (ADR 20). So it stays apart from the mempool,
is given to nobody, and is forgotten by whoever gets a vote.

A decision is kept only if its certificate proves it by the committee that we know, so there is one
at most of each height, and no liar can fill the place of a true one. It is checked again when its
turn comes, by the committee of its own height. Batches that it lists and we lack are asked for
after a moment, since they may be under way. Where that leads nowhere the decision is forgotten, and
catching up (sync.py) asks for the whole block.
"""

from consensus.certificates import SignatureCache
from consensus.intake import HELD_HEIGHTS
from ledger.transactions import CheckedBatch, Known
from node.chain import Chain
from node.events import DecisionArrived, SendRequest, SyncedBlock
from node.fetching import Candidate, Candidates
from node.judging import listed_batches
from node.mempool import Mempool
from node.outbox import Outbox
from node.seat import Seat
from node.settings import CoreSettings
from node.sync import Patience, Sync

GATHER_MS_MAX = 5_000
"""For so long the batches of a decided block are asked for one by one."""


class Following:
    """Batches and decided blocks that wait. Of a node with a vote it is empty."""

    def __init__(
        self,
        id: str,
        settings: CoreSettings,
        chain: Chain,
        mempool: Mempool,
        sync: Sync,
        seat: Seat,
        outbox: Outbox,
    ) -> None:
        self._id = id
        self._settings = settings
        self._candidates = Candidates(settings.fetch_patience_ms, settings.fetch_retry_ms)
        self._chain = chain
        self._mempool = mempool
        self._sync = sync
        self._seat = seat
        self._outbox = outbox
        self._decisions: dict[int, DecisionArrived] = {}
        self._gathers_since = outbox.now
        self._complete: SyncedBlock | None = None
        self.batches = Mempool(settings.mempool, chain.genesis.limits)
        """What members have carried to us, of whose transactions no signature was checked."""

    @property
    def is_told(self) -> bool:
        """Whether the block above our head is here, if not all of its batches."""
        return self._chain.next_height in self._decisions

    @property
    def deadline(self) -> int | None:
        """When there is a block to take, or `expire` has something to do."""
        return self._candidates.deadline if self._complete is None else 0

    @property
    def patience(self) -> Patience:
        """What this node hears of in good time without asking for it."""
        if self._votes:
            return Patience(1, self._settings.sync_patience_ms)
        if self._id in self._chain.committee.by_id:
            # A voter that abstains is told nothing, as the others do not know.
            return Patience(0, 0)
        if self.is_told and self.is_near:
            # What comes after would have to wait for it, and is told before long.
            return Patience(2**63, GATHER_MS_MAX)
        return Patience(HELD_HEIGHTS, self._settings.follow_patience_ms)

    @property
    def is_near(self) -> bool:
        """Whether our head is near those of the voters, or of half of them: a few may claim what
        they like. What is far ahead is fetched in whole blocks.
        """
        claimed, voters = self._sync.heads(), self._chain.committee.by_id
        heads = sorted(claimed[voter] for voter in voters if voter in claimed)
        return not heads or heads[(len(heads) - 1) // 2] <= self._chain.head.height + HELD_HEIGHTS

    @property
    def known(self) -> Known:
        """Pending batches by id, checked as they must be here: by a voter with the signatures of
        their transactions.
        """
        return self._mempool.get if self._votes else self._known

    def wants(self, height: int) -> bool:
        """Whether to take what a peer tells of a decided block; else it is a head like others."""
        above = height - self._chain.head.height
        return not self._votes and 0 < above <= HELD_HEIGHTS and height not in self._decisions

    def take(self, told: DecisionArrived) -> bool:
        """Keep a decision; False if it is none, for all we know."""
        block = told.decision.block
        height = block.header.height
        if not self.wants(height):
            return True
        proven = self._chain.proves(told.decision, told.verified, SignatureCache())
        if proven and listed_batches(block) is not None:
            self._decisions[height] = told
            self._gather()
            return True
        if height == self._chain.next_height:
            self._outbox.blame(told.peer, "sync_block_false")
        else:
            # The committee of that height may be another than the one that we know.
            self._outbox.counters["decisions_unproven"] += 1
        return False

    def offer(self, batch: CheckedBatch) -> None:
        """A batch came, whether or not there was room to hold it."""
        for candidate in self._candidates.offer(batch):
            self._complete_with(candidate)

    def next_block(self) -> SyncedBlock | None:
        """The decided block above our head, once all of its batches are here."""
        return self._complete

    def advanced(self) -> None:
        """A block was applied. Whoever has a vote now keeps nothing that it has not checked."""
        self._decisions.pop(self._chain.head.height, None)
        self._clear()
        if not self._votes:
            self._gather()
        elif self._decisions or len(self.batches):
            self._decisions.clear()
            self.batches = Mempool(self._settings.mempool, self._chain.genesis.limits)
            self.batches.meet(self._chain.members)

    def forget(self) -> None:
        """Leave all that was told to catching up."""
        self._decisions.clear()
        self._clear()

    def expire(self) -> None:
        """Ask for what has been missing for too long, or give up."""
        if self._complete is not None or self._candidates.deadline is None:
            return
        now = self._outbox.now
        if now >= self._gathers_since + GATHER_MS_MAX:
            self._outbox.counters["decisions_given_up"] += 1
            self.forget()
        for peer, request in self._candidates.due(now, self._outbox.connected):
            self._outbox.add(SendRequest(peer, request))

    @property
    def _votes(self) -> bool:
        return self._seat.replica is not None

    def _known(self, batch_id: bytes) -> CheckedBatch | None:
        return self._mempool.get(batch_id) or self.batches.get(batch_id)

    def _clear(self) -> None:
        self._candidates.clear()
        self._complete = None

    def _gather(self) -> None:
        """Begin to look for the batches of the block above our head."""
        told = self._decisions.get(self._chain.next_height)
        if told is None or self._candidates.deadline is not None:
            return
        block, now = told.decision.block, self._outbox.now
        self._gathers_since = now
        candidate = self._candidates.want(block.hash, False, (told.peer,), now)
        self._candidates.set_block(candidate, block, listed_batches(block) or (), now)
        for batch_id in candidate.missing():
            batch = self._known(batch_id)
            if batch is not None:
                candidate.batches[batch_id] = batch
        self._complete_with(candidate)

    def _complete_with(self, candidate: Candidate) -> None:
        told, batches = self._decisions.get(self._chain.next_height), candidate.complete()
        if told is not None and batches is not None:
            self._complete = SyncedBlock(told.decision, batches, told.verified)
