"""Operations: their limits and their work."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.operations import (
    GRANT_RECORDS_MAX,
    PERSON_KINDS,
    PURPOSES,
    WORK_MAX,
    EnrolPerson,
    Grant,
    InstitutionParty,
    Label,
    Labels,
    Operation,
    Party,
    PersonParty,
    RecordShare,
    RegisterRecord,
    Revoke,
    are_codes,
    work_of,
)
from primitives.codec import CodecError, decode, encode

digests = st.binary(min_size=32, max_size=32)
labels = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9 ._:/+-]{0,63}\Z")
ids = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,31}\Z")
parties = st.builds(InstitutionParty, ids) | st.builds(PersonParty, digests)
purposes = st.sampled_from(PURPOSES)
operations: st.SearchStrategy[Operation] = st.one_of(
    st.builds(EnrolPerson, digests, st.sampled_from(PERSON_KINDS)),
    st.builds(RegisterRecord, digests, st.builds(Labels, *[labels] * 5), st.none() | digests),
    st.builds(
        Grant,
        parties,
        st.lists(digests, max_size=3).map(tuple),
        purposes,
        st.integers(0, 2**63 - 1),
    ),
    st.builds(Revoke, digests),
    st.builds(RecordShare, digests, parties, digests, digests, purposes),
)


def read(value: Operation) -> Operation:
    kind: Any = Operation
    read: Operation = decode(encode(value), kind, bytes_max=10_000)
    return read


@given(operations)
def test_an_operation_survives_its_encoding(operation: Operation) -> None:
    assert read(operation) == operation


@given(st.lists(operations, max_size=5))
def test_work_adds_up_and_has_a_bound(several: list[Operation]) -> None:
    each = [work_of([operation]) for operation in several]
    assert work_of(several) == sum(each)
    assert all(0 < work <= WORK_MAX for work in each)


def test_work() -> None:
    party: Party = InstitutionParty("a")
    d = bytes(32)
    assert work_of([EnrolPerson(d, "patient")]) == 2
    assert work_of([RegisterRecord(d, Labels("a", "a", "a", "a", "a"), d)]) == 3
    assert work_of([Grant(party, (), "TREAT", 0)]) == 3
    assert work_of([Grant(party, (d,) * 64, "TREAT", 0)]) == WORK_MAX == 67
    assert work_of([Revoke(d)]) == WORK_MAX
    assert work_of([RecordShare(d, party, d, d, "TREAT")]) == 4


@pytest.mark.parametrize("label", ["", "a" * 65, "a\n", " a", "é", "a\x00", "a,b"])
def test_a_label_is_a_short_printable_code(label: str) -> None:
    assert are_codes(Labels("a", "a", "a", "a", "a"))
    for bad in (Labels("a", "a", "a", "a", label), Labels(label, "a", "a", "a", "a")):
        assert not are_codes(bad)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(label, Label)


@given(st.builds(Labels, *[labels] * 5))
def test_labels_of_good_codes_are_codes(good: Labels) -> None:
    assert are_codes(good)
    assert msgspec.convert(msgspec.structs.astuple(good), tuple[Label, ...])


@pytest.mark.parametrize(
    "operation",
    [
        EnrolPerson(bytes(31), "patient"),
        EnrolPerson(bytes(32), "p" * 33),
        RegisterRecord(bytes(32), Labels("a", "a", "a", "a", ""), None),
        RegisterRecord(bytes(32), Labels("a", "a", "a" * 65, "a", "a"), None),
        RegisterRecord(bytes(33), Labels("a", "a", "a", "a", "a"), None),
        RegisterRecord(bytes(32), Labels("a", "a", "a", "a", "a"), bytes(3)),
        Grant(InstitutionParty("a"), (bytes(32),) * (GRANT_RECORDS_MAX + 1), "TREAT", 0),
        Grant(InstitutionParty("A"), (), "TREAT", 0),
        Grant(InstitutionParty("a"), (), "TREAT", -1),
        Grant(InstitutionParty("a"), (), "T" * 17, 0),
        Revoke(b""),
        RecordShare(bytes(32), PersonParty(b""), bytes(32), bytes(32), "TREAT"),
    ],
)
def test_a_field_outside_its_limits_is_refused(operation: Operation) -> None:
    with pytest.raises(CodecError):
        read(operation)
