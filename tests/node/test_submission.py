"""Operations are split into as few transactions as the ledger's limits allow, in order."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ledger.operations import EnrolPerson, Labels, Operation, RegisterRecord
from ledger.transactions import Limits, TransactionBody, check_transaction, sign_transaction
from node.submission import partition
from primitives.hashing import digest
from primitives.keys import PrivateKey

KEY = PrivateKey(bytes(32))
CHAIN = bytes(32)


def _operation(number: int, size: int) -> Operation:
    commitment = digest("tests", number.to_bytes(8, "big"))
    if size == 0:
        return EnrolPerson(commitment, "patient")
    return RegisterRecord(commitment, Labels("x" * size, "n", "CN", "s", "q"), commitment)


@given(
    sizes=st.lists(st.integers(0, 64), min_size=1, max_size=80),
    operations_max=st.integers(1, 20),
    bytes_max=st.integers(1024, 4096),
)
def test_every_part_is_valid_and_none_could_take_the_next_operation(
    sizes: list[int], operations_max: int, bytes_max: int
) -> None:
    limits = Limits(transaction_bytes_max=bytes_max, transaction_operations_max=operations_max)
    operations = [_operation(number, size) for number, size in enumerate(sizes)]
    parts = list(partition(operations, limits))
    assert [operation for part in parts for operation in part] == operations
    for part in parts:
        body = TransactionBody(KEY.public, 2**62, 2**62, bytes(16), part)
        raw = sign_transaction(CHAIN, KEY, body)
        assert check_transaction(raw, CHAIN, limits).body.operations == part
    for part, following in pairwise(parts):
        body = TransactionBody(KEY.public, 0, 0, bytes(16), (*part, following[0]))
        raw = sign_transaction(CHAIN, KEY, body)
        # 512 bytes are kept free for what surrounds the operations.
        assert len(part) == operations_max or len(raw) > bytes_max - 512


def test_nothing_is_no_transaction() -> None:
    assert list(partition([], Limits())) == []
