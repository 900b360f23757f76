"""Nodes with real sockets on loopback, and a peer that keeps no rules."""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset

from node.framing import PROTOCOL_VERSION, Hello, Kind, encode_hello
from node.libp2p import Libp2pTransport
from node.libp2p.guest import Guest
from node.libp2p.host import Host, make_host, read_exactly
from node.libp2p.links import DIRECT
from node.libp2p.packets import Socket
from node.libp2p.streams import Stream
from node.libp2p.yamux import Muxer
from node.transport import Fault, Member, TransportLimits
from primitives.keys import PrivateKey

T = TypeVar("T")
CHAIN = b"\xc4" * 32
QUICK = TransportLimits(redial_ms_min=20, redial_ms_max=200, relink_ms_min=5)
PATIENCE_S = 20.0
POLL_S = 0.01


def key_of(name: str) -> PrivateKey:
    return PrivateKey(name.encode().ljust(32, b"."))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def member(name: str) -> Member:
    return Member(name, key_of(name).public, f"127.0.0.1:{free_port()}")


class Recorder:
    """A handler that writes down what it is told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.links: list[tuple[str, str]] = []
        self.messages: list[tuple[str, bytes]] = []
        self.gossips: list[tuple[str, bytes]] = []
        self.requests: list[tuple[str, bytes]] = []
        self.faults: list[tuple[str, Fault]] = []
        self.answer: Callable[[bytes], Awaitable[bytes]] = self.echo
        self._news = asyncio.Event()

    @staticmethod
    async def echo(request: bytes) -> bytes:
        return b"echo " + request

    def connected(self, peer: str) -> None:
        self.links.append(("+", peer))
        self._news.set()

    def disconnected(self, peer: str) -> None:
        self.links.append(("-", peer))
        self._news.set()

    def message(self, peer: str, message: bytes) -> None:
        self.messages.append((peer, message))
        self._news.set()

    def gossip(self, author: str, message: bytes) -> None:
        self.gossips.append((author, message))
        self._news.set()

    def at_fault(self, peer: str, fault: Fault, detail: str) -> None:
        self.faults.append((peer, fault))
        self._news.set()

    async def request(self, peer: str, request: bytes) -> bytes:
        self.requests.append((peer, request))
        self._news.set()
        return await self.answer(request)

    async def until(self, condition: Callable[["Recorder"], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition(self):
                self._news.clear()
                await self._news.wait()

    async def linked(self, *peers: str) -> None:
        """Wait until exactly these are connected."""
        await self.until(lambda heard: heard.has(*peers))

    def has(self, *peers: str) -> bool:
        """Whether exactly these are connected, by what was reported."""
        up: list[str] = []
        for sign, peer in self.links:
            assert (sign == "-") == (peer in up), "one disconnected per connected"
            up.remove(peer) if sign == "-" else up.append(peer)
        return sorted(up) == sorted(peers)


class Node:
    """A transport and its recorder."""

    def __init__(
        self,
        own: Member,
        members: Sequence[Member],
        limits: TransportLimits = QUICK,
        chain: bytes = CHAIN,
    ) -> None:
        self.id = own.id
        self.heard = Recorder()
        seed = own.id.encode().ljust(32, b".")
        self.transport = Libp2pTransport(seed, own, members, chain, own.address, limits, "test")

    async def __aenter__(self) -> "Node":
        await self.transport.start(self.heard)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.transport.stop()
        assert not self.transport.failed.done()

    async def count(self, name: str, at_least: int = 1) -> None:
        """Wait for a counter: peers that are refused cause no other event."""
        async with asyncio.timeout(PATIENCE_S):
            while self.transport.counters().get(name, 0) < at_least:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)


@contextlib.asynccontextmanager
async def nodes(
    *names: str, limits: TransportLimits = QUICK, linked: bool = True
) -> AsyncIterator[list[Node]]:
    """Nodes that know each other, connected."""
    members = [member(name) for name in names]
    async with contextlib.AsyncExitStack() as stack:
        found = [await stack.enter_async_context(Node(m, members, limits)) for m in members]
        if linked:
            for node in found:
                others = [name for name in names if name != node.id]
                await node.heard.linked(*others)
        yield found


class Intruder:
    """A libp2p host of ours under a test's control. Its methods run under trio: see `run`."""

    def __init__(self, name: str, limits: TransportLimits = QUICK) -> None:
        self.counts: Counter[str] = Counter()
        seed = name.encode().ljust(32, b".")
        self.name = name
        self.target: Member
        keys = create_new_key_pair(seed)
        self.host: Host = make_host(
            keys, limits, self.counts, self._admit, self._guard, self._blame
        )
        self.hello = Hello(PROTOCOL_VERSION, CHAIN, "intruder", name)

    def _admit(self, pid: ID, address: str) -> bool:
        return True

    def _blame(self, pid: ID, fault: Fault, detail: str) -> None:
        self.counts[fault] += 1

    @contextlib.contextmanager
    def _guard(self, pid: ID) -> Iterator[bool]:
        with contextlib.suppress(MuxedStreamError, SwarmException):
            yield True

    async def run(self, attack: Callable[["Intruder"], Awaitable[T]]) -> T:
        """Under asyncio: run `attack` under trio with the host alive, and return its result."""
        guest = await Guest.join()
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def attacking() -> None:
            try:
                with trio.fail_after(PATIENCE_S):
                    async with self.host.run([]):
                        value = await attack(self)
                        for connection in self.host.get_network().get_connections():
                            await connection.close()
                        await self.host.close()
                result.set_result(value)
            except Exception as error:  # noqa: BLE001 - it is the test's
                result.set_exception(error)

        guest.wake(lambda: guest.nursery.start_soon(attacking))
        try:
            return await result
        finally:
            await guest.leave()

    async def dial(self, target: Member) -> Muxer:
        host, port = target.address.rsplit(":", 1)
        stream = await trio.open_tcp_stream(host, int(port))
        raw = RawConnection(Socket(stream), True)
        pid = ID.from_pubkey(create_new_key_pair(target.id.encode().ljust(32, b".")).public_key)
        connection: Any = await self.host.upgrade_outbound_connection(raw, pid)
        muxer = connection.muxed_conn
        assert isinstance(muxer, Muxer)
        return muxer

    def welcome(self) -> None:
        """Answer hellos and then read nothing, like a node that has frozen."""

        async def greet(stream: Stream) -> None:
            await stream.read()
            await stream.write(encode_hello(Kind.HELLO, self.hello))
            await trio.sleep_forever()

        self.host.handle(DIRECT, greet)

    async def link(self, muxer: Muxer) -> Stream:
        """The stream on which this node may write frames, after its hello."""
        hello = encode_hello(Kind.HELLO, self.hello)
        stream = await self.host.open(muxer.peer_id, DIRECT, hello)
        await read_exactly(stream, 5)
        return stream


async def ended(stream: Stream) -> bool:
    """Under trio: wait until the other side ends `stream`."""
    try:
        while True:
            await stream.read()
    except (MuxedStreamEOF, MuxedStreamReset):
        return True
