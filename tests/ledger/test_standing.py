"""What the state holds about votes and turns, and who spoke with which key."""

import pytest

from ledger.committee import committee_at
from ledger.operations import EnrolPerson, InstitutionParty, PersonParty
from ledger.standing import (
    KeyOwner,
    Offence,
    Proposals,
    author_of,
    committee_key,
    committee_record,
    evidence_record,
    known_proposal,
    offence_of,
    owner_of,
    proposal_of,
    proposals_of,
    standing_of,
    suspended_in,
    with_offence,
)
from ledger.state import EmptyState, StateError, person_id
from primitives.keys import PrivateKey
from tests.ledger.council import Council
from tests.ledger.world import consortium, key_of

NEW_KEY = PrivateKey(bytes([61]) * 32)


def test_genesis_lists_the_founders_and_their_keys() -> None:
    world = Council()
    standing = world.standing
    assert standing.roster == tuple(f"hospital-{n}" for n in range(4))
    assert (standing.benches, standing.offences) == ((), ())
    assert (standing.committee_since, standing.latest_evidence) == (1, None)
    record = committee_record(world.store, 1)
    assert record is not None
    assert (record.voters, record.previous) == (world.committee.voters, 0)
    assert committee_record(world.store, 2) is None
    for member in world.genesis.institutions:
        assert owner_of(world.store, member.key) == KeyOwner(member.id, True)
    assert owner_of(world.store, bytes(32)) is None
    assert proposals_of(world.store) == Proposals((), None)


def test_a_state_without_what_genesis_writes_is_refused() -> None:
    with pytest.raises(StateError, match="not made from genesis"):
        standing_of(EmptyState())
    with pytest.raises(StateError, match="has lost proposal"):
        known_proposal(EmptyState(), bytes(32))
    assert proposal_of(EmptyState(), bytes(32)) is None
    assert evidence_record(EmptyState(), bytes(32)) is None


def test_committees_are_linked_back_to_the_founders() -> None:
    world = Council(consortium(4, 3, 0))
    committees = {1: world.committee.voters}
    world.rotate("hospital-0", NEW_KEY)
    committees[world.height] = world.committee.voters
    world.pass_block()
    world.report("hospital-1", world.contradiction("hospital-2"))
    committees[world.height] = world.committee.voters
    world.pass_block()
    since, found = world.standing.committee_since, {}
    while since:
        record = committee_record(world.store, since)
        assert record is not None
        found[since] = record.voters
        since = record.previous
    assert found == committees
    assert committee_key(2) != committee_key(2 << 8)


def test_offences_are_listed_once_for_each_member_and_sorted() -> None:
    standing = Council().standing
    for id, evidence in (("b", bytes(32)), ("a", None), ("b", None), ("c", bytes(32))):
        standing = with_offence(standing, Offence(id, evidence, evidence is not None, 3))
    assert [offence.id for offence in standing.offences] == ["a", "b", "c"]
    assert suspended_in(standing) == ("c",)
    assert offence_of(standing, "b") == Offence("b", None, False, 3)
    assert offence_of(standing, "d") is None


def test_who_spoke_is_known_for_ever() -> None:
    world = Council()
    person = PrivateKey(bytes([62]) * 32)
    world.say("hospital-0", EnrolPerson(person.public, "patient"))
    world.rotate("hospital-0", NEW_KEY)
    ids = {member.key: id for id, member in world.members.items()}
    store = world.store
    for key in (NEW_KEY.public, key_of("hospital-0").public):
        assert author_of(store, ids, key) == InstitutionParty("hospital-0")
    assert author_of(store, ids, person.public) == PersonParty(person_id(person.public))
    assert author_of(store, ids, bytes(32)) is None
    assert committee_at(store, world.genesis).by_id["hospital-0"].key == NEW_KEY.public
