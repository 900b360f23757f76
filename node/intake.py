"""What peers and clients bring, checked before the core sees it: batches, answers, transactions.

Pure and free of state, so that the daemon may run it on other threads and the simulator at once.
Each signature of a batch or transaction is checked here and nowhere else on this node; those of the
transactions of decided blocks are not checked, since the certificate vouches for them (ADR 20).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consensus.certificates import Verified, verified_votes
from consensus.messages import Decision, Phase
from ledger.execution import BlockError, payload_batches
from ledger.transactions import (
    NO_KEY,
    BatchError,
    CheckedBatch,
    CheckedTransaction,
    Envelope,
    Known,
    Limits,
    TransactionError,
    batch_id,
    check_batch,
    check_transactions,
    read_decided_batch,
)
from node.conduct import Reason
from node.events import BatchArrived, BlockArrived, BlocksArrived, Event, SyncedBlock
from node.wire import (
    BatchesFound,
    BatchesWanted,
    BlockFound,
    BlocksFound,
    BlocksWanted,
    BlockWanted,
    Request,
    decode_response,
)
from primitives.codec import CodecError, decode
from primitives.keys import VerifyEach, verify_each


class IntakeError(ValueError):
    """A peer's answer is not what was asked for, or not valid; the peer is at fault."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a check needs to know: the chain, its limits, and the members' keys by institution; and
    what calculates the signatures of many transactions.
    """

    chain_id: bytes
    limits: Limits
    keys: Mapping[str, bytes]
    verify_all: VerifyEach = verify_each


def check_raw_batch(
    raw: bytes, rules: Rules, known: Known | None = None, *, signatures: bool = True
) -> CheckedBatch:
    """Check one batch from a peer or our disk, unless it is known. Raises BatchError.

    Repairs bring batches again that are here already, and the signatures of a large one take a
    tenth of a second. Without `signatures`, those of its transactions are left to the certificate
    of a block that lists it, which is enough for a member without a vote (ADR 22), or were checked
    before the batch was stored here.
    """
    if signatures:
        verify_all = rules.verify_all
        return check_batch(raw, rules.chain_id, rules.limits, rules.keys, known, verify_all)
    batch = read_decided_batch(raw, rules.chain_id, rules.limits, rules.keys, known)
    if batch.signer_key == NO_KEY:
        raise BatchError(f"The batch is not signed with the key of a member {batch.author}.")
    return batch


def answer_events(
    peer: str, request: Request, raw: bytes, rules: Rules, known: Known, *, votes: bool
) -> list[Event]:
    """Return the events of a peer's answer, at a node that votes or does not.

    Raises CodecError and IntakeError for one that is bad, and BatchError for one with a batch that
    is not good by the keys that the node knows.
    """
    response = decode_response(raw)
    match request, response:
        case BatchesWanted(), BatchesFound():
            batches = check_batches_found(request, response, rules, known, signatures=votes)
            return [BatchArrived(peer, batch, votes) for batch in batches]
        case BlockWanted(), BlockFound():
            return [BlockArrived(peer, response)]
        case BlocksWanted(), BlocksFound():
            blocks = check_blocks_found(request, response, known, rules)
            return [BlocksArrived(peer, blocks, response.head_height)]
        case _:
            raise IntakeError("the answer is of another kind than the question")


def reason_of(error: Exception) -> Reason:
    """What a peer is counted for whose answer raised this."""
    return "batch_invalid" if isinstance(error, BatchError) else "answer_invalid"


def check_batches_found(
    wanted: BatchesWanted,
    found: BatchesFound,
    rules: Rules,
    known: Known | None = None,
    *,
    signatures: bool = True,
) -> tuple[CheckedBatch, ...]:
    """The batches of an answer, each checked by `check_raw_batch`. Raises IntakeError if one cannot
    be read or was not asked for, and BatchError if one is not good by the keys that we know: its
    author's may have changed meanwhile.
    """
    if len(found.batches) > len(wanted.batches):
        raise IntakeError("more batches came than were asked for")
    try:
        if any(_identity(raw, rules) not in wanted.batches for raw in found.batches):
            raise IntakeError("a batch came that was not asked for")
    except BatchError as error:
        raise IntakeError(str(error)) from error
    return tuple(check_raw_batch(raw, rules, known, signatures=signatures) for raw in found.batches)


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

    Whether headers, certificates and keys are right is for the core to say, by the state that each
    block needs: a member may join or change its key in a block before it, of this very answer. Here
    is only calculated ahead what it will ask for, by the keys that we know now.
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
            raise IntakeError(str(error)) from error
        votes = verified_commits(synced.decision, rules)
        blocks.append(SyncedBlock(synced.decision, batches, votes))
    return tuple(blocks)


def verified_commits(decision: Decision, rules: Rules) -> tuple[Verified, ...]:
    """Those of a decided block's signatures that verify, up to the first that does not, by the keys
    that we know now: 75 us each. What they prove is for the core to say.
    """
    certificate, chain_id = decision.certificate, rules.chain_id
    return tuple(verified_votes(certificate, Phase.COMMIT, chain_id, rules.keys))


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
            batch = read_decided_batch(raw, rules.chain_id, rules.limits, rules.keys)
        if batch.id != identity:
            raise IntakeError("a block came with a batch that it does not list")
        batches.append(batch)
    return tuple(batches)


def check_submissions(
    raws: Sequence[bytes], rules: Rules, head_height: int, wall: int
) -> list[CheckedTransaction | TransactionError]:
    """Check a client's transactions, also for being still worth ordering.

    Execution decides again; refusing early only spares the client a wait.
    """
    found = check_transactions(raws, rules.chain_id, rules.limits, rules.verify_all)
    window = rules.limits.replay_window_blocks
    return [
        one if isinstance(one, TransactionError) else _unexpired(one, window, head_height, wall)
        for one in found
    ]


def _unexpired(
    transaction: CheckedTransaction, replay_window_blocks: int, head_height: int, wall: int
) -> CheckedTransaction | TransactionError:
    body, height_max = transaction.body, head_height + replay_window_blocks
    if body.valid_until_height <= head_height or body.valid_until_ms <= wall:
        return TransactionError(
            "The transaction has expired (valid_until_height or valid_until_ms has passed); sign "
            "it again with a later end."
        )
    if body.valid_until_height > height_max:
        return TransactionError(
            f"The transaction is valid until height {body.valid_until_height}, but at height "
            f"{head_height} this ledger allows at most {height_max}; sign it again."
        )
    return transaction
