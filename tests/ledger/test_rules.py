"""What each operation may do: every code on its own, then long histories against a model."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ledger.operations import (
    EnrolPerson,
    Grant,
    InstitutionParty,
    Operation,
    Party,
    PersonParty,
    RecordShare,
    RegisterRecord,
    Revoke,
)
from ledger.receipts import ReceiptCode
from ledger.rules import chains_of
from ledger.state import (
    EmptyState,
    GrantState,
    Person,
    Record,
    StateError,
    chain_head,
    chain_of,
    grant_id,
    grant_state,
    institution_chain,
    known_chain,
    person_id,
    record_id,
)
from primitives.keys import PrivateKey
from tests.ledger.world import LABELS, Story, World, key_of

C = ReceiptCode
OTHER = bytes([9]) * 32
STRANGER = key_of("stranger")


@pytest.fixture
def story() -> Story:
    return Story(World())


def run(story: Story, key: PrivateKey, operation: Operation) -> ReceiptCode:
    world = story.world
    transaction = world.transaction(key, operation)
    heads = {c: chain_head(world.store, c) for c in (story.record, story.plain, story.patient_id)}
    (code,) = world.run(transaction)
    if code is not C.OK:
        assert all(chain_head(world.store, chain) == head for chain, head in heads.items())
    return code


Case = tuple[str, Callable[[Story], Operation], ReceiptCode]
CASES: list[Case] = [
    # Enrolment: by an institution, of a known kind, once, and not of a member's own key.
    ("hospital-1", lambda s: EnrolPerson(OTHER, "researcher"), C.OK),
    ("stranger", lambda s: EnrolPerson(OTHER, "patient"), C.UNKNOWN_AUTHOR),
    ("patient", lambda s: EnrolPerson(OTHER, "patient"), C.NOT_AN_INSTITUTION),
    ("hospital-0", lambda s: EnrolPerson(OTHER, "wizard"), C.UNKNOWN_KIND),
    ("hospital-1", lambda s: EnrolPerson(s.patient.public, "patient"), C.ALREADY_ENROLLED),
    (
        "hospital-0",
        lambda s: EnrolPerson(key_of("hospital-1").public, "patient"),
        C.ALREADY_ENROLLED,
    ),
    # Registration: any institution; the same commitment at two custodians is two records.
    ("institute-0", lambda s: RegisterRecord(OTHER, LABELS, s.patient_id), C.OK),
    ("hospital-1", lambda s: RegisterRecord(s.commitment, LABELS, None), C.OK),
    ("patient", lambda s: RegisterRecord(OTHER, LABELS, s.patient_id), C.NOT_AN_INSTITUTION),
    ("hospital-0", lambda s: RegisterRecord(OTHER, LABELS, OTHER), C.UNKNOWN_PERSON),
    (
        "hospital-0",
        lambda s: RegisterRecord(OTHER, LABELS, institution_chain("hospital-1")),
        C.UNKNOWN_PERSON,
    ),
    ("hospital-0", lambda s: RegisterRecord(s.commitment, LABELS, None), C.ALREADY_REGISTERED),
    # Grants: by the subject, or by the custodian where there is none.
    ("patient", lambda s: s.grant_of(s.record, s.record), C.OK),
    ("patient", lambda s: s.grant_of(), C.OK),
    ("hospital-0", lambda s: s.grant_of(s.plain), C.OK),
    ("patient", lambda s: Grant(PersonParty(s.patient_id), (), "TREAT", 0), C.OK),
    ("hospital-0", lambda s: s.grant_of(s.record), C.NOT_ENTITLED),
    ("patient", lambda s: s.grant_of(s.plain), C.NOT_ENTITLED),
    ("patient", lambda s: s.grant_of(s.record, s.plain), C.NOT_ENTITLED),
    ("hospital-1", lambda s: s.grant_of(s.plain), C.NOT_ENTITLED),
    ("hospital-0", lambda s: s.grant_of(), C.NOT_ENTITLED),
    ("patient", lambda s: s.grant_of(OTHER), C.UNKNOWN_RECORD),
    ("patient", lambda s: s.grant_of(s.patient_id), C.UNKNOWN_RECORD),
    ("patient", lambda s: s.grant_of(s.record, purpose="FUN"), C.UNKNOWN_PURPOSE),
    ("patient", lambda s: s.grant_of(s.record, expires_ms=1), C.GRANT_EXPIRED),
    (
        "patient",
        lambda s: s.grant_of(s.record, expires_ms=s.world.head.time_ms + 1_000),
        C.GRANT_EXPIRED,
    ),
    ("patient", lambda s: s.grant_of(s.record, expires_ms=s.world.head.time_ms + 1_001), C.OK),
    ("patient", lambda s: Grant(PersonParty(OTHER), (), "TREAT", 0), C.UNKNOWN_PARTY),
    ("patient", lambda s: Grant(PersonParty(s.record), (), "TREAT", 0), C.UNKNOWN_PARTY),
    ("patient", lambda s: Grant(InstitutionParty("nobody"), (), "TREAT", 0), C.UNKNOWN_PARTY),
    # Revocation: by the grantor, once.
    ("patient", lambda s: Revoke(s.grant), C.OK),
    ("hospital-0", lambda s: Revoke(s.plain_grant), C.OK),
    ("patient", lambda s: Revoke(OTHER), C.UNKNOWN_GRANT),
    ("hospital-0", lambda s: Revoke(s.grant), C.NOT_ENTITLED),
    ("patient", lambda s: Revoke(s.plain_grant), C.NOT_ENTITLED),
    ("stranger", lambda s: Revoke(s.grant), C.UNKNOWN_AUTHOR),
    # Sharing: by the custodian, under a grant that covers exactly this.
    ("hospital-0", lambda s: s.share_of(s.record, s.grant), C.OK),
    ("hospital-0", lambda s: s.share_of(s.plain, s.plain_grant), C.OK),
    ("patient", lambda s: s.share_of(s.record, s.grant), C.NOT_AN_INSTITUTION),
    ("hospital-1", lambda s: s.share_of(s.record, s.grant), C.NOT_CUSTODIAN),
    ("institute-0", lambda s: s.share_of(s.record, s.grant), C.NOT_CUSTODIAN),
    ("hospital-0", lambda s: s.share_of(OTHER, s.grant), C.UNKNOWN_RECORD),
    ("hospital-0", lambda s: s.share_of(s.record, OTHER), C.UNKNOWN_GRANT),
    ("hospital-0", lambda s: s.share_of(s.record, s.grant, purpose="FUN"), C.UNKNOWN_PURPOSE),
    ("hospital-0", lambda s: s.share_of(s.record, s.grant, purpose="TREAT"), C.GRANT_NOT_COVERING),
    ("hospital-0", lambda s: s.share_of(s.plain, s.grant), C.GRANT_NOT_COVERING),
    ("hospital-0", lambda s: s.share_of(s.record, s.plain_grant), C.GRANT_NOT_COVERING),
    (
        "hospital-0",
        lambda s: RecordShare(s.record, s.institute, s.grant, OTHER, "HRESCH"),
        C.COMMITMENT_DIFFERS,
    ),
    (
        "hospital-0",
        lambda s: RecordShare(
            s.record, InstitutionParty("hospital-2"), s.grant, s.commitment, "HRESCH"
        ),
        C.GRANT_NOT_COVERING,
    ),
    (
        "hospital-0",
        lambda s: RecordShare(
            s.record, InstitutionParty("nobody"), s.grant, s.commitment, "HRESCH"
        ),
        C.UNKNOWN_PARTY,
    ),
]


@pytest.mark.parametrize(("author", "make", "code"), CASES)
def test_each_rule(
    story: Story, author: str, make: Callable[[Story], Operation], code: ReceiptCode
) -> None:
    assert run(story, key_of(author), make(story)) is code


def test_a_grant_is_revoked_once_and_ends_sharing(story: Story) -> None:
    share = story.share_of(story.record, story.grant)
    assert run(story, story.custodian, share) is C.OK
    assert run(story, story.patient, Revoke(story.grant)) is C.OK
    assert run(story, story.custodian, share) is C.GRANT_REVOKED
    assert run(story, story.patient, Revoke(story.grant)) is C.ALREADY_REVOKED
    grant = grant_state(story.world.store, story.grant)
    assert grant is not None
    assert grant.revoked_height == 4


def test_a_grant_holds_until_just_before_it_expires(story: Story) -> None:
    world = story.world
    expires_ms = world.head.time_ms + 5_000
    transaction = world.transaction(
        story.patient, story.grant_of(story.record, expires_ms=expires_ms)
    )
    assert world.run(transaction) == [C.OK]
    share = story.share_of(story.record, grant_id(transaction.id, 0))
    for time_ms, code in ((expires_ms - 1, C.OK), (expires_ms, C.GRANT_EXPIRED)):
        assert world.run(world.transaction(story.custodian, share), time_ms=time_ms) == [code]


def test_a_grant_for_all_records_covers_those_of_the_grantor_only(story: Story) -> None:
    world = story.world
    transaction = world.transaction(story.patient, story.grant_of())
    assert world.run(transaction) == [C.OK]
    everything = grant_id(transaction.id, 0)
    later = bytes([7]) * 32
    assert run(story, story.custodian, RegisterRecord(later, LABELS, story.patient_id)) is C.OK
    share = RecordShare(
        record_id("hospital-0", later), story.institute, everything, later, "HRESCH"
    )
    assert run(story, story.custodian, share) is C.OK
    assert run(story, story.custodian, story.share_of(story.plain, everything)) is C.NOT_ENTITLED


def test_a_person_can_be_grantee_and_requester(story: Story) -> None:
    world = story.world
    doctor = PersonParty(person_id(OTHER))
    assert run(story, story.custodian, EnrolPerson(OTHER, "practitioner")) is C.OK
    transaction = world.transaction(story.patient, Grant(doctor, (story.record,), "TREAT", 0))
    assert world.run(transaction) == [C.OK]
    share = RecordShare(
        story.record, doctor, grant_id(transaction.id, 0), story.commitment, "TREAT"
    )
    assert run(story, story.custodian, share) is C.OK
    assert known_chain(world.store, doctor.id).count == 3


def test_what_the_state_holds_after_the_story(story: Story) -> None:
    store = story.world.store
    assert known_chain(store, story.patient_id).entity == Person(
        story.patient.public, "patient", "hospital-0"
    )
    assert known_chain(store, story.record).entity == Record(
        story.commitment, LABELS, "hospital-0", story.patient_id
    )
    assert grant_state(store, story.grant) == GrantState(
        PersonParty(story.patient_id), story.institute, (story.record,), "HRESCH", 0, 0
    )
    counts = {
        story.record: 3,
        story.plain: 2,
        story.patient_id: 4,
        institution_chain("hospital-0"): 5,
        institution_chain("institute-0"): 3,
        institution_chain("hospital-1"): 0,
    }
    assert {chain: known_chain(store, chain).count for chain in counts} == counts


def test_chains_of_what_never_succeeded_stops_loudly(story: Story) -> None:
    author = InstitutionParty("hospital-0")
    with pytest.raises(StateError, match="lost record"):
        chains_of(story.share_of(story.record, story.grant), author, EmptyState())
    with pytest.raises(StateError, match="lost grant"):
        chains_of(Revoke(story.grant), author, EmptyState())
    with pytest.raises(StateError, match="by a person"):
        chains_of(RegisterRecord(OTHER, LABELS, None), PersonParty(OTHER), EmptyState())


# ---- long histories ---------------------------------------------------------------------------


@dataclass
class ModelGrant:
    grantor: Party
    grantee: Party
    records: tuple[bytes, ...]
    purpose: str
    expires_ms: int
    revoked: bool = False


@dataclass
class Model:
    """The rules again, as plainly as possible: dictionaries, and one list of entries per chain."""

    persons: list[bytes] = field(default_factory=list)
    records: dict[bytes, tuple[str, bytes, bytes | None]] = field(default_factory=dict)
    grants: dict[bytes, ModelGrant] = field(default_factory=dict)
    counts: dict[bytes, int] = field(default_factory=dict)

    def knows(self, party: Party, members: list[str]) -> bool:
        return party.id in (self.persons if isinstance(party, PersonParty) else members)

    def owner(self, record: bytes) -> Party:
        custodian, _, subject = self.records[record]
        return InstitutionParty(custodian) if subject is None else PersonParty(subject)

    def touch(self, *chains: bytes) -> None:
        for chain in set(chains):
            self.counts[chain] = self.counts.get(chain, 0) + 1


PEOPLE = ["ann", "bob", "cy"]
HOUSES = ["hospital-0", "hospital-1", "institute-0"]
AUTHORS = PEOPLE + HOUSES
COMMITMENTS = [bytes([n]) * 32 for n in range(3)]
PURPOSE = st.sampled_from(["TREAT", "HRESCH", "nonsense"])
PARTIES: list[Party] = [
    *(InstitutionParty(house) for house in (*HOUSES, "nobody")),
    *(PersonParty(person_id(key_of(name).public)) for name in PEOPLE),
]
RECORDS = [record_id(house, c) for house in HOUSES[:2] for c in COMMITMENTS]
SUBJECTS = [None, *(person_id(key_of(name).public) for name in PEOPLE)]


class History(RuleBasedStateMachine):
    """Random operations; each block's codes and all chain counts must be those of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.model = Model()
        self.members = [member.id for member in self.world.genesis.institutions]
        self.grants = [bytes(32)]

    @initialize()
    def begin(self) -> None:
        self.enrol("hospital-1", "ann")
        for subject in SUBJECTS[:2]:
            self.register("hospital-0", COMMITMENTS[0 if subject else 1], subject)

    def expect(self, author: str, operation: Operation, code: ReceiptCode) -> bytes | None:
        """Run a block; return the id of the transaction if it succeeded."""
        transaction = self.world.transaction(key_of(author), operation)
        if self.party(author) is None:
            code = C.UNKNOWN_AUTHOR
        assert self.world.run(transaction) == [code]
        return transaction.id if code is C.OK else None

    def party(self, author: str) -> Party | None:
        if author in HOUSES:
            return InstitutionParty(author)
        person = person_id(key_of(author).public)
        return PersonParty(person) if person in self.model.persons else None

    def time_ms(self) -> int:
        return self.world.head.time_ms + 1_000

    @rule(author=st.sampled_from(AUTHORS), name=st.sampled_from(AUTHORS))
    def enrol(self, author: str, name: str) -> None:
        key = key_of(name).public
        person = person_id(key)
        code = C.OK
        if author not in HOUSES:
            code = C.NOT_AN_INSTITUTION
        elif name in HOUSES or person in self.model.persons:
            code = C.ALREADY_ENROLLED
        if self.expect(author, EnrolPerson(key, "patient"), code):
            self.model.persons.append(person)
            self.model.touch(person, institution_chain(author))

    @rule(
        author=st.sampled_from(AUTHORS),
        commitment=st.sampled_from(COMMITMENTS),
        subject=st.sampled_from(SUBJECTS),
    )
    def register(self, author: str, commitment: bytes, subject: bytes | None) -> None:
        record = record_id(author, commitment)
        code = C.OK
        if author not in HOUSES:
            code = C.NOT_AN_INSTITUTION
        elif subject is not None and subject not in self.model.persons:
            code = C.UNKNOWN_PERSON
        elif record in self.model.records:
            code = C.ALREADY_REGISTERED
        if self.expect(author, RegisterRecord(commitment, LABELS, subject), code):
            self.model.records[record] = (author, commitment, subject)
            chains = [record, institution_chain(author)]
            self.model.touch(*chains, *([] if subject is None else [subject]))

    @rule(
        author=st.sampled_from(AUTHORS),
        grantee=st.sampled_from(PARTIES),
        records=st.lists(st.sampled_from(RECORDS), max_size=2).map(tuple),
        purpose=PURPOSE,
        lasts_ms=st.sampled_from([-1, 0, 1, 3_000]),
    )
    def grant(
        self,
        author: str,
        grantee: Party,
        records: tuple[bytes, ...],
        purpose: str,
        lasts_ms: int,
    ) -> None:
        self._grant(author, grantee, records, purpose, lasts_ms)

    @precondition(lambda self: self.model.records)
    @rule(data=st.data(), grantee=st.sampled_from(PARTIES[:3]), everything=st.booleans())
    def grant_well(self, data: st.DataObject, grantee: Party, everything: bool) -> None:
        record = data.draw(st.sampled_from(sorted(self.model.records)))
        owner = self.model.owner(record)
        author = next(name for name in AUTHORS if self.party(name) == owner)
        lasts_ms = data.draw(st.sampled_from([-1, 2_000]))
        self._grant(author, grantee, () if everything else (record,), "TREAT", lasts_ms)

    def _grant(
        self, author: str, grantee: Party, records: tuple[bytes, ...], purpose: str, lasts_ms: int
    ) -> None:
        expires_ms = 0 if lasts_ms < 0 else self.time_ms() + lasts_ms
        grantor = self.party(author)
        wrong = [
            C.UNKNOWN_RECORD if record not in self.model.records else C.NOT_ENTITLED
            for record in records
            if record not in self.model.records or self.model.owner(record) != grantor
        ]
        code = C.OK
        if purpose == "nonsense":
            code = C.UNKNOWN_PURPOSE
        elif lasts_ms == 0:
            code = C.GRANT_EXPIRED
        elif not self.model.knows(grantee, self.members):
            code = C.UNKNOWN_PARTY
        elif not records and not isinstance(grantor, PersonParty):
            code = C.NOT_ENTITLED
        elif wrong:
            code = wrong[0]
        done = self.expect(author, Grant(grantee, records, purpose, expires_ms), code)
        if done and grantor is not None:
            grant = grant_id(done, 0)
            self.grants.append(grant)
            self.model.grants[grant] = ModelGrant(grantor, grantee, records, purpose, expires_ms)
            self.model.touch(chain_of(grantor), chain_of(grantee), *records)

    @rule(author=st.sampled_from(AUTHORS), data=st.data())
    def revoke(self, author: str, data: st.DataObject) -> None:
        self._revoke(author, data.draw(st.sampled_from(self.grants)))

    @precondition(lambda self: len(self.model.grants) > 2)
    @rule(data=st.data())
    def revoke_well(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.grants[1:]))
        grantor = self.model.grants[name].grantor
        self._revoke(next(a for a in AUTHORS if self.party(a) == grantor), name)

    def _revoke(self, author: str, name: bytes) -> None:
        grant = self.model.grants.get(name)
        grantor = self.party(author)
        code = C.OK
        if grant is None:
            code = C.UNKNOWN_GRANT
        elif grant.grantor != grantor:
            code = C.NOT_ENTITLED
        elif grant.revoked:
            code = C.ALREADY_REVOKED
        if self.expect(author, Revoke(name), code) and grant is not None:
            grant.revoked = True
            self.model.touch(chain_of(grant.grantor), chain_of(grant.grantee), *grant.records)

    @rule(
        author=st.sampled_from(HOUSES + PEOPLE[:1]),
        record=st.sampled_from(RECORDS),
        requester=st.sampled_from(PARTIES),
        commitment=st.sampled_from(COMMITMENTS),
        purpose=PURPOSE,
        data=st.data(),
    )
    def share(
        self,
        author: str,
        record: bytes,
        requester: Party,
        commitment: bytes,
        purpose: str,
        data: st.DataObject,
    ) -> None:
        grant = data.draw(st.sampled_from(self.grants))
        self._share(author, record, requester, commitment, purpose, grant)

    @precondition(lambda self: self.model.grants)
    @rule(data=st.data())
    def share_well(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.grants[1:]))
        grant = self.model.grants[name]
        owned = [r for r in sorted(self.model.records) if self.model.owner(r) == grant.grantor]
        record = data.draw(st.sampled_from(list(grant.records) or owned or RECORDS))
        custodian, commitment, _ = self.model.records.get(record, (HOUSES[0], bytes(32), None))
        self._share(custodian, record, grant.grantee, commitment, grant.purpose, name)

    def _share(
        self,
        author: str,
        record: bytes,
        requester: Party,
        commitment: bytes,
        purpose: str,
        grant: bytes,
    ) -> None:
        code = self._share_code(author, record, requester, commitment, purpose, grant)
        operation = RecordShare(record, requester, grant, commitment, purpose)
        if self.expect(author, operation, code):
            subject = self.model.records[record][2]
            chains = [record, institution_chain(author), chain_of(requester)]
            self.model.touch(*chains, *([] if subject is None else [subject]))

    def _share_code(
        self,
        author: str,
        record: bytes,
        requester: Party,
        commitment: bytes,
        purpose: str,
        name: bytes,
    ) -> ReceiptCode:
        known = self.model.records.get(record)
        grant = self.model.grants.get(name)
        if author not in HOUSES:
            return C.NOT_AN_INSTITUTION
        if purpose == "nonsense":
            return C.UNKNOWN_PURPOSE
        if known is None:
            return C.UNKNOWN_RECORD
        if known[0] != author:
            return C.NOT_CUSTODIAN
        if known[1] != commitment:
            return C.COMMITMENT_DIFFERS
        if not self.model.knows(requester, self.members):
            return C.UNKNOWN_PARTY
        if grant is None:
            return C.UNKNOWN_GRANT
        if grant.revoked:
            return C.GRANT_REVOKED
        if grant.expires_ms and grant.expires_ms <= self.time_ms():
            return C.GRANT_EXPIRED
        covers = not grant.records or record in grant.records
        if (grant.grantee, grant.purpose) != (requester, purpose) or not covers:
            return C.GRANT_NOT_COVERING
        return C.OK if self.model.owner(record) == grant.grantor else C.NOT_ENTITLED

    @invariant()
    def chains_have_the_entries_of_the_model(self) -> None:
        store = self.world.store
        for chain, count in self.model.counts.items():
            assert known_chain(store, chain).count == count
        assert set(self.model.persons) | set(self.model.records) <= set(self.model.counts)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=25, stateful_step_count=30)
