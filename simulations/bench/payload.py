"""The transactions of a benchmark: each registers records, signed by an institution of its own.

What they commit to is drawn from the seed, so one seed submits the same content again.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ledger.operations import Labels, RegisterRecord
from ledger.transactions import (
    NONCE_BYTES,
    Envelope,
    Limits,
    TransactionBody,
    sign_transaction,
    transaction_id,
)
from primitives.codec import decode
from primitives.hashing import DIGEST_BYTES
from primitives.keys import PrivateKey

LIMITS = Limits()
"""A trial network's genesis file changes none of them."""
VALIDITY_MS = 10 * 60 * 1000
LABEL_CHARACTERS_MAX = 64
_LABELS = ("laboratory", "normal", "CN-GD", "bench", "unrated")
_PADDING_MAX = len(_LABELS) * LABEL_CHARACTERS_MAX - sum(map(len, _LABELS))


class SizeError(ValueError):
    """No transaction of this shape has about so many bytes; a sentence."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What each transaction is like."""

    operations: int
    labels: Labels
    size_bytes: int
    """With its signature; a few bytes more or less as heights have more or fewer digits."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A transaction ready to be sent."""

    id: str
    raw: bytes


def shape(operations: int, size_bytes: int) -> Shape:
    """Labels of such lengths that a transaction of one operation has about `size_bytes` bytes.

    Each further operation has the same labels, and adds to that. Raises SizeError.
    """
    least, most = _size(1, _labels(0)), _size(1, _labels(_PADDING_MAX))
    if not least <= size_bytes <= most:
        raise SizeError(
            f"A transaction that registers one record has {least} to {most} bytes, not "
            f"{size_bytes}."
        )
    padding = next(p for p in range(_PADDING_MAX + 1) if _size(1, _labels(p)) >= size_bytes)
    labels = _labels(padding)
    return Shape(operations, labels, _size(operations, labels))


def _labels(padding: int) -> Labels:
    """The labels, made longer by so many characters together."""
    padded = []
    for label in _LABELS:
        taken = min(padding, LABEL_CHARACTERS_MAX - len(label))
        padding -= taken
        padded.append(label + "-" * taken)
    return Labels(*padded)


def _size(operations: int, labels: Labels) -> int:
    key = PrivateKey(bytes(DIGEST_BYTES))
    made = sign(
        bytes(DIGEST_BYTES), [key], Shape(operations, labels, 0), 1_000, 1, random.Random(0)
    )
    return len(next(made).raw)


def sign(
    chain_id: bytes,
    keys: list[PrivateKey],
    wanted: Shape,
    valid_until_height: int,
    count: int,
    chance: random.Random,
) -> Iterator[Signed]:
    """Sign so many transactions, by the keys in turn."""
    valid_until_ms = time.time_ns() // 1_000_000 + VALIDITY_MS
    for number in range(count):
        key = keys[number % len(keys)]
        operations = tuple(
            RegisterRecord(chance.randbytes(DIGEST_BYTES), wanted.labels, None)
            for _ in range(wanted.operations)
        )
        nonce = chance.randbytes(NONCE_BYTES)
        body = TransactionBody(key.public, valid_until_height, valid_until_ms, nonce, operations)
        raw = sign_transaction(chain_id, key, body)
        signed = decode(raw, Envelope, bytes_max=len(raw)).body
        yield Signed(transaction_id(chain_id, signed).hex(), raw)
