"""Answers to peers' requests, from the mempool, the undecided candidates and the store; bounded in
bytes.
"""

from collections.abc import Callable
from typing import assert_never

from ledger.execution import payload_batches
from ledger.store import LedgerReader
from node.mempool import Mempool
from node.wire import (
    RESPONSE_BYTES_MAX,
    WANTED_BLOCKS_MAX,
    BatchesFound,
    BatchesWanted,
    BlockFound,
    BlocksFound,
    BlocksWanted,
    BlockWanted,
    BlockWithBatches,
    Request,
    Response,
)
from primitives.block import Block

ANSWER_BYTES_MAX = RESPONSE_BYTES_MAX // 2
"""Batches in one answer; the first is always sent, and no legal one is larger than the response's
limit.
"""
BLOCKS_BYTES_MAX = 2 * 1024 * 1024
"""Bodies of blocks in one answer; the first is always sent. Whoever catches up asks again while it
executes these, and a voter that answers should not be kept from voting for longer.
"""


def answer(
    request: Request,
    mempool: Mempool,
    undecided: Callable[[bytes], Block | None],
    reader: LedgerReader,
) -> Response:
    """What this node has of what the peer asks for; what it lacks is left out."""
    match request:
        case BatchesWanted(batches):
            return _batches(batches, mempool, reader)
        case BlockWanted(block_hash):
            return BlockFound(_block(block_hash, undecided, reader))
        case BlocksWanted(height, count):
            return _blocks(height, count, reader)
        case _:
            assert_never(request)


def _batches(wanted: tuple[bytes, ...], mempool: Mempool, reader: LedgerReader) -> BatchesFound:
    found: list[bytes] = []
    size = 0
    for batch_id in dict.fromkeys(wanted):
        held = mempool.get(batch_id)
        raw = reader.batch(batch_id) if held is None else held.raw
        if raw is None:
            continue
        size += len(raw)
        if found and size > ANSWER_BYTES_MAX:
            break
        found.append(raw)
    return BatchesFound(tuple(found))


def _block(
    block_hash: bytes, undecided: Callable[[bytes], Block | None], reader: LedgerReader
) -> Block | None:
    block = undecided(block_hash) or reader.proposal(block_hash)
    if block is not None:
        return block
    height = reader.height_of(block_hash)
    decision = None if height is None else reader.decision(height)
    return None if decision is None else decision.block


def _blocks(height: int, count: int, reader: LedgerReader) -> BlocksFound:
    head_height = reader.head_height() or 0
    blocks: list[BlockWithBatches] = []
    size = 0
    count = min(count, WANTED_BLOCKS_MAX)
    for position in range(max(height, 1), min(height + count, head_height + 1)):
        decision = reader.decision(position)
        if decision is None:
            break
        raws = [reader.batch(batch_id) for batch_id in payload_batches(decision.block.payload)]
        present = tuple(raw for raw in raws if raw is not None)
        if len(present) != len(raws):
            break
        size += sum(len(raw) for raw in present) + len(decision.block.payload)
        if blocks and size > BLOCKS_BYTES_MAX:
            break
        blocks.append(BlockWithBatches(decision, present))
    return BlocksFound(tuple(blocks), head_height)
