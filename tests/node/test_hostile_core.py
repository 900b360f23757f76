"""Arbitrary, damaged and repeated messages against one core: it never raises, whatever peers send,
and nothing that they can make grow outgrows its limit (bounds.py).
"""

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consensus.certificates import assemble
from consensus.evidence import ViewChangeStatement, VoteStatement
from consensus.messages import (
    Certificate,
    Commit,
    Decision,
    Justification,
    Message,
    Phase,
    Prepare,
    PreparedClaim,
    PrePrepare,
    Signed,
    ViewChange,
    ViewChangeSignature,
    sign,
    vote_digest,
)
from node import wire
from node.events import (
    BatchArrived,
    BlockArrived,
    BlocksArrived,
    DecisionArrived,
    Event,
    GossipArrived,
    MessageArrived,
    PeerConnected,
    PeerDisconnected,
    RequestEnded,
    Submitted,
    SyncedBlock,
)
from node.mempool import MempoolLimits
from node.settings import CoreSettings
from node.wire import (
    BatchBody,
    BatchesAnnounced,
    BatchesWanted,
    BlockFound,
    BlocksWanted,
    BlockWanted,
    Consensus,
    Decided,
    Head,
    HeadAnnounced,
    Request,
    decode_gossip,
    decode_message,
    decode_request,
    decode_response,
)
from primitives.block import Block
from primitives.codec import UINT_MAX, VIEW_MAX, CodecError, encode
from primitives.merkle import sized_root
from tests.node.bounds import check_bounds
from tests.node.support import Bench, key_of, make_batch, make_genesis, make_transaction

GENESIS = make_genesis(4, observers=1, block_batches_max=4, censorship_heights=1)
VOTERS = tuple(f"recorder-{number}" for number in range(1, 5))
PEERS = (*VOTERS[1:], "observer-1")
LIMITS = MempoolLimits(total_bytes_max=6_000, author_bytes_max=2_000, author_batches_max=5)
SETTINGS = CoreSettings(mempool=LIMITS)
BATCHES = [
    *(make_batch(GENESIS, id, n) for id in (*VOTERS[1:], "observer-1") for n in range(1, 9)),
    make_batch(GENESIS, "recorder-2", 3, [make_transaction(GENESIS, "recorder-2", 77)]),
    make_batch(GENESIS, "recorder-3", 50, until_height=0),
    make_batch(GENESIS, "recorder-3", 51, until_height=2**40),
]


def propose(batch_count: int) -> Block:
    """A block of recorder-2, whose turn height 1 is."""
    bench = Bench(GENESIS, "recorder-2")
    bench.start()
    for batch in BATCHES[:batch_count]:
        bench.core.mempool.add(batch, bench.now)
    bench.core._outbox.open(bench.now, bench.wall)
    block = bench.core._judging.build(0)
    assert block is not None
    return block


BLOCKS = [propose(1), propose(3)]
BLOCKS += [Block(BLOCKS[0].header, encode((b"\x09" * 32,))), Block(BLOCKS[0].header, b"\xff")]

# ---- what a peer may say -------------------------------------------------------------------------

peers = st.sampled_from(PEERS)
heights = st.sampled_from([0, 1, 1, 1, 1, 2, 2, 3, 2**40, UINT_MAX])
views = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 9, 2**30, VIEW_MAX])
blocks = st.sampled_from(BLOCKS)
hashes = st.sampled_from([BLOCKS[0].hash, BLOCKS[1].hash, b"\x07" * 32, BATCHES[0].id])


@st.composite
def certificates(draw: st.DrawFn) -> Certificate:
    """True, of others, with bad signatures, of too few; for this height or another."""
    phase = draw(st.sampled_from([Phase.PREPARE, Phase.COMMIT]))
    height, view, block_hash = draw(heights), draw(views), draw(hashes)
    signers = draw(st.lists(st.sampled_from([*VOTERS, "zoe"]), unique=True, max_size=5))
    bad = draw(st.integers(0, 3)) == 0
    signatures = {
        name: key_of("zoe" if bad else name).sign(
            vote_digest(GENESIS.chain_id, name, phase, height, view, block_hash)
        )
        for name in signers
    }
    return assemble(phase, height, view, block_hash, signatures)


claims = st.none() | st.builds(PreparedClaim, views, hashes)
justifications = st.builds(
    Justification,
    st.lists(
        st.builds(ViewChangeSignature, st.sampled_from(VOTERS), claims, st.just(b"s" * 64)),
        max_size=4,
    ).map(tuple),
    st.none() | certificates(),
)
votes: st.SearchStrategy[Message] = st.one_of(
    st.builds(Prepare, heights, views, hashes),
    st.builds(Commit, heights, views, hashes),
    st.builds(ViewChange, heights, views, st.none() | certificates()),
    st.builds(PrePrepare, heights, views, blocks, st.none() | justifications),
)


@st.composite
def consensus_messages(draw: st.DrawFn) -> tuple[str, Signed]:
    """Mostly the sender's own with its true signature, so that more than the gate is reached."""
    peer, message = draw(peers), draw(votes)
    match draw(st.integers(0, 9)):
        case 0:
            return peer, Signed(peer, message, b"s" * 64)
        case 1:
            other = draw(st.sampled_from([*VOTERS, "observer-1"]))
            return peer, sign(GENESIS.chain_id, other, key_of(other), message)
        case _:
            return peer, sign(GENESIS.chain_id, peer, key_of(peer), message)


@st.composite
def synced_blocks(draw: st.DrawFn) -> SyncedBlock:
    batches = draw(st.lists(st.sampled_from(BATCHES), max_size=3))
    return SyncedBlock(Decision(draw(blocks), draw(certificates())), tuple(batches))


statements = st.one_of(
    st.builds(VoteStatement, st.integers(1, 3), views, hashes, st.just(b"s" * 64)),
    st.builds(ViewChangeStatement, views, claims, st.just(b"s" * 64)),
)
verified = st.sampled_from([(), ((key_of("zoe").public, b"d" * 32, b"s" * 64),)])
digests = st.lists(hashes | st.binary(min_size=32, max_size=32), max_size=6).map(tuple)
listings = st.lists(st.sampled_from([batch.id for batch in BATCHES]), max_size=3).map(tuple)
requests = st.one_of(
    st.builds(BatchesWanted, digests),
    st.builds(BlockWanted, hashes),
    st.builds(BlocksWanted, heights, st.integers(0, 100)),
)
events: st.SearchStrategy[Event] = st.one_of(
    consensus_messages().map(lambda said: MessageArrived(said[0], Consensus(said[1]))),
    consensus_messages().map(lambda said: MessageArrived(said[0], Consensus(said[1]))),
    st.builds(MessageArrived, peers, st.builds(Head, heights, hashes)),
    st.builds(
        MessageArrived,
        peers,
        st.builds(wire.Testimony, heights, st.sampled_from([*VOTERS, "zoe"]), statements),
    ),
    st.builds(
        MessageArrived,
        peers,
        st.builds(wire.Draft, heights, st.integers(0, 2**53), digests | listings),
    ),
    st.builds(BatchArrived, peers, st.sampled_from(BATCHES), st.booleans()),
    st.builds(DecisionArrived, peers, st.builds(Decision, blocks, certificates()), verified),
    st.builds(GossipArrived, peers, st.builds(BatchesAnnounced, digests)),
    st.builds(GossipArrived, peers, st.builds(HeadAnnounced, heights, hashes)),
    st.builds(PeerConnected, peers),
    st.builds(PeerDisconnected, peers),
    st.builds(BlocksArrived, peers, st.lists(synced_blocks(), max_size=3).map(tuple), heights),
    st.builds(BlockArrived, peers, st.builds(BlockFound, st.none() | blocks)),
    st.builds(RequestEnded, peers, requests, st.booleans(), st.booleans()),
    st.just(Submitted((make_transaction(GENESIS, "recorder-1", 5),))),
)
steps = st.lists(st.tuples(events, st.sampled_from([0, 0, 0, 3, 120, 700, 4_000])), max_size=60)


def start(id: str) -> Bench:
    bench = Bench(GENESIS, id, settings=SETTINGS)
    bench.start()
    for peer in (*VOTERS, "observer-1"):
        if peer != id:
            bench.step(PeerConnected(peer))
    return bench


def endure(bench: Bench, said: Sequence[tuple[Event, int]]) -> None:
    """Take it all, let time pass in between, and stay within every limit."""
    for event, pause_ms in said:
        bench.step(event)
        check_bounds(bench.core, LIMITS)
        if pause_ms:
            bench.expire(bench.now + pause_ms)
            check_bounds(bench.core, LIMITS)


@pytest.mark.parametrize("id", ["recorder-1", "observer-1"])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(said=steps)
def test_whatever_peers_say_nothing_raises_and_all_limits_hold(
    id: str, said: list[tuple[Event, int]]
) -> None:
    endure(start(id), said)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(said=steps, again=st.integers(1, 3))
def test_repeating_everything_changes_nothing_but_counters(
    said: list[tuple[Event, int]], again: int
) -> None:
    messages = [(event, 0) for event, _ in said if isinstance(event, MessageArrived)]
    bench = start("recorder-1")
    endure(bench, messages)
    checks = 0 if bench.core._seat.replica is None else bench.core._seat.replica.signatures.checks
    view, height = bench.core.view, bench.core.head.height
    endure(bench, messages * again)
    assert (bench.core.view, bench.core.head.height) == (view, height)
    replica = bench.core._seat.replica
    assert replica is not None
    # What was valid is known; what was not is checked again, and charged to who sent it.
    invalid = sum(1 for event, _ in messages if isinstance(event.message, Consensus))
    assert replica.signatures.checks - checks <= again * invalid * 10


def test_a_real_network_s_messages_damaged_in_every_way_are_endured() -> None:
    """Byte by byte: what still decodes is taken in, the rest raises CodecError and nothing else."""
    signed = sign(
        GENESIS.chain_id,
        "recorder-2",
        key_of("recorder-2"),
        PrePrepare(1, 0, BLOCKS[1], None),
    )
    certificate = assemble(Phase.PREPARE, 1, 0, BLOCKS[1].hash, {VOTERS[0]: b"s" * 64})
    change = sign(
        GENESIS.chain_id, "recorder-2", key_of("recorder-2"), ViewChange(1, 1, certificate)
    )
    bench = start("recorder-1")
    taken = 0
    for message in (Consensus(signed), Consensus(change), Head(3, b"h" * 32)):
        raw = encode(message)
        for place in range(len(raw)):
            for damaged in (
                raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :],
                raw[:place],
                raw[:place] + raw[place + 1 :],
            ):
                try:
                    decoded = decode_message(damaged)
                except CodecError:
                    continue
                assert not isinstance(decoded, BatchBody | Decided)
                bench.step(MessageArrived("recorder-2", decoded))
                taken += 1
        check_bounds(bench.core, LIMITS)
    assert taken > 100
    assert bench.core.head.height == 0


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_bytes_that_are_no_message_are_refused_in_one_way(raw: bytes) -> None:
    for decoder in (decode_message, decode_gossip, decode_request, decode_response):
        try:
            decoder(raw)
        except CodecError:
            continue


@settings(max_examples=60, deadline=None)
@given(st.lists(requests, max_size=20))
def test_every_request_is_answered_within_the_limit(
    asked: list[Request],
) -> None:
    bench = start("recorder-1")
    for request in asked:
        assert len(encode(bench.core.answer(request))) <= 16 * 1024 * 1024
        check_bounds(bench.core, LIMITS)


def test_the_largest_candidate_is_one_block() -> None:
    """A proposal that lists more than a block may hold is dropped as soon as that shows."""
    genesis = make_genesis(4, block_batches_max=2)
    batches = [make_batch(genesis, "recorder-3", number) for number in range(1, 4)]
    header = BLOCKS[0].header
    ids = tuple(batch.id for batch in batches)
    fields = {name: getattr(header, name) for name in header.__struct_fields__}
    bench = Bench(genesis, "recorder-1")
    bench.start()
    fields |= {
        "chain_id": genesis.chain_id,
        "parent_hash": bench.core.chain.head_hash,
        "batches_root": sized_root(ids),
    }
    block = Block(type(header)(**fields), encode(ids))
    signed = sign(
        genesis.chain_id, "recorder-2", key_of("recorder-2"), PrePrepare(1, 0, block, None)
    )
    bench.step(PeerConnected("recorder-2"))
    bench.step(MessageArrived("recorder-2", Consensus(signed)))
    assert bench.core.conduct.counts() == {"recorder-2": {"block_invalid": 1}}
    assert len(bench.core._judging._candidates._by_hash) == 0
