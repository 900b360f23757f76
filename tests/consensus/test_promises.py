"""Nothing that contradicts a promise gets past, in one process or the next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.events import Persist
from consensus.messages import (
    Certificate,
    Commit,
    Message,
    Phase,
    Prepare,
    ViewChange,
)
from consensus.promises import PromiseError, Promises
from primitives.block import Block
from tests.consensus.support import (
    by,
    certify,
    genesis,
    make_block,
    make_committee,
    proposal,
)

COMMITTEE = make_committee(4)
QUORUM = ("r0", "r1", "r2")
BLOCK = make_block(genesis(COMMITTEE), "r1")
OTHER = make_block(genesis(COMMITTEE), "r2")


def keep(
    promises: Promises,
    message: Message,
    prepared: Certificate | None = None,
    block: Block | None = None,
) -> None:
    promises.keep(Persist(by("r1", message), prepared, block))


def prepared(view: int, block: Block = BLOCK) -> Certificate:
    return certify(Phase.PREPARE, QUORUM, block, view)


def after_a_commit() -> Promises:
    """PRE-PREPARE, PREPARE and COMMIT in view 2."""
    promises = Promises(1)
    keep(promises, proposal(BLOCK, 2))
    keep(promises, Prepare(1, 2, BLOCK.hash), block=BLOCK)
    keep(promises, Commit(1, 2, BLOCK.hash), prepared(2))
    return promises


def test_what_matters_is_kept() -> None:
    promises = after_a_commit()
    assert promises.highest_view == 2
    assert promises.prepared == prepared(2)
    assert promises.block == BLOCK
    keep(promises, ViewChange(1, 4, prepared(2)))
    assert promises.highest_view == 4
    assert promises.view(Phase.COMMIT) == 2
    assert promises.view(Phase.VIEW_CHANGE) == 4


def test_nothing_is_promised_at_first() -> None:
    promises = Promises(1)
    assert promises.highest_view == -1
    assert promises.view(Phase.PREPARE) == -1
    assert promises.prepared is None


@pytest.mark.parametrize("view", [0, 1, 2])
@pytest.mark.parametrize("kind", [Prepare, Commit])
@pytest.mark.parametrize("block", [BLOCK, OTHER])
def test_one_vote_per_view_and_views_ascend(
    kind: type[Prepare | Commit], view: int, block: Block
) -> None:
    with pytest.raises(PromiseError, match="second"):
        keep(after_a_commit(), kind(1, view, block.hash), prepared(view, block), block)


def test_one_proposal_per_view() -> None:
    with pytest.raises(PromiseError, match="a second PRE_PREPARE in view 2"):
        keep(after_a_commit(), proposal(OTHER, 2))


@pytest.mark.parametrize("view", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", [Prepare, Commit])
def test_no_vote_in_a_view_that_was_left(kind: type[Prepare | Commit], view: int) -> None:
    promises = Promises(1)
    keep(promises, ViewChange(1, 4, None))
    with pytest.raises(PromiseError, match="which we have left"):
        keep(promises, kind(1, view, BLOCK.hash), prepared(view), BLOCK)
    keep(promises, kind(1, 4, BLOCK.hash), prepared(4), BLOCK)


def test_no_proposal_in_a_view_that_was_left() -> None:
    promises = Promises(1)
    keep(promises, ViewChange(1, 4, None))
    with pytest.raises(PromiseError, match="left"):
        keep(promises, proposal(BLOCK, 3))


@pytest.mark.parametrize("view", [1, 2])
def test_a_view_change_only_leads_on(view: int) -> None:
    with pytest.raises(PromiseError, match="where we already are"):
        keep(after_a_commit(), ViewChange(1, view, prepared(2)))


@pytest.mark.parametrize("claim", [None, prepared(1), prepared(2, OTHER), prepared(3)])
def test_a_view_change_says_what_was_prepared(claim: Certificate | None) -> None:
    with pytest.raises(PromiseError, match="hides"):
        keep(after_a_commit(), ViewChange(1, 4, claim))


def test_a_view_change_invents_nothing() -> None:
    with pytest.raises(PromiseError, match="hides"):
        keep(Promises(1), ViewChange(1, 4, prepared(2)))


@pytest.mark.parametrize(
    "proof",
    [None, prepared(1), prepared(0, OTHER), certify(Phase.COMMIT, QUORUM, BLOCK)],
)
def test_a_commit_needs_its_own_certificate(proof: Certificate | None) -> None:
    with pytest.raises(PromiseError, match="without its prepared certificate"):
        keep(Promises(1), Commit(1, 0, BLOCK.hash), proof)


@pytest.mark.parametrize("block", [None, OTHER])
def test_a_prepare_needs_its_block(block: Block | None) -> None:
    with pytest.raises(PromiseError, match="without its block"):
        keep(Promises(1), Prepare(1, 0, BLOCK.hash), block=block)


def test_a_prepare_agrees_with_our_own_proposal() -> None:
    promises = Promises(1)
    keep(promises, proposal(BLOCK, 2))
    with pytest.raises(PromiseError, match="another block than our own"):
        keep(promises, Prepare(1, 2, OTHER.hash), block=OTHER)
    keep(promises, Prepare(1, 3, OTHER.hash), block=OTHER)


def test_another_height_is_another_record() -> None:
    with pytest.raises(PromiseError, match="height 1 at height 2"):
        keep(Promises(2), Prepare(1, 0, BLOCK.hash), block=BLOCK)


def test_a_refused_message_leaves_no_trace() -> None:
    promises = after_a_commit()
    with pytest.raises(PromiseError):
        keep(promises, Commit(1, 3, OTHER.hash), prepared(3))
    assert promises.view(Phase.COMMIT) == 2
    assert promises.prepared == prepared(2)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["prepare", "commit", "view change"]),
            st.integers(0, 4),
            st.sampled_from([BLOCK, OTHER]),
            st.booleans(),
        ),
        max_size=25,
    ),
    st.integers(0, 25),
)
def test_a_restart_at_any_moment_changes_nothing(
    wishes: list[tuple[str, int, Block, bool]], restart: int
) -> None:
    """The record read back refuses exactly what the process that wrote it would have."""
    promises = Promises(1)
    recorded: list[Persist] = []
    for moment, (kind, view, block, honest) in enumerate(wishes):
        if moment == restart:
            promises = Promises(1, recorded)
        proof = None
        message: Message
        match kind:
            case "prepare":
                message = Prepare(1, view, block.hash)
            case "commit":
                message, proof = Commit(1, view, block.hash), prepared(view, block)
            case _:
                message = ViewChange(1, view, promises.prepared if honest else None)
        persist = Persist(by("r1", message), proof, block if kind == "prepare" else None)
        try:
            promises.keep(persist)
        except PromiseError:
            continue
        recorded.append(persist)
    again = Promises(1, recorded)
    assert again.latest == promises.latest
    assert (again.prepared, again.block) == (promises.prepared, promises.block)
    check_no_contradiction(recorded)


def check_no_contradiction(recorded: list[Persist]) -> None:
    """The definition of evidence, applied to everything ever signed."""
    values: dict[tuple[type[Message], int], object] = {}
    left, committed = -1, -1
    for persist in recorded:
        message = persist.signed.message
        key = (type(message), message.view)
        assert key not in values
        values[key] = message
        assert message.view >= left
        match message:
            case ViewChange(_, view, claim):
                left = view
                assert committed <= (-1 if claim is None else claim.view)
            case Commit(_, view, _):
                committed = view
