"""Building blocks when it is our turn, and checking those of others; each block is executed once on
this node.

"Checked" is what a PREPARE vouches for (docs/ARCHITECTURE.md section 4): the block extends our
head, all its batches are here, its time is plausible where that matters, and executing it gives
exactly the roots in its header.
"""

from collections.abc import Sequence

from consensus.certificates import SignatureCache
from ledger.execution import BlockError, ExecutedBlock, payload_batches
from ledger.state import StateError
from ledger.transactions import BatchError, CheckedBatch, check_batch, signed_by
from node.chain import Chain
from node.drafts import Drafts
from node.events import SendRequest, SyncedBlock
from node.fetching import Candidate, Candidates
from node.mempool import Mempool
from node.outbox import Outbox
from primitives.block import Block, BlockHeader
from primitives.merkle import sized_root

REFUSED_MAX = 32
"""Hashes of invalid blocks of one height that are remembered, so that none is executed twice."""
EXECUTED_MAX = 8
"""Executed blocks of one height kept in memory, some megabytes each: there may be one every view,
and a height may last for as long as a quorum is missing.
"""


class Judging:
    """The executed blocks of the current height, and the candidates on their way there."""

    def __init__(
        self,
        id: str,
        chain: Chain,
        candidates: Candidates,
        mempool: Mempool,
        drafts: Drafts,
        outbox: Outbox,
    ) -> None:
        self._id = id
        self._chain = chain
        self._candidates = candidates
        self._mempool = mempool
        self._drafts = drafts
        self._outbox = outbox
        self._executed: dict[bytes, ExecutedBlock] = {}
        self._refused: dict[bytes, None] = {}
        self._censored_view: int | None = None

    @property
    def deadline(self) -> int | None:
        """When `ask` has something to do."""
        return self._candidates.deadline

    def executed(self, block_hash: bytes) -> ExecutedBlock | None:
        """A block of the current height that was built or checked here."""
        return self._executed.get(block_hash)

    def clear(self) -> None:
        """A block was applied: nothing of the old height matters any more."""
        self._candidates.clear()
        self._drafts.clear()
        self._executed.clear()
        self._refused.clear()
        self._censored_view = None

    def forget_but(self, needed: Sequence[bytes]) -> None:
        """Where there are many executed blocks, keep these; others would be executed again."""
        if len(self._executed) > EXECUTED_MAX:
            kept = [block_hash for block_hash in needed if block_hash in self._executed]
            self._executed = {block_hash: self._executed[block_hash] for block_hash in kept}

    def build(self, view: int) -> Block | None:
        """A block of pending batches on our head; None if there is nothing to propose, or if the
        voters are told first what it will list (drafts.py).
        """
        listing = self._drafts.listing(view)
        if listing is None:
            return None
        try:
            executed = self._chain.execute(view, self._id, listing.time_ms, listing.batches)
        except BlockError:
            self._outbox.counters["nothing_to_propose"] += 1
            return None
        self._executed[executed.block.hash] = executed
        return executed.block

    def want(
        self, block_hash: bytes, block: Block | None, fresh: bool, holders: tuple[str, ...]
    ) -> list[Block]:
        """Get a block and check it. Returns it if it is checked already; else `arrived` or `offer`
        will.
        """
        known = self._executed.get(block_hash)
        if known is not None:
            return [known.block]
        if block_hash in self._refused:
            return []
        candidate = self._candidates.want(block_hash, fresh, holders, self._outbox.now)
        block = block or self._chain.reader.proposal(block_hash)
        sender = next(iter(holders), self._id)
        checked = [] if block is None else self._set_block(candidate, block, sender)
        self.ask()
        return checked

    def arrived(self, peer: str, block: Block) -> list[Block]:
        """A block that was asked for by hash came; returns it if it is checked now."""
        candidate = self._candidates.get(block.hash)
        return [] if candidate is None else self._set_block(candidate, block, peer)

    def offer(self, batch: CheckedBatch) -> list[Block]:
        """A batch came; returns the blocks that it completed and that are checked now."""
        checked: list[Block] = []
        for candidate in self._candidates.offer(batch):
            checked.extend(self._check(candidate))
        return checked

    def ask(self) -> None:
        """Ask for what has been missing for too long."""
        for peer, request in self._candidates.due(self._outbox.now, self._outbox.connected):
            self._outbox.add(SendRequest(peer, request))

    def execute_draft(self) -> None:
        """Execute what is about to be proposed, unless a block of this height is here already."""
        if not self._executed:
            self._drafts.execute()

    def execute(self, block: Block, batches: Sequence[CheckedBatch]) -> ExecutedBlock | None:
        """Execute a block on our head; None if it is not exactly what its header says, which is
        found out once.
        """
        known = self._executed.get(block.hash)
        if known is not None:
            return known
        try:
            executed = self._drafts.executed(block) or self._chain.check(block, batches)
        except BlockError as error:
            self._refuse(block, str(error))
            return None
        self._executed[block.hash] = executed
        return executed

    def check_synced(
        self, synced: SyncedBlock, signatures: SignatureCache | None
    ) -> ExecutedBlock | None:
        """Check the next block that a peer sent as any other, but that its certificate vouches for
        the signatures of its transactions; None if the peer is at fault.

        Raises StateError if we are.
        """
        chain = self._chain
        block = synced.decision.block
        if block.header.height != chain.next_height:
            return None
        cache = SignatureCache() if signatures is None else signatures
        if not chain.proves(synced.decision, synced.verified, cache):
            return None
        if listed_batches(block) != tuple(batch.id for batch in synced.batches):
            return None
        batches = self._signed(synced.batches)
        if batches is None:
            return None
        executed = self.execute(block, batches)
        if executed is None:
            raise StateError(
                f"A quorum has decided block {block.header.height}, and it is not valid on what is "
                "stored here."
            )
        return executed

    def _signed(self, batches: Sequence[CheckedBatch]) -> list[CheckedBatch] | None:
        """Those of a decided block, each signed with the key that its author has at this height; it
        may not have been known when they came. None if one is not.
        """
        found: list[CheckedBatch] = []
        for batch in batches:
            author = self._chain.members.get(batch.author)
            signed = batch if author is None else signed_by(batch, author.key)
            if signed is None:
                return None
            found.append(signed)
        return found

    def take_censored_view(self) -> int | None:
        """The view whose proposal passed over a batch that was due, if that was found out since
        the last call.
        """
        view, self._censored_view = self._censored_view, None
        return view

    def _refuse(self, block: Block, why: str) -> None:
        """Whose the block is has been proven by the signature of its proposal."""
        if len(self._refused) >= REFUSED_MAX:
            del self._refused[next(iter(self._refused))]
        self._refused[block.hash] = None
        self._outbox.blame(block.header.proposer, "block_invalid", why)

    def _set_block(self, candidate: Candidate, block: Block, sender: str) -> list[Block]:
        """Take the body of a candidate. A false payload under the right header must not stick: the
        true one may come from somebody else.
        """
        batch_ids = listed_batches(block)
        if batch_ids is None:
            self._outbox.blame(sender, "payload_false")
            return []
        self._candidates.set_block(candidate, block, batch_ids, self._outbox.now)
        promised = self._chain.reader.proposal(block.hash) is not None
        for batch_id in candidate.missing():
            batch = self._mempool.get(batch_id)
            if batch is None and promised:
                batch = self._stored(batch_id)
            if batch is not None:
                candidate.batches[batch_id] = batch
        return self._check(candidate)

    def _stored(self, batch_id: bytes) -> CheckedBatch | None:
        """A batch of a block that we have promised, which the mempool may refuse to hold."""
        raw = self._chain.reader.batch(batch_id)
        if raw is None:
            return None
        genesis = self._chain.genesis
        keys = {member.id: member.key for member in self._chain.members.values()}
        try:
            return check_batch(raw, genesis.chain_id, genesis.limits, keys)
        except BatchError:
            return None

    def _check(self, candidate: Candidate) -> list[Block]:
        block, batches = candidate.block, candidate.complete()
        if block is not None and candidate.exceeds(self._chain.genesis.limits):
            self._candidates.drop(candidate.block_hash)
            self._refuse(block, "It lists more batches, or more bytes of them, than a block may.")
            return []
        if block is None or batches is None:
            return []
        self._candidates.drop(candidate.block_hash)
        if candidate.fresh and not self._may_be_proposed(block.header, batches):
            return []
        executed = self.execute(block, batches)
        return [] if executed is None else [block]

    def _may_be_proposed(self, header: BlockHeader, batches: Sequence[CheckedBatch]) -> bool:
        """Whether a block that no quorum has prepared is dated right by our clock, and passes over
        no batch that `censorship_heights` blocks before it have passed over (docs/ARCHITECTURE.md
        section 5). If it does, its view is to be left; but only once for each that may propose, as
        nobody could go on for a batch that no primary can propose, whatever the reason.
        """
        chain, proposer = self._chain, header.proposer
        skew_ms = header.time_ms - self._outbox.wall
        if abs(skew_ms) > chain.genesis.clock_drift_ms_max:
            self._outbox.blame(proposer, "clock_differs", f"by {skew_ms} ms")
            return False
        if header.view >= len(chain.committee.roster):
            return True
        for held in self._mempool.passed_over(batches, header.height, header.time_ms, chain.replay):
            if held.passed_over > chain.genesis.censorship_heights:
                self._outbox.blame(proposer, "batch_left_out", f"one of {held.batch.author}")
                self._censored_view = header.view
                return False
        return True


def listed_batches(block: Block) -> tuple[bytes, ...] | None:
    """The ids of the batches of a block, or None if its payload is not the one of its header."""
    try:
        batch_ids = payload_batches(block.payload)
    except BlockError:
        return None
    return batch_ids if sized_root(batch_ids) == block.header.batches_root else None
