"""The two-level Merkle body of a block: chains, their entry blocks, and the directory over them.

The Merkle hierarchy of "A Medical Data Sharing Model via Blockchain" (Acta Automatica Sinica,
2017) with the trees of RFC 6962 (docs/ARCHITECTURE.md section 6). Every operation that succeeds is
an entry in each chain that it concerns. The entries of one chain in one block are the leaves of a
tree; (chain id, root, count), sorted by chain id, are the leaves of the directory. The head of a
chain in the state map accumulates block after block, so that whoever shows all entries with their
heights can be checked for having left none out:

    accumulated' = digest("chain-head", accumulated || height || time_ms || entry root || count)

with integers as 8 bytes big-endian. The block's time is in it because a notarised sharing without
its time is worth little.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat

from ledger.operations import Operation, Party
from ledger.receipts import Receipt, ReceiptCode
from ledger.rules import chains_of
from ledger.standing import author_of
from ledger.state import StateError
from ledger.store import StateReader
from ledger.transactions import CheckedTransaction
from primitives.codec import Canonical, Digest, PublicKey, UInt, encode, encode_each
from primitives.hashing import digest, digests
from primitives.merkle import leaf_hashes, sized_root, tree_root_of_hashes

Done = tuple[CheckedTransaction, Party]
"""A transaction that succeeded, and its author."""

_STEP = struct.Struct(">32sQQ32sQ")


class Entry(Canonical, frozen=True):
    """One operation in one chain."""

    transaction: Digest
    operation_index: UInt
    author: PublicKey
    operation: Operation


def entries_of(
    transactions: Sequence[CheckedTransaction],
    receipts: Sequence[Receipt],
    state: StateReader,
    member_ids: dict[bytes, str],
) -> dict[bytes, list[bytes]]:
    """Return the encoded entries of a block by chain id, each chain's in block order.

    `state` is that after the block, or any later one: it tells what never changes, such as the
    subject of a record. `member_ids` gives the members' ids by the key that they have in it.
    """
    done = []
    for transaction, receipt in zip(transactions, receipts, strict=True):
        if receipt.code != ReceiptCode.OK:
            continue
        author = author_of(state, member_ids, transaction.body.author)
        if author is None:
            raise StateError(f"The author of transaction {transaction.id.hex()} is not known.")
        done.append((transaction, author))
    entries: dict[bytes, list[bytes]] = {}
    for entry, chains in zip(*_entries(done, state), strict=True):
        for chain in chains:
            entries.setdefault(chain, []).append(entry)
    return entries


def entry_hashes(done: Iterable[Done], state: StateReader) -> dict[bytes, list[bytes]]:
    """Return the leaf hashes of the same entries, when the authors of what succeeded are known.

    It is all that a block needs of them, and hashes an entry of several chains once.
    """
    hashes: dict[bytes, list[bytes]] = {}
    entries, chains_of_each = _entries(done, state)
    for leaf, chains in zip(leaf_hashes(entries), chains_of_each, strict=True):
        for chain in chains:
            known = hashes.get(chain)
            if known is None:
                hashes[chain] = [leaf]
            else:
                known.append(leaf)
    return hashes


def _entries(
    done: Iterable[Done], state: StateReader
) -> tuple[list[bytes], list[tuple[bytes, ...]]]:
    """Return every entry in block order, encoded, and the ids of the chains of each."""
    entries, chains = [], []
    for transaction, author in done:
        identity, body = transaction.id, transaction.body
        key = body.author
        for index, operation in enumerate(body.operations):
            entries.append(Entry(identity, index, key, operation))
            chains.append(chains_of(operation, author, state))
    return encode_each(entries), chains


def directory_leaf(chain: bytes, root: bytes, count: int) -> bytes:
    """Return the leaf of the directory for a chain with `count` entries under the entry `root`."""
    return encode((chain, root, count))


def directory_leaves(
    roots: Mapping[bytes, bytes], entries: Mapping[bytes, Sequence[bytes]]
) -> list[bytes]:
    """Return the leaves of the directory over `roots`, which belong to these entries or hashes."""
    counts = [len(entries[chain]) for chain in roots]
    return encode_each(zip(roots, roots.values(), counts, strict=True))


def entry_roots(entries: Mapping[bytes, Sequence[bytes]]) -> dict[bytes, bytes]:
    """Return the root of every chain's entry block, sorted by chain id; see `roots_of_hashes`."""
    return roots_of_hashes({chain: leaf_hashes(listed) for chain, listed in entries.items()})


def roots_of_hashes(hashes: Mapping[bytes, Sequence[bytes]]) -> dict[bytes, bytes]:
    """Return the root of every chain's entry block, sorted by chain id, from its leaf hashes.

    The roots are plain ones: wherever they stand, the count stands beside them.
    """
    # Most chains have one entry in a block, and a tree of one leaf is that leaf's hash.
    return {
        chain: of_chain[0] if len(of_chain := hashes[chain]) == 1 else tree_root_of_hashes(of_chain)
        for chain in sorted(hashes)
    }


def accumulate(accumulated: bytes, height: int, time_ms: int, root: bytes, count: int) -> bytes:
    """Return a chain's accumulated hash after a block of this height and time."""
    return digest("chain-head", _STEP.pack(accumulated, height, time_ms, root, count))


def accumulate_each(
    accumulated: Iterable[bytes],
    height: int,
    time_ms: int,
    roots: Iterable[bytes],
    counts: Iterable[int],
) -> list[bytes]:
    """Return what `accumulate` does of several chains."""
    steps = map(_STEP.pack, accumulated, repeat(height), repeat(time_ms), roots, counts)
    return digests("chain-head", steps)


def receipts_root(receipts: Iterable[Receipt]) -> bytes:
    """Return the sized root over the encoded receipts of a block."""
    return sized_root(encode_each(receipts))
