"""The header: its bytes, its hash, its limits."""

import hashlib
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives.block import HEADER_BYTES_MAX, HEADER_VERSION, Block, BlockHeader
from primitives.codec import UINT_MAX, VIEW_MAX, CodecError, decode, encode
from primitives.hashing import ZERO_DIGEST

digests = st.binary(min_size=32, max_size=32)
uints = st.integers(0, UINT_MAX)
headers = st.builds(
    BlockHeader,
    version=uints,
    chain_id=digests,
    height=uints,
    parent_hash=digests,
    view=st.integers(0, VIEW_MAX),
    proposer=st.just("") | st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True),
    time_ms=uints,
    batches_root=digests,
    directory_root=digests,
    receipts_root=digests,
    state_root=digests,
    next_committee_hash=digests,
)
GENESIS = BlockHeader(
    version=HEADER_VERSION,
    chain_id=b"\x01" * 32,
    height=0,
    parent_hash=ZERO_DIGEST,
    view=0,
    proposer="",
    time_ms=0,
    batches_root=b"\x02" * 32,
    directory_root=b"\x03" * 32,
    receipts_root=b"\x04" * 32,
    state_root=b"\x05" * 32,
    next_committee_hash=b"\x06" * 32,
)


@given(headers)
def test_headers_travel_within_their_limit(header: BlockHeader) -> None:
    assert decode(encode(header), BlockHeader, bytes_max=HEADER_BYTES_MAX) == header


def test_the_limit_is_the_longest_header() -> None:
    longest = msgspec.structs.replace(
        GENESIS,
        version=UINT_MAX,
        height=UINT_MAX,
        view=VIEW_MAX,
        proposer="a" * 32,
        time_ms=UINT_MAX,
    )
    assert len(encode(longest)) == HEADER_BYTES_MAX
    assert decode(encode(longest), BlockHeader, bytes_max=HEADER_BYTES_MAX) == longest


@given(headers)
def test_the_hash_is_the_tagged_hash_of_the_canonical_bytes(header: BlockHeader) -> None:
    tag = hashlib.sha256(b"medpact/header").digest()
    packed = msgpack.packb(list(msgspec.structs.astuple(header)), use_bin_type=True)
    assert header.hash() == hashlib.sha256(tag + tag + packed).digest()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("chain_id", b"\x11" * 32),
        ("height", 1),
        ("parent_hash", b"\x11" * 32),
        ("view", 1),
        ("proposer", "a"),
        ("time_ms", 1),
        ("batches_root", b"\x11" * 32),
        ("directory_root", b"\x11" * 32),
        ("receipts_root", b"\x11" * 32),
        ("state_root", b"\x11" * 32),
        ("next_committee_hash", b"\x11" * 32),
    ],
)
def test_the_hash_covers_every_field(field: str, value: Any) -> None:
    assert msgspec.structs.replace(GENESIS, **{field: value}).hash() != GENESIS.hash()


def test_every_field_is_named_above() -> None:
    marks = test_the_hash_covers_every_field.pytestmark
    assert [field for field, _ in marks[0].args[1]] == list(BlockHeader.__struct_fields__)


@pytest.mark.parametrize("proposer", ["-a", "A", "a" * 33, "a\n", "\n", " "])
def test_a_proposer_that_is_no_institution_id_is_refused(proposer: str) -> None:
    with pytest.raises(CodecError):
        decode(
            encode(msgspec.structs.replace(GENESIS, proposer=proposer)),
            BlockHeader,
            bytes_max=HEADER_BYTES_MAX,
        )


@given(headers, st.data())
def test_a_changed_byte_is_refused_or_has_another_hash(
    header: BlockHeader, data: st.DataObject
) -> None:
    changed = bytearray(encode(header))
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode(bytes(changed), BlockHeader, bytes_max=HEADER_BYTES_MAX)
    except CodecError:
        return
    assert decoded.hash() != header.hash()


@given(headers, st.binary(max_size=200))
def test_a_block_is_known_by_its_header(header: BlockHeader, payload: bytes) -> None:
    block = decode(encode(Block(header, payload)), Block, bytes_max=600)
    assert block == Block(header, payload)
    assert block.hash == header.hash()
