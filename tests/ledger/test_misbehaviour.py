"""Evidence on the ledger: heard once, within its window, and the offender has no vote from then."""

import pytest

from consensus.evidence import evidence_id
from consensus.messages import Prepare
from ledger.changes import ChangeType, Reinstate
from ledger.operations import EnrolPerson, ReportMisbehaviour
from ledger.receipts import ReceiptCode
from ledger.standing import evidence_key, evidence_record, offence_of
from ledger.state import chain_head, institution_chain
from primitives.keys import PrivateKey
from tests.ledger.council import ONE, TWO, Council, altered, hidden_commit
from tests.ledger.world import consortium, key_of

OK = ReceiptCode.OK
NEW_KEY = PrivateKey(bytes([71]) * 32)


def test_the_offender_has_no_vote_from_the_next_height_on() -> None:
    world = Council(consortium(4, 3, 1))
    evidence = world.contradict("hospital-1", *hidden_commit(1))
    height, before = world.height, world.committee
    assert world.report("institute-0", evidence) is OK
    assert "hospital-1" in before.by_id
    assert "hospital-1" not in world.committee.by_id
    assert "hospital-1" not in world.committee.roster
    assert world.committee.group_sizes == {"auditor": 3, "recorder": 3}
    assert world.head.next_committee_hash == world.committee.hash != before.hash
    record = evidence_record(world.store, evidence_id(evidence))
    assert record is not None
    assert (record.evidence, record.reporter, record.height) == (evidence, "institute-0", height)
    assert (record.suspended, record.previous) == (True, None)
    for id, count in (("institute-0", 1), ("hospital-1", 1), ("hospital-0", 0)):
        head = chain_head(world.store, institution_chain(id))
        assert head is not None
        assert head.count == count
    # It stays a member: its clients may submit, and its batches count.
    enrol = EnrolPerson(NEW_KEY.public, "patient")
    transaction = world.transaction(key_of("hospital-1"), enrol)
    assert world.run(transaction, batch_author="hospital-1") == [OK]


def test_evidence_is_linked_and_heard_once_for_each_member() -> None:
    world = Council(consortium(4, 3, 1))
    first = world.contradiction("hospital-1")
    assert world.report("hospital-0", first) is OK
    assert world.report("hospital-0", first) is ReceiptCode.ALREADY_REPORTED
    assert world.report("hospital-0", world.contradiction("hospital-1")) is (
        ReceiptCode.ALREADY_REPORTED
    )
    second = world.contradiction("authority-0")
    assert world.report("hospital-1", second) is OK
    assert world.standing.latest_evidence == evidence_id(second)
    record = evidence_record(world.store, evidence_id(second))
    assert record is not None
    assert record.previous == evidence_id(first)


def test_two_offenders_in_one_transaction() -> None:
    world = Council(consortium(4, 3, 1))
    reports = [ReportMisbehaviour(world.contradiction(f"hospital-{n}")) for n in (1, 2)]
    assert world.say("hospital-0", *reports) is OK
    assert world.voters[3:] == ["hospital-0", "hospital-3"]
    both = [ReportMisbehaviour(world.contradiction(f"authority-{n}")) for n in (1, 1)]
    assert world.say("hospital-0", *both) is ReceiptCode.ALREADY_REPORTED
    # All or nothing: the first of the two had no effect either.
    assert "authority-1" in world.voters
    assert world.store.value(evidence_key(evidence_id(both[0].evidence))) is None


@pytest.mark.parametrize("offender", ["authority-0", "hospital-0"])
def test_the_last_of_a_class_is_heard_but_keeps_its_vote(offender: str) -> None:
    world = Council(consortium(1, 1, 0))
    evidence = world.contradiction(offender)
    before = world.committee
    assert world.report(offender, evidence) is OK
    assert world.committee == before
    offence = offence_of(world.standing, offender)
    assert offence is not None
    assert (offence.evidence, offence.suspended) == (evidence_id(evidence), False)
    assert world.report(offender, world.contradiction(offender)) is ReceiptCode.ALREADY_REPORTED


def test_in_one_block_the_last_two_of_a_class_do_not_both_go() -> None:
    world = Council(consortium(2, 1, 0))
    evidence = [world.contradiction(f"hospital-{n}") for n in (0, 1)]
    reports = [
        world.transaction(key_of("authority-0"), ReportMisbehaviour(each)) for each in evidence
    ]
    assert world.run(*reports) == [OK, OK]
    assert world.voters == ["authority-0", "hospital-1"]
    suspended = [offence.suspended for offence in world.standing.offences]
    assert suspended == [True, False]


def test_the_window_of_evidence() -> None:
    world = Council(consortium(4, 3, 0), evidence_heights_max=3)
    first = world.contradiction("hospital-1")
    ahead = world.contradiction("hospital-1", world.height + 1)
    assert world.report("hospital-0", ahead) is ReceiptCode.EVIDENCE_TOO_OLD
    zero = altered(first, height=0)
    assert world.report("hospital-0", zero) is ReceiptCode.EVIDENCE_TOO_OLD
    world.pass_block()
    assert world.height == 4
    late = world.transaction(key_of("hospital-0"), ReportMisbehaviour(first))
    assert world.run(late) == [OK]
    world = Council(consortium(4, 3, 0), evidence_heights_max=3)
    for _ in range(4):
        world.pass_block()
    assert world.report("hospital-0", first) is ReceiptCode.EVIDENCE_TOO_OLD
    # Of the height that is being decided it is heard.
    assert world.report("hospital-0", world.contradiction("hospital-1")) is OK


def test_only_members_report_and_only_voters_are_reported() -> None:
    world = Council(consortium(4, 3, 1))
    patient = PrivateKey(bytes([72]) * 32)
    assert world.say("hospital-0", EnrolPerson(patient.public, "patient")) is OK
    report = ReportMisbehaviour(world.contradiction("hospital-1"))
    assert world.run(world.transaction(patient, report)) == [ReceiptCode.NOT_AN_INSTITUTION]
    stranger = world.contradiction("hospital-9")
    assert world.report("hospital-0", stranger) is ReceiptCode.UNKNOWN_MEMBER
    observer = world.contradiction("institute-0")
    assert world.report("hospital-0", observer) is ReceiptCode.NOT_A_VOTER
    assert world.standing.offences == ()


def test_where_all_vote_all_can_be_reported() -> None:
    world = Council(consortium(2, 1, 2), quorum="flat")
    assert world.report("hospital-0", world.contradiction("institute-0")) is OK
    assert world.report("hospital-0", world.contradiction("institute-1")) is OK
    assert world.voters == ["authority-0", "hospital-0", "hospital-1", "institute-1"]


def test_what_proves_nothing_changes_nothing() -> None:
    world = Council(consortium(4, 3, 0))
    evidence = world.contradiction("hospital-1")
    for false in (
        altered(evidence, signer="hospital-2"),
        altered(evidence, first=evidence.second, second=evidence.first),
        altered(evidence, second=evidence.first),
        world.contradict("hospital-1", Prepare(1, 0, ONE), Prepare(1, 1, TWO)),
    ):
        assert world.report("hospital-0", false) is ReceiptCode.EVIDENCE_INVALID
    assert world.standing.offences == ()


def test_only_the_present_key_speaks_against_its_member() -> None:
    """A stolen key is rotated: what the thief signs with it then does not count."""
    world = Council(consortium(4, 3, 0))
    of_old_key = world.contradiction("hospital-1")
    world.rotate("hospital-1", NEW_KEY)
    assert world.report("hospital-0", of_old_key) is ReceiptCode.EVIDENCE_INVALID
    thief = Council(consortium(4, 3, 0)).contradiction("hospital-1", world.height)
    assert world.report("hospital-0", thief) is ReceiptCode.EVIDENCE_INVALID
    assert world.report("hospital-0", world.contradiction("hospital-1")) is OK


def test_what_was_forgiven_is_not_heard_again() -> None:
    world = Council(consortium(4, 3, 0))
    old = world.contradiction("hospital-1")
    assert world.report("hospital-0", old) is OK
    world.vote(Reinstate("hospital-1"))
    assert "hospital-1" in world.voters
    assert offence_of(world.standing, "hospital-1") is not None
    forgiven = world.head.height
    assert world.report("hospital-0", old) is ReceiptCode.EVIDENCE_TOO_OLD
    last = world.contradiction("hospital-1", forgiven)
    assert world.report("hospital-0", last) is ReceiptCode.EVIDENCE_TOO_OLD
    again = world.contradiction("hospital-1", forgiven + 1)
    assert world.report("hospital-0", again) is OK
    offence = offence_of(world.standing, "hospital-1")
    assert offence is not None
    assert (offence.suspended, offence.forgiven_height) == (True, forgiven)


def test_a_suspended_member_without_a_vote_cannot_lose_it_again() -> None:
    world = Council(consortium(4, 3, 0))
    assert world.report("hospital-0", world.contradiction("hospital-1")) is OK
    world.vote(ChangeType("hospital-1", "regulator"))
    assert "hospital-1" not in world.voters
    world.vote(Reinstate("hospital-1"))
    assert world.committee.by_id["hospital-1"].group == "auditor"
