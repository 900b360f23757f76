"""Floods of direct messages over a link that the victim holds for a member's."""

import itertools
import os
from collections.abc import Callable, Iterator

import trio

from consensus.messages import (
    Certificate,
    Commit,
    Decision,
    Message,
    Prepare,
    Signed,
    ViewChange,
    VoteSignature,
)
from ledger.operations import Labels, RegisterRecord
from ledger.transactions import (
    NONCE_BYTES,
    CheckedTransaction,
    TransactionBody,
    read_transaction,
    seal_batch,
    sign_transaction,
)
from node.framing import encode_messages
from node.wire import BatchBody, Consensus, Decided
from primitives.block import Block, BlockHeader
from primitives.codec import encode
from tests.hostile.member import PAUSE_S, Failures, Hostile

BURST = 500
BATCH_TRANSACTIONS = 2_000
LABELS = Labels("laboratory", "normal", "CN-GD", "flood", "unrated")
Bursts = Callable[[Hostile], Iterator[list[bytes]]]


def direct(bursts: Bursts) -> Callable[[Hostile], "object"]:
    """A flood that writes one burst after the other, and comes back when it is thrown out."""

    async def flood(hostile: Hostile) -> None:
        made = bursts(hostile)
        while True:
            stream = await hostile.connected()
            hostile.counts["links"] += 1
            try:
                for messages in made:
                    await hostile.flood(stream, messages)
            except Failures:
                hostile.counts["cut"] += 1

    return flood


def _soon(hostile: Hostile, n: int) -> int:
    """A height that may be the one being decided when the victim comes to read this."""
    return hostile.height + n % 100


def _consensus(signed: Signed) -> bytes:
    return encode(Consensus(signed))


def future_heights(hostile: Hostile) -> Iterator[list[bytes]]:
    """Votes for heights that nobody has reached, validly signed."""
    for step in itertools.count(1):
        # One vote for a height: two would be a contradiction, and the end of our membership.
        heights = range(hostile.height + 2 + step, hostile.height + 2 + step + BURST)
        yield [_consensus(hostile.sign(Prepare(height, 0, bytes(32)))) for height in heights]


def future_views(hostile: Hostile) -> Iterator[list[bytes]]:
    """Validly signed wishes for ever higher views of the height that is being decided."""
    for first in itertools.count(1, BURST):
        yield [
            _consensus(hostile.sign(ViewChange(_soon(hostile, view), view, None)))
            for view in range(first, first + BURST)
        ]


def many_votes(hostile: Hostile) -> Iterator[list[bytes]]:
    """Validly signed votes for the height that is being decided, each for another block: evidence.
    After it we are suspended, and nobody listens to our votes any more.
    """
    while True:
        votes: list[Message] = []
        for n in range(BURST // 2):
            votes.append(Prepare(_soon(hostile, n), 0, os.urandom(32)))
            votes.append(Commit(_soon(hostile, n), 0, os.urandom(32)))
        yield [_consensus(hostile.sign(vote)) for vote in votes]


def bad_signatures(hostile: Hostile) -> Iterator[list[bytes]]:
    """Votes of the height that is being decided, with signatures that nobody made: most in our own
    name, some in others'.
    """
    while True:
        yield [
            _consensus(Signed(name, Commit(_soon(hostile, n), 0, os.urandom(32)), os.urandom(64)))
            for n in range(BURST // 4)
            for name in (hostile.id, hostile.id, hostile.id, hostile.others[0].id)
        ]


def replayed(hostile: Hostile) -> Iterator[list[bytes]]:
    """What the victim has said itself, and our own old votes, again and again."""
    while True:
        own = [
            _consensus(hostile.sign(Prepare(max(hostile.height - 1 - n % 5, 1), 0, bytes(32))))
            for n in range(BURST)
        ]
        yield (hostile.seen or own) + own


def decisions(hostile: Hostile) -> Iterator[list[bytes]]:
    """Blocks to come, and COMMITs of everyone for them that nobody made."""
    digests = (bytes(32),) * 5
    while True:
        told = []
        for n in range(BURST // 10):
            height = _soon(hostile, n % 8)
            header = BlockHeader(1, hostile.chain_id, height, bytes(32), 0, "x", 1, *digests)
            names = sorted({hostile.id, *(one.id for one in hostile.others)})
            entries = tuple(VoteSignature(name, os.urandom(64)) for name in names)
            block = Block(header, os.urandom(100_000))
            certificate = Certificate(3, height, 0, block.hash, entries)
            told.append(encode(Decided(Decision(block, certificate))))
        yield told


def malformed(hostile: Hostile) -> Iterator[list[bytes]]:
    """Frames in good order, with nothing in them that could be read."""
    while True:
        noise = os.urandom(64 * BURST)
        yield [noise[n : n + 64] for n in range(0, len(noise), 64)]


def maximal(hostile: Hostile) -> Iterator[list[bytes]]:
    """The longest messages there may be, and longer: batches of junk, nested lists, long lists."""
    size = 8 * 1024 * 1024 - 64
    junk = encode(BatchBody(os.urandom(size)))
    batch = encode(BatchBody(os.urandom(1024 * 1024 - 64)))
    middle = encode(BatchBody(os.urandom(250 * 1024)))
    nested = b"\x91" * size
    many = b"\xdd" + (size // 2).to_bytes(4, "big") + b"\xc4\x00" * (size // 2)
    short = many[:5] + b"\xc4\x00" * 500_000
    while True:
        yield [batch, middle, nested[: 1024 * 1024], short] * 3
        # Each of these ends the link.
        yield [junk]
        yield [os.urandom(size)]
        yield [nested]
        yield [many]


def batches_valid(hostile: Hostile) -> Iterator[list[bytes]]:
    """Batches of thousands of transactions, with nothing wrong in them."""
    transactions = _transactions(hostile)
    while True:
        yield [encode(BatchBody(_sealed(hostile, transactions))) for _ in range(4)]


def batches_bad(hostile: Hostile) -> Iterator[list[bytes]]:
    """Batches of thousands of transactions, the last of which has a signature that is none."""
    transactions = _transactions(hostile)
    last = transactions[-1]
    raw = last.raw[:-64] + os.urandom(64)
    bad = [*transactions[:-1], CheckedTransaction(last.id, raw, last.body, last.work)]
    while True:
        yield [encode(BatchBody(_sealed(hostile, bad))) for _ in range(4)]


def _transactions(hostile: Hostile) -> list[CheckedTransaction]:
    made = []
    for _ in range(BATCH_TRANSACTIONS):
        body = TransactionBody(
            hostile.key.public,
            hostile.height + 900,
            hostile.sequence + 600_000,
            os.urandom(NONCE_BYTES),
            (RegisterRecord(os.urandom(32), LABELS, None),),
        )
        raw = sign_transaction(hostile.chain_id, hostile.key, body)
        made.append(read_transaction(raw, hostile.chain_id))
    return made


def _sealed(hostile: Hostile, transactions: list[CheckedTransaction]) -> bytes:
    hostile.sequence += 1
    height = hostile.height + 900
    return seal_batch(
        hostile.chain_id, hostile.key, hostile.id, hostile.sequence, height, transactions
    ).raw


async def frames(hostile: Hostile) -> None:
    """Frames that break the rules of framing: each ends the link, and we come back."""
    broken = (b"\x7f\xff\xff\xff\x03", b"\xff\xff\xff\xff\x03", b"\0\0\0\x05\x09hello")
    for number in itertools.count():
        stream = await hostile.connected()
        hostile.counts["sent"] += 1
        try:
            await stream.write(broken[number % len(broken)])
            await stream.read(1)
        except Failures:
            hostile.counts["cut"] += 1


async def flaps(hostile: Hostile) -> None:
    """One link after the other on a connection that stays."""
    while True:
        try:
            muxer = await hostile.dial()
            while True:
                await hostile.link(muxer)
                hostile.counts["sent"] += 1
        except Failures:
            await trio.sleep(PAUSE_S)


async def heartbeats(hostile: Hostile) -> None:
    """Empty frames, each of five bytes."""
    empty = encode_messages([]) * 20_000
    while True:
        stream = await hostile.connected()
        try:
            while True:
                await stream.write(empty)
                hostile.counts["sent"] += 20_000
        except Failures:
            hostile.counts["cut"] += 1
