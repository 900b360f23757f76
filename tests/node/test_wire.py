"""Every message between nodes survives its encoding, and nothing else is taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.wire import (
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
from primitives.codec import CodecError, encode
from tests.node.support import Bench, make_chain, make_genesis

DIGEST = b"\x07" * 32
GENESIS = make_genesis(1)
STORE = make_chain(GENESIS, 2)
SYNCED = Bench(GENESIS, "recorder-1", STORE).core.answer(BlocksWanted(1, 2))
assert isinstance(SYNCED, BlocksFound)
BLOCK = SYNCED.blocks[0].decision.block


def promise() -> Consensus:
    """A signed message."""
    bench = Bench(make_genesis(4, heartbeat_ms=1), "recorder-2")
    bench.start()
    return Consensus(bench.store.promises(1)[0].signed)


@pytest.mark.parametrize("message", [promise(), BatchBody(b"x"), Head(3, DIGEST)])
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


@given(st.binary(max_size=200))
def test_bytes_are_refused_or_mean_exactly_one_thing(data: bytes) -> None:
    for decode in (decode_message, decode_gossip, decode_request, decode_response):
        try:
            assert encode(decode(data)) == data
        except CodecError:
            continue
