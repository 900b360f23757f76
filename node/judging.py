"""Building blocks when it is our turn, and checking those of others; each block is executed once on
this node.

"Checked" is what a PREPARE vouches for (docs/ARCHITECTURE.md section 4): the block extends our
head, all its batches are here, its time is plausible where that matters, and executing it gives
exactly the roots in its header.
"""

from collections.abc import Sequence

from ledger.execution import (
    BlockError,
    ExecutedBlock,
    check_block,
    execute_block,
    payload_batches,
    select_batches,
)
from ledger.transactions import BatchError, CheckedBatch, check_batch
from node.chain import Chain
from node.events import SendRequest
from node.fetching import Candidate, Candidates
from node.mempool import Mempool
from node.outbox import Outbox
from primitives.block import Block
from primitives.merkle import sized_root

EXECUTED_MAX = 8
"""Executed blocks of one height kept in memory, some megabytes each: there may be one every view,
and a height may last for as long as a quorum is missing.
"""


class Judging:
    """The executed blocks of the current height, and the candidates on their way there."""

    def __init__(
        self, id: str, chain: Chain, candidates: Candidates, mempool: Mempool, outbox: Outbox
    ) -> None:
        self._id = id
        self._chain = chain
        self._candidates = candidates
        self._mempool = mempool
        self._outbox = outbox
        self._executed: dict[bytes, ExecutedBlock] = {}
        self._refused: dict[bytes, None] = {}

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
        self._executed.clear()
        self._refused.clear()

    def forget_but(self, needed: Sequence[bytes]) -> None:
        """Where there are many executed blocks, keep these; others would be executed again."""
        if len(self._executed) > EXECUTED_MAX:
            kept = [block_hash for block_hash in needed if block_hash in self._executed]
            self._executed = {block_hash: self._executed[block_hash] for block_hash in kept}

    def build(self, view: int) -> Block | None:
        """A block of pending batches on our head, or None if there is nothing to propose."""
        chain = self._chain
        chosen = select_batches(
            self._mempool.batches(), chain.next_height, chain.reader, chain.replay, chain.genesis
        )
        time_ms = max(self._outbox.wall, chain.head.time_ms + 1)
        try:
            executed = execute_block(
                chain.head,
                view,
                self._id,
                time_ms,
                chosen,
                chain.reader,
                chain.replay,
                chain.genesis,
            )
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
        checked = [] if block is None else self._set_block(candidate, block)
        self.ask()
        return checked

    def arrived(self, block: Block) -> list[Block]:
        """A block that was asked for by hash came; returns it if it is checked now."""
        candidate = self._candidates.get(block.hash)
        return [] if candidate is None else self._set_block(candidate, block)

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

    def execute(self, block: Block, batches: Sequence[CheckedBatch]) -> ExecutedBlock | None:
        """Execute a block on our head; None if it is not exactly what its header says, which is
        found out once.
        """
        known = self._executed.get(block.hash)
        if known is not None:
            return known
        chain = self._chain
        try:
            executed = check_block(
                block, chain.head, batches, chain.reader, chain.replay, chain.genesis
            )
        except BlockError as error:
            self._refused[block.hash] = None
            proposer = block.header.proposer
            self._outbox.report("block_invalid", proposer=proposer, reason=str(error))
            return None
        self._executed[block.hash] = executed
        return executed

    def _set_block(self, candidate: Candidate, block: Block) -> list[Block]:
        """Take the body of a candidate. A false payload under the right header must not stick: the
        true one may come from somebody else.
        """
        batch_ids = listed_batches(block)
        if batch_ids is None:
            self._outbox.counters["payload_false"] += 1
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
        batches = candidate.complete()
        if batches is None or candidate.block is None:
            return []
        self._candidates.drop(candidate.block_hash)
        header = candidate.block.header
        skew_ms = header.time_ms - self._outbox.wall
        if candidate.fresh and abs(skew_ms) > self._chain.genesis.clock_drift_ms_max:
            self._outbox.report("clock_differs", proposer=header.proposer, skew_ms=skew_ms)
            return []
        executed = self.execute(candidate.block, batches)
        return [] if executed is None else [candidate.block]


def listed_batches(block: Block) -> tuple[bytes, ...] | None:
    """The ids of the batches of a block, or None if its payload is not the one of its header."""
    try:
        batch_ids = payload_batches(block.payload)
    except BlockError:
        return None
    return batch_ids if sized_root(batch_ids) == block.header.batches_root else None
