"""Every message between nodes survives its encoding, and nothing else is taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.committee import VOTERS_MAX
from consensus.messages import (
    Certificate,
    Decision,
    Justification,
    PreparedClaim,
    PrePrepare,
    Signed,
    ViewChangeSignature,
    VoteSignature,
)
from ledger.execution import PAYLOAD_BYTES_MAX
from node.wire import (
    CONSENSUS_BYTES_MAX,
    GOSSIP_BYTES_MAX,
    WANTED_BATCHES_MAX,
    BatchBody,
    BatchesAnnounced,
    BatchesFound,
    BatchesWanted,
    BlockFound,
    BlocksFound,
    BlocksWanted,
    BlockWanted,
    Consensus,
    Decided,
    Draft,
    Gossip,
    Head,
    HeadAnnounced,
    Message,
    Request,
    Response,
    decode_gossip,
    decode_message,
    decode_request,
    decode_response,
)
from primitives.block import Block, BlockHeader
from primitives.codec import CodecError, encode
from tests.node.support import Bench, make_chain, make_genesis

DIGEST = b"\x07" * 32
GENESIS = make_genesis(1)
STORE = make_chain(GENESIS, 2)
SYNCED = Bench(GENESIS, "recorder-1", STORE).core.answer(BlocksWanted(1, 2))
assert isinstance(SYNCED, BlocksFound)
BLOCK = SYNCED.blocks[0].decision.block
DECIDED = Decided(SYNCED.blocks[0].decision)


def promise() -> Consensus:
    """A signed message."""
    bench = Bench(make_genesis(4, heartbeat_ms=1), "recorder-2")
    bench.start()
    return Consensus(bench.store.promises(1)[0].signed)


@pytest.mark.parametrize(
    "message", [promise(), BatchBody(b"x"), Head(3, DIGEST), Draft(3, 4, (DIGEST,)), DECIDED]
)
def test_messages(message: Message) -> None:
    assert decode_message(encode(message)) == message


@pytest.mark.parametrize("gossip", [BatchesAnnounced((DIGEST,)), HeadAnnounced(3, DIGEST)])
def test_gossip(gossip: Gossip) -> None:
    assert decode_gossip(encode(gossip)) == gossip


@pytest.mark.parametrize(
    "request_", [BatchesWanted((DIGEST,)), BlockWanted(DIGEST), BlocksWanted(1, 64)]
)
def test_requests(request_: Request) -> None:
    assert decode_request(encode(request_)) == request_


@pytest.mark.parametrize(
    "response", [BatchesFound((b"x",)), BlockFound(None), BlockFound(BLOCK), SYNCED]
)
def test_responses(response: Response) -> None:
    assert decode_response(encode(response)) == response


def test_lists_of_ids_are_bounded_and_so_is_gossip() -> None:
    full = BatchesAnnounced((DIGEST,) * WANTED_BATCHES_MAX)
    assert decode_gossip(encode(full)) == full
    assert len(encode(full)) < GOSSIP_BYTES_MAX
    with pytest.raises(CodecError):
        decode_gossip(encode(BatchesAnnounced((DIGEST,) * (WANTED_BATCHES_MAX + 1))))
    with pytest.raises(CodecError):
        decode_request(encode(BatchesWanted((DIGEST,) * (WANTED_BATCHES_MAX + 1))))


def largest_proposal(payload_bytes: int) -> bytes:
    """A proposal of the longest header in the largest committee."""
    most, roots = 2**63 - 1, (DIGEST,) * 5
    header = BlockHeader(1, DIGEST, most, DIGEST, 2**32 - 1, "x" * 32, most, *roots)
    signature = b"s" * 64
    certificate = Certificate(
        2, most, 2**32 - 1, DIGEST, (VoteSignature("x" * 32, signature),) * VOTERS_MAX
    )
    asked = ViewChangeSignature("x" * 32, PreparedClaim(2**32 - 1, DIGEST), signature)
    justification = Justification((asked,) * VOTERS_MAX, certificate)
    block = Block(header, bytes(payload_bytes))
    message = PrePrepare(most, 2**32 - 1, block, justification)
    return encode(Consensus(Signed("x" * 32, message, signature)))


def test_a_proposal_is_not_larger_than_any_can_be() -> None:
    # What waits for the next height and for a turn of the node would otherwise be megabytes each.
    legal = largest_proposal(PAYLOAD_BYTES_MAX)
    assert len(legal) <= CONSENSUS_BYTES_MAX
    assert encode(decode_message(legal)) == legal
    with pytest.raises(CodecError, match="limit"):
        decode_message(largest_proposal(CONSENSUS_BYTES_MAX))
    proposal = decode_message(legal)
    assert isinstance(proposal, Consensus)
    assert isinstance(proposal.signed.message, PrePrepare)
    block = proposal.signed.message.block
    entries = (VoteSignature("x" * 32, b"s" * 64),) * VOTERS_MAX
    certificate = Certificate(3, 2**63 - 1, 2**32 - 1, DIGEST, entries)
    decided = encode(Decided(Decision(block, certificate)))
    assert encode(decode_message(decided)) == decided
    large = encode(Decided(Decision(Block(block.header, bytes(CONSENSUS_BYTES_MAX)), certificate)))
    with pytest.raises(CodecError, match="limit"):
        decode_message(large)
    body = encode(BatchBody(bytes(CONSENSUS_BYTES_MAX)))
    assert encode(decode_message(body)) == body


@given(st.binary(max_size=200))
def test_bytes_are_refused_or_mean_exactly_one_thing(data: bytes) -> None:
    for decode in (decode_message, decode_gossip, decode_request, decode_response):
        try:
            assert encode(decode(data)) == data
        except CodecError:
            continue
