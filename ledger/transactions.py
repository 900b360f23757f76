"""Transactions and batches: their canonical bytes, identity, signature, and context-free checks.

A signed body is kept as opaque bytes next to its signature: the id is a hash over exactly those
bytes, so nothing is ever encoded again to be checked. The id does not cover the signature, so one
content has one id however it is signed. Checks here need no state (docs/ARCHITECTURE.md section 5);
whether a key may act is decided at execution.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Final

import msgspec

from ledger.operations import Operation, RegisterRecord, are_codes, work_of
from primitives.codec import (
    Canonical,
    CodecError,
    Height,
    InstitutionId,
    Milliseconds,
    PublicKey,
    SignatureBytes,
    UInt,
    decode,
    encode,
)
from primitives.hashing import digest
from primitives.keys import PrivateKey, Signed, VerifyEach, verify, verify_each

LAG_BLOCKS: Final = 8
"""A voter may be so many blocks behind and go on without asking anybody (consensus/intake.py)."""
NONCE_BYTES: Final = 16
OPERATIONS_MAX: Final = 1_000
"""Operations in one transaction, whatever genesis allows."""
TRANSACTIONS_MAX: Final = 10_000
"""Transactions in one batch, whatever genesis allows."""
NO_KEY: Final = b""
"""In the place of a key: nobody's."""
ENVELOPE_BYTES_MAX: Final = 128
"""Signature, framing and fixed fields around the transactions of a batch."""


class TransactionError(ValueError):
    """A transaction that can never be valid; the message says why.

    It is refused before it enters a batch.
    """


class BatchError(ValueError):
    """A batch that no voter may accept; the message says why."""


class TransactionBody(Canonical, frozen=True):
    """What the author signs."""

    author: PublicKey
    valid_until_height: Height
    """The last block that may run it, at most `replay_window_blocks` ahead."""
    valid_until_ms: Milliseconds
    """The last block time, in milliseconds since 1970-01-01 00:00 UTC, at which it may run."""
    nonce: Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    operations: Annotated[
        tuple[Operation, ...], msgspec.Meta(min_length=1, max_length=OPERATIONS_MAX)
    ]
    """All take effect, or none."""


class BatchBody(Canonical, frozen=True):
    """What a member signs over the transactions it collected."""

    author: InstitutionId
    sequence: UInt
    """Used at most once per author within the replay window."""
    valid_until_height: Height
    """The last block that may list it, at most `replay_window_blocks` ahead."""
    transactions: Annotated[
        tuple[bytes, ...], msgspec.Meta(min_length=1, max_length=TRANSACTIONS_MAX)
    ]


class Envelope(Canonical, frozen=True):
    """Canonical bytes of a body and the signature over its id."""

    body: bytes
    signature: SignatureBytes


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of docs/ARCHITECTURE.md section 5 that genesis fixes for every node."""

    transaction_bytes_max: int = 64 * 1024
    transaction_operations_max: int = 500
    batch_bytes_max: int = 1024 * 1024
    batch_transactions_max: int = 2_000
    block_bytes_max: int = 4 * 1024 * 1024
    block_batches_max: int = 256
    block_work_max: int = 20_000
    replay_window_blocks: int = 1_000

    @property
    def validity_blocks(self) -> int:
        """How far above its maker's head a transaction or a batch had best end: so short of
        `replay_window_blocks` that a node which is some blocks behind takes it as well.
        """
        return self.replay_window_blocks - min(LAG_BLOCKS, self.replay_window_blocks // 2)


class CheckedTransaction(msgspec.Struct, frozen=True, gc=False):
    """A transaction whose bytes, limits and signature are right; `check_transaction` makes it."""

    id: bytes
    raw: bytes
    body: TransactionBody
    work: int
    """The units of work that it takes from `block_work_max`."""


@dataclass(frozen=True, slots=True)
class CheckedBatch:
    """A batch whose bytes, limits and every signature are right.

    `check_batch` and `seal_batch` make it; so does `read_decided_batch`, for a block whose
    certificate says the same of its transactions. `signer_key` is the key that signed it; whether
    it is the author's in the parent state is decided per block.
    """

    id: bytes
    raw: bytes
    author: str
    sequence: int
    valid_until_height: int
    signer_key: bytes
    transactions: tuple[CheckedTransaction, ...]
    work: int = field(init=False)
    """The units of work that it takes from `block_work_max`."""

    def __post_init__(self) -> None:
        """Count the work once: each block that may list the batch asks for it."""
        work = sum(transaction.work for transaction in self.transactions)
        object.__setattr__(self, "work", work)


_FORGED: Final = (
    "The transaction's signature is wrong: sign it with its author's key, for this ledger's chain "
    "id."
)

Known = Callable[[bytes], CheckedBatch | None]
"""A checked batch by id, where it is at hand."""


def transaction_id(chain_id: bytes, body: bytes) -> bytes:
    """Return the id of a transaction, which its author signs: 32 bytes."""
    return digest("transaction", chain_id + body)


def batch_id(chain_id: bytes, body: bytes) -> bytes:
    """Return the id of a batch, which its author signs: 32 bytes."""
    return digest("batch", chain_id + body)


def sign_transaction(chain_id: bytes, key: PrivateKey, body: TransactionBody) -> bytes:
    """Return the wire bytes of a transaction signed by its author's key."""
    if body.author != key.public:
        raise ValueError("The transaction's author is not the key that signs it.")
    raw = encode(body)
    return encode(Envelope(raw, key.sign(transaction_id(chain_id, raw))))


def check_transaction(raw: bytes, chain_id: bytes, limits: Limits) -> CheckedTransaction:
    """Decode a transaction and check its limits and signature.

    Raises TransactionError. Measured: 80 us for 300 bytes, nearly all of it the signature.
    """
    transaction, signed = _read_transaction(raw, chain_id, limits)
    if not verify(*signed):
        raise TransactionError(_FORGED)
    return transaction


def check_transactions(
    raws: Sequence[bytes], chain_id: bytes, limits: Limits, verify_all: VerifyEach = verify_each
) -> list[CheckedTransaction | TransactionError]:
    """Check each transaction like `check_transaction`, all signatures by one call."""
    found: list[CheckedTransaction | TransactionError] = []
    signatures: list[Signed] = []
    for raw in raws:
        try:
            transaction, signed = _read_transaction(raw, chain_id, limits)
        except TransactionError as error:
            found.append(error)
        else:
            found.append(transaction)
            signatures.append(signed)
    good = iter(verify_all(signatures))
    return [
        one if isinstance(one, TransactionError) or next(good) else TransactionError(_FORGED)
        for one in found
    ]


def _read_transaction(
    raw: bytes, chain_id: bytes, limits: Limits
) -> tuple[CheckedTransaction, Signed]:
    """A transaction within the limits, and its signature. Raises TransactionError."""
    try:
        envelope = decode(raw, Envelope, bytes_max=limits.transaction_bytes_max)
        body = decode(envelope.body, TransactionBody, bytes_max=limits.transaction_bytes_max)
    except CodecError as error:
        raise TransactionError(f"The transaction cannot be read. {error}") from error
    operations = len(body.operations)
    if operations > limits.transaction_operations_max:
        raise TransactionError(
            f"The transaction has {operations} operations, and this ledger allows "
            f"{limits.transaction_operations_max}: split it."
        )
    for operation in body.operations:
        if isinstance(operation, RegisterRecord) and not are_codes(operation.labels):
            raise TransactionError(
                "The transaction has a label that is no code: use 1 to 64 of A-Z a-z 0-9 space and "
                "._:/+- that start with a letter or digit."
            )
    work = work_of(body.operations)
    if work > limits.block_work_max:
        raise TransactionError(
            f"The transaction is {work} units of work, and a block of this ledger holds "
            f"{limits.block_work_max}: split it."
        )
    identity = transaction_id(chain_id, envelope.body)
    signed = (body.author, identity, envelope.signature)
    return CheckedTransaction(identity, raw, body, work), signed


def seal_batch(
    chain_id: bytes,
    key: PrivateKey,
    author: str,
    sequence: int,
    valid_until_height: int,
    transactions: Sequence[CheckedTransaction],
) -> CheckedBatch:
    """Sign checked transactions as one batch of this member, who keeps to the ledger's limits."""
    body = encode(
        BatchBody(author, sequence, valid_until_height, tuple(t.raw for t in transactions))
    )
    identity = batch_id(chain_id, body)
    raw = encode(Envelope(body, key.sign(identity)))
    return CheckedBatch(
        identity, raw, author, sequence, valid_until_height, key.public, tuple(transactions)
    )


def check_batch(
    raw: bytes,
    chain_id: bytes,
    limits: Limits,
    key_of: Mapping[str, bytes],
    known: Known | None = None,
    verify_all: VerifyEach = verify_each,
) -> CheckedBatch:
    """Decode a batch and check its limits, its signature and that of every transaction.

    `key_of` gives the members' current keys by institution id. What `known` returns for the same
    bytes has been checked before. `verify_all` is asked for all signatures at once. One bad
    signature makes the whole batch unusable. Raises BatchError.
    """
    envelope, body = _read_within(raw, limits)
    identity = batch_id(chain_id, envelope.body)
    batch = _same(known, identity, raw)
    if batch is not None:
        return batch
    key = key_of.get(body.author)
    if key is None:
        raise BatchError(f"The batch's author {body.author} is not a member.")
    read = _read_transactions(body, chain_id, limits)
    good = verify_all([(key, identity, envelope.signature), *(signed for _, signed in read)])
    if not good[0]:
        raise BatchError(f"The batch is not signed with the key of {body.author}.")
    if not all(good):
        raise BatchError(f"The batch of {body.author} holds a bad transaction. {_FORGED}")
    transactions = tuple(transaction for transaction, _ in read)
    return _checked_batch(raw, identity, body, key, transactions, limits)


def _same(known: Known | None, identity: bytes, raw: bytes) -> CheckedBatch | None:
    """The batch of these bytes, where it has been checked before."""
    batch = None if known is None else known(identity)
    return batch if batch is not None and batch.raw == raw else None


def read_decided_batch(
    raw: bytes,
    chain_id: bytes,
    limits: Limits,
    key_of: Mapping[str, bytes],
    known: Known | None = None,
) -> CheckedBatch:
    """Decode a batch and check all but the signatures of its transactions.

    A block's certificate vouches for these: the id of a batch covers them, and a voter votes for no
    block with a bad one. So whoever uses the batch must have checked the certificate of a block
    that lists it. The batch's own signature is under no hash. If it is not by the author's key in
    `key_of`, which may be another than when the block was decided, `signer_key` is empty: see
    `signed_by`. What `known` returns for the same bytes is taken as it is. Raises BatchError.
    """
    envelope, body = _read_within(raw, limits)
    identity = batch_id(chain_id, envelope.body)
    batch = _same(known, identity, raw)
    if batch is not None:
        return batch
    key = key_of.get(body.author, NO_KEY)
    if key and not verify(key, identity, envelope.signature):
        key = NO_KEY
    read = _read_transactions(body, chain_id, limits)
    transactions = tuple(transaction for transaction, _ in read)
    return _checked_batch(raw, identity, body, key, transactions, limits)


def signed_by(batch: CheckedBatch, key: bytes) -> CheckedBatch | None:
    """Return the batch with `key` as its signer, or None if that key has not signed it."""
    if batch.signer_key == key:
        return batch
    envelope = decode(batch.raw, Envelope, bytes_max=len(batch.raw))
    return replace(batch, signer_key=key) if verify(key, batch.id, envelope.signature) else None


def _read_within(raw: bytes, limits: Limits) -> tuple[Envelope, BatchBody]:
    """A batch within the limits of bytes and transactions. Raises BatchError."""
    try:
        envelope, body = _read_batch(raw, limits.batch_bytes_max)
    except CodecError as error:
        raise BatchError(f"The batch cannot be read. {error}") from error
    if len(body.transactions) > limits.batch_transactions_max:
        raise BatchError(
            f"The batch of {body.author} has {len(body.transactions)} transactions, and this "
            f"ledger allows {limits.batch_transactions_max}."
        )
    return envelope, body


def _read_transactions(
    body: BatchBody, chain_id: bytes, limits: Limits
) -> list[tuple[CheckedTransaction, Signed]]:
    """The transactions of a batch, and their signatures. Raises BatchError."""
    try:
        return [_read_transaction(raw, chain_id, limits) for raw in body.transactions]
    except TransactionError as error:
        raise BatchError(f"The batch of {body.author} holds a bad transaction. {error}") from error


def _checked_batch(
    raw: bytes,
    identity: bytes,
    body: BatchBody,
    key: bytes,
    transactions: tuple[CheckedTransaction, ...],
    limits: Limits,
) -> CheckedBatch:
    """A batch within the limit of work. Raises BatchError."""
    batch = CheckedBatch(
        identity, raw, body.author, body.sequence, body.valid_until_height, key, transactions
    )
    if batch.work > limits.block_work_max:
        raise BatchError(
            f"The batch of {body.author} is {batch.work} units of work, and a block of this ledger "
            f"holds {limits.block_work_max}."
        )
    return batch


def read_batch(raw: bytes) -> BatchBody:
    """Return the body of a batch that was checked before it was stored. Raises CodecError."""
    return _read_batch(raw, len(raw))[1]


def read_transaction(raw: bytes, chain_id: bytes) -> CheckedTransaction:
    """Return a transaction whose signature was checked before it was stored. Raises CodecError."""
    envelope = decode(raw, Envelope, bytes_max=len(raw))
    body = decode(envelope.body, TransactionBody, bytes_max=len(raw))
    identity = transaction_id(chain_id, envelope.body)
    return CheckedTransaction(identity, raw, body, work_of(body.operations))


def _read_batch(raw: bytes, bytes_max: int) -> tuple[Envelope, BatchBody]:
    envelope = decode(raw, Envelope, bytes_max=bytes_max)
    return envelope, decode(envelope.body, BatchBody, bytes_max=bytes_max)
