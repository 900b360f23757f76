"""Blocks that the replica wants checked, and the batches or bodies that are still missing for it.

A candidate waits a little before it asks, since batches usually arrive on their own; then it asks
one holder after another, and others after those. Nothing here checks a block: the core does, when
`complete` says that all is there, and drops the candidate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ledger.transactions import CheckedBatch, Limits
from node.wire import WANTED_BATCHES_MAX, BatchesWanted, BlockWanted, Request
from primitives.block import Block

CANDIDATES_MAX = 32
"""Undecided blocks of one height that may be waited for at once; the oldest gives way. Each holds
the batches of one block at most: one that lists more is dropped as soon as that is seen.
"""


@dataclass(slots=True)
class Candidate:
    """A block on its way to being checked."""

    block_hash: bytes
    block: Block | None
    fresh: bool
    holders: tuple[str, ...]
    batch_ids: tuple[bytes, ...]
    ask_at: int
    asked: int = 0
    batches: dict[bytes, CheckedBatch] = field(default_factory=dict)

    def missing(self) -> list[bytes]:
        """Batch ids that have not come yet."""
        return [batch_id for batch_id in self.batch_ids if batch_id not in self.batches]

    def exceeds(self, limits: Limits) -> bool:
        """Whether no block may list so much, whatever is still missing."""
        size_bytes = sum(len(batch.raw) for batch in self.batches.values())
        return len(self.batch_ids) > limits.block_batches_max or size_bytes > limits.block_bytes_max

    def complete(self) -> tuple[CheckedBatch, ...] | None:
        """The batches in the block's order, or None while something is missing."""
        if self.block is None or self.missing():
            return None
        return tuple(self.batches[batch_id] for batch_id in self.batch_ids)


class Candidates:
    """All candidates of the current height."""

    def __init__(self, patience_ms: int, retry_ms: int) -> None:
        self._patience_ms = patience_ms
        self._retry_ms = retry_ms
        self._by_hash: dict[bytes, Candidate] = {}

    def clear(self) -> None:
        """A block was applied: nothing of the old height is wanted any more."""
        self._by_hash.clear()

    def get(self, block_hash: bytes) -> Candidate | None:
        """The candidate with this hash."""
        return self._by_hash.get(block_hash)

    def drop(self, block_hash: bytes) -> None:
        """The block has been checked, for good or ill."""
        self._by_hash.pop(block_hash, None)

    def want(
        self,
        block_hash: bytes,
        fresh: bool,
        holders: tuple[str, ...],
        now: int,
    ) -> Candidate:
        """Wait for a block; wanting it again adds holders, and lifts the wall-clock check where it
        no longer applies.
        """
        candidate = self._by_hash.get(block_hash)
        if candidate is None:
            if len(self._by_hash) >= CANDIDATES_MAX:
                del self._by_hash[next(iter(self._by_hash))]
            candidate = Candidate(block_hash, None, fresh, holders, (), now)
            self._by_hash[block_hash] = candidate
            return candidate
        candidate.holders = tuple(dict.fromkeys(holders + candidate.holders))
        candidate.fresh = candidate.fresh and fresh
        return candidate

    def set_block(
        self, candidate: Candidate, block: Block, batch_ids: tuple[bytes, ...], now: int
    ) -> None:
        """The body is known; its batches may take a moment to arrive unasked."""
        if candidate.block is None:
            candidate.block = block
            candidate.batch_ids = batch_ids
            candidate.ask_at = now + self._patience_ms

    def offer(self, batch: CheckedBatch) -> list[Candidate]:
        """A batch arrived: the candidates that lack it, which now hold it."""
        lacking = []
        for candidate in self._by_hash.values():
            if batch.id in candidate.batch_ids and batch.id not in candidate.batches:
                candidate.batches[batch.id] = batch
                lacking.append(candidate)
        return lacking

    @property
    def deadline(self) -> int | None:
        """When `due` has something to ask."""
        return min((c.ask_at for c in self._by_hash.values()), default=None)

    def due(self, now: int, connected: Sequence[str]) -> list[tuple[str, Request]]:
        """What to ask now and whom: the next holder that is connected, or else the next member that
        is.
        """
        requests: list[tuple[str, Request]] = []
        for candidate in self._by_hash.values():
            if candidate.ask_at > now:
                continue
            candidate.ask_at = now + self._retry_ms
            known = [peer for peer in candidate.holders if peer in connected]
            others = [peer for peer in connected if peer not in candidate.holders]
            peers = known + others
            if not peers:
                continue
            peer = peers[candidate.asked % len(peers)]
            candidate.asked += 1
            if candidate.block is None:
                requests.append((peer, BlockWanted(candidate.block_hash)))
            else:
                wanted = tuple(candidate.missing()[:WANTED_BATCHES_MAX])
                requests.append((peer, BatchesWanted(wanted)))
        return requests
