"""The seal: one digest over everything in the database that decides whether and how the node votes.

A voter whose promise is lost may vote the opposite. SQLite notices a page that it cannot follow,
not a bit that turned in a page that it can: one wrong bit may hide a promise, move it to another
height, take the node's word that it abstains, or set the head back to a height where it has voted
before. The seal is written in the transaction that changes any of this, and compared when the node
starts. What is older as a whole, and so still fits its seal, is what the boot counter finds
(storage/boots.py). The rest of the file cannot make a node contradict itself: blocks and batches
are checked against their hashes when they are read (storage/checked.py), and a wrong state shows in
the roots of the first block that uses it.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from ledger.store import Write, WriteBlock, WriteGenesis, WritePromise
from primitives.codec import CodecError, encode
from primitives.hashing import digest
from storage.boots import Counts

_PROMISES: Final = "SELECT height, signed, prepared, block_hash FROM promise ORDER BY number"
_HEAD: Final = "SELECT height, hash FROM block ORDER BY height DESC LIMIT 1"
_META: Final = "SELECT chain_id, boots, restored FROM meta"
_MADE: Final = "SELECT seq FROM sqlite_sequence WHERE name = 'promise'"

Row = tuple[Any, ...]


class SealError(ValueError):
    """What the seal covers is not what it was made of; the message is a clause."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What the seal covers. `promises` holds height and digest of every promise that is kept."""

    chain_id: bytes
    counts: Counts
    restored: bool
    head: tuple[int, bytes] | None
    promises: tuple[tuple[int, bytes], ...]

    def seal(self) -> bytes:
        """Return the seal, 32 bytes."""
        head = (-1, b"") if self.head is None else self.head
        parts = (
            self.chain_id,
            self.counts.boots,
            self.counts.promises,
            self.restored,
            head,
            self.promises,
        )
        return digest("storage-seal", encode(parts))

    def after(self, writes: Iterable[Write]) -> "Sealed":
        """Return what is covered once `writes` are done. A promise ends the verdict `restored`."""
        made, restored, head = self.counts.promises, self.restored, self.head
        promises = list(self.promises)
        for write in writes:
            match write:
                case WritePromise():
                    made, restored = made + 1, False
                    promises.append((write.height, _digest(promise_row(write))))
                case WriteBlock(decision):
                    header = decision.block.header
                    head = (header.height, header.hash())
                    promises = [kept for kept in promises if kept[0] > header.height]
                case WriteGenesis(header):
                    head = (header.height, header.hash())
                case _:
                    pass
        counts = Counts(self.counts.boots, made)
        return replace(self, counts=counts, restored=restored, head=head, promises=tuple(promises))


def promise_row(write: WritePromise) -> Row:
    """Return a promise as it is stored: height, message, prepared certificate, block hash."""
    promise = write.promise
    prepared = None if promise.prepared is None else encode(promise.prepared)
    block_hash = None if promise.block is None else promise.block.hash
    return (write.height, encode(promise.signed), prepared, block_hash)


def read_sealed(connection: sqlite3.Connection) -> Sealed:
    """Return what an open database says. Raises SealError unless its seal fits."""
    sealed = unchecked(connection)
    if connection.execute("SELECT seal FROM meta").fetchone() != (sealed.seal(),):
        raise SealError("its head, its starts or the node's promises are not what was stored last")
    return sealed


def unchecked(connection: sqlite3.Connection) -> Sealed:
    """Return what the seal should cover. Raises SealError for what cannot have been stored."""
    ((chain_id, boots, restored),) = connection.execute(_META)
    made = connection.execute(_MADE).fetchone() or (0,)
    head = connection.execute(_HEAD).fetchone()
    try:
        promises = tuple((row[0], _digest(row)) for row in connection.execute(_PROMISES))
        sealed = Sealed(chain_id, Counts(boots, made[0]), bool(restored), head, promises)
        sealed.seal()
    except (CodecError, TypeError) as error:
        raise SealError("its record of starts and promises cannot be read") from error
    return sealed


def _digest(row: Row) -> bytes:
    return digest("storage-promise", encode(row))
