"""Reading blocks back: where a transaction is, what it said, what became of it. Runs in the
reader's thread.
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from ledger.execution import stored_block
from ledger.operations import Party
from ledger.receipts import Receipt, ReceiptCode
from ledger.rules import chains_of
from ledger.standing import author_of
from ledger.state import Overlay, StateError, members
from ledger.store import LedgerReader
from ledger.transactions import CheckedTransaction, read_transaction
from node.methods.backend import AppliedBlock
from node.methods.views import (
    HistoryEntry,
    TransactionView,
    code_meaning,
    code_name,
    operation_view,
    party_view,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The final outcome of a transaction: where it ran (or expired), and its receipt."""

    id: bytes
    height: int
    index: int
    code: int
    operation: int
    """The index of the operation that failed, if one did."""


def outcomes(reader: LedgerReader, ids: Sequence[bytes]) -> list[Outcome]:
    """The outcomes of those of these transactions that have run."""
    receipts: dict[int, tuple[Receipt, ...]] = {}
    found = []
    for identity in ids:
        position = reader.transaction_position(identity)
        if position is None:
            continue
        height, index = position
        if height not in receipts:
            receipts[height] = receipts_of(reader, height)
        receipt = receipts[height][index]
        if receipt.transaction != identity:
            raise StateError(f"The index says that {identity.hex()} is where another ran.")
        found.append(Outcome(identity, height, index, receipt.code, receipt.operation))
    return found


def outcomes_in(reader: LedgerReader, height: int, wanted: Container[bytes]) -> list[Outcome]:
    """The outcomes of the wanted transactions that a block lists, expired ones included.

    A transaction that expired before it ran has no position; as heights and block times only grow,
    it never will.
    """
    listed = [
        (index, receipt)
        for index, receipt in enumerate(receipts_of(reader, height))
        if receipt.transaction in wanted
    ]
    found = {o.id: o for o in outcomes(reader, [receipt.transaction for _, receipt in listed])}
    for index, receipt in listed:
        if receipt.code == ReceiptCode.EXPIRED and receipt.transaction not in found:
            identity = receipt.transaction
            found[identity] = Outcome(identity, height, index, receipt.code, 0)
    return list(found.values())


def outcomes_of(block: AppliedBlock, height: int, wanted: Container[bytes]) -> list[Outcome]:
    """The same from memory, for waits that have looked up what ran before."""
    ran = dict.fromkeys(block.executed)
    return [
        Outcome(receipt.transaction, height, index, receipt.code, receipt.operation)
        for index, receipt in enumerate(block.receipts)
        if receipt.transaction in wanted and (index in ran or receipt.code == ReceiptCode.EXPIRED)
    ]


class BlockContent:
    """One applied block with its transactions. Genesis has none."""

    def __init__(self, reader: LedgerReader, height: int) -> None:
        """Raises StateError if the store has lost part of the block."""
        header = reader.header(height)
        if header is None:
            raise StateError(f"The store has lost block {height}.")
        self.header = header
        self.receipts: tuple[Receipt, ...] = ()
        self._raws: list[bytes] = []
        if height > 0:
            block = stored_block(reader, height)
            self.receipts = block.receipts
            self._raws = [raw for batch in block.batches for raw in batch.transactions]
        self.operations_read = 0
        """Operations that `entries` has looked at: what a history costs."""
        # Remembers what was read: many operations of a block concern the same.
        self._state = Overlay(reader)
        self._member_ids = {member.key: member.id for member in members(reader)}

    def transaction(self, index: int) -> CheckedTransaction:
        """Transaction number `index`."""
        return read_transaction(self._raws[index], self.header.chain_id)

    def transactions(self) -> Iterator[CheckedTransaction]:
        """All transactions, in order."""
        for raw in self._raws:
            yield read_transaction(raw, self.header.chain_id)

    def view(self, index: int, transaction: CheckedTransaction) -> TransactionView:
        """Transaction number `index` as an app sees it."""
        body = transaction.body
        receipt = self.receipts[index]
        author = author_of(self._state, self._member_ids, body.author)
        return TransactionView(
            id=transaction.id.hex(),
            height=self.header.height,
            index=index,
            time_ms=self.header.time_ms,
            code=receipt.code,
            name=code_name(receipt.code),
            meaning=code_meaning(receipt.code),
            author_key=body.author.hex(),
            author=party_view(author),
            valid_until_height=body.valid_until_height,
            valid_until_ms=body.valid_until_ms,
            operations=tuple(
                operation_view(operation, transaction.id, number, author)
                for number, operation in enumerate(body.operations)
            ),
            failed_operation=receipt.operation if receipt.code else None,
        )

    def chains(self, index: int, transaction: CheckedTransaction) -> tuple[bytes, ...]:
        """The chains that a transaction has entries in, each once; none if it failed."""
        if self.receipts[index].code != ReceiptCode.OK:
            return ()
        author = self._author(transaction)
        found: dict[bytes, None] = {}
        for operation in transaction.body.operations:
            found.update(dict.fromkeys(chains_of(operation, author, self._state)))
        return tuple(found)

    def entries(self, chain: bytes) -> list[HistoryEntry]:
        """The block's entries in one chain, in order."""
        found = []
        for index, transaction in enumerate(self.transactions()):
            if self.receipts[index].code != ReceiptCode.OK:
                continue
            author = self._author(transaction)
            self.operations_read += len(transaction.body.operations)
            for number, operation in enumerate(transaction.body.operations):
                if chain in chains_of(operation, author, self._state):
                    found.append(
                        HistoryEntry(
                            height=self.header.height,
                            index=index,
                            time_ms=self.header.time_ms,
                            transaction=transaction.id.hex(),
                            operation_index=number,
                            author=party_view(author),
                            operation=operation_view(operation, transaction.id, number, author),
                        )
                    )
        return found

    def _author(self, transaction: CheckedTransaction) -> Party:
        """Who signed a transaction that succeeded."""
        author = author_of(self._state, self._member_ids, transaction.body.author)
        if author is None:
            raise StateError(f"The store has lost the author of {transaction.id.hex()}.")
        return author


def receipts_of(reader: LedgerReader, height: int) -> tuple[Receipt, ...]:
    """The receipts of a block; none for genesis."""
    return reader.receipts(height) or ()
