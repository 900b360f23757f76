"""A reader that hands out nothing that is not what was stored, for peers, clients and proofs.

SQLite does not see a flipped bit in what a row holds. Whoever asks a node for a block or batch
checks it anyway, and so does whoever is shown a proof; an application that asks its own node does
not. So here every read is held against what it follows from, and a difference is a DamagedError
that stops the node rather than mislead anyone:

* a header against its hash and height, a block's payload and its receipts against the header's
  roots, a batch against its id: 3 to 30 us, and 2 us for each receipt;
* a value of the state, and that there is none, against the state root of the head: some 100 us.

Who executes blocks reads values and receipts with memory (`cached`) and without these two checks:
what follows from a wrong one are other roots than the proposer's, so that the first block which
uses it shows it. Signatures inside certificates and batches are checked by whoever relies on them,
and an entry that is lost from an index (transaction id to place, chain to heights) is found by
`medpact verify` and by proofs, which count.
"""

from typing import Any

from consensus.events import Persist
from consensus.messages import Certificate, Decision
from ledger.entries import receipts_root
from ledger.execution import BlockError, payload_batches
from ledger.receipts import Receipt
from ledger.state import StateError
from ledger.transactions import Envelope, batch_id
from ledger.trie import ProofError, check_value, prove_value
from primitives.block import Block, BlockHeader
from primitives.merkle import sized_root
from storage.errors import DamagedError, derived_path
from storage.reader import SqliteReader


class CheckedReader(SqliteReader):
    """SqliteReader with a check of all that it returns. Its methods raise StorageError."""

    _chain_id: bytes | None = None

    def header(self, height: int) -> BlockHeader | None:
        """Return the header at a height."""
        row = self._row("SELECT hash, header FROM block WHERE height = ?", height)
        return None if row is None else self._header(height, *row)

    def decision(self, height: int) -> Decision | None:
        """Return the decided block with its commit certificate; genesis has none."""
        row = self._row(
            "SELECT hash, header, payload, certificate FROM block"
            " WHERE height = ? AND certificate IS NOT NULL",
            height,
        )
        if row is None:
            return None
        header = self._header(height, row[0], row[1])
        certificate = self._decode(row[3], Certificate, f"certificate {height}")
        if (certificate.height, certificate.block_hash) != (height, row[0]):
            raise self._damaged(f"the certificate {height} is for another block")
        return Decision(self._block(header, row[2], f"block {height}"), certificate)

    def receipts(self, height: int) -> tuple[Receipt, ...] | None:
        """Return the receipts of a block, in the order of its transactions."""
        found = super().receipts(height)
        if found and not self._cached:
            header = self.header(height)
            if header is None or receipts_root(found) != header.receipts_root:
                raise self._damaged(f"the receipts of block {height} are not those of its header")
        return found

    def batch(self, batch_id: bytes) -> bytes | None:
        """Return the raw bytes of a stored batch, decided or not."""
        raw = super().batch(batch_id)
        return None if raw is None else self._batch(batch_id, raw)

    def pending_batches(self) -> tuple[bytes, ...]:
        """Return the raw bytes of batches that no applied block lists, in the order they came."""
        rows = self.rows(
            "SELECT id, raw FROM batch LEFT JOIN batch_body USING (number)"
            " WHERE batch.height IS NULL ORDER BY number"
        )
        return tuple(self._batch(*row) for row in rows)

    def proposal(self, block_hash: bytes) -> Block | None:
        """Return an undecided block stored with a promise."""
        block = super().proposal(block_hash)
        return None if block is None else self._undecided(block_hash, block)

    def promises(self, height: int) -> tuple[Persist, ...]:
        """Return what this node has signed at a height, in the order it was written."""
        found = super().promises(height)
        for promise in found:
            if promise.block is not None:
                self._undecided(promise.block.hash, promise.block)
        return found

    def value(self, key: bytes) -> bytes | None:
        """Return the canonical value bytes under a key, or None."""
        if self._cached:
            return super().value(key)
        if self._connection.in_transaction:
            return self._proved(key)
        with self.snapshot():
            return self._proved(key)

    def _proved(self, key: bytes) -> bytes | None:
        found = super().value(key)
        header = self.header(self.state_height())
        if header is None:
            return found
        try:
            check_value(prove_value(self, key), key, found, header.state_root)
        except (ProofError, StateError) as error:
            what = f"the state holds something else under {key.hex()} than its root says"
            raise DamagedError(derived_path(self._path), what) from error
        return found

    # ---- what must follow from what --------------------------------------------------------------

    def _header(self, height: int, block_hash: Any, raw: Any) -> BlockHeader:
        header = self._decode(raw, BlockHeader, f"header {height}")
        if header.height != height or header.hash() != block_hash:
            raise self._damaged(f"the header {height} is not that of its hash")
        return header

    def _undecided(self, block_hash: bytes, block: Block) -> Block:
        if block.hash != block_hash:
            raise self._damaged("a stored proposal is not that of its hash")
        return self._block(block.header, block.payload, "stored proposal")

    def _block(self, header: BlockHeader, payload: Any, what: str) -> Block:
        try:
            root = sized_root(payload_batches(payload))
        except (BlockError, TypeError):
            root = b""
        if root != header.batches_root:
            raise self._damaged(f"the list of batches of the {what} is not that of its header")
        return Block(header, payload)

    def _batch(self, id: Any, raw: Any) -> bytes:
        if self._chain_id is None:
            ((self._chain_id,),) = self.rows("SELECT chain_id FROM meta")
        envelope = self._decode(raw, Envelope, "batch")
        if batch_id(self._chain_id, envelope.body) != id:
            raise self._damaged("a batch is not that of its id")
        return bytes(raw)

    def _damaged(self, what: str) -> DamagedError:
        return DamagedError(self._path, what)
