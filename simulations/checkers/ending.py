"""What must be true when a run is over: of the disks, of what the blocks mean, and of what clients
were told.
"""

from collections.abc import Iterable, Mapping

from ledger.genesis import Genesis
from ledger.operations import RecordShare
from ledger.receipts import DID_NOT_RUN, Receipt, ReceiptCode
from ledger.state import EmptyState
from ledger.store import WriteBlock
from ledger.transactions import CheckedTransaction
from ledger.trie import update
from primitives.block import BlockHeader
from simulations.checkers.violation import Violation
from simulations.checkers.watch import Watch
from simulations.model import Model
from simulations.store import MemoryStore
from simulations.workload import Acknowledged


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
        _check_validity(header, zip(transactions, write.receipts, strict=True))
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
        turns = model.government.turns
        if header.proposer != turns[(header.height + header.view) % len(turns)]:
            raise Violation(f"block {header.height} is of {header.proposer}, whose turn it was not")
        model.finish(header.height, header.view, header.proposer)
        if model.government.committee().hash != header.next_committee_hash:
            raise Violation(f"block {header.height} names another committee than it should")


def _check_validity(
    header: BlockHeader, receipts: Iterable[tuple[CheckedTransaction, Receipt]]
) -> None:
    """What its author bounded in height and time never runs beyond either."""
    for transaction, receipt in receipts:
        body = transaction.body
        late = body.valid_until_height < header.height or body.valid_until_ms < header.time_ms
        if late and receipt.code not in DID_NOT_RUN:
            raise Violation(f"block {header.height} runs a transaction that had expired")


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
