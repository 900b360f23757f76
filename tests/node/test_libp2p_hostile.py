"""What may come in at a node's port: strangers, garbage, and members that keep no rules.

In each test the node stays up, an honest peer keeps its link to it, and what happened is counted.
"""

import asyncio
import contextlib
import dataclasses
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.exceptions import MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from node.framing import Hello, Kind, encode_hello, encode_messages
from node.libp2p import packets
from node.libp2p.host import read_exactly
from node.libp2p.links import DIRECT
from node.libp2p.requests import REQUEST
from node.libp2p.streams import WINDOW_BYTES
from node.libp2p.yamux import Muxer
from node.transport import TransportLimits
from tests.node.network_support import CHAIN, POLL_S, QUICK, Intruder, Node, ended, member

NODE, HONEST, HOSTILE = "recorder-1", "auditor-1", "recorder-2"
GOSSIP = TProtocol(PROTOCOL_ID_V11)
Attack = Callable[[Intruder, Muxer], Awaitable[object]]


async def never(request: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


@contextlib.asynccontextmanager
async def under_attack(
    attack: Attack, limits: TransportLimits = QUICK
) -> AsyncIterator[tuple[Node, Node]]:
    """The node and the honest peer, after a member has done what `attack` says."""
    members = [member(NODE), member(HONEST), member(HOSTILE)]

    async def connect(intruder: Intruder) -> None:
        intruder.welcome()
        intruder.target = members[0]
        await attack(intruder, await intruder.dial(members[0]))

    async with Node(members[0], members, limits) as node, Node(members[1], members) as honest:
        await node.heard.linked(HONEST)
        await honest.heard.linked(NODE)
        node.heard.answer = never
        await Intruder(HOSTILE).run(connect)
        yield node, honest
        assert (honest.id, "-") not in [(peer, sign) for sign, peer in node.heard.links]
        assert honest.transport.send(NODE, b"still here")
        await node.heard.until(lambda heard: (HONEST, b"still here") in heard.messages)
        assert await node.transport.request(HONEST, b"you?", 10_000) == b"echo you?"


async def comes_to_an_end(
    intruder: Intruder, muxer: Muxer, protocol: TProtocol, data: bytes
) -> bool:
    """Under trio: whether the node ends the stream on which it gets `data`, and only that."""
    try:
        stream = await intruder.host.open(muxer.peer_id, protocol, data)
        await stream.close()
        await ended(stream)
    except MuxedStreamReset:
        pass
    return not muxer.is_closed


# ---- strangers ----------------------------------------------------------------------------------


async def test_a_stranger_is_refused_counted_and_logged_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = member(NODE)

    async def knock(intruder: Intruder) -> None:
        for _ in range(5):
            with contextlib.suppress(SwarmException):
                muxer = await intruder.dial(own)
                await muxer.event_closed.wait()

    async with Node(own, [own]) as node:
        await Intruder(HOSTILE).run(knock)
        assert node.transport.counters()["strangers_refused"] == 5
        assert node.transport.connected() == ()
    assert capsys.readouterr().out.count("strangers_refused") == 1


async def test_a_member_is_not_dialled_where_another_node_answers() -> None:
    """Someone else at a member's address, or a member whose key is wrong in our genesis."""
    own, other = member(NODE), member(HONEST)
    wrong = dataclasses.replace(member(HOSTILE), address=other.address)
    async with Node(other, [own, other]), Node(own, [own, wrong]) as node:
        await node.count("dials", 3)
        assert node.heard.links == []


async def test_garbage_on_the_port_is_survived() -> None:
    members = [member(NODE), member(HONEST)]
    host, port = members[0].address.rsplit(":", 1)
    multistream = b"\x13/multistream/1.0.0\n"
    noise = multistream + b"\x07/noise\n"
    garbage = [
        b"",
        b"\0",
        os.urandom(5000),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff" * 100,
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + b"x" * 100_000,
        multistream + b"\x01\n",
        multistream + b"\x05ls\n" * 100,
        multistream + b"\x0d/not/offered\n" * 1000,
        noise + b"\0\0" * 100,
        noise + b"\xff\xff" + os.urandom(65535),
        noise + b"\0\x20" + os.urandom(32) + b"\0\x40" + os.urandom(64),
    ]
    async with Node(members[0], members) as node, Node(members[1], members):
        await node.heard.linked(HONEST)
        for data in garbage:
            reader, writer = await asyncio.open_connection(host, int(port))
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                writer.write_eof()
                await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await node.count("handshakes_failed", len(garbage))
        assert node.heard.links == [("+", HONEST)]


async def test_connections_that_say_nothing_are_bounded_and_end() -> None:
    limits = dataclasses.replace(QUICK, handshakes_max=3, dial_timeout_ms=300)
    own = member(NODE)
    host, port = own.address.rsplit(":", 1)
    async with Node(own, [own], limits) as node:
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(8)]
        await node.count("handshakes_failed", 8)
        assert node.transport.counters()["handshakes_displaced"] == 5
        for reader, writer in idle:
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()


async def test_a_member_gets_in_while_others_hold_the_port() -> None:
    limits = dataclasses.replace(QUICK, handshakes_max=3, dial_timeout_ms=60_000)
    members = [member(NODE), member(HONEST)]
    host, port = members[0].address.rsplit(":", 1)
    async with Node(members[0], members, limits) as node:
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(8)]
        await node.count("handshakes_displaced", 5)
        async with Node(members[1], members):
            await node.heard.linked(HONEST)
        for _, writer in idle:
            writer.close()


async def test_connections_of_one_address_are_bounded_in_rate() -> None:
    limits = dataclasses.replace(QUICK, handshakes_per_second_max=1)
    own = member(NODE)
    host, port = own.address.rsplit(":", 1)
    async with Node(own, [own], limits) as node:
        for _ in range(20):
            reader, writer = await asyncio.open_connection(host, int(port))
            with contextlib.suppress(ConnectionError):
                writer.write_eof()
                await reader.read()
            writer.close()
        counts = node.transport.counters()
        assert counts["handshakes_refused"] >= 1
        assert counts["handshakes_refused"] + counts["handshakes_failed"] == 20


async def test_of_a_member_s_connections_the_newest_stay() -> None:
    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        own = intruder.target
        muxers = [muxer, *[await intruder.dial(own) for _ in range(6)]]
        for old in muxers[:4]:
            await old.event_closed.wait()
        assert not any(new.is_closed for new in muxers[4:])

    async with under_attack(attack) as (node, _):
        assert node.transport.counters()["connections_displaced"] == 4


async def test_plaintext_is_not_spoken() -> None:
    """The library would accept it, and believe whoever claims a member's key."""
    members = [member(NODE), member(HOSTILE)]
    seed = HOSTILE.encode().ljust(32, b".")
    port = members[0].address.rsplit(":", 1)[1]
    pid = Intruder(NODE).host.get_id()

    async def claim(intruder: Intruder) -> None:
        keys = create_new_key_pair(seed)
        plain = {TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(keys)}
        host = new_host(key_pair=keys, sec_opt=plain, muxer_opt={TProtocol(YAMUX): Yamux})
        async with host.run([]):
            target = info_from_p2p_addr(Multiaddr(f"/ip4/127.0.0.1/tcp/{port}/p2p/{pid}"))
            with pytest.raises(Exception, match="unable to connect"), trio.fail_after(15):
                await host.connect(target)
            await host.close()

    async with Node(members[0], members) as node:
        await Intruder("somebody").run(claim)
        assert node.heard.links == []


# ---- members: streams and frames ----------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff\x03",
        b"\0\0\0\x05\x09hello",
        os.urandom(64),
        encode_hello(Kind.HELLO, Hello(1, CHAIN, "again", HOSTILE)),
        b"\0\0\0\x04\x03\0\0\0\0",
        b"\0\0\0\x05\x03\0\0\0\x09x",
    ],
    ids=["length bomb", "unknown kind", "noise", "second hello", "empty message", "short"],
)
async def test_a_malformed_frame_ends_the_link_only(data: bytes) -> None:
    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        stream = await intruder.link(muxer)
        await stream.write(data)
        assert await ended(stream)
        assert not muxer.is_closed

    async with under_attack(attack) as (node, _):
        assert node.transport.counters()["malformed"] >= 1


@pytest.mark.parametrize(
    "hello",
    [
        b"",
        b"\0\0\0\x01\x01\xc1",
        encode_messages([b"no hello"]),
        b"\0\0\xff\xff\x01",
        encode_hello(Kind.HELLO, Hello(1, CHAIN, "evil\x1b[2J", HOSTILE)),
    ],
    ids=["nothing", "not msgpack", "messages", "long", "escape sequence"],
)
async def test_a_malformed_hello_ends_the_stream_only(hello: bytes) -> None:
    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        assert await comes_to_an_end(intruder, muxer, DIRECT, hello)

    async with under_attack(attack) as (node, _):
        assert ("+", HOSTILE) not in node.heard.links


async def test_many_links_by_one_peer_are_one() -> None:
    """Each new stream replaces the one before: nothing piles up."""

    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        first = await intruder.link(muxer)
        for _ in range(100):
            # What is replaced may be reset before its hello was read.
            with contextlib.suppress(MuxedStreamReset):
                await intruder.link(muxer)
        assert await ended(first)
        assert not muxer.is_closed
        assert len(muxer._streams) < 20

    async with under_attack(attack) as (node, _):
        links = [sign for sign, peer in node.heard.links if peer == HOSTILE]
        assert links == ["+", "-"] * (len(links) // 2)


async def test_more_streams_than_allowed_are_refused() -> None:
    limits = dataclasses.replace(QUICK, streams_max=10)

    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        streams = [await muxer.open_stream() for _ in range(500)]
        for stream in streams[100:]:
            assert await ended(stream)
        assert not muxer.is_closed

    async with under_attack(attack, limits) as (node, _):
        assert node.transport.counters()["streams_refused"] >= 490


async def test_a_peer_that_overruns_its_window_is_cut_off() -> None:
    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        stream = await intruder.host.open(muxer.peer_id, REQUEST, b"\0\0\0\1x")
        stream.credit = 2**31
        with contextlib.suppress(MuxedStreamReset):
            await stream.write(bytes(4 * WINDOW_BYTES))
        await muxer.event_closed.wait()

    async with under_attack(attack) as (node, _):
        assert node.transport.counters()["connections_broken"] >= 1


async def test_no_more_than_a_window_is_written_at_once_whatever_the_peer_grants() -> None:
    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        stream = await intruder.host.open(muxer.peer_id, REQUEST, b"\0\0\0\1x")
        stream.credit = 2**31
        assert stream.takes(WINDOW_BYTES)
        assert not stream.takes(WINDOW_BYTES + 1)
        stream.credit = 1
        assert not stream.takes(2)

    async with under_attack(attack):
        pass


async def test_what_waits_unread_is_bounded_over_all_streams() -> None:
    limits = dataclasses.replace(QUICK, buffered_bytes_max=2 * WINDOW_BYTES)

    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        with contextlib.suppress(MuxedStreamReset):
            for _ in range(4):
                stream = await intruder.host.open(muxer.peer_id, REQUEST, b"\0\0\0\1x")
                await stream.write(bytes(WINDOW_BYTES - 1000))
        await muxer.event_closed.wait()

    async with under_attack(attack, limits) as (node, _):
        assert node.transport.counters()["connections_broken"] >= 1
        assert (HOSTILE, "malformed") in node.heard.faults


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack(">BBHII", 1, 0, 0, 1, 0),
        struct.pack(">BBHII", 0, 9, 0, 1, 0),
        struct.pack(">BBHII", 0, 0, 0, 1, 2**32 - 1),
        struct.pack(">BBHII", 0, 1, 1, 2, 0),
        struct.pack(">BBHII", 0, 1, 1, 0, 0),
        struct.pack(">BBHII", 0, 3, 0, 0, 1),
    ],
    ids=["version", "type", "length bomb", "our numbers", "number 0", "go away"],
)
async def test_broken_yamux_ends_the_connection(frame: bytes) -> None:
    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        muxer.packets.put(frame)
        muxer.packets.send()
        await muxer.event_closed.wait()

    async with under_attack(attack):
        pass


async def test_a_peer_that_makes_us_answer_and_reads_nothing_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Streams beyond the limit are refused; what says so must not pile up here."""
    limits = dataclasses.replace(QUICK, work_percent_max=100_000)
    monkeypatch.setattr(packets, "_UNSENT_BYTES_ABUSE", 64 * 1024)

    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        muxer.packets._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        descriptor = muxer.packets._socket.fileno()
        muxer._stop_reading()
        number = 10_001
        with contextlib.suppress(OSError, trio.ClosedResourceError):
            while not muxer.is_closed:
                numbers = range(number, number + 10_000, 2)
                number += 10_000
                muxer.packets.put(b"".join(struct.pack(">BBHII", 0, 1, 1, n, 0) for n in numbers))
                while not muxer.packets.flush():
                    if muxer.packets._error is not None:
                        return
                    await trio.lowlevel.wait_writable(descriptor)

    async with under_attack(attack, limits) as (node, _):
        await node.count("connections_broken")


async def test_pings_beyond_need_are_not_answered() -> None:
    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        answered = 0

        def count(kind: int, flags: int, number: int, length: int, body: bytearray) -> None:
            nonlocal answered
            if kind == 2:
                answered += 1
                first.set()
            take(kind, flags, number, length, body)

        first, take = trio.Event(), muxer._take_frame
        muxer._take_frame = count  # type: ignore[method-assign]
        muxer.packets.put(struct.pack(">BBHII", 0, 2, 1, 0, 7) * 1_000)
        muxer.packets.send()
        await first.wait()
        assert answered <= 50

    async with under_attack(attack):
        pass


async def test_more_heartbeats_than_anybody_needs_end_the_link() -> None:
    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        stream = await intruder.link(muxer)
        await stream.write(encode_messages([]) * 1_000)
        assert await ended(stream)

    async with under_attack(attack) as (node, _):
        assert (HOSTILE, "malformed") in node.heard.faults


async def test_work_beyond_the_share_of_a_peer_makes_it_wait() -> None:
    """Streams opened and reset for ever: they are counted as work, and reading pauses."""

    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        number = 10_001
        while not counters().get("reads_paused"):
            muxer.packets.put(
                b"".join(
                    struct.pack(">BBHII", 0, 1, flag, number + 2 * n, 0)
                    for n in range(100)
                    for flag in (1, 8)
                )
            )
            muxer.packets.send()
            number += 200
            await trio.lowlevel.checkpoint()

    members = [member(NODE), member(HOSTILE)]

    async def connect(intruder: Intruder) -> None:
        await attack(intruder, await intruder.dial(members[0]))

    async with Node(members[0], members) as node:
        counters = node.transport.counters
        await Intruder(HOSTILE).run(connect)
        await node.heard.until(lambda heard: (HOSTILE, "flood") in heard.faults)


async def test_a_peer_that_is_not_read_waits_and_loses_nothing() -> None:
    sent = [n.to_bytes(4, "big") + bytes(1_000) for n in range(3_000)]

    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        stream = await intruder.link(muxer)
        await stream.write(encode_messages(sent[:1]))
        await paused.wait()
        with trio.move_on_after(0.3) as scope:
            for start in range(1, len(sent), 50):
                done.append(start)
                await stream.write(encode_messages(sent[start : start + 50]))
        assert scope.cancelled_caught
        assert len(done) < len(sent) // 50
        resume()
        await trio.lowlevel.checkpoint()

    paused, done = trio.Event(), [0]
    members = [member(NODE), member(HOSTILE)]

    async def connect(intruder: Intruder) -> None:
        intruder.welcome()
        await attack(intruder, await intruder.dial(members[0]))

    async with Node(members[0], members) as node:

        def resume() -> None:
            node.transport.resume_reading(HOSTILE)

        async def pause_at_first() -> None:
            await node.heard.until(lambda heard: len(heard.messages) == 1)
            node.transport.pause_reading(HOSTILE)
            node.transport._crossing.command(paused.set)

        pausing = asyncio.create_task(pause_at_first())
        await Intruder(HOSTILE).run(connect)
        await pausing
        whole = 1 + 50 * (len(done) - 2)
        await node.heard.until(lambda heard: len(heard.messages) >= whole)
        assert [raw for _, raw in node.heard.messages] == sent[: len(node.heard.messages)]


# ---- members: requests --------------------------------------------------------------------------


async def test_a_flood_of_requests_is_refused_beyond_the_limit() -> None:
    limits = dataclasses.replace(QUICK, requests_in_flight_max=4)
    answered: list[bytes] = []

    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        async def ask() -> None:
            stream = await intruder.host.open(muxer.peer_id, REQUEST, b"\0\0\0\x01x")
            answered.append(await read_exactly(stream, 1))
            if len(answered) == 26:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(ask)

    members = [member(NODE), member(HOSTILE)]

    async def connect(intruder: Intruder) -> None:
        await attack(intruder, await intruder.dial(members[0]))

    async with Node(members[0], members, limits) as node:
        node.heard.answer = never
        await Intruder(HOSTILE).run(connect)
        assert answered == [b"\1"] * 26
        assert node.transport.counters()["requests_refused"] == 26
        assert len(node.heard.requests) == 4


@pytest.mark.parametrize(
    "request_bytes",
    [b"\xff\xff\xff\xff", b"\0\0", b"\x01\0\0\x01", b"\0\0\0\x05abc"],
    ids=["length bomb", "short length", "one too many", "short body"],
)
async def test_a_malformed_request_ends_its_stream_only(request_bytes: bytes) -> None:
    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        assert await comes_to_an_end(intruder, muxer, REQUEST, request_bytes)

    async with under_attack(attack) as (node, _):
        assert node.heard.requests == []


async def test_a_request_that_never_comes_whole_is_given_up() -> None:
    limits = dataclasses.replace(QUICK, request_answer_ms_max=200)

    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        stream = await intruder.host.open(muxer.peer_id, REQUEST, b"\0\0\0\x05abc")
        assert await ended(stream)

    async with under_attack(attack, limits):
        pass


async def test_requests_of_one_peer_are_answered_one_after_the_other() -> None:
    answering = 0

    async def answer(request: bytes) -> bytes:
        nonlocal answering
        answering += 1
        assert answering == 1
        await asyncio.sleep(0)
        answering -= 1
        return request

    async def connect(intruder: Intruder) -> None:
        muxer = await intruder.dial(members[0])
        first = await intruder.host.open(muxer.peer_id, REQUEST, b"\0\0\0\1x")
        others = [
            await intruder.host.open(muxer.peer_id, REQUEST, b"\0\0\0\1" + bytes([n]))
            for n in range(5)
        ]
        for n, stream in enumerate(others):
            assert await read_exactly(stream, 6) == b"\0\0\0\0\1" + bytes([n])
        assert await read_exactly(first, 6) == b"\0\0\0\0\1x"

    members = [member(NODE), member(HOSTILE)]
    async with Node(members[0], members) as node:
        node.heard.answer = answer
        await Intruder(HOSTILE).run(connect)
        assert len(node.heard.requests) == 6


async def test_a_protocol_that_we_do_not_speak_is_refused() -> None:
    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        for name in ("/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/x", "x" * 100):
            stream = await muxer.open_stream()
            proposal = f"{name}\n".encode()
            await stream.write(b"\x13/multistream/1.0.0\n" + bytes([len(proposal)]) + proposal)
            assert (await read_exactly(stream, 24))[20:] == b"\x03na\n"
            await stream.write(os.urandom(2000))
            assert await ended(stream)

    async with under_attack(attack):
        pass


# ---- members with the library as it comes ---------------------------------------------------


async def test_a_node_of_the_plain_library_is_understood() -> None:
    """Noise, Yamux, multistream-select and gossip are the standard ones on the wire."""
    members = [member(NODE), member(HOSTILE)]
    port = members[0].address.rsplit(":", 1)[1]
    pid = Intruder(NODE).host.get_id()
    large = os.urandom(3 * WINDOW_BYTES)

    async def talk(intruder: Intruder) -> bytes:
        keys = create_new_key_pair(HOSTILE.encode().ljust(32, b"."))
        noise = Noise(keys, create_noise_key_pair().private_key)
        host = new_host(key_pair=keys, sec_opt={NOISE: noise}, muxer_opt={TProtocol(YAMUX): Yamux})
        async with host.run([]):
            await host.connect(
                info_from_p2p_addr(Multiaddr(f"/ip4/127.0.0.1/tcp/{port}/p2p/{pid}"))
            )
            stream = await host.new_stream(pid, [REQUEST])
            await stream.write(len(large).to_bytes(4, "big") + large)
            answer = b""
            while len(answer) < 5 + 5 + len(large):
                answer += await stream.read(WINDOW_BYTES)
            await stream.close()
            await host.close()
            return answer

    limits = dataclasses.replace(QUICK, request_bytes_max=len(large))
    async with Node(members[0], members, limits) as node:
        assert await Intruder("somebody").run(talk) == (
            b"\0" + (len(large) + 5).to_bytes(4, "big") + b"echo " + large
        )
        assert node.heard.requests == [(HOSTILE, large)]


# ---- members: gossip ----------------------------------------------------------------------------


def rpc(**fields: object) -> bytes:
    data = rpc_pb2.RPC(publish=[rpc_pb2.Message(**fields)]).SerializeToString()  # type: ignore[arg-type]
    length = len(data)
    prefix = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
    return prefix + data


TOPIC = f"/medpact/gossip/1/{CHAIN.hex()}"
PID = Intruder(HOSTILE).host.get_id().to_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b"\x05\xff\xff\xff\xff\xff",
        b"\xff\xff\xff\xff\x0f" + os.urandom(100),
        os.urandom(500),
        rpc(topicIDs=[TOPIC], data=b"x"),
        rpc(topicIDs=[TOPIC], data=b"x", from_id=PID, seqno=b"1", signature=b"s" * 64),
        rpc(topicIDs=[TOPIC], data=b"x", from_id=b"\xff", seqno=b"1", signature=b"s", key=b"k"),
        rpc(topicIDs=[TOPIC], data=b"x", from_id=PID, seqno=b"1", signature=b"s", key=b"\xff\0"),
        rpc(topicIDs=["other"] * 50, data=b"x", from_id=PID),
    ],
    ids=["not protobuf", "length", "noise", "bare", "signature", "author", "key", "topic"],
)
async def test_malformed_gossip_is_survived(data: bytes) -> None:
    async def attack(intruder: Intruder, muxer: Muxer) -> None:
        for _ in range(3):
            await comes_to_an_end(intruder, muxer, GOSSIP, data)

    async with under_attack(attack) as (node, honest):
        async with asyncio.timeout(20):
            while (HONEST, b"news") not in node.heard.gossips:
                honest.transport.publish(b"news")
                await asyncio.sleep(POLL_S)
        assert all(author == HONEST for author, _ in node.heard.gossips)
