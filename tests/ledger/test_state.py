"""Keys, ids and overlays."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.operations import InstitutionParty, PersonParty
from ledger.state import (
    MEMBERS_KEY,
    Attempt,
    ChainHead,
    EmptyState,
    Member,
    Members,
    Overlay,
    Person,
    StateError,
    chain_head,
    chain_key,
    chain_of,
    grant_id,
    grant_key,
    grant_state,
    institution_chain,
    known_chain,
    members,
    party_of,
    person_id,
    read_value,
    record_id,
)
from primitives.codec import encode
from tests.ledger.world import MemoryStore, institution, key_of

HEAD = ChainHead(0, bytes(32), Member("hospital-0"))


def test_no_two_kinds_of_id_or_key_meet() -> None:
    data = b"a" * 32
    text = data.decode()
    ids = [
        person_id(data),
        institution_chain(text),
        grant_id(data, 0),
        grant_id(data, 1),
        record_id("a", data),
        record_id("b", data),
    ]
    keys = [chain_key(data), grant_key(data), MEMBERS_KEY]
    assert len(set(ids)) == len(ids)
    assert len(set(keys)) == len(keys)


def test_the_custodian_is_part_of_a_record_id() -> None:
    assert record_id("hospital-0", bytes(32)) != record_id("hospital-1", bytes(32))


def test_chain_of_a_party() -> None:
    assert chain_of(InstitutionParty("hospital-0")) == institution_chain("hospital-0")
    assert chain_of(PersonParty(bytes(32))) == bytes(32)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=20))
def test_an_overlay_reads_its_own_writes_and_leaves_the_base_alone(
    writes: list[tuple[int, int]],
) -> None:
    base = MemoryStore()
    below = ChainHead(99, bytes(32), Member("hospital-0"))
    base.values[b"0"] = encode(below)
    overlay = Overlay(base)
    model = {b"0": below}
    for number, value in writes:
        key = b"%d" % number
        model[key] = ChainHead(value, bytes(32), Member("hospital-0"))
        overlay.write(key, model[key])
        assert overlay.read(key, ChainHead) == model[key]
    for key in (b"0", b"1", b"2", b"3"):
        expected = model.get(key)
        assert overlay.read(key, ChainHead) == expected
        assert overlay.value(key) == (None if expected is None else encode(expected))
    assert base.values == {b"0": encode(below)}
    assert overlay.written() == {b"%d" % n: encode(model[b"%d" % n]) for n, _ in writes}


def test_an_attempt_is_taken_or_dropped_as_a_whole() -> None:
    block = Overlay(EmptyState())
    assert block.read(b"kept", ChainHead) is None
    dropped = Attempt(block)
    dropped.write(b"dropped", HEAD)
    assert dropped.read(b"dropped", ChainHead) == HEAD
    assert block.read(b"dropped", ChainHead) is None
    taken = Attempt(block)
    taken.write(b"kept", HEAD)
    assert block.value(b"kept") is None
    block.take(taken)
    assert block.read(b"kept", ChainHead) == HEAD
    assert list(block.written()) == [b"kept"]
    assert block.node(b"") is None


def test_each_value_is_read_from_below_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[bytes] = []

    class Counting(EmptyState):
        def value(self, key: bytes) -> bytes | None:
            reads.append(key)
            return encode(HEAD) if key == b"there" else None

    block = Overlay(Counting())
    for _ in range(3):
        for key in (b"there", b"absent"):
            Attempt(block).read(key, ChainHead)
            block.read(key, ChainHead)
    assert reads == [b"there", b"absent"]


def test_what_is_foreseen_is_read_together_and_then_not_again() -> None:
    class Held(EmptyState):
        def held(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
            assert keys == [b"there", b"perhaps"]
            return {b"there": encode(HEAD)}

        def value(self, key: bytes) -> bytes | None:
            assert key == b"else"
            return None

    block = Overlay(Held())
    block.foresee([b"there", b"absent", b"perhaps"], [b"there", b"perhaps"])
    for reader in (Attempt(block), block):
        assert reader.read(b"there", ChainHead) == HEAD
        assert reader.read(b"perhaps", ChainHead) is None
        assert reader.read(b"absent", ChainHead) is None
        assert reader.read(b"else", ChainHead) is None


def test_an_overlay_tells_what_many_keys_hold() -> None:
    base = MemoryStore()
    base.values[b"below"] = base.values[b"both"] = encode(HEAD)
    overlay = Overlay(base)
    changed = ChainHead(5, bytes(32), Member("hospital-0"))
    overlay.write(b"both", changed)
    overlay.write(b"above", changed)

    above = encode(changed)
    expected = {b"below": encode(HEAD), b"both": above, b"above": above}
    assert overlay.held([b"below", b"both", b"above", b"absent"]) == expected
    assert EmptyState().held([b"below"]) == {}


def test_many_nodes_are_those_below() -> None:
    base = MemoryStore()
    base.nodes[b""] = base.nodes[b"\1"] = b"node"
    expected = {b"": b"node", b"\1": b"node"}
    assert Overlay(base).nodes_at([b"", b"\1", b"\2"]) == expected
    assert EmptyState().nodes_at([b""]) == {}


def test_values_are_read_from_any_reader() -> None:
    store = MemoryStore()
    store.values[chain_key(b"c")] = encode(HEAD)
    assert chain_head(store, b"c") == known_chain(store, b"c") == HEAD
    assert chain_head(store, b"d") is None
    assert grant_state(store, b"g") is None
    assert read_value(Overlay(store), chain_key(b"c"), ChainHead) == HEAD


def test_what_must_be_there_and_is_not_stops_loudly() -> None:
    with pytest.raises(StateError, match="lost the chain"):
        known_chain(EmptyState(), b"c")
    with pytest.raises(StateError, match="no members"):
        members(EmptyState())


def test_who_speaks_with_a_key() -> None:
    hospital, patient = key_of("hospital-0").public, key_of("patient").public
    overlay = Overlay(EmptyState())
    overlay.write(MEMBERS_KEY, Members((institution("hospital-0", 0),)))
    entity = Person(patient, "patient", "hospital-0")
    overlay.write(chain_key(person_id(patient)), ChainHead(0, bytes(32), entity))
    ids = {member.key: member.id for member in members(overlay)}
    assert party_of(overlay, ids, hospital) == InstitutionParty("hospital-0")
    assert party_of(overlay, ids, patient) == PersonParty(person_id(patient))
    assert party_of(overlay, ids, key_of("stranger").public) is None


def test_a_stored_value_that_cannot_be_read_is_damage() -> None:
    store = MemoryStore()
    store.values[MEMBERS_KEY] = b"\xc1"
    with pytest.raises(StateError, match="what is no Members under"):
        members(store)
