"""What must be true of every run, checked while it happens (`Watch`) and at its end.

A checker raises a Violation with the facts. It looks at what correct nodes make durable, send and
tell their clients, and believes nothing else: Byzantine members are seen only through these.
"""

from collections.abc import Iterable, Mapping, Sequence

from consensus.certificates import CertificateError, SignatureCache, check_certificate
from consensus.committee import Committee
from consensus.events import Persist
from consensus.messages import (
    Certificate,
    Commit,
    Phase,
    Prepare,
    PrePrepare,
    Signed,
    ViewChange,
    claim_of,
    phase_of,
)
from ledger.execution import payload_batches
from ledger.genesis import Genesis
from ledger.operations import RecordShare
from ledger.receipts import DID_NOT_RUN, ReceiptCode
from ledger.state import EmptyState
from ledger.store import Write, WriteBlock, WritePromise
from ledger.transactions import CheckedTransaction
from ledger.trie import update
from node.events import Report
from node.wire import Consensus, Message
from simulations.model import Model
from simulations.store import MemoryStore
from simulations.workload import Acknowledged

SIGNATURES_REMEMBERED_MAX = 100_000


class Violation(Exception):
    """Something happened that must never happen."""


class NoProgress(Exception):
    """What should have happened after the healing did not."""


class PromiseBook:
    """All that one member has ever promised, whatever its disk has forgotten since."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._signed: dict[tuple[int, int, Phase], Signed] = {}
        self._views: dict[int, list[ViewChange]] = {}
        self._commits: dict[int, list[Commit]] = {}

    def add(self, signed: Signed) -> None:
        """One more promise became durable. Raises Violation if it contradicts an earlier one."""
        message = signed.message
        phase = phase_of(message)
        place = (message.height, message.view, phase)
        earlier = self._signed.setdefault(place, signed)
        if _value(earlier) != _value(signed):
            raise Violation(f"{self._id} contradicts itself: {_text(earlier)} and {_text(signed)}")
        view_changes = self._views.setdefault(message.height, [])
        commits = self._commits.setdefault(message.height, [])
        if isinstance(message, ViewChange):
            view_changes.append(message)
        elif any(view_change.view > message.view for view_change in view_changes):
            raise Violation(f"{self._id} signs {_text(signed)} in a view that it has left")
        if isinstance(message, Commit):
            commits.append(message)
        for view_change in view_changes:
            claimed = -1 if view_change.prepared is None else view_change.prepared.view
            if any(claimed < commit.view < view_change.view for commit in commits):
                raise Violation(f"{self._id} hides a block that it had prepared: {_text(signed)}")

    def holds(self, signed: Signed) -> bool:
        """Whether exactly this was promised."""
        message = signed.message
        kept = self._signed.get((message.height, message.view, phase_of(message)))
        return kept == signed


def _value(signed: Signed) -> object:
    """What a member commits itself to in one (height, view, phase)."""
    match signed.message:
        case PrePrepare(_, _, block):
            return block.hash
        case Prepare(_, _, block_hash) | Commit(_, _, block_hash):
            return block_hash
        case ViewChange(_, _, prepared):
            return claim_of(prepared)


def _text(signed: Signed) -> str:
    message = signed.message
    return f"{phase_of(message).name}({message.height}, {message.view})"


class Watch:
    """Sees every write, message and receipt of the correct nodes, in the order in which they come.

    Raises Violation out of whatever the node was doing.
    """

    def __init__(
        self,
        genesis: Genesis,
        committee: Committee,
        groups: Sequence[Sequence[str]],
        liars: Sequence[str],
    ) -> None:
        self.chain: dict[int, WriteBlock] = {}
        """The decided blocks, as the first node that applied each wrote it."""
        self._genesis = genesis
        self._committee = committee
        self._groups = groups
        self._liars = tuple(liars)
        self._books: dict[str, PromiseBook] = {}
        self._signatures = SignatureCache(SIGNATURES_REMEMBERED_MAX)

    # ---- what becomes durable --------------------------------------------------------------------

    def wrote(self, id: str, store: MemoryStore, writes: Iterable[Write]) -> None:
        """Check what a correct node has just made durable."""
        for write in writes:
            match write:
                case WritePromise(height, promise):
                    self._check_promise(id, store, height, promise)
                case WriteBlock():
                    self._check_block(id, write)
                case _:
                    pass

    def _check_promise(self, id: str, store: MemoryStore, height: int, promise: Persist) -> None:
        signed = promise.signed
        if (signed.signer, signed.message.height) != (id, height):
            raise Violation(f"{id} records {_text(signed)} of {signed.signer} at height {height}")
        self._books.setdefault(id, PromiseBook(id)).add(signed)
        # A block that was decided in the same turn has made the proposals of its height useless.
        undecided = (store.head_height() or 0) < height
        if undecided and isinstance(signed.message, Prepare | Commit):
            self._check_bodies(id, store, signed.message.block_hash)
        if isinstance(signed.message, Commit):
            certificate = promise.prepared
            place = (signed.message.view, signed.message.block_hash)
            if certificate is None or (certificate.view, certificate.block_hash) != place:
                raise Violation(f"{id} signs {_text(signed)} without a prepared certificate")
            self._check_certificate(id, certificate, Phase.PREPARE)

    def _check_bodies(self, id: str, store: MemoryStore, block_hash: bytes) -> None:
        """A vote for a block promises that the block and all its batches will be here."""
        block = store.proposal(block_hash)
        if block is None:
            raise Violation(f"{id} votes for block {block_hash.hex()[:8]}, which is not durable")
        for batch_id in payload_batches(block.payload):
            if store.batch(batch_id) is None:
                raise Violation(f"{id} votes for a block whose batches are not durable")

    def _check_certificate(self, id: str, certificate: Certificate, phase: Phase) -> None:
        chain_id = self._genesis.chain_id
        try:
            check_certificate(certificate, phase, chain_id, self._committee, self._signatures)
        except CertificateError as error:
            raise Violation(f"{id} holds a certificate that proves nothing: {error}") from error
        # Counted again by the definition, since the code under test has counted with its own.
        signers = [entry.signer for entry in certificate.signatures]
        for group in self._groups:
            present = sum(who in signers for who in group)
            if 2 * present <= len(group) + (len(group) - 1) // 3:
                raise Violation(f"{id} holds a certificate of {present} of {len(group)} voters")

    def _check_block(self, id: str, write: WriteBlock) -> None:
        block, certificate = write.decision.block, write.decision.certificate
        header = block.header
        if (certificate.height, certificate.block_hash) != (header.height, block.hash):
            raise Violation(f"{id} applies block {header.height} with the certificate of another")
        if certificate.view < header.view:
            raise Violation(f"{id} applies block {header.height}, decided before it was proposed")
        self._check_certificate(id, certificate, Phase.COMMIT)
        first = self.chain.setdefault(header.height, write)
        if first.decision.block.hash != block.hash:
            raise Violation(
                f"fork at height {header.height}: {id} applies {block.hash.hex()[:8]}, another "
                f"node {first.decision.block.hash.hex()[:8]}"
            )
        if tuple(first.receipts) != tuple(write.receipts):
            raise Violation(f"{id} has other receipts at height {header.height}")

    # ---- what leaves -----------------------------------------------------------------------------

    def sends(self, id: str, message: Message) -> None:
        """Check what a correct node is about to send: what it signs must be durable."""
        if isinstance(message, Consensus) and message.signed.signer == id:
            signed = message.signed
            if not self._books.setdefault(id, PromiseBook(id)).holds(signed):
                raise Violation(f"{id} sends {_text(signed)} before it is durable")

    def reported(self, id: str, report: Report) -> None:
        """Check what a correct node accuses others of."""
        facts = dict(report.facts)
        if report.event == "contradiction" and facts["institution"] not in self._liars:
            raise Violation(f"{id} has evidence against {facts['institution']}, which is correct")
        if report.event == "block_invalid" and not self._liars:
            raise Violation(f"{id} refuses a block of {facts['proposer']}: {facts['reason']}")


# ---- the end -------------------------------------------------------------------------------------


def check_stores(watch: Watch, stores: Mapping[str, MemoryStore]) -> None:
    """Check what the disks of the correct nodes hold in the end. Raises Violation."""
    for id, store in stores.items():
        _check_chain(id, store, watch.chain)
    by_head: dict[int, tuple[str, MemoryStore]] = {}
    for id, store in stores.items():
        height = store.head_height() or 0
        other_id, other = by_head.setdefault(height, (id, store))
        if (store.values, store.nodes) != (other.values, other.nodes):
            raise Violation(f"{id} and {other_id} differ in their state at height {height}")
    for id, store in by_head.values():
        header = store.header(store.head_height() or 0)
        root = update(EmptyState(), store.values).root
        if header is None or header.state_root != root:
            raise Violation(f"{id} holds a state that is not that of its head's state root")


def _check_chain(id: str, store: MemoryStore, chain: Mapping[int, WriteBlock]) -> None:
    parent = store.header(0)
    for height in range(1, (store.head_height() or 0) + 1):
        header, decision = store.header(height), store.decision(height)
        if header is None or decision is None or parent is None:
            raise Violation(f"{id} has lost block {height}")
        if header.parent_hash != parent.hash() or header.time_ms <= parent.time_ms:
            raise Violation(f"{id}: block {height} does not follow block {height - 1}")
        if header.hash() != chain[height].decision.block.hash or decision.block.header != header:
            raise Violation(f"{id}: block {height} is not the one that was decided")
        if store.receipts(height) != tuple(chain[height].receipts):
            raise Violation(f"{id}: the receipts of block {height} are not those that were decided")
        for batch in chain[height].batches:
            if store.batch(batch.id) != batch.raw:
                raise Violation(f"{id} has lost a batch of block {height}")
        parent = header


def check_meaning(genesis: Genesis, blocks: Iterable[WriteBlock]) -> None:
    """Run the decided blocks through the model: every receipt must be what the model says, and no
    share may rest on a grant that was revoked. Raises Violation.
    """
    model = Model(genesis)
    for write in blocks:
        header = write.decision.block.header
        transactions = [t for batch in write.batches for t in batch.transactions]
        if len(transactions) != len(write.receipts):
            raise Violation(f"block {header.height} has not one receipt per transaction")
        for transaction, receipt in zip(transactions, write.receipts, strict=True):
            revoked = _revoked_share(model, transaction)
            code, index = model.run(header.height, header.time_ms, transaction)
            if revoked is not None and receipt.code == ReceiptCode.OK:
                raise Violation(
                    f"block {header.height} shares under a grant revoked at height {revoked}"
                )
            if (receipt.transaction, receipt.code, receipt.operation) != (
                transaction.id,
                code,
                index,
            ):
                raise Violation(
                    f"block {header.height}: a receipt says {ReceiptCode(receipt.code).name} at "
                    f"operation {receipt.operation} where it should say {ReceiptCode(code).name} "
                    f"at {index}"
                )


def _revoked_share(model: Model, transaction: CheckedTransaction) -> int | None:
    """The height at which a grant that this transaction shares under was revoked before it."""
    for operation in transaction.body.operations:
        if isinstance(operation, RecordShare):
            height = model.revoked_height(operation.grant)
            if height:
                return height
    return None


def check_acknowledged(
    acknowledged: Mapping[bytes, Acknowledged], blocks: Iterable[WriteBlock]
) -> None:
    """Check that what clients were told stands, and that nothing ran twice. Raises Violation."""
    ran: dict[bytes, tuple[int, int, int]] = {}
    for write in blocks:
        height = write.decision.block.header.height
        for index, receipt in enumerate(write.receipts):
            if receipt.code in DID_NOT_RUN:
                continue
            if receipt.transaction in ran:
                raise Violation(f"transaction {receipt.transaction.hex()[:8]} ran twice")
            ran[receipt.transaction] = (height, index, receipt.code)
    for identity, told in acknowledged.items():
        if ran.get(identity) != (told.height, told.index, told.code):
            raise Violation(
                f"the acknowledged transaction {identity.hex()[:8]} of height {told.height} is lost"
            )
