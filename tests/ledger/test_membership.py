"""Changes of the membership: proposed, approved by a quorum of each class, or void."""

import pytest

from ledger.changes import (
    Change,
    ChangeType,
    Join,
    Leave,
    Reinstate,
    Relocate,
    RotateKey,
    new_key_of,
    possession_digest,
    subject_of,
)
from ledger.execution import BlockError, select_batches
from ledger.membership import NOTICE_HEIGHTS_MAX, changed, room_of
from ledger.operations import (
    ApproveChange,
    EnrolPerson,
    InstitutionParty,
    Operation,
    ProposeChange,
    ReportMisbehaviour,
    Revoke,
    work_of,
)
from ledger.receipts import ReceiptCode
from ledger.rules import chains_of
from ledger.standing import (
    EFFECTIVE,
    PENDING,
    PROPOSALS_OPEN_MAX,
    VOID,
    KeyOwner,
    known_proposal,
    offence_of,
    owner_of,
    proposals_of,
)
from ledger.state import chain_head, institution_chain
from primitives.codec import decode, encode
from primitives.keys import PrivateKey
from tests.ledger.council import Council, altered
from tests.ledger.world import consortium, key_of

OK = ReceiptCode.OK
NEW_KEY = PrivateKey(bytes([81]) * 32)


def try_to(world: Council, change: Change, author: str = "hospital-0") -> ReceiptCode:
    return world.say(author, ProposeChange(change, world.height + 2))


# ---- each kind of change -------------------------------------------------------------------------


def test_joining() -> None:
    world = Council(consortium(4, 3, 0))
    join, key = world.newcomer("authority-9")
    proposal = world.vote(join)
    assert world.outcome(proposal) == EFFECTIVE
    assert world.member("authority-9") == join.institution
    assert world.committee.by_id["authority-9"].key == key.public
    assert owner_of(world.store, key.public) == KeyOwner("authority-9", True)
    head = chain_head(world.store, institution_chain("authority-9"))
    assert head is not None
    assert head.count == 0
    assert world.say("authority-9", Revoke(bytes(32))) is ReceiptCode.UNKNOWN_GRANT
    assert world.head.height == 3


def test_the_change_holds_from_its_height_and_not_before() -> None:
    world = Council(consortium(4, 3, 0))
    join, key = world.newcomer("hospital-9")
    proposal = world.propose("hospital-0", join, notice=3)
    world.approve(proposal, *world.voters[:3], *world.voters[4:])
    assert (world.height, world.outcome(proposal)) == (3, PENDING)
    assert "hospital-9" not in world.members
    early = world.transaction(key, Revoke(bytes(32)))
    assert world.run(early) == [ReceiptCode.UNKNOWN_AUTHOR]
    assert known_proposal(world.store, proposal).effective_height == world.height == 4
    assert "hospital-9" in world.committee.by_id


def test_leaving_for_good() -> None:
    world = Council(consortium(4, 3, 1))
    join, _ = world.newcomer("hospital-1")
    key = world.member("hospital-1").key
    world.vote(Leave("hospital-1"))
    assert "hospital-1" not in world.members
    assert "hospital-1" not in world.voters
    late = world.transaction(key_of("hospital-1"), Revoke(bytes(32)))
    assert world.run(late) == [ReceiptCode.UNKNOWN_AUTHOR]
    # Neither its id nor its key can ever be a member's again, nor its key a person's.
    assert try_to(world, join) is ReceiptCode.CHANGE_CONFLICTS
    fresh = altered(join.institution, key=NEW_KEY.public)
    possession = NEW_KEY.sign(possession_digest(world.chain_id, fresh))
    assert try_to(world, Join(fresh, possession)) is ReceiptCode.CHANGE_CONFLICTS
    other = altered(join.institution, id="hospital-8", key=key)
    possession = key_of("hospital-1").sign(possession_digest(world.chain_id, other))
    assert try_to(world, Join(other, possession)) is ReceiptCode.CHANGE_CONFLICTS
    rotation = world.rotation("hospital-2", key_of("hospital-1"))
    assert try_to(world, rotation) is ReceiptCode.CHANGE_CONFLICTS
    assert world.say("hospital-0", EnrolPerson(key, "patient")) is ReceiptCode.ALREADY_ENROLLED


def test_changing_class() -> None:
    world = Council(consortium(4, 3, 1))
    world.vote(ChangeType("institute-0", "regulator"))
    assert world.committee.by_id["institute-0"].group == "auditor"
    world.vote(ChangeType("institute-0", "tertiary_hospital"))
    assert world.committee.by_id["institute-0"].proposes
    assert "institute-0" in world.committee.roster
    world.vote(ChangeType("institute-0", "clinic"))
    assert "institute-0" not in world.voters
    assert "institute-0" in world.members


def test_rotating_a_key() -> None:
    world = Council(consortium(4, 3, 0))
    old = key_of("hospital-0")
    world.rotate("hospital-0", NEW_KEY)
    assert world.committee.by_id["hospital-0"].key == NEW_KEY.public
    late = world.transaction(old, Revoke(bytes(32)))
    assert world.run(late, batch_author="hospital-1") == [ReceiptCode.UNKNOWN_AUTHOR]
    refused = world.batch(world.transaction(NEW_KEY, Revoke(bytes(32))), key=old)
    with pytest.raises(BlockError, match="not signed with the key that its author has now"):
        world.execute(refused)
    assert select_batches([refused], world.height, world.store, world.window, world.genesis) == []
    back = world.rotation("hospital-0", old)
    assert try_to(world, back) is ReceiptCode.CHANGE_CONFLICTS


def test_a_new_key_and_a_new_address_at_one_height() -> None:
    """In either order: the proof of possession is of the id and the key alone."""
    for reverse in (False, True):
        world = Council(consortium(4, 3, 0))
        changes: list[Change] = [
            Relocate("hospital-0", "new.example:1"),
            world.rotation("hospital-0", NEW_KEY),
        ]
        effective = world.height + 4
        proposals = [
            world.propose("hospital-0", change, effective - world.height)
            for change in changes[:: -1 if reverse else 1]
        ]
        for proposal in proposals:
            world.approve(proposal, *world.voters[:3], *world.voters[4:])
        assert [world.outcome(proposal) for proposal in proposals] == [EFFECTIVE] * 2
        member = world.member("hospital-0")
        assert (member.key, member.address) == (NEW_KEY.public, "new.example:1")


def test_relocating() -> None:
    world = Council(consortium(4, 3, 0))
    before = world.committee
    world.vote(Relocate("authority-0", "elsewhere.example:7700"))
    assert world.member("authority-0").address == "elsewhere.example:7700"
    assert world.committee == before
    assert world.standing.committee_since == 1


# ---- votes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("voters", "enough"),
    [
        (["hospital-0", "hospital-1", "hospital-2", "authority-0", "authority-1"], True),
        (["hospital-0", "hospital-1", "authority-0", "authority-1", "authority-2"], False),
        (["hospital-0", "hospital-1", "hospital-2", "hospital-3", "authority-0"], False),
        (["authority-0", "authority-1", "authority-2"], False),
        (["hospital-0", "hospital-1", "hospital-2", "hospital-3"], False),
    ],
)
def test_a_quorum_of_every_class_must_approve(voters: list[str], enough: bool) -> None:
    world = Council(consortium(4, 3, 1))
    proposal = world.vote(Leave("institute-0"), voters)
    assert world.outcome(proposal) == (EFFECTIVE if enough else VOID)
    assert ("institute-0" in world.members) is not enough
    assert proposals_of(world.store).pending == ()
    code = world.say("hospital-3", ApproveChange(proposal))
    assert code is ReceiptCode.PROPOSAL_CLOSED


def test_who_may_propose_and_approve() -> None:
    world = Council(consortium(4, 3, 1))
    patient = PrivateKey(bytes([82]) * 32)
    assert world.say("hospital-0", EnrolPerson(patient.public, "patient")) is OK
    change = Leave("hospital-3")
    spoken: tuple[Operation, ...] = (ProposeChange(change, 9), ApproveChange(bytes(32)))
    for operation in spoken:
        transaction = world.transaction(patient, operation)
        assert world.run(transaction) == [ReceiptCode.NOT_AN_INSTITUTION]
    proposal = world.propose("institute-0", change, notice=9)
    assert known_proposal(world.store, proposal).approvals == ()
    assert world.approve(proposal, "institute-0", "hospital-0", "hospital-0", "hospital-3") == [
        ReceiptCode.NOT_A_VOTER,
        OK,
        ReceiptCode.ALREADY_APPROVED,
        OK,
    ]
    assert known_proposal(world.store, proposal).approvals == ("hospital-0", "hospital-3")
    assert world.approve(bytes(32), "hospital-0") == [ReceiptCode.UNKNOWN_PROPOSAL]


def test_approvals_of_members_who_left_or_are_suspended_do_not_count() -> None:
    world = Council(consortium(4, 3, 1))
    enough = ["hospital-0", "hospital-1", "hospital-2", "authority-0", "authority-1"]
    gone = world.propose("hospital-0", Leave("institute-0"), notice=7)
    world.approve(gone, *enough[1:])
    world.vote(Leave("hospital-1"))
    assert world.report("hospital-0", world.contradiction("hospital-2")) is OK
    while world.outcome(gone) == PENDING:
        world.pass_block()
    assert world.outcome(gone) == VOID
    # Of the two recorders that are left both must have approved.
    kept = world.propose("hospital-0", Leave("institute-0"), notice=3)
    world.approve(kept, "hospital-3", "authority-0", "authority-1")
    assert world.report("hospital-0", world.contradiction("authority-1")) is OK
    assert world.outcome(kept) == VOID


def test_evidence_in_the_last_block_before_counts() -> None:
    """Votes are counted when the block is over, without those that it suspended."""
    world = Council(consortium(3, 3, 1))
    proposal = world.propose("hospital-0", Leave("institute-0"))
    approvals = [
        world.transaction(key_of(name), ApproveChange(proposal))
        for name in ("hospital-1", "authority-0", "authority-1")
    ]
    report = world.contradiction("hospital-1")
    reported = world.transaction(key_of("hospital-0"), ReportMisbehaviour(report))
    assert world.run(*approvals, reported) == [OK] * 4
    assert world.outcome(proposal) == VOID


def test_a_proposal_waits_for_its_height_and_no_longer() -> None:
    world = Council(consortium(4, 3, 1))
    change = Leave("institute-0")
    for notice in (-1, 0, 1, NOTICE_HEIGHTS_MAX + 1):
        code = world.say("hospital-0", ProposeChange(change, world.height + notice))
        assert code is ReceiptCode.BAD_EFFECTIVE_HEIGHT
    last = world.height + NOTICE_HEIGHTS_MAX
    assert world.say("hospital-0", ProposeChange(change, last)) is OK


# ---- what is not possible ------------------------------------------------------------------------


def test_changes_that_are_not_possible() -> None:
    world = Council(consortium(4, 3, 1))
    join, key = world.newcomer("hospital-9")
    new = join.institution
    present = world.member("hospital-1")

    def joining(**fields: object) -> Change:
        member = altered(new, **fields)
        return Join(member, key.sign(possession_digest(world.chain_id, member)))

    stranger = NEW_KEY.public
    conflicts, invalid = ReceiptCode.CHANGE_CONFLICTS, ReceiptCode.CHANGE_INVALID
    cases: list[tuple[Change, ReceiptCode]] = [
        (joining(id="hospital-1"), conflicts),
        (joining(lei=present.lei), conflicts),
        (joining(address=present.address), conflicts),
        (joining(address=present.address.upper()), conflicts),
        (joining(key=present.key), conflicts),
        (joining(type="castle"), invalid),
        (joining(lei="X" * 18 + "00"), invalid),
        (joining(name="a\nb"), invalid),
        (joining(key=bytes(32)), invalid),
        (joining(key=stranger), invalid),
        (Join(new, bytes(64)), invalid),
        (Leave("nobody"), ReceiptCode.UNKNOWN_MEMBER),
        (Reinstate("nobody"), ReceiptCode.UNKNOWN_MEMBER),
        (Reinstate("hospital-1"), conflicts),
        (ChangeType("hospital-1", "tertiary_hospital"), conflicts),
        (ChangeType("hospital-1", "castle"), invalid),
        (Relocate("hospital-1", present.address), conflicts),
        (Relocate("hospital-1", world.member("hospital-2").address), conflicts),
        (Relocate("hospital-1", "nowhere:0"), invalid),
        (RotateKey("hospital-1", present.key, bytes(64)), conflicts),
        (RotateKey("hospital-1", stranger, bytes(64)), invalid),
        (RotateKey("hospital-1", world.member("hospital-2").key, bytes(64)), conflicts),
    ]
    for change, code in cases:
        assert try_to(world, change) is code, change
    assert proposals_of(world.store).pending == ()
    assert owner_of(world.store, stranger) is None
    assert try_to(world, join) is OK


@pytest.mark.parametrize(
    ("shape", "change"),
    [
        ((1, 3, 1), Leave("hospital-0")),
        ((1, 3, 1), ChangeType("hospital-0", "regulator")),
        ((4, 1, 1), Leave("authority-0")),
        ((4, 1, 1), ChangeType("authority-0", "clinic")),
        ((4, 1, 1), ChangeType("authority-0", "tertiary_hospital")),
    ],
)
def test_no_class_is_left_empty(shape: tuple[int, int, int], change: Change) -> None:
    world = Council(consortium(*shape))
    assert try_to(world, change) is ReceiptCode.CLASS_WOULD_BE_EMPTY


def test_a_suspended_voter_does_not_fill_a_class() -> None:
    world = Council(consortium(2, 1, 1))
    assert world.report("hospital-0", world.contradiction("hospital-0")) is OK
    assert try_to(world, Leave("hospital-1")) is ReceiptCode.CLASS_WOULD_BE_EMPTY
    assert try_to(world, ChangeType("hospital-1", "clinic")) is ReceiptCode.CLASS_WOULD_BE_EMPTY


def test_a_class_that_was_empty_from_the_start_may_be_filled() -> None:
    world = Council(consortium(4, 0, 0))
    world.vote(world.newcomer("authority-9")[0])
    assert world.committee.group_sizes == {"auditor": 1, "recorder": 4}
    assert try_to(world, Leave("authority-9")) is ReceiptCode.CLASS_WOULD_BE_EMPTY


def test_of_several_changes_at_one_height_each_sees_those_before_it() -> None:
    world = Council(consortium(2, 1, 0))
    effective = world.height + 4
    leaving = [
        world.propose("authority-0", Leave(f"hospital-{n}"), effective - world.height)
        for n in (0, 1)
    ]
    for proposal in leaving:
        world.approve(proposal, "hospital-0", "hospital-1")
    assert world.height == effective
    assert [world.outcome(proposal) for proposal in leaving] == [EFFECTIVE, VOID]
    assert world.voters == ["authority-0", "hospital-1"]
    # Both votes counted for both: who leaves at a height has a vote until then.
    join, _ = world.newcomer("hospital-9")
    doubled = [world.propose("authority-0", join, effective + 4 - world.height) for _ in (0, 1)]
    for proposal in doubled:
        world.approve(proposal, "hospital-1")
    assert [world.outcome(proposal) for proposal in doubled] == [EFFECTIVE, VOID]


def test_what_became_impossible_meanwhile_is_void() -> None:
    world = Council(consortium(4, 3, 0))
    assert world.report("hospital-0", world.contradiction("hospital-1")) is OK
    pardon = world.propose("hospital-0", Reinstate("hospital-1"), notice=9)
    world.approve(pardon, *world.voters)
    world.vote(Leave("hospital-1"))
    while world.outcome(pardon) == PENDING:
        world.pass_block()
    assert world.outcome(pardon) == VOID


# ---- suspended members ---------------------------------------------------------------------------


def test_suspended_members_can_leave_move_and_rotate() -> None:
    world = Council(consortium(4, 3, 0))
    assert world.report("hospital-0", world.contradiction("hospital-1")) is OK
    world.rotate("hospital-1", NEW_KEY)
    world.vote(ChangeType("hospital-1", "regulator"))
    offence = offence_of(world.standing, "hospital-1")
    assert offence is not None
    assert offence.suspended
    assert "hospital-1" not in world.voters
    world.vote(Leave("hospital-1"))
    assert offence_of(world.standing, "hospital-1") is None
    assert "hospital-1" not in world.members


def test_a_recorder_that_leaves_or_is_suspended_leaves_the_bench() -> None:
    world = Council(consortium(4, 3, 0))
    for _ in range(30):
        world.pass_block(view=3)
    # So many misses that the blocks which are proposed meanwhile do not make up for them.
    *_, second, first = sorted(world.standing.benches, key=lambda bench: bench.misses)
    assert second.misses > 3
    assert world.report("authority-0", world.contradiction(first.id)) is OK
    assert first.id not in [bench.id for bench in world.standing.benches]
    world.vote(Leave(second.id))
    assert second.id not in [bench.id for bench in world.standing.benches]
    assert world.standing.benches


# ---- limits --------------------------------------------------------------------------------------


def test_a_key_that_was_proposed_is_kept_for_its_member() -> None:
    """Or one member could undo every change that brings in a key, by enrolling it as a person's."""
    world = Council(consortium(4, 3, 0))
    join, key = world.newcomer("hospital-9")
    rotation = world.rotation("hospital-0", NEW_KEY)
    for change in (join, rotation):
        proposal = world.propose("hospital-0", change, notice=3)
        new = new_key_of(change)
        assert new is not None
        assert owner_of(world.store, new) == KeyOwner(subject_of(change), False)
        code = world.say("hospital-3", EnrolPerson(new, "patient"))
        assert code is ReceiptCode.ALREADY_ENROLLED
        world.pass_block()
        assert world.outcome(proposal) == VOID
    # For another member it cannot be used, for the same it can be proposed again.
    other = altered(join.institution, id="hospital-8")
    stolen = Join(other, key.sign(possession_digest(world.chain_id, other)))
    assert try_to(world, stolen) is ReceiptCode.CHANGE_CONFLICTS
    assert try_to(world, world.rotation("hospital-1", NEW_KEY)) is ReceiptCode.CHANGE_CONFLICTS
    world.vote(rotation)
    assert world.member("hospital-0").key == NEW_KEY.public
    # And a key that is a person's cannot become a member's.
    spare = PrivateKey(bytes([83]) * 32)
    world.keys["hospital-0"] = NEW_KEY
    assert world.say("hospital-0", EnrolPerson(spare.public, "patient")) is OK
    assert try_to(world, world.rotation("hospital-1", spare)) is ReceiptCode.CHANGE_CONFLICTS


def test_members_without_a_vote_do_not_take_the_room_of_voters() -> None:
    world = Council(consortium(1, 1, 40))
    full = ReceiptCode.TOO_MANY_PROPOSALS
    change = Relocate("hospital-0", "new.example:9")
    far = world.height + 50

    def propose(*authors: str) -> list[ReceiptCode]:
        operation = ProposeChange(change, far)
        said = [world.transaction(key_of(author), operation) for author in authors]
        return world.run(*said)

    observers = [f"institute-{n}" for n in range(40)]
    assert propose(observers[0], observers[0]) == [OK, full]
    assert propose(*observers[1:]) == [OK] * 31 + [full] * 8
    assert propose(*["hospital-0"] * 9) == [OK] * 8 + [full]
    assert propose(*["authority-0"] * 9) == [OK] * 8 + [full]
    assert len(proposals_of(world.store).pending) == 48 < PROPOSALS_OPEN_MAX


def test_all_voters_together_never_exceed_the_room() -> None:
    for n in range(1, 33):
        committee = Council(consortium(n, 0, 1)).committee
        mine, total = room_of("hospital-0", committee)
        assert 1 <= mine <= 8
        assert mine * n <= total // 2
        assert room_of("institute-0", committee) == (1, total // 2)
    large = Council(consortium(100, 0, 0))
    assert room_of("hospital-0", large.committee) == (1, PROPOSALS_OPEN_MAX)


def test_a_committee_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.membership.VOTERS_MAX", 7)
    world = Council(consortium(4, 3, 1))
    large = ReceiptCode.COMMITTEE_TOO_LARGE
    assert try_to(world, world.newcomer("authority-9")[0]) is large
    assert try_to(world, ChangeType("institute-0", "regulator")) is large
    assert try_to(world, world.newcomer("institute-9")[0]) is OK
    # A place that a suspended voter leaves is free, and then it cannot come back to it.
    assert world.report("hospital-0", world.contradiction("hospital-1")) is OK
    assert try_to(world, Reinstate("hospital-1")) is OK
    world.vote(world.newcomer("authority-9")[0])
    assert len(world.voters) == 7
    assert try_to(world, Reinstate("hospital-1"), "hospital-2") is large
    monkeypatch.setattr("ledger.membership.INSTITUTIONS_MAX", len(world.members))
    assert try_to(world, world.newcomer("institute-8")[0], "hospital-2") is large


def test_approvals_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Council(consortium(4, 3, 1))
    proposal = world.propose("hospital-0", Leave("institute-0"), notice=9)
    monkeypatch.setattr("ledger.membership.VOTERS_MAX", 2)
    assert world.approve(proposal, "hospital-1", "hospital-2") == [
        OK,
        ReceiptCode.COMMITTEE_TOO_LARGE,
    ]


# ---- bytes ---------------------------------------------------------------------------------------


def test_what_a_change_does_to_its_member() -> None:
    world = Council(consortium(4, 3, 1))
    member = world.member("hospital-0")
    join, _ = world.newcomer("hospital-9")
    rotation = world.rotation("hospital-0", NEW_KEY)
    assert changed(join, None) == join.institution
    assert changed(Leave("hospital-0"), member) is None
    assert changed(Reinstate("hospital-0"), member) == member
    assert changed(Reinstate("nobody"), None) is None
    assert changed(rotation, member) == altered(member, key=NEW_KEY.public)
    assert changed(ChangeType("hospital-0", "clinic"), member) == altered(member, type="clinic")
    moved = changed(Relocate("hospital-0", "a.example:1"), member)
    assert moved == altered(member, address="a.example:1")
    assert new_key_of(Leave("hospital-0")) is None
    for change in (join, rotation, Leave("a"), Reinstate("a"), ChangeType("a", "clinic")):
        assert decode(encode(change), Change, bytes_max=999) == change
    assert possession_digest(world.chain_id, member) != possession_digest(bytes(32), member)


def test_an_operation_on_members_concerns_them() -> None:
    world = Council(consortium(4, 3, 1))
    proposal = world.propose("hospital-0", Leave("hospital-1"))
    world.approve(proposal, "hospital-2")
    counts = []
    for n in range(4):
        head = chain_head(world.store, institution_chain(f"hospital-{n}"))
        assert head is not None
        counts.append(head.count)
    assert counts == [1, 2, 1, 0]
    join, _ = world.newcomer("hospital-9")
    chains = chains_of(ProposeChange(join, 9), InstitutionParty("hospital-0"), world.store)
    assert chains == (institution_chain("hospital-0"),)


def test_work_is_what_an_operation_may_cost() -> None:
    world = Council()
    assert work_of([ReportMisbehaviour(world.contradiction("hospital-0"))]) == 12
    assert work_of([ProposeChange(Leave("hospital-0"), 9)]) == 67
    assert work_of([ApproveChange(bytes(32))]) == 3
