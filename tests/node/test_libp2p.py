"""The transport over real connections: what it promises, and what a peer may try."""

import asyncio
import contextlib
import dataclasses
import itertools
import os
import signal
import socket
import subprocess
import sys

import pytest
import trio
from libp2p.stream_muxer.exceptions import MuxedStreamError

from node.framing import encode_messages
from node.libp2p import Libp2pTransport
from node.libp2p.guest import Guest
from node.transport import Member, PeerUnreachable, TransportError, TransportLimits
from tests.node.network_support import (
    CHAIN,
    POLL_S,
    QUICK,
    Intruder,
    Node,
    Recorder,
    free_port,
    key_of,
    member,
    nodes,
)

KIB = 1024
A, B, C = "recorder-1", "recorder-2", "auditor-1"


# ---- links and messages -------------------------------------------------------------------------


async def test_messages_arrive_in_order_and_many_per_frame() -> None:
    async with nodes(A, B) as (a, b):
        sent = [b"%d" % number for number in range(5000)]
        assert all(a.transport.send(B, message) for message in sent)
        assert b.transport.send(A, b"back")
        await b.heard.until(lambda heard: len(heard.messages) == len(sent))
        await a.heard.until(lambda heard: bool(heard.messages))
        assert b.heard.messages == [(A, message) for message in sent]
        assert a.heard.messages == [(B, b"back")]
        assert a.transport.counters()["frames_sent"] < 20
        passed = sum(map(len, sent))
        # Handshakes, gossip and heartbeats come on top, however few the messages.
        assert passed < a.transport.counters()["wire_bytes_sent"] < passed + 256 * 1024
        assert b.transport.counters()["wire_bytes_received"] > passed
        assert a.transport.connected() == (B,)


async def test_a_large_message_leaves_before_the_loop_does_anything_else() -> None:
    async with nodes(A, B) as (a, b):
        before = a.transport.counters().get("messages_sent", 0)
        assert a.transport.send(B, bytes(500 * KIB))
        written = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(written.set_result, None)
        await written
        assert a.transport.counters().get("messages_sent", 0) == before + 1
        await b.heard.until(lambda heard: len(heard.messages) == 1)


async def test_messages_of_all_sizes_keep_their_order() -> None:
    async with nodes(A, B) as (a, b):
        sizes = (1, 3 * 1024 * KIB, 7, 200 * KIB, 60 * KIB, 1, 8 * 1024 * KIB, 5)
        for number, size in enumerate(sizes):
            assert a.transport.send(B, bytes([number]) * size)
        await b.heard.until(lambda heard: len(heard.messages) == len(sizes))
        assert [(m[0], len(m)) for _, m in b.heard.messages] == list(enumerate(sizes))


async def test_a_message_of_a_forbidden_size_is_our_own_mistake() -> None:
    async with nodes(A, B) as (a, _):
        for size in (0, TransportLimits().message_bytes_max + 1):
            with pytest.raises(ValueError, match=f"message of {size} bytes"):
                a.transport.send(B, bytes(size))


async def test_nothing_can_be_sent_to_one_who_is_not_connected() -> None:
    members = [member(A), member(B)]
    async with Node(members[0], members) as a:
        assert not a.transport.send(B, b"x")
        assert not a.transport.send("stranger", b"x")
        assert a.transport.connected() == ()
        with pytest.raises(PeerUnreachable, match="recorder-2 is not connected"):
            await a.transport.request(B, b"x", 1000)


async def test_a_node_that_restarts_is_linked_again() -> None:
    members = [member(A), member(B)]
    async with Node(members[0], members) as a:
        for _ in range(3):
            async with Node(members[1], members) as b:
                await a.heard.linked(B)
                await b.heard.linked(A)
                assert a.transport.send(B, b"hello again")
                await b.heard.until(lambda heard: heard.messages == [(A, b"hello again")])
            assert b.heard.has()
            await a.heard.linked()
        assert a.heard.links == [("+", B), ("-", B)] * 3


async def test_both_dialling_at_once_gives_one_steady_link() -> None:
    async with nodes(A, B, C) as three:
        for number in range(50):
            for node in three:
                for other in node.transport.connected():
                    assert node.transport.send(other, b"%d" % number)
        for node in three:
            await node.heard.until(lambda heard: len(heard.messages) == 100)
            assert [sign for sign, _ in node.heard.links] == ["+", "+"]


async def test_nodes_of_different_genesis_refuse_each_other_and_say_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    members = [member(A), member(B)]
    async with Node(members[0], members) as a, Node(members[1], members, chain=b"\xcd" * 32) as b:
        await a.count("hellos_refused", 3)
        await b.count("hellos_refused", 3)
        assert a.heard.links == b.heard.links == []
    log = capsys.readouterr().out
    assert log.count("(its chain id starts with cdcdcdcd, ours with c4c4c4c4)") == 1
    assert log.count("(its chain id starts with c4c4c4c4, ours with cdcdcdcd)") == 1


async def test_a_full_queue_drops_and_counts_and_others_go_on() -> None:
    limits = dataclasses.replace(QUICK, queue_bytes_max=512 * KIB)
    members = [member(A), member(B), member(C)]

    async def freeze(intruder: Intruder) -> None:
        intruder.welcome()
        muxer = await intruder.dial(members[0])
        await intruder.link(muxer)
        await stalled.wait()

    async with Node(members[0], members, limits) as a, Node(members[2], members, limits) as c:
        stalled = trio.Event()
        frozen = asyncio.ensure_future(Intruder(B).run(freeze))
        await a.heard.linked(B, C)
        # What fits the window and the sockets goes; then the queue fills, and stays bounded.
        while a.transport.send(B, bytes(128 * KIB)):
            await asyncio.sleep(0)
            assert a.transport.counters().get("messages_sent", 0) < 200
        assert a.transport.counters()["messages_dropped"] == 1
        assert a.transport.send(C, b"urgent")
        await c.heard.until(lambda heard: heard.messages == [(A, b"urgent")])
        guest = await Guest.join()
        guest.wake(stalled.set)
        await frozen
        await guest.leave()
        await a.heard.linked(C)


async def test_a_frozen_peer_is_noticed() -> None:
    limits = dataclasses.replace(QUICK, heartbeat_ms=50, heartbeat_timeout_ms=300)
    members = [member(A), member(B)]

    async def freeze(intruder: Intruder) -> bool:
        intruder.welcome()
        muxer = await intruder.dial(members[0])
        await intruder.link(muxer)
        await muxer.event_closed.wait()
        return True

    async with Node(members[0], members, limits) as a:
        assert await Intruder(B).run(freeze)
        await a.heard.until(lambda heard: heard.links == [("+", B), ("-", B)])
        assert a.transport.counters()["timeouts"] >= 1


async def test_a_peer_that_speaks_and_takes_nothing_is_noticed() -> None:
    limits = dataclasses.replace(QUICK, heartbeat_ms=100, heartbeat_timeout_ms=1_000)
    members = [member(A), member(B)]

    async def speak(intruder: Intruder) -> None:
        intruder.welcome()
        muxer = await intruder.dial(members[0])
        stream = await intruder.link(muxer)
        with contextlib.suppress(MuxedStreamError):
            while not muxer.is_closed:
                await stream.write(encode_messages([]))
                await trio.sleep(limits.heartbeat_ms / 1_000)

    async with Node(members[0], members, limits) as a:
        speaking = asyncio.ensure_future(Intruder(B).run(speak))
        await a.heard.linked(B)
        # More than its window.
        for _ in range(3):
            assert a.transport.send(B, bytes(500 * KIB))
        await a.heard.until(lambda heard: heard.links == [("+", B), ("-", B)])
        assert a.transport.counters()["timeouts"] >= 1
        await speaking


async def test_a_slow_network_is_not_taken_for_a_frozen_peer() -> None:
    """A large message takes longer than a peer may be silent, and arrives."""
    limits = dataclasses.replace(QUICK, heartbeat_ms=200, heartbeat_timeout_ms=2_000)
    (near, far), port = (member(A), member(B)), free_port()
    slow = False

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(20 * KIB):
            await asyncio.sleep(0.1 * slow)
            target.write(data)
            await target.drain()
        target.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond_reader, beyond_writer = await asyncio.open_connection(*far.address.split(":"))
        await asyncio.gather(carry(reader, beyond_writer), carry(beyond_reader, writer))

    listener = socket.socket()
    # What the system holds would hide how slow it is.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KIB)
    listener.bind(("127.0.0.1", port))
    server = await asyncio.start_server(pass_on, sock=listener, limit=16 * KIB)
    through = dataclasses.replace(far, address=f"127.0.0.1:{port}")
    silent = dataclasses.replace(near, address=f"127.0.0.1:{free_port()}")
    async with Node(near, [near, through], limits) as a, Node(far, [silent, far], limits) as b:
        await a.heard.linked(B)
        await b.heard.linked(A)
        slow = True
        assert a.transport.send(B, bytes(800 * KIB))
        await b.heard.until(lambda heard: len(heard.messages) == 1)
        assert a.heard.has(B)
        slow = False
    server.close()
    await server.wait_closed()


async def test_idle_links_are_kept_by_heartbeats() -> None:
    limits = dataclasses.replace(QUICK, heartbeat_ms=20, heartbeat_timeout_ms=200)
    async with nodes(A, B, limits=limits) as (a, b):
        await a.count("frames_sent", 30)
        assert a.heard.links == [("+", B)]
        assert b.heard.links == [("+", A)]


async def test_members_can_change_at_run_time() -> None:
    first, second, third = member(A), member(B), member(C)
    async with Node(first, [first, second]) as a, Node(second, [first, second]) as b:
        await a.heard.linked(B)
        async with Node(third, [first, second, third]) as c:
            await c.count("dials", 4)
            assert c.heard.links == []
            a.transport.set_members([first, third])
            await a.heard.linked(C)
            await b.heard.linked()
            assert not a.transport.send(B, b"x")
            moved = Member(B, second.key, f"127.0.0.1:{free_port()}")
            a.transport.set_members([first, third, moved])
            async with Node(moved, [first, moved]) as again:
                await a.heard.linked(B, C)
                await again.heard.linked(A)
        with pytest.raises(ValueError, match="is not an Ed25519 public key"):
            a.transport.set_members([Member("x", bytes(31), "h:1")])
        with pytest.raises(ValueError, match="x cannot be dialled"):
            a.transport.set_members([Member("x", second.key, "h")])


async def test_ipv6_and_names_work_as_addresses() -> None:
    members = [
        Member(A, key_of(A).public, f"[::1]:{free_port()}"),
        Member(B, key_of(B).public, f"localhost:{free_port()}"),
    ]
    async with Node(members[0], members) as a, Node(members[1], members):
        await a.heard.linked(B)


# ---- requests -----------------------------------------------------------------------------------


async def test_requests_are_answered_side_by_side() -> None:
    async with nodes(A, B) as (a, b):
        questions = [bytes([number]) * 1000 for number in range(100)]
        answers = await asyncio.gather(*(a.transport.request(B, q, 10_000) for q in questions))
        assert answers == [b"echo " + question for question in questions]
        assert sorted(b.heard.requests) == [(A, question) for question in questions]


async def test_long_requests_and_empty_ones() -> None:
    async with nodes(A, B) as (a, _):
        long = os.urandom(TransportLimits().request_bytes_max - 5)
        assert await a.transport.request(B, long, 20_000) == b"echo " + long
        assert await a.transport.request(B, b"", 10_000) == b"echo "
        with pytest.raises(ValueError, match="A request of 16777217 bytes"):
            await a.transport.request(B, bytes(16 * KIB * KIB + 1), 10_000)


async def test_a_request_that_takes_too_long_is_given_up_on_both_sides() -> None:
    async with nodes(A, B) as (a, b):
        cancelled = asyncio.Event()

        async def never(request: bytes) -> bytes:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return b""

        b.heard.answer = never
        with pytest.raises(PeerUnreachable, match=r"recorder-2 did not answer within 0\.1 s"):
            await a.transport.request(B, b"x", 100)
        async with asyncio.timeout(10):
            await cancelled.wait()
        assert a.transport.connected() == (B,)


async def test_who_asks_can_change_his_mind() -> None:
    async with nodes(A, B) as (a, b):
        b.heard.answer = lambda request: asyncio.Event().wait()  # type: ignore[assignment, return-value]
        asking = asyncio.ensure_future(a.transport.request(B, b"x", 60_000))
        await b.heard.until(lambda heard: bool(heard.requests))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        b.heard.answer = Recorder.echo
        assert await a.transport.request(B, b"y", 10_000) == b"echo y"


async def test_a_handler_that_raises_fails_that_request_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with nodes(A, B) as (a, b):

        async def fail(request: bytes) -> bytes:
            raise RuntimeError("a bug of ours")

        b.heard.answer = fail
        with pytest.raises(PeerUnreachable, match="recorder-2 failed to answer"):
            await a.transport.request(B, b"x", 10_000)
        b.heard.answer = Recorder.echo
        assert await a.transport.request(B, b"y", 10_000) == b"echo y"
        assert b.transport.counters()["requests_not_answered"] == 1
    assert "a bug of ours" in capsys.readouterr().out


async def test_a_response_that_is_too_long_is_not_sent() -> None:
    limits = dataclasses.replace(QUICK, response_bytes_max=100)
    async with nodes(A, B, limits=limits) as (a, _):
        with pytest.raises(PeerUnreachable, match="failed to answer"):
            await a.transport.request(B, bytes(96), 10_000)
        assert len(await a.transport.request(B, bytes(95), 10_000)) == 100


async def test_a_response_longer_than_we_allow_is_not_read() -> None:
    members = [member(A), member(B)]
    strict = dataclasses.replace(QUICK, response_bytes_max=100)
    async with Node(members[0], members, strict) as a, Node(members[1], members) as b:
        await a.heard.linked(B)
        await b.heard.linked(A)
        with pytest.raises(PeerUnreachable, match="wants to send 105 bytes"):
            await a.transport.request(B, bytes(100), 10_000)


async def test_requests_end_with_the_connection() -> None:
    members = [member(A), member(B)]
    async with Node(members[0], members) as a:
        async with Node(members[1], members) as b:
            await a.heard.linked(B)
            b.heard.answer = lambda request: asyncio.Event().wait()  # type: ignore[assignment, return-value]
            asking = asyncio.ensure_future(a.transport.request(B, b"x", 60_000))
            await b.heard.until(lambda heard: bool(heard.requests))
        with pytest.raises(PeerUnreachable, match="the connection to recorder-2 ended"):
            await asking


# ---- gossip -------------------------------------------------------------------------------------


async def gossip_reaches(author: Node, readers: list[Node]) -> None:
    """Publish until all have heard: meshes form a little later than links."""
    message = b"meshed?"
    while not all((author.id, message) in reader.heard.gossips for reader in readers):
        author.transport.publish(message)
        await asyncio.sleep(POLL_S)


async def test_gossip_reaches_all_once() -> None:
    async with nodes(A, B, C) as (a, b, c):
        async with asyncio.timeout(20):
            await gossip_reaches(a, [b, c])
            await gossip_reaches(b, [a, c])
        long = bytes(TransportLimits().gossip_bytes_max)
        for message in (b"one", b"two", long, b"last"):
            a.transport.publish(message)
        for node in (b, c):
            await node.heard.until(lambda heard: (A, b"last") in heard.gossips)
            heard = [m for author, m in node.heard.gossips if author == A and m != b"meshed?"]
            assert sorted(heard, key=len) == sorted((b"one", b"two", b"last", long), key=len)
        assert all(author != A for author, _ in a.heard.gossips)


async def test_publishing_never_raises() -> None:
    async with nodes(A, linked=False) as (a,):
        a.transport.publish(bytes(TransportLimits().gossip_bytes_max + 1))
        assert a.transport.counters()["gossip_dropped"] == 1
        for _ in range(200):
            a.transport.publish(b"x")
        assert a.transport.counters()["gossip_dropped"] > 100
        await a.count("gossip_sent")
    a.transport.publish(b"too late")


# ---- start and stop -----------------------------------------------------------------------------


async def refusal_to_start(listen: str) -> str:
    own = member(A)
    transport = Libp2pTransport(key_of(A).seed, own, [own], CHAIN, listen)
    with pytest.raises(TransportError) as caught:
        await transport.start(Recorder())
    await transport.stop()
    assert not Guest.of_loop
    return str(caught.value)


async def test_a_taken_port_is_reported_even_if_the_other_would_share_it() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = await refusal_to_start(f"127.0.0.1:{port}")
        assert f"port {port} on 127.0.0.1 is in use" in said
    async with nodes(A, linked=False) as (a,):
        address = a.transport._listen
        own = member(B)
        second = Libp2pTransport(key_of(B).seed, own, [own], CHAIN, address)
        with pytest.raises(TransportError, match="is in use"):
            await second.start(Recorder())


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("nonsense", "not of the form host:port"),
        ("192.0.2.1:7600", "192.0.2.1 is not an address of this machine"),
        ("no-such-name.invalid:7600", "no-such-name.invalid is not a known name"),
    ],
)
async def test_an_address_that_cannot_be_listened_on_is_explained(listen: str, said: str) -> None:
    assert said in await refusal_to_start(listen)


def test_wrong_arguments_are_refused() -> None:
    own = member(A)
    with pytest.raises(ValueError, match="is not that of recorder-1"):
        Libp2pTransport(key_of(B).seed, own, [own], CHAIN, own.address)


async def test_stopping_amid_traffic_is_quick_and_tells_of_all_links() -> None:
    async with nodes(A, B, C) as three:
        stopping = False

        async def chatter(node: Node) -> None:
            for turn in itertools.count():
                for other in node.transport.connected():
                    node.transport.send(other, bytes(1000))
                if turn % 50 == 0:
                    node.transport.publish(bytes(1000))
                await asyncio.sleep(0)
                if stopping:
                    break

        talk = [asyncio.ensure_future(chatter(node)) for node in three]
        await three[0].heard.until(lambda heard: len(heard.messages) > 1000)
        asking = asyncio.ensure_future(three[1].transport.request(A, b"x", 10_000))
        async with asyncio.timeout(10):
            await asyncio.gather(*(node.transport.stop() for node in three))
        stopping = True
        await asyncio.gather(*talk)
        for node in three:
            assert node.heard.has()
            assert not node.transport.send(A, b"x")
            assert node.transport.connected() == ()
        await asyncio.gather(asking, return_exceptions=True)


async def test_stopping_twice_or_before_the_start_is_harmless() -> None:
    own = member(A)
    transport = Libp2pTransport(key_of(A).seed, own, [own], CHAIN, own.address)
    await transport.stop()
    await transport.start(Recorder())
    await transport.stop()
    await transport.stop()
    await transport.start(Recorder())
    await transport.stop()
    assert not Guest.of_loop


async def test_a_broken_handler_stops_the_node_loudly() -> None:
    members = [member(A), member(B)]
    async with Node(members[1], members) as b:
        a = Node(members[0], members)
        await a.transport.start(a.heard)
        await b.heard.linked(A)
        a.heard.message = lambda peer, message: 1 // 0  # type: ignore[assignment, method-assign]
        b.transport.send(A, b"x")
        with pytest.raises(ZeroDivisionError):
            await a.transport.failed
        await a.transport.stop()


async def test_the_death_of_the_network_layer_is_reported() -> None:
    own = member(A)
    transport = Libp2pTransport(key_of(A).seed, own, [own], CHAIN, own.address)
    await transport.start(Recorder())
    guest = await Guest.join()

    async def die() -> None:
        raise RuntimeError("the ground opens")

    guest.wake(lambda: guest.nursery.start_soon(die))
    with pytest.raises(ExceptionGroup) as caught:
        await transport.failed
    assert caught.group_contains(RuntimeError, match="the ground opens")
    await guest.leave()
    await transport.stop()


_CTRL_C = """
import asyncio, sys, uvloop
from tests.node.network_support import Node, member, key_of

async def main():
    own = member("recorder-1")
    node = Node(own, [own])
    await node.transport.start(node.heard)
    print("ready", flush=True)
    try:
        await node.transport.failed
    finally:
        await node.transport.stop()
        print("stopped", flush=True)

(uvloop.run if sys.argv[1] == "uvloop" else asyncio.run)(main())
"""


@pytest.mark.processes
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_ctrl_c_stops_it_in_order(loop: str) -> None:
    command = [sys.executable, "-W", "error", "-c", _CTRL_C, loop]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=20)
    assert said.splitlines()[-1] == "stopped"
    assert complained.strip().endswith("KeyboardInterrupt")
    assert complained.count("Traceback") <= 2
