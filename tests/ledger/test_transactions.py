"""Transactions and batches: signatures and limits, checked without any state."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.operations import Labels, Operation, RegisterRecord, Revoke
from ledger.transactions import (
    ENVELOPE_BYTES_MAX,
    BatchBody,
    BatchError,
    CheckedBatch,
    CheckedTransaction,
    Envelope,
    Limits,
    TransactionBody,
    TransactionError,
    batch_id,
    check_batch,
    check_transaction,
    read_batch,
    read_transaction,
    seal_batch,
    sign_transaction,
    transaction_id,
)
from primitives.codec import encode
from tests.ledger.test_operations import operations
from tests.ledger.world import LABELS, key_of

CHAIN = bytes(32)
LIMITS = Limits()
AUTHOR = key_of("author")
MEMBER = key_of("hospital-0")
KEYS = {"hospital-0": MEMBER.public}


def body(*several: Operation, nonce: int = 0) -> TransactionBody:
    return TransactionBody(AUTHOR.public, 9, 99, nonce.to_bytes(16, "big"), several)


def transaction(*several: Operation, nonce: int = 0) -> CheckedTransaction:
    raw = sign_transaction(CHAIN, AUTHOR, body(*(several or (Revoke(CHAIN),)), nonce=nonce))
    return check_transaction(raw, CHAIN, LIMITS)


def batch_of(*transactions: CheckedTransaction) -> CheckedBatch:
    return seal_batch(CHAIN, MEMBER, "hospital-0", 7, 9, transactions)


@given(st.lists(operations, min_size=1, max_size=5))
def test_what_is_signed_is_what_is_checked(several: list[Operation]) -> None:
    signed = body(*several)
    checked = check_transaction(sign_transaction(CHAIN, AUTHOR, signed), CHAIN, LIMITS)
    assert checked.body == signed
    assert checked.id == transaction_id(CHAIN, encode(signed))
    assert checked == read_transaction(checked.raw, CHAIN)
    batch = batch_of(checked, transaction())
    assert check_batch(batch.raw, CHAIN, LIMITS, KEYS) == batch
    assert read_batch(batch.raw).transactions == (checked.raw, transaction().raw)
    assert batch.work == checked.work + transaction().work


def test_another_ledger_is_another_signature() -> None:
    other = bytes([1]) * 32
    with pytest.raises(TransactionError, match="signature is wrong"):
        check_transaction(transaction().raw, other, LIMITS)
    with pytest.raises(BatchError, match="not signed"):
        check_batch(batch_of(transaction()).raw, other, LIMITS, KEYS)


def test_only_the_author_signs() -> None:
    with pytest.raises(ValueError, match="not the key"):
        sign_transaction(CHAIN, MEMBER, body(Revoke(CHAIN)))


def test_every_flipped_bit_is_refused() -> None:
    raw = transaction().raw
    for position in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(TransactionError):
            check_transaction(bytes(changed), CHAIN, LIMITS)


def test_every_flipped_byte_of_a_batch_is_refused() -> None:
    raw = batch_of(transaction()).raw
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 0x55
        with pytest.raises(BatchError):
            check_batch(bytes(changed), CHAIN, LIMITS, KEYS)


@given(st.binary(max_size=300))
def test_garbage_is_refused(raw: bytes) -> None:
    with pytest.raises(TransactionError, match="cannot be read"):
        check_transaction(raw, CHAIN, LIMITS)
    with pytest.raises(BatchError, match="cannot be read"):
        check_batch(raw, CHAIN, LIMITS, KEYS)


def test_limits_of_a_transaction() -> None:
    raw = transaction(Revoke(CHAIN), Revoke(CHAIN)).raw
    cases = [
        (Limits(transaction_bytes_max=len(raw) - 1), "limit here is"),
        (Limits(transaction_operations_max=1), "2 operations"),
        (Limits(block_work_max=133), "134 units of work"),
    ]
    for limits, reason in cases:
        with pytest.raises(TransactionError, match=reason):
            check_transaction(raw, CHAIN, limits)
    exact = Limits(transaction_bytes_max=len(raw), transaction_operations_max=2, block_work_max=134)
    assert check_transaction(raw, CHAIN, exact).work == 134
    with pytest.raises(TransactionError, match="cannot be read"):
        check_transaction(sign_transaction(CHAIN, AUTHOR, body()), CHAIN, LIMITS)


@pytest.mark.parametrize("field", Labels.__struct_fields__)
def test_a_label_that_is_no_code_is_refused(field: str) -> None:
    assert transaction(RegisterRecord(CHAIN, LABELS, None)).work == 3
    for label in ("a,b", "\u00e9", "a\n", " a"):
        labels = msgspec.structs.replace(LABELS, **{field: label})
        bad = RegisterRecord(CHAIN, labels, None)
        # The last of several as well.
        raw = sign_transaction(CHAIN, AUTHOR, body(Revoke(CHAIN), bad))
        with pytest.raises(TransactionError, match="label that is no code"):
            check_transaction(raw, CHAIN, LIMITS)


def test_limits_of_a_batch() -> None:
    batch = batch_of(transaction(), transaction(nonce=1))
    cases = [
        (Limits(batch_bytes_max=len(batch.raw) - 1), "limit here is"),
        (Limits(batch_transactions_max=1), "2 transactions"),
        (Limits(transaction_bytes_max=99), "bad transaction"),
        (Limits(block_work_max=133), "134 units of work"),
    ]
    for limits, reason in cases:
        with pytest.raises(BatchError, match=reason):
            check_batch(batch.raw, CHAIN, limits, KEYS)
    exact = Limits(batch_bytes_max=len(batch.raw), batch_transactions_max=2, block_work_max=134)
    assert check_batch(batch.raw, CHAIN, exact, KEYS) == batch
    with pytest.raises(BatchError, match="cannot be read"):
        check_batch(batch_of().raw, CHAIN, LIMITS, KEYS)


def test_a_large_transaction_fits_a_batch_just_above_it() -> None:
    register = RegisterRecord(CHAIN, LABELS, CHAIN)
    large = transaction(*[register] * 400)
    overhead = len(seal_batch(CHAIN, MEMBER, "h" * 32, 2**63 - 1, 2**63 - 1, [large]).raw)
    assert overhead - len(large.raw) <= ENVELOPE_BYTES_MAX


def test_a_batch_needs_its_members_key() -> None:
    batch = batch_of(transaction())
    with pytest.raises(BatchError, match="not a member"):
        check_batch(batch.raw, CHAIN, LIMITS, {})
    with pytest.raises(BatchError, match="not signed with the key of hospital-0"):
        check_batch(batch.raw, CHAIN, LIMITS, {"hospital-0": AUTHOR.public})


def test_one_bad_signature_spoils_the_batch() -> None:
    good = transaction()
    forged = encode(Envelope(encode(body(Revoke(bytes([1]) * 32))), bytes(64)))
    batch = batch_of(good, msgspec.structs.replace(good, raw=forged))
    with pytest.raises(BatchError, match=r"bad transaction.*signature is wrong"):
        check_batch(batch.raw, CHAIN, LIMITS, KEYS)


def test_one_content_has_one_id_however_it_is_signed() -> None:
    one = transaction()
    content = encode(body(Revoke(CHAIN)))
    assert read_transaction(encode(Envelope(content, bytes(64))), CHAIN).id == one.id
    content = encode(BatchBody("hospital-0", 7, 9, (one.raw,)))
    assert batch_of(one).id == batch_id(CHAIN, content) != transaction_id(CHAIN, content)
