"""What nodes say to each other besides the transport's own hello: direct messages, gossip, requests
and responses.

Every union is decoded strictly (docs/protocol.md); whoever sends something else is counted and
ignored.
"""

from typing import Annotated

import msgspec

from consensus.evidence import Statement
from consensus.messages import Decision, Signed
from primitives.block import Block
from primitives.codec import (
    Canonical,
    CodecError,
    Digest,
    Height,
    InstitutionId,
    Milliseconds,
    UInt,
    decode,
)

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
CONSENSUS_BYTES_MAX = 256 * 1024
"""A PBFT message, or a decided block: the largest legal proposal of the largest committee has half
of that."""
REQUEST_BYTES_MAX = 16 * 1024
RESPONSE_BYTES_MAX = 16 * 1024 * 1024
GOSSIP_BYTES_MAX = 16 * 1024
WANTED_BATCHES_MAX = 256
WANTED_BLOCKS_MAX = 64
BLOCK_BATCHES_MAX = 256
"""No genesis allows a block more."""

# Bounds on lengths are checked while decoding: a long list of tiny parts takes up to twenty times
# its encoded size in memory.
Digests = Annotated[tuple[Digest, ...], msgspec.Meta(max_length=WANTED_BATCHES_MAX)]

# ---- direct messages -----------------------------------------------------------------------------


class Consensus(Canonical, frozen=True, tag=1):
    """A signed PBFT message."""

    signed: Signed


class BatchBody(Canonical, frozen=True, tag=2):
    """The raw bytes of a batch, carried to the members."""

    raw: bytes


class Head(Canonical, frozen=True, tag=3):
    """The sender's newest applied block; sent on connecting, from time to time, and to whoever
    speaks of an older height.
    """

    height: Height
    block_hash: Digest


class Testimony(Canonical, frozen=True, tag=4):
    """What a voter told the sender at a height, where it may have told others something else."""

    height: Height
    signer: InstitutionId
    statement: Statement


class Draft(Canonical, frozen=True, tag=5):
    """What the sender's block of the first view is going to list and how it is dated, before it has
    executed it (node/drafts.py).
    """

    height: Height
    time_ms: Milliseconds
    batches: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=BLOCK_BATCHES_MAX)]


class Decided(Canonical, frozen=True, tag=6):
    """A decided block, as a voter tells it to a member without a vote, which has the batches."""

    decision: Decision

    @property
    def head(self) -> Head:
        """What it says of its sender, whatever else it is good for."""
        return Head(self.decision.block.header.height, self.decision.certificate.block_hash)


Message = Consensus | BatchBody | Head | Testimony | Draft | Decided

# ---- gossip --------------------------------------------------------------------------------------


class BatchesAnnounced(Canonical, frozen=True, tag=1):
    """The author holds these undecided batches; whoever lacks one asks for it."""

    batches: Digests


class HeadAnnounced(Canonical, frozen=True, tag=2):
    """The author has applied this block."""

    height: Height
    block_hash: Digest


Gossip = BatchesAnnounced | HeadAnnounced

# ---- requests and responses ----------------------------------------------------------------------


class BatchesWanted(Canonical, frozen=True, tag=1):
    """Ask for batches by id; answered by BatchesFound with those that the other has."""

    batches: Digests


class BlockWanted(Canonical, frozen=True, tag=2):
    """Ask for an undecided or decided block by hash; answered by BlockFound."""

    block_hash: Digest


class BlocksWanted(Canonical, frozen=True, tag=3):
    """Ask for decided blocks from a height up, at most `count`; answered by BlocksFound, ascending,
    without gap.
    """

    height: Height
    count: UInt


Request = BatchesWanted | BlockWanted | BlocksWanted


class BatchesFound(Canonical, frozen=True, tag=1):
    """Raw batches, in no particular order."""

    batches: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=WANTED_BATCHES_MAX)]


class BlockFound(Canonical, frozen=True, tag=2):
    """The block, or None."""

    block: Block | None


class BlockWithBatches(Canonical, frozen=True):
    """A decided block and the raw batches that it lists, in its order."""

    decision: Decision
    batches: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=BLOCK_BATCHES_MAX)]


class BlocksFound(Canonical, frozen=True, tag=3):
    """Decided blocks and the head height of the node that answers."""

    blocks: Annotated[tuple[BlockWithBatches, ...], msgspec.Meta(max_length=WANTED_BLOCKS_MAX)]
    head_height: Height


Response = BatchesFound | BlockFound | BlocksFound


def decode_message(data: bytes) -> Message:
    """Raises CodecError."""
    message = decode(data, Message, bytes_max=MESSAGE_BYTES_MAX)
    if isinstance(message, Consensus | Decided) and len(data) > CONSENSUS_BYTES_MAX:
        raise CodecError(
            f"A consensus message of {len(data)} bytes is refused: the limit is "
            f"{CONSENSUS_BYTES_MAX} bytes."
        )
    return message


def decode_gossip(data: bytes) -> Gossip:
    """Raises CodecError."""
    return decode(data, Gossip, bytes_max=GOSSIP_BYTES_MAX)


def decode_request(data: bytes) -> Request:
    """Raises CodecError."""
    return decode(data, Request, bytes_max=REQUEST_BYTES_MAX)


def decode_response(data: bytes) -> Response:
    """Raises CodecError."""
    return decode(data, Response, bytes_max=RESPONSE_BYTES_MAX)
