"""What each `Write` is in SQL: statements with their rows, in order, to run as one transaction.

A block of a thousand transactions is some statements of a row for each batch. What follows from it
is not among them: storage/derived.py.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final, assert_never

from ledger.store import (
    Write,
    WriteBatch,
    WriteBlock,
    WriteGenesis,
    WritePromise,
)
from ledger.transactions import CheckedBatch
from primitives.block import BlockHeader
from primitives.codec import encode
from storage.seal import promise_row

Row = tuple[Any, ...]
Statement = tuple[str, Collection[Row]]

_BLOCK: Final = (
    "INSERT INTO block (height, hash, header, certificate, payload, receipts)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
_BATCH: Final = (
    "INSERT INTO batch (id, author, sequence, valid_until_height, height) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE SET height = excluded.height"
    " WHERE height IS NULL AND excluded.height IS NOT NULL"
)
_BATCH_BODY: Final = (
    "INSERT INTO batch_body (number, raw) SELECT number, ?2 FROM batch"
    " WHERE id = ?1 AND (height IS NULL OR height = ?3)"
    " ON CONFLICT (number) DO UPDATE SET raw = excluded.raw WHERE raw <> excluded.raw"
)
"""The id does not cover the signature: the author may have signed again, by a new key. Once a block
lists the batch, it stays as it is.
"""
_PROMISE: Final = "INSERT INTO promise (height, signed, prepared, block_hash) VALUES (?, ?, ?, ?)"
_PROPOSAL: Final = (
    "INSERT INTO proposal (hash, height, block) VALUES (?, ?, ?) ON CONFLICT (hash) DO NOTHING"
)
_DROP: Final = (
    "DELETE FROM promise WHERE height <= ?",
    "DELETE FROM proposal WHERE height <= ?",
    (
        "DELETE FROM batch_body WHERE number IN"
        " (SELECT number FROM batch WHERE height IS NULL AND valid_until_height <= ?)"
    ),
    "DELETE FROM batch WHERE height IS NULL AND valid_until_height <= ?",
)
"""What an applied block makes useless; a batch may be listed up to its valid_until_height."""


def statements(writes: Iterable[Write]) -> list[Statement]:
    """Return the statements that perform `writes`, to be run in order in one transaction."""
    found: list[Statement] = []
    for write in writes:
        match write:
            case WriteGenesis(header):
                found.append((_BLOCK, [_genesis_row(header)]))
            case WriteBatch(batch):
                found += _batches([batch], None)
            case WritePromise():
                found += _promise(write)
            case WriteBlock():
                found += _block(write)
            case _:
                assert_never(write)
    return [(sql, rows) for sql, rows in found if rows]


def _genesis_row(header: BlockHeader) -> Row:
    return (header.height, header.hash(), encode(header), None, b"", encode(()))


def _block(write: WriteBlock) -> Iterator[Statement]:
    block, certificate = write.decision.block, write.decision.certificate
    height = block.header.height
    row = (
        height,
        block.hash,
        encode(block.header),
        encode(certificate),
        block.payload,
        encode(tuple(write.receipts)),
    )
    yield _BLOCK, [row]
    yield from _batches(write.batches, height)
    for sql in _DROP:
        yield sql, [(height,)]


def _batches(batches: Sequence[CheckedBatch], height: int | None) -> Iterator[Statement]:
    yield (
        _BATCH,
        [
            (batch.id, batch.author, batch.sequence, batch.valid_until_height, height)
            for batch in batches
        ],
    )
    yield _BATCH_BODY, [(batch.id, batch.raw, height) for batch in batches]


def _promise(write: WritePromise) -> Iterator[Statement]:
    block = write.promise.block
    if block is not None:
        yield _PROPOSAL, [(block.hash, write.height, encode(block))]
    yield _PROMISE, [promise_row(write)]
