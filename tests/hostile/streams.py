"""Floods below and beside the messages: requests, answers, streams, connections."""

import struct
from collections.abc import Callable

import trio

from consensus.messages import Prepare
from node.libp2p.host import read_exactly
from node.libp2p.requests import REQUEST
from node.libp2p.streams import Stream
from node.libp2p.yamux import Muxer
from node.transport import MIB
from node.wire import BatchesWanted, BlocksWanted, Consensus, Head
from primitives.codec import encode
from tests.hostile.member import PAUSE_S, Failures, Hostile

YAMUX = struct.Struct(">BBHII")
_DATA, _WINDOW, _PING = 0, 1, 2
_SYN, _RST = 1, 8
IN_PARALLEL = 32
RESPONSE_BYTES = 16 * MIB


async def _in_parallel(hostile: Hostile, one: Callable[[Muxer], "object"]) -> None:
    """Many tasks that each do `one` again and again, on one connection while it lasts."""

    async def repeat(muxer: Muxer, over: trio.CancelScope) -> None:
        while not muxer.is_closed:
            try:
                await one(muxer)  # type: ignore[misc]
                hostile.counts["sent"] += 1
            except Failures:
                hostile.counts["cut"] += 1
                await trio.sleep(PAUSE_S)
        over.cancel()

    while True:
        await hostile.connected()
        muxer = hostile.host.connections(hostile.pid)[-1]
        async with trio.open_nursery() as nursery:
            for _ in range(IN_PARALLEL):
                nursery.start_soon(repeat, muxer, nursery.cancel_scope)


async def requests_unread(hostile: Hostile) -> None:
    """The most expensive question, many at a time, and nobody who takes the answers."""
    held: list[Stream] = []

    async def ask(muxer: Muxer) -> None:
        held.append(await hostile.ask(muxer, encode(BlocksWanted(1, 64))))
        await trio.sleep(PAUSE_S)
        if len(held) > IN_PARALLEL:
            await held.pop(0).reset()

    await _in_parallel(hostile, ask)


async def requests(hostile: Hostile) -> None:
    """Questions as fast as they are answered: invented batches, and all blocks."""
    invented = encode(BatchesWanted(tuple(n.to_bytes(32, "big") for n in range(256))))
    blocks = encode(BlocksWanted(1, 64))

    async def ask(muxer: Muxer) -> None:
        for question in (invented, blocks):
            stream = await hostile.ask(muxer, question)
            if await read_exactly(stream, 1) == b"\0":
                size = int.from_bytes(await read_exactly(stream, 4), "big")
                await read_exactly(stream, size)
                hostile.counts["answered"] += 1
            await stream.reset()

    await _in_parallel(hostile, ask)


def answers(serve: Callable[[Hostile, Stream], "object"]) -> Callable[[Hostile], "object"]:
    """Have the victim ask us for blocks and batches, and answer as `serve` does."""

    async def flood(hostile: Hostile) -> None:
        async def answer(stream: Stream) -> None:
            length = int.from_bytes(await read_exactly(stream, 4), "big")
            await read_exactly(stream, length)
            hostile.counts["asked"] += 1
            await serve(hostile, stream)  # type: ignore[misc]

        hostile.host.handle(REQUEST, answer)
        while True:
            link = await hostile.connected()
            try:
                while True:
                    # Word of heads, and of a block to vote on, that only we could have.
                    vote = hostile.sign(Prepare(hostile.height + 5, 0, bytes(32)))
                    news = [encode(Head(hostile.height + 500, bytes(32))), encode(Consensus(vote))]
                    await hostile.flood(link, news)
                    await trio.sleep(PAUSE_S)
            except Failures:
                hostile.counts["cut"] += 1

    return flood


async def trickle(hostile: Hostile, stream: Stream) -> None:
    """Promise the longest answer, send nearly all of it, and the rest byte by byte."""
    await stream.write(b"\0" + struct.pack(">I", RESPONSE_BYTES))
    await stream.write(bytes(RESPONSE_BYTES - 1000))
    while True:
        await stream.write(b"\0")
        await trio.sleep(10 * PAUSE_S)


async def bombs(hostile: Hostile, stream: Stream) -> None:
    """Answers of many tiny parts, that would fill the memory when decoded; and length bombs."""
    hostile.counts["sent"] += 1
    if hostile.counts["sent"] % 4 == 0:
        await stream.write(b"\0\x7f\xff\xff\xff" + bytes(100_000))
        return
    # [3, blocks, head]: millions of lists; or [1, batches]: millions of batches of two bytes.
    each = b"\xc4\x02ab" if hostile.counts["sent"] % 2 else b"\x90"
    count = (RESPONSE_BYTES - 100) // len(each)
    head = b"\x92\x01" if hostile.counts["sent"] % 2 else b"\x93\x03"
    body = head + b"\xdd" + struct.pack(">I", count) + each * count + b"\x01"
    await stream.write(b"\0" + struct.pack(">I", len(body)) + body)


def frames(make: Callable[[int], bytes]) -> Callable[[Hostile], "object"]:
    """Yamux frames of our own making, as fast as the victim takes them."""

    async def flood(hostile: Hostile) -> None:
        while True:
            await hostile.connected()
            muxer = hostile.host.connections(hostile.pid)[-1]
            muxer._streams.clear()  # Answers are for nobody.
            number = 10_001
            while not muxer.is_closed:
                muxer.packets.put(b"".join(make(number + 2 * n) for n in range(500)))
                number += 1_000
                muxer.packets.send()
                hostile.counts["sent"] += 500
                while muxer.packets.unsent_bytes and not muxer.is_closed:
                    await muxer.packets.room.park()
                await trio.lowlevel.checkpoint()
            hostile.counts["cut"] += 1

    return flood


def rapid_reset(number: int) -> bytes:
    """A stream that is opened and given up."""
    return YAMUX.pack(0, _WINDOW, _SYN, number, 0) + YAMUX.pack(0, _WINDOW, _RST, number, 0)


def ping(number: int) -> bytes:
    """A ping that wants an answer."""
    return YAMUX.pack(0, _PING, _SYN, 0, number)


def window(number: int) -> bytes:
    """More credit for a stream that there is not, and data without a byte in it."""
    return YAMUX.pack(0, _WINDOW, 0, 1, 1) + YAMUX.pack(0, _DATA, 0, 1, 0)


async def streams_left(hostile: Hostile) -> None:
    """Streams that begin a request of which most never comes, each with a megabyte unread."""

    async def leave(muxer: Muxer) -> None:
        stream = await hostile.host.open(muxer.peer_id, REQUEST, b"\0\0\0\1x")
        with trio.move_on_after(0.5):
            await stream.write(bytes(MIB - 100))
            await trio.sleep_forever()

    await _in_parallel(hostile, leave)


async def connections(hostile: Hostile) -> None:
    """Connections of a member in good order, hundreds of them, each with data unread."""
    muxers: list[Muxer] = []
    while True:
        try:
            muxers.append(await hostile.dial())
            hostile.counts["sent"] += 1
            for _ in range(4):
                stream = await muxers[-1].open_stream()
                proposal = b"\x13/multistream/1.0.0\n\x19/medpact/request/1\n"
                await stream.write(proposal + b"\0\0\0\1x" + bytes(250_000))
        except Failures:
            hostile.counts["cut"] += 1
            await trio.sleep(PAUSE_S)
        muxers = [muxer for muxer in muxers if not muxer.is_closed]
        if len(muxers) > 400:
            await muxers.pop(0).close()
