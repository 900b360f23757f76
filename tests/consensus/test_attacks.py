"""Attacks on PBFT's safety argument, step by step, and on whoever runs it.

The argument (OSDI'99 section 4.5.1, and view_change.py): a decided block has a quorum of COMMITs;
each of those voters names its certificate in every later VIEW-CHANGE; every quorum of VIEW-CHANGEs
shares an honest voter with it; a new primary must propose what the highest proven claim names. Each
test takes one step away and shows that the replica notices.
"""

import itertools
from collections.abc import Callable, Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.certificates import CertificateError, check_justification
from consensus.committee import Committee, faulty_max
from consensus.events import Accuse, Decide, Effect, Fetch, Fetched, Pending, Received
from consensus.messages import (
    Certificate,
    Commit,
    Justification,
    Message,
    Phase,
    Prepare,
    PreparedClaim,
    PrePrepare,
    Signed,
    ViewChange,
    ViewChangeSignature,
    VoteSignature,
)
from primitives.block import Block
from primitives.codec import VIEW_MAX, decode, encode
from tests.consensus.support import (
    CHAIN,
    Stage,
    by,
    certify,
    genesis,
    make_block,
    make_committee,
    proposal,
    said,
    view_changes,
)

COMMITTEE = make_committee(4, 3)
QUORUM = ("a0", "a1", "r0", "r1", "r2")
EVERYONE = tuple(voter.id for voter in COMMITTEE.voters)
HEAD = genesis(COMMITTEE)
BLOCK = make_block(HEAD, "r1")
RIVAL = make_block(HEAD, "r2", 1)
PREPARED = certify(Phase.PREPARE, QUORUM, BLOCK)
PREPARE = Prepare(1, 0, BLOCK.hash)
COMMIT = Commit(1, 0, BLOCK.hash)


def stage_of(name: str = "r3") -> Stage:
    return Stage(name, COMMITTEE)


# ---- a decided block survives every view change --------------------------------------------------


@pytest.mark.parametrize(
    ("committee", "lost_class"),
    [
        (make_committee(4), None),
        (make_committee(5), None),
        (make_committee(7, pooled=True), None),
        (make_committee(2, 2), None),
        (make_committee(4, 3), None),
        (make_committee(4, 3), "recorder"),
        (make_committee(4, 3), "auditor"),
        (make_committee(3, 4), "recorder"),
        (make_committee(3, 4), "auditor"),
    ],
)
def test_no_quorum_of_view_changes_can_forget_a_decided_block(
    committee: Committee, lost_class: str | None
) -> None:
    """For every quorum that committed, every quorum that asks for a new view, and every choice of
    liars (up to f of each class, or ALL of one class): an honest voter is in both."""
    names = [voter.id for voter in committee.voters]
    groups = {
        group: [name for name in names if committee.by_id[name].group == group]
        for group in committee.group_sizes
    }
    # By symmetry within a class it is enough to let the first ones lie.
    liars = [
        name
        for group, members in groups.items()
        for name in (members if group == lost_class else members[: faulty_max(len(members))])
    ]
    quorums = list(minimal_quorums(committee, groups))
    for committed, asking in itertools.product(quorums, quorums):
        honest_witnesses = (set(committed) & set(asking)) - set(liars)
        assert honest_witnesses, (committed, asking, liars)


def minimal_quorums(
    committee: Committee, groups: dict[str, list[str]]
) -> Iterable[tuple[str, ...]]:
    choices = [
        list(itertools.combinations(members, committee.quorum_sizes[group]))
        for group, members in groups.items()
    ]
    for parts in itertools.product(*choices):
        yield tuple(name for part in parts for name in part)


@settings(max_examples=50)
@given(st.data())
def test_whatever_liars_claim_the_decided_block_is_proposed_again_or_nothing(
    data: st.DataObject,
) -> None:
    """All recorders but one lie as they like, with every certificate that they can make."""
    liars = ("r1", "r2", "r3")
    invented = certify(Phase.PREPARE, liars, RIVAL, 1)
    relabelled = msgspec.structs.replace(PREPARED, view=1, block_hash=RIVAL.hash)
    claims = st.sampled_from([None, PREPARED, invented, relabelled])
    honest: dict[str, Certificate | None] = dict.fromkeys(("a0", "a1"), PREPARED)
    asked = honest | {name: data.draw(claims) for name in liars}
    justification = view_changes(COMMITTEE, 1, 2, asked)
    shown = data.draw(st.sampled_from([None, PREPARED, invented, relabelled]))
    justification = Justification(justification.view_changes, shown)
    try:
        claim = check_justification(justification, 1, 2, CHAIN, COMMITTEE)
    except CertificateError:
        return
    assert claim == PreparedClaim(0, BLOCK.hash)


# ---- what a Byzantine primary of a new view may try ----------------------------------------------


def claims_of(claimed: Certificate | None, view: int = 1) -> Justification:
    return view_changes(COMMITTEE, 1, view, dict.fromkeys(QUORUM) | {"r0": claimed})


def without_certificate(claims: Justification) -> Justification:
    return Justification(claims.view_changes, None)


def counted_twice(claims: Justification) -> Justification:
    kept = [entry for entry in claims.view_changes if entry.signer != "r2"]
    doubled = sorted([*kept, kept[-1]], key=lambda entry: entry.signer)
    return Justification(tuple(doubled), claims.prepared)


def without(name: str, claims: Justification) -> Justification:
    kept = tuple(entry for entry in claims.view_changes if entry.signer != name)
    return Justification(kept, claims.prepared)


def under_another_name(claims: Justification) -> Justification:
    entries = tuple(
        ViewChangeSignature("r3", entry.prepared, entry.signature)
        if entry.signer == "r2"
        else entry
        for entry in claims.view_changes
    )
    return Justification(entries, claims.prepared)


def claim_erased(claims: Justification) -> Justification:
    entries = tuple(
        ViewChangeSignature(entry.signer, None, entry.signature) for entry in claims.view_changes
    )
    return Justification(entries, None)


@pytest.mark.parametrize(
    ("block", "claims"),
    [
        pytest.param(RIVAL, None, id="no justification"),
        pytest.param(RIVAL, claims_of(PREPARED), id="another block than the claimed one"),
        pytest.param(RIVAL, without_certificate(claims_of(PREPARED)), id="certificate withheld"),
        pytest.param(BLOCK, without_certificate(claims_of(PREPARED)), id="claim unproven"),
        pytest.param(RIVAL, claim_erased(claims_of(PREPARED)), id="claim erased"),
        pytest.param(RIVAL, counted_twice(claims_of(None)), id="one voter twice"),
        pytest.param(RIVAL, without("r2", claims_of(None)), id="a recorder short"),
        pytest.param(RIVAL, without("a1", claims_of(None)), id="an auditor short"),
        pytest.param(RIVAL, under_another_name(claims_of(None)), id="signer exchanged"),
        pytest.param(RIVAL, claims_of(None, view=2), id="asked for another view"),
        pytest.param(
            RIVAL, view_changes(COMMITTEE, 2, 1, dict.fromkeys(QUORUM)), id="another height"
        ),
        pytest.param(
            RIVAL,
            claims_of(certify(Phase.PREPARE, QUORUM, RIVAL, 1)),
            id="prepared in the new view itself",
        ),
        pytest.param(
            RIVAL,
            claims_of(certify(Phase.PREPARE, QUORUM, RIVAL, 9)),
            id="prepared in a later view",
        ),
        pytest.param(
            BLOCK, claims_of(certify(Phase.PREPARE, QUORUM[1:], BLOCK)), id="prepared by too few"
        ),
        pytest.param(BLOCK, claims_of(certify(Phase.COMMIT, QUORUM, BLOCK)), id="other phase"),
        pytest.param(make_block(HEAD, "r2", 0), claims_of(None), id="fresh, under an old view"),
        pytest.param(make_block(HEAD, "r1", 1), claims_of(None), id="fresh, another's turn"),
        pytest.param(make_block(BLOCK.header, "r2", 1), claims_of(None), id="another parent"),
    ],
)
def test_a_new_view_that_is_not_right_is_not_entered(
    block: Block, claims: Justification | None
) -> None:
    stage = stage_of()
    effects = stage.hear(("r2", PrePrepare(1, 1, block, claims)))
    effects += stage.step(Fetched(block))
    assert effects == []
    assert stage.replica.view == 0
    assert stage.dropped("bad_proposal") == 1


def test_the_same_new_view_done_right_is_entered() -> None:
    stage = stage_of()
    stage.accept(RIVAL, 1, claims_of(None))
    assert said(stage.recorded) == [Prepare(1, 1, RIVAL.hash)]
    stage = stage_of()
    stage.accept(BLOCK, 1, claims_of(PREPARED))
    assert said(stage.recorded) == [Prepare(1, 1, BLOCK.hash)]


def test_two_true_quorums_do_not_make_two_prepares() -> None:
    """The primary may know a quorum with the claim and one without: it gets one PREPARE."""
    stage = stage_of()
    stage.accept(RIVAL, 1, view_changes(COMMITTEE, 1, 1, dict.fromkeys(QUORUM)))
    effects = stage.hear(("r2", proposal(BLOCK, 1, claims_of(PREPARED))))
    assert [type(effect) for effect in effects] == [Accuse]
    assert stage.step(Fetched(BLOCK)) == []
    assert said(stage.recorded) == [Prepare(1, 1, RIVAL.hash)]
    for payload in (b"3", b"4"):
        more = make_block(HEAD, "r2", 1, payload)
        assert stage.hear(("r2", proposal(more, 1, claims_of(None)))) == [], "proven once is enough"


@pytest.mark.parametrize("view", [1, 2, 2**31, VIEW_MAX])
def test_a_proposal_out_of_turn_or_from_nowhere_is_dropped(view: int) -> None:
    stage = stage_of()
    primary = COMMITTEE.primary(1, view)
    for name in EVERYONE:
        block = make_block(HEAD, name, view)
        stage.hear((name, proposal(block, view, None)))
        # True VIEW-CHANGEs: in the wrong hands, or for another view.
        wrong = claims_of(None, view=view + 1 if name == primary else view)
        stage.hear((name, proposal(block, view, wrong)))
    assert stage.replica.view == 0
    assert stage.recorded == []
    assert not stage.replica.has_work


def test_a_replayed_old_view_changes_nothing() -> None:
    stage = stage_of()
    stage.accept(RIVAL, 1, claims_of(None))
    stage.hear_all(QUORUM, ViewChange(1, 6, None))
    assert stage.replica.view == 6
    checks = stage.replica.signatures.checks
    for message in (proposal(RIVAL, 1, claims_of(None)), proposal(BLOCK)):
        stage.hear((COMMITTEE.primary(1, message.view), message))
    stage.hear_all(QUORUM, Prepare(1, 1, RIVAL.hash))
    assert stage.replica.signatures.checks == checks, "not even a signature is checked"
    assert stage.replica.view == 6


# ---- false votes and certificates ----------------------------------------------------------------


@pytest.mark.parametrize("missing", QUORUM)
@pytest.mark.parametrize("kind", [Prepare, Commit])
def test_no_class_may_be_short_of_its_quorum(missing: str, kind: type[Prepare | Commit]) -> None:
    stage = stage_of("r3")
    stage.accept(BLOCK)
    recorders = [name for name in QUORUM if name != missing and name[0] == "r"][:2]
    auditors = [name for name in QUORUM if name != missing and name[0] == "a"]
    if missing[0] == "a":
        signers = [*auditors, *[name for name in QUORUM if name[0] == "r"]]
    else:
        signers = ["a0", "a1", "a2", *recorders[:1]]
    effects = stage.hear_all(signers, kind(1, 0, BLOCK.hash))
    assert said(effects) == []
    assert not any(isinstance(effect, Decide) for effect in effects)


def test_commits_of_different_views_and_blocks_do_not_add_up() -> None:
    stage = stage_of()
    stage.accept(BLOCK)
    votes: list[tuple[str, Message]] = [
        (name, Commit(1, position % 2, (BLOCK if position % 3 else RIVAL).hash))
        for position, name in enumerate(EVERYONE)
        if name != "r3"
    ]
    assert not any(isinstance(effect, Decide) for effect in stage.hear(*votes))


@pytest.mark.parametrize(
    "signed_as",
    [
        lambda name: proposal(BLOCK),
        lambda name: COMMIT,
        lambda name: Prepare(1, 1, BLOCK.hash),
        lambda name: Prepare(2, 0, BLOCK.hash),
        lambda name: ViewChange(1, 1, None),
    ],
)
def test_a_signature_of_one_message_is_none_of_another(
    signed_as: Callable[[str], Message],
) -> None:
    stage = stage_of()
    stage.accept(BLOCK)
    for name in QUORUM:
        stage.step(Received(Signed(name, PREPARE, by(name, signed_as(name)).signature)))
    assert stage.dropped("bad_signature") == len(QUORUM)
    assert said(stage.recorded) == [PREPARE]


def broken(certificate: Certificate) -> Certificate:
    first, *rest = certificate.signatures
    spoilt = VoteSignature(first.signer, bytes(64))
    return msgspec.structs.replace(certificate, signatures=(spoilt, *rest))


@pytest.mark.parametrize(
    "claimed",
    [
        pytest.param(certify(Phase.PREPARE, ["r2"], BLOCK), id="alone"),
        pytest.param(certify(Phase.PREPARE, QUORUM[:-1], BLOCK), id="a recorder short"),
        pytest.param(certify(Phase.PREPARE, QUORUM[1:], BLOCK), id="an auditor short"),
        pytest.param(certify(Phase.PREPARE, QUORUM, BLOCK, 5), id="of the view it asks for"),
        pytest.param(certify(Phase.PREPARE, QUORUM, BLOCK, 6), id="of a later view"),
        pytest.param(certify(Phase.COMMIT, QUORUM, BLOCK), id="of COMMITs"),
        pytest.param(broken(PREPARED), id="one signature broken"),
        pytest.param(
            msgspec.structs.replace(PREPARED, signatures=PREPARED.signatures[::-1]), id="unsorted"
        ),
        pytest.param(
            certify(Phase.PREPARE, QUORUM, make_block(BLOCK.header, "r2")), id="of another height"
        ),
        pytest.param(
            msgspec.structs.replace(PREPARED, signatures=PREPARED.signatures * 50), id="oversized"
        ),
    ],
)
def test_a_view_change_with_a_false_certificate_does_not_count(claimed: Certificate) -> None:
    stage = stage_of()
    assert stage.hear_all(QUORUM, ViewChange(1, 5, claimed)) == []
    assert stage.dropped("bad_certificate") == len(QUORUM)
    assert stage.replica.view == 0
    assert not stage.replica.has_work


def test_a_view_change_counts_once_however_often_it_comes() -> None:
    stage = stage_of()
    for _ in range(5):
        stage.hear(("r0", ViewChange(1, 1, None)), ("a0", ViewChange(1, 1, None)))
    assert stage.dropped("duplicate") == 8
    assert stage.replica.view == 0
    stage.hear(("r1", ViewChange(1, 1, None)))
    assert stage.replica.view == 1


def test_a_false_payload_under_a_true_header_is_not_asked_for_twice() -> None:
    """The hash covers the header only; once others have the block it is asked of them."""
    stage = stage_of()
    false = Block(BLOCK.header, b"false")
    assert stage.hear(("r1", proposal(false))) == [Fetch(BLOCK.hash, false, True, ("r1",))]
    effects = stage.hear_all(QUORUM, PREPARE)
    assert effects == [Fetch(BLOCK.hash, None, False, QUORUM)]
    assert stage.wait(stage.settings.resend_ms) == [Fetch(BLOCK.hash, None, False, QUORUM)]
    committed = said(stage.step(Fetched(BLOCK)))
    assert committed == [PREPARE, COMMIT]
    decided = stage.hear_all(QUORUM, COMMIT)
    assert isinstance(decided[0], Decide)
    assert decided[0].decision.block == BLOCK


# ---- attacks on progress -------------------------------------------------------------------------


def test_a_proposal_at_the_last_moment_buys_no_time() -> None:
    stage = stage_of()
    stage.step(Pending())
    timeout = stage.settings.view_timeout_ms_initial
    stage.wait(timeout - 1)
    stage.accept(BLOCK)
    assert said(stage.wait(1)) == [ViewChange(1, 1, None)]


def test_f_voters_of_each_class_cannot_make_others_change_view_or_wake_them() -> None:
    stage = stage_of()
    for view in (*range(1, 50), VIEW_MAX):
        stage.hear(("r0", ViewChange(1, view, None)))
        stage.hear(("r0", Prepare(1, view, BLOCK.hash)), ("r0", Commit(1, view, BLOCK.hash)))
    assert stage.replica.view == 0
    assert stage.replica.deadline is None


def test_one_voter_far_ahead_cannot_pull_the_others_along() -> None:
    stage = stage_of()
    stage.hear(("r0", ViewChange(1, VIEW_MAX, None)))
    stage.hear(("a0", ViewChange(1, VIEW_MAX, None)), ("r1", ViewChange(1, 2, None)))
    assert said(stage.recorded) == [ViewChange(1, 2, None)]


# ---- anything at all -----------------------------------------------------------------------------

hashes = st.sampled_from([BLOCK.hash, RIVAL.hash, bytes(32)])
views = st.sampled_from([0, 1, 2, 3, 4, VIEW_MAX])
heights = st.sampled_from([0, 1, 1, 1, 1, 2, 3, 2**62])
signers = st.sampled_from([*EVERYONE, "zoe"])
vote_signatures = st.builds(VoteSignature, signers, st.just(b"s" * 64))
certificates = st.sampled_from([PREPARED, certify(Phase.PREPARE, QUORUM, RIVAL, 1)]) | st.builds(
    Certificate,
    st.sampled_from([2, 3]),
    heights,
    views,
    hashes,
    st.lists(vote_signatures, max_size=9).map(tuple),
)
claims = st.none() | st.builds(PreparedClaim, views, hashes)
justifications = st.sampled_from([claims_of(None), claims_of(PREPARED)]) | st.builds(
    Justification,
    st.lists(st.builds(ViewChangeSignature, signers, claims, st.just(b"s" * 64)), max_size=9).map(
        tuple
    ),
    st.none() | certificates,
)
blocks = st.sampled_from([BLOCK, RIVAL, make_block(HEAD, "r3"), make_block(BLOCK.header, "r1")])
messages = (
    st.builds(PrePrepare, heights, views, blocks, st.none() | justifications)
    | st.builds(Prepare, heights, views, hashes)
    | st.builds(Commit, heights, views, hashes)
    | st.builds(ViewChange, heights, views, st.none() | certificates)
)


@settings(max_examples=60)
@given(st.lists(st.tuples(signers, messages, st.booleans()), max_size=40), st.data())
def test_nothing_that_peers_send_raises_or_makes_us_contradict_ourselves(
    received: list[tuple[str, Message, bool]], data: st.DataObject
) -> None:
    """Every key is in the wrong hands; PromiseError would fail this test as well."""
    stage = stage_of()
    for name, message, genuine in received:
        signed = by(name, message)
        if not genuine:
            signed = Signed(name, message, b"s" * 64)
        effects: list[Effect] = stage.step(Received(signed))
        for fetch in [effect for effect in effects if isinstance(effect, Fetch)]:
            known = {BLOCK.hash: BLOCK, RIVAL.hash: RIVAL}.get(fetch.block_hash, fetch.block)
            if known is not None and data.draw(st.booleans()):
                stage.step(Fetched(known))
        if data.draw(st.integers(0, 9)) == 0:
            stage.wait(3_000)
    assert stage.restarted().replica.view <= stage.replica.view
    promised = stage.recorded
    values = {
        (type(effect.signed.message), effect.signed.message.height, effect.signed.message.view)
        for effect in promised
    }
    assert len(values) == len(promised)


def test_liars_that_ask_for_the_last_view_make_nobody_promise_what_no_file_can_hold() -> None:
    # A class of three tolerates no liar; one in each class must still not damage what is stored.
    stage = Stage("r0", make_committee(3, 3))
    stage.step(Pending())
    for name in ("r1", "a0", "r2", "a1"):
        stage.hear((name, ViewChange(1, VIEW_MAX, None)))
    assert stage.replica.view == VIEW_MAX
    stage.wait(120_000)
    assert stage.replica.view == VIEW_MAX
    assert stage.restarted().replica.view == VIEW_MAX
    for promise in stage.recorded:
        assert decode(encode(promise.signed), Signed, bytes_max=1_000) == promise.signed
