"""Evidence: every contradiction of a voter proves itself, and nothing else proves anything."""

from itertools import combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.evidence import (
    Evidence,
    EvidenceError,
    ViewChangeStatement,
    VoteStatement,
    check_evidence,
    contradict,
    evidence_id,
    evidence_of,
    phase_accused,
    statement_of,
)
from consensus.messages import (
    Certificate,
    Commit,
    Message,
    Phase,
    Prepare,
    PrePrepare,
    Signed,
    ViewChange,
    sign,
)
from primitives.block import HEADER_VERSION, Block, BlockHeader
from primitives.codec import CodecError, decode, encode
from primitives.keys import PrivateKey

CHAIN = bytes([3]) * 32
KEY = PrivateKey(bytes([4]) * 32)
OTHER_KEY = PrivateKey(bytes([5]) * 32)
HEIGHT = 9


def block_of(number: int) -> Block:
    root = bytes([number]) * 32
    header = BlockHeader(
        version=HEADER_VERSION,
        chain_id=CHAIN,
        height=HEIGHT,
        parent_hash=root,
        view=0,
        proposer="alpha",
        time_ms=1,
        batches_root=root,
        directory_root=root,
        receipts_root=root,
        state_root=root,
        next_committee_hash=root,
    )
    return Block(header, b"")


BLOCKS = [block_of(number) for number in range(2)]
HASHES = [block.hash for block in BLOCKS]


def prepared(view: int, block: int) -> Certificate:
    return Certificate(int(Phase.PREPARE), HEIGHT, view, HASHES[block], ())


def said(message: Message, key: PrivateKey = KEY, signer: str = "alpha") -> Signed:
    return sign(CHAIN, signer, key, message)


def check(first: Message, second: Message) -> Evidence:
    evidence = evidence_of(said(first), said(second))
    check_evidence(evidence, CHAIN, KEY.public)
    return evidence


views = st.integers(0, 3)
blocks = st.integers(0, 1)
certificates = st.none() | st.builds(prepared, views, blocks)
votes = st.one_of(
    st.builds(lambda v, b: PrePrepare(HEIGHT, v, BLOCKS[b], None), views, blocks),
    st.builds(lambda v, b: Prepare(HEIGHT, v, HASHES[b]), views, blocks),
    st.builds(lambda v, b: Commit(HEIGHT, v, HASHES[b]), views, blocks),
)
messages = votes | st.builds(lambda v, c: ViewChange(HEIGHT, v, c), views, certificates)


def value_of(message: Message) -> object:
    match message:
        case PrePrepare(_, _, block):
            return block.hash
        case Prepare(_, _, block_hash) | Commit(_, _, block_hash):
            return block_hash
        case ViewChange(_, _, certificate):
            return certificate and (certificate.view, certificate.block_hash)


def contradictory(first: Message, second: Message) -> bool:
    """docs/ARCHITECTURE.md section 4, in the words of the page."""
    if type(first) is type(second) and first.view == second.view:
        return value_of(first) != value_of(second)
    for vote, change in ((first, second), (second, first)):
        if isinstance(vote, Commit) and isinstance(change, ViewChange):
            hidden = change.prepared is None or change.prepared.view < vote.view
            if change.view > vote.view and hidden:
                return True
    return False


@given(messages, messages)
def test_evidence_is_exactly_what_the_rules_forbid(first: Message, second: Message) -> None:
    forbidden = contradictory(first, second)
    statements = [statement_of(said(message)) for message in (first, second)]
    assert contradict(*statements) is contradict(*statements[::-1]) is forbidden
    if forbidden:
        evidence = check(first, second)
        assert evidence == check(second, first)
        assert (evidence.signer, evidence.height) == ("alpha", HEIGHT)
    else:
        with pytest.raises(EvidenceError):
            check(first, second)


class Honest:
    """A voter that keeps its word, in whatever order things happen to it."""

    def __init__(self) -> None:
        self.view = 0
        self.prepared: Certificate | None = None
        self.said: list[Message] = []
        self._spoken: dict[type, int] = {}

    def vote(self, kind: int, block: int) -> None:
        """A PRE-PREPARE, PREPARE or COMMIT in the present view, unless it has given one."""
        message: Message = (
            PrePrepare(HEIGHT, self.view, BLOCKS[block], None),
            Prepare(HEIGHT, self.view, HASHES[block]),
            Commit(HEIGHT, self.view, HASHES[block]),
        )[kind]
        if self._spoken.get(type(message), -1) >= self.view:
            return
        self._spoken[type(message)] = self.view
        if isinstance(message, Commit):
            self.prepared = prepared(self.view, block)
        self.said.append(message)

    def leave(self, ahead: int) -> None:
        self.view += ahead
        self.said.append(ViewChange(HEIGHT, self.view, self.prepared))

    def follow(self, ahead: int) -> None:
        """Enter a view that others justify."""
        self.view += ahead


steps = st.lists(
    st.tuples(st.just("vote"), st.integers(0, 2), blocks)
    | st.tuples(st.sampled_from(["leave", "follow"]), st.integers(1, 2)),
    max_size=12,
)


@given(steps)
def test_nothing_that_an_honest_voter_says_proves_anything(taken: list[tuple[str, int]]) -> None:
    voter = Honest()
    for name, *arguments in taken:
        getattr(voter, name)(*arguments)
    for first, second in combinations(voter.said, 2):
        with pytest.raises(EvidenceError, match=r"may sign both|are the same"):
            check(first, second)


COMMIT_HIDDEN = evidence_of(
    said(Commit(HEIGHT, 1, HASHES[0])), said(ViewChange(HEIGHT, 2, prepared(0, 1)))
)
TWO_CLAIMS = evidence_of(
    said(ViewChange(HEIGHT, 2, prepared(0, 1))), said(ViewChange(HEIGHT, 2, None))
)
TWO_BLOCKS = evidence_of(
    said(PrePrepare(HEIGHT, 0, BLOCKS[0], None)), said(PrePrepare(HEIGHT, 0, BLOCKS[1], None))
)


@pytest.mark.parametrize("evidence", [COMMIT_HIDDEN, TWO_CLAIMS, TWO_BLOCKS])
def test_every_flipped_byte_is_refused(evidence: Evidence) -> None:
    check_evidence(evidence, CHAIN, KEY.public)
    raw = encode(evidence)
    for position in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[position] ^= 1 << bit
            try:
                false = decode(bytes(changed), Evidence, bytes_max=len(raw))
            except CodecError:
                continue
            with pytest.raises(EvidenceError):
                check_evidence(false, CHAIN, KEY.public)


def test_evidence_is_of_one_key_one_height_and_one_ledger() -> None:
    with pytest.raises(EvidenceError, match="signature is not that of alpha"):
        check_evidence(TWO_BLOCKS, CHAIN, OTHER_KEY.public)
    with pytest.raises(EvidenceError, match="signature is not that of alpha"):
        check_evidence(TWO_BLOCKS, bytes(32), KEY.public)
    prepare, other = Prepare(HEIGHT, 0, HASHES[0]), Prepare(HEIGHT + 1, 0, HASHES[1])
    mixed = evidence_of(said(prepare), said(other))
    with pytest.raises(EvidenceError, match="signature is not that of alpha"):
        check_evidence(mixed, CHAIN, KEY.public)
    second = Prepare(HEIGHT, 0, HASHES[1])
    for false in (said(second, OTHER_KEY), said(second, KEY, "beta")):
        with pytest.raises(EvidenceError, match="signature is not that of alpha"):
            check_evidence(evidence_of(said(prepare), false), CHAIN, KEY.public)


def test_one_statement_signed_twice_is_no_contradiction() -> None:
    """Whoever sees a signature may make another byte string of it; what was signed is the same."""
    first = said(Prepare(HEIGHT, 0, HASHES[0]))
    again = msgspec.structs.replace(first, signature=bytes(64))
    with pytest.raises(EvidenceError, match="may sign both"):
        check_evidence(evidence_of(first, again), CHAIN, KEY.public)
    with pytest.raises(EvidenceError, match="are the same"):
        check_evidence(evidence_of(first, first), CHAIN, KEY.public)


def test_statements_have_one_order() -> None:
    backwards = Evidence("alpha", HEIGHT, TWO_CLAIMS.second, TWO_CLAIMS.first)
    with pytest.raises(EvidenceError, match="not in order"):
        check_evidence(backwards, CHAIN, KEY.public)


def test_evidence_names_its_phases_and_has_an_id() -> None:
    assert phase_accused(TWO_BLOCKS) == (Phase.PRE_PREPARE, Phase.PRE_PREPARE)
    assert phase_accused(COMMIT_HIDDEN) == (Phase.VIEW_CHANGE, Phase.COMMIT)
    assert isinstance(COMMIT_HIDDEN.first, ViewChangeStatement)
    assert isinstance(COMMIT_HIDDEN.second, VoteStatement)
    ids = [evidence_id(each) for each in (TWO_BLOCKS, TWO_CLAIMS, COMMIT_HIDDEN)]
    assert len(dict.fromkeys(ids)) == 3
    assert len(encode(TWO_BLOCKS)) < 300
