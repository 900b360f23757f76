"""What peers and clients bring, checked before the core sees it: batches, answers, transactions.

Pure and free of state, so that the daemon may run it on other threads and the simulator at once.
Each signature is checked here and nowhere else on this node.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ledger.execution import BlockError, payload_batches
from ledger.transactions import (
    BatchError,
    CheckedBatch,
    CheckedTransaction,
    Envelope,
    Limits,
    TransactionError,
    batch_id,
    check_batch,
    check_transaction,
)
from node.events import SyncedBlock
from node.wire import BatchesFound, BatchesWanted, BlocksFound, BlocksWanted
from primitives.codec import CodecError, decode

Known = Callable[[bytes], CheckedBatch | None]
"""A pending batch by id: what has been checked before is not checked again."""


class IntakeError(ValueError):
    """A peer's answer is not what was asked for, or not valid; the peer is at fault."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a check needs to know: the chain, its limits, and the members' keys by institution."""

    chain_id: bytes
    limits: Limits
    keys: Mapping[str, bytes]


def check_raw_batch(raw: bytes, rules: Rules, known: Known | None = None) -> CheckedBatch:
    """Check one batch from a peer, unless it is known. Raises BatchError.

    Repairs bring batches again that are here already, and the signatures of a large one take a
    tenth of a second.
    """
    if known is not None:
        batch = known(_identity(raw, rules))
        if batch is not None and batch.raw == raw:
            return batch
    return check_batch(raw, rules.chain_id, rules.limits, rules.keys)


def check_batches_found(
    wanted: BatchesWanted, found: BatchesFound, rules: Rules, known: Known | None = None
) -> tuple[CheckedBatch, ...]:
    """The batches of an answer. Raises IntakeError if one cannot be read or was not asked for, and
    BatchError if one is not good by the keys that we know: its author's may have changed meanwhile.
    """
    if len(found.batches) > len(wanted.batches):
        raise IntakeError("more batches came than were asked for")
    try:
        if any(_identity(raw, rules) not in wanted.batches for raw in found.batches):
            raise IntakeError("a batch came that was not asked for")
    except BatchError as error:
        raise IntakeError(str(error)) from error
    return tuple(check_raw_batch(raw, rules, known) for raw in found.batches)


def _identity(raw: bytes, rules: Rules) -> bytes:
    """The id of a batch, before its signatures are checked. Raises BatchError."""
    try:
        envelope = decode(raw, Envelope, bytes_max=rules.limits.batch_bytes_max)
    except CodecError as error:
        raise BatchError(f"The batch cannot be read. {error}") from error
    return batch_id(rules.chain_id, envelope.body)


def check_blocks_found(
    wanted: BlocksWanted, found: BlocksFound, known: Known, rules: Rules
) -> tuple[SyncedBlock, ...]:
    """The blocks of an answer, each with its batches. Raises IntakeError.

    Headers and certificates are checked by the core, against the state that each block needs. So
    are keys: a member may have joined or changed its key on the way, in a block of this very
    answer. The first block is checked by the keys that it needs; where a later one does not pass,
    the answer counts up to there, and asking again brings that one first.
    """
    if len(found.blocks) > wanted.count:
        raise IntakeError("more blocks came than were asked for")
    blocks: list[SyncedBlock] = []
    for offset, synced in enumerate(found.blocks):
        block = synced.decision.block
        if block.header.height != wanted.height + offset:
            raise IntakeError("the blocks are not those that were asked for")
        try:
            ids = payload_batches(block.payload)
        except BlockError as error:
            raise IntakeError(f"block {block.header.height} cannot be read: {error}") from error
        try:
            batches = _listed(ids, synced.batches, known, rules)
        except BatchError as error:
            if blocks:
                break
            raise IntakeError(str(error)) from error
        blocks.append(SyncedBlock(synced.decision, batches))
    return tuple(blocks)


def _listed(
    ids: Sequence[bytes], raws: Sequence[bytes], known: Known, rules: Rules
) -> tuple[CheckedBatch, ...]:
    """Raises IntakeError, and BatchError for what a batch is in itself."""
    if len(ids) != len(raws):
        raise IntakeError("a block came without all of its batches")
    batches: list[CheckedBatch] = []
    for identity, raw in zip(ids, raws, strict=True):
        batch = known(identity)
        if batch is None or batch.raw != raw:
            batch = check_raw_batch(raw, rules)
        if batch.id != identity:
            raise IntakeError("a block came with a batch that it does not list")
        batches.append(batch)
    return tuple(batches)


def check_submission(raw: bytes, rules: Rules, head_height: int, wall: int) -> CheckedTransaction:
    """Check a client's transaction, also for being still worth ordering. Raises TransactionError.

    Execution decides again; refusing early only spares the client a wait.
    """
    transaction = check_transaction(raw, rules.chain_id, rules.limits)
    body = transaction.body
    if body.valid_until_height <= head_height or body.valid_until_ms <= wall:
        raise TransactionError(
            "The transaction has expired (valid_until_height or valid_until_ms has passed); sign "
            "it again with a later end."
        )
    if body.valid_until_height > head_height + rules.limits.replay_window_blocks:
        raise TransactionError(
            f"The transaction is valid until height {body.valid_until_height}, but at height "
            f"{head_height} this ledger allows at most "
            f"{head_height + rules.limits.replay_window_blocks}; sign it again."
        )
    return transaction
