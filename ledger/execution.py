"""Executing a block: from a parent, a time and batches to receipts, entries, state and header.

One function does it for the primary that builds a block, for the voter that checks it before its
PREPARE, and for the node that syncs it: `execute_block`. What it refuses with BlockError must never
get a vote (docs/ARCHITECTURE.md sections 4 to 6). What is wrong with a single transaction is a
receipt instead.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from consensus.committee import Committee
from consensus.messages import Decision
from ledger.committee import committee_at
from ledger.entries import (
    Done,
    accumulate_each,
    directory_leaves,
    entry_hashes,
    receipts_root,
    roots_of_hashes,
)
from ledger.genesis import Genesis
from ledger.governance import settle
from ledger.operations import Operation, Party
from ledger.receipts import DID_NOT_RUN, Receipt, ReceiptCode
from ledger.replay import ReplayWindow
from ledger.rules import OK, Situation, apply, keys_asked
from ledger.state import (
    Attempt,
    ChainHead,
    Overlay,
    StateError,
    chain_key,
    known_chain,
    members,
    party_of,
)
from ledger.store import LedgerReader, StateChanges, StateReader, WriteBlock
from ledger.transactions import BatchBody, CheckedBatch, CheckedTransaction, read_batch
from ledger.trie import foresee, update
from primitives.block import HEADER_VERSION, Block, BlockHeader
from primitives.codec import CodecError, Digest, decode, encode, encode_each
from primitives.institution import Institution
from primitives.merkle import sized_root

PAYLOAD_BYTES_MAX = 64 * 1024
_BatchIds = tuple[Digest, ...]


class BlockError(ValueError):
    """A block that may not exist; the message says why."""


@dataclass(frozen=True, slots=True)
class ExecutedBlock:
    """A block and all that follows from it. Receipts and ids are in block order."""

    block: Block
    batches: tuple[CheckedBatch, ...]
    receipts: tuple[Receipt, ...]
    transaction_ids: tuple[bytes, ...]
    executed: tuple[int, ...]
    """Indexes of the transactions that ran here, with success or without (see DID_NOT_RUN)."""
    chains: tuple[bytes, ...]
    """Ids of the chains with entries in this block, sorted."""
    changes: StateChanges
    next_committee: Committee
    """That decides the height above this block."""

    @property
    def ran(self) -> tuple[bytes, ...]:
        """The ids of the transactions that ran here: what the replay window remembers."""
        return tuple(self.transaction_ids[index] for index in self.executed)

    @property
    def sequences(self) -> tuple[tuple[str, int], ...]:
        """Author and sequence of every batch: what the replay window remembers."""
        return tuple((batch.author, batch.sequence) for batch in self.batches)

    def write(self, decision: Decision) -> WriteBlock:
        """What applies this block once it is decided."""
        return WriteBlock(
            decision,
            self.batches,
            self.receipts,
            self.transaction_ids,
            self.executed,
            self.chains,
            self.changes,
        )


def execute_block(
    parent: BlockHeader,
    view: int,
    proposer: str,
    time_ms: int,
    batches: Sequence[CheckedBatch],
    state: StateReader,
    replay: ReplayWindow,
    genesis: Genesis,
) -> ExecutedBlock:
    """Execute `batches` on top of `parent`, whose state is `state`. Raises BlockError.

    Who may propose at this height and view is for consensus to check. Where an operation's 15 to
    30 us go, a third to a half of them into the state map: docs/performance.md.
    """
    height = parent.height + 1
    if time_ms <= parent.time_ms:
        raise BlockError(
            f"The time of block {height}, {time_ms}, is not above its parent's, {parent.time_ms}."
        )
    overlay = Overlay(state)
    institutions = members(overlay)
    _check_batches(height, batches, institutions, replay, genesis)
    committee = committee_at(overlay, genesis)
    member_ids = {institution.key: institution.id for institution in institutions}
    situation = partial(Situation, genesis, height, time_ms, committee, member_ids)

    transactions = [transaction for batch in batches for transaction in batch.transactions]
    asked = keys_asked(transactions, member_ids)
    foreseen = foresee(state, asked)
    overlay.foresee(asked, foreseen.present)
    height_max = height + genesis.limits.replay_window_blocks
    receipts, executed, done = _run(
        height, time_ms, transactions, member_ids, situation, overlay, replay, height_max
    )
    if not executed and not _heartbeat_is_due(parent, time_ms, genesis):
        raise BlockError(f"Block {height} holds no transaction that runs, and none is due.")

    hashes = entry_hashes(done, overlay)
    roots = roots_of_hashes(hashes)
    next_committee = settle(height, view, proposer, committee, overlay, genesis)
    heads = _advanced_heads(height, time_ms, roots, hashes, overlay)
    batch_ids = tuple(batch.id for batch in batches)
    changes = update(state, overlay.written(but=heads) | heads, foreseen)
    header = BlockHeader(
        version=HEADER_VERSION,
        chain_id=genesis.chain_id,
        height=height,
        parent_hash=parent.hash(),
        view=view,
        proposer=proposer,
        time_ms=time_ms,
        batches_root=sized_root(batch_ids),
        directory_root=sized_root(directory_leaves(roots, hashes)),
        receipts_root=receipts_root(receipts),
        state_root=changes.root,
        next_committee_hash=next_committee.hash,
    )
    return ExecutedBlock(
        block=Block(header, encode(batch_ids)),
        batches=tuple(batches),
        receipts=tuple(receipts),
        transaction_ids=tuple(transaction.id for transaction in transactions),
        executed=tuple(executed),
        chains=tuple(roots),
        changes=changes,
        next_committee=next_committee,
    )


def check_block(
    block: Block,
    parent: BlockHeader,
    batches: Sequence[CheckedBatch],
    state: StateReader,
    replay: ReplayWindow,
    genesis: Genesis,
) -> ExecutedBlock:
    """Execute `block` and demand exactly its header; raise BlockError saying what differs first."""
    if payload_batches(block.payload) != tuple(batch.id for batch in batches):
        raise BlockError("The block lists other batches than those it came with.")
    header = block.header
    executed = execute_block(
        parent, header.view, header.proposer, header.time_ms, batches, state, replay, genesis
    )
    expected = executed.block.header
    if header != expected:
        names = BlockHeader.__struct_fields__
        differs = [name for name in names if getattr(header, name) != getattr(expected, name)]
        raise BlockError(
            f"Block {header.height} of {header.proposer} names another {differs[0]} than its "
            "execution gives."
        )
    return executed


def select_batches(
    pending: Iterable[CheckedBatch],
    height: int,
    state: StateReader,
    replay: ReplayWindow,
    genesis: Genesis,
) -> list[CheckedBatch]:
    """Return what a primary puts into the block at `height`: in the given order, within the limits.

    Left out are batches that no block at this height may list. Whether one of them has a
    transaction that runs is for `execute_block` to say.
    """
    key_of = {institution.id: institution.key for institution in members(state)}
    limits = genesis.limits
    room_bytes, room_work = limits.block_bytes_max, limits.block_work_max
    sequences: dict[tuple[str, int], None] = {}
    chosen: list[CheckedBatch] = []
    for batch in pending:
        if len(chosen) == limits.block_batches_max:
            break
        identity = (batch.author, batch.sequence)
        if (
            len(batch.raw) > room_bytes
            or identity in sequences
            or _fault(batch, height, key_of, replay, genesis) is not None
        ):
            continue
        work = batch.work
        if work > room_work:
            continue
        room_bytes -= len(batch.raw)
        room_work -= work
        sequences[identity] = None
        chosen.append(batch)
    return chosen


def _check_batches(
    height: int,
    batches: Sequence[CheckedBatch],
    institutions: Sequence[Institution],
    replay: ReplayWindow,
    genesis: Genesis,
) -> None:
    """Raise BlockError unless a block at `height` may list `batches`."""
    limits = genesis.limits
    size = sum(len(batch.raw) for batch in batches)
    work = sum(batch.work for batch in batches)
    for what, number, maximum in (
        ("batches", len(batches), limits.block_batches_max),
        ("bytes of batches", size, limits.block_bytes_max),
        ("units of work", work, limits.block_work_max),
    ):
        if number > maximum:
            raise BlockError(f"Block {height} has {number} {what}; this ledger allows {maximum}.")
    key_of = {institution.id: institution.key for institution in institutions}
    sequences: dict[tuple[str, int], None] = {}
    for batch in batches:
        fault = _fault(batch, height, key_of, replay, genesis)
        identity = (batch.author, batch.sequence)
        if identity in sequences:
            fault = "has a sequence that another batch of the block has"
        if fault is not None:
            raise BlockError(f"Batch {batch.sequence} of {batch.author} {fault}.")
        sequences[identity] = None


def _fault(
    batch: CheckedBatch,
    height: int,
    key_of: dict[str, bytes],
    replay: ReplayWindow,
    genesis: Genesis,
) -> str | None:
    """Say why no block at `height` may list `batch`, or None."""
    if key_of.get(batch.author) != batch.signer_key:
        return "is not signed with the key that its author has now"
    if batch.valid_until_height < height:
        return f"expired at block {batch.valid_until_height}, before block {height}"
    if batch.valid_until_height > height + genesis.limits.replay_window_blocks:
        return f"is valid until block {batch.valid_until_height}, too far above block {height}"
    if replay.used(batch.author, batch.sequence):
        return "has a sequence that an earlier block has used"
    return None


def _heartbeat_is_due(parent: BlockHeader, time_ms: int, genesis: Genesis) -> bool:
    """Section 4: idle means silent, unless the ledger has a heartbeat and it is due."""
    return 0 < genesis.heartbeat_ms <= time_ms - parent.time_ms


def _run(
    height: int,
    time_ms: int,
    transactions: Sequence[CheckedTransaction],
    member_ids: dict[bytes, str],
    situation: Callable[[bytes, Party], Situation],
    state: Overlay,
    replay: ReplayWindow,
    height_max: int,
) -> tuple[list[Receipt], list[int], list[Done]]:
    """Run the transactions in order, each with all its effects on `state` or none.

    Returns the receipts, the indexes of those that ran, and those that succeeded.
    """
    here: dict[bytes, None] = {}
    receipts, executed, done = [], [], []
    for number, transaction in enumerate(transactions):
        body, identity = transaction.body, transaction.id
        code, index = ReceiptCode.OK, 0
        if height > body.valid_until_height or time_ms > body.valid_until_ms:
            code = ReceiptCode.EXPIRED
        elif body.valid_until_height > height_max:
            code = ReceiptCode.TOO_FAR_AHEAD
        elif identity in here or replay.seen(identity):
            code = ReceiptCode.REPLAYED
        else:
            here[identity] = None
            executed.append(number)
            author = party_of(state, member_ids, body.author)
            if author is None:
                code = ReceiptCode.UNKNOWN_AUTHOR
            else:
                now = situation(identity, author)
                code, index = _run_operations(body.operations, now, state)
                if code is OK:
                    done.append((transaction, author))
        receipts.append(Receipt(identity, int(code), index))
    return receipts, executed, done


def _run_operations(
    operations: Sequence[Operation], now: Situation, state: Overlay
) -> tuple[ReceiptCode, int]:
    """Run all operations or none; return the code and the index of the operation that failed."""
    if len(operations) == 1:
        # An operation that fails has written nothing: this is nearly every transaction.
        return apply(operations[0], 0, now, state), 0
    attempt = Attempt(state)
    for index, operation in enumerate(operations):
        code = apply(operation, index, now, attempt)
        if code is not OK:
            return code, index
    state.take(attempt)
    return OK, 0


def _advanced_heads(
    height: int,
    time_ms: int,
    roots: dict[bytes, bytes],
    entries: dict[bytes, list[bytes]],
    state: Overlay,
) -> dict[bytes, bytes]:
    """Return the heads of the chains that have entries in this block, encoded, by their keys.

    Nothing else of a block reads what they are after it, so they are never written to `state`.
    """
    keys = [chain_key(chain) for chain in roots]
    heads = [
        state.read(key, ChainHead) or known_chain(state, chain)
        for key, chain in zip(keys, roots, strict=True)
    ]
    counts = [len(entries[chain]) for chain in roots]
    before = [head.accumulated for head in heads]
    after = accumulate_each(before, height, time_ms, roots.values(), counts)
    later = [
        ChainHead(head.count + count, accumulated, head.entity)
        for head, count, accumulated in zip(heads, counts, after, strict=True)
    ]
    return dict(zip(keys, encode_each(later), strict=True))


def payload_batches(payload: bytes) -> tuple[bytes, ...]:
    """Return the ids of the batches that a block's payload lists. Raises BlockError."""
    try:
        return decode(payload, _BatchIds, bytes_max=PAYLOAD_BYTES_MAX)
    except CodecError as error:
        raise BlockError(f"The block's list of batches cannot be read. {error}") from error


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """An applied block as the store holds it."""

    decision: Decision
    batches: tuple[BatchBody, ...]
    receipts: tuple[Receipt, ...]


def stored_block(reader: LedgerReader, height: int) -> StoredBlock:
    """Return the applied block at `height`. Raises StateError if the store has lost part of it."""
    decision = reader.decision(height)
    receipts = reader.receipts(height)
    if decision is None or receipts is None:
        raise StateError(f"The store has lost block {height}.")
    batches = []
    for batch_id in payload_batches(decision.block.payload):
        raw = reader.batch(batch_id)
        if raw is None:
            raise StateError(f"The store has lost batch {batch_id.hex()} of block {height}.")
        batches.append(read_batch(raw))
    return StoredBlock(decision, tuple(batches), receipts)


def restore_window(reader: LedgerReader, genesis: Genesis, head: int | None = None) -> ReplayWindow:
    """Return the replay window at a block of a stored ledger, its head if None, from its receipts.

    About a microsecond a transaction; batches are not read. Raises StateError if the store has
    lost part of it.
    """
    blocks = genesis.limits.replay_window_blocks
    window = ReplayWindow(blocks)
    if head is None:
        head = reader.head_height() or 0
    for height in range(max(1, head - blocks + 1), head + 1):
        receipts, sequences = reader.receipts(height), reader.sequences(height)
        if receipts is None or sequences is None:
            raise StateError(f"The store has lost block {height}, or a batch of it.")
        ran = [receipt.transaction for receipt in receipts if receipt.code not in DID_NOT_RUN]
        window.add(height, ran, sequences)
    return window
