"""A process that holds a member's true key and keeps no rules: its connection to one victim.

It speaks the project's own transport code where that serves, and writes bytes of its own where not.
Everything here runs under trio.
"""

import contextlib
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import trio
from libp2p.crypto.ed25519 import Ed25519PublicKey, create_new_key_pair
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamError

from consensus.messages import Message, Signed, sign
from ledger.genesis import parse_genesis
from node.framing import (
    PROTOCOL_VERSION,
    FrameDecoder,
    Hello,
    Kind,
    decode_messages,
    encode_hello,
    encode_messages,
)
from node.libp2p.host import Host, make_host, read_exactly
from node.libp2p.links import DIRECT
from node.libp2p.packets import Socket
from node.libp2p.requests import REQUEST
from node.libp2p.streams import Stream
from node.libp2p.yamux import Muxer
from node.transport import Fault, TransportLimits
from node.wire import BatchBody, Consensus, Head, decode_message
from primitives.institution import parse_address
from primitives.keys import PrivateKey

Failures = (MuxedStreamError, SwarmException, OSError, trio.ClosedResourceError)
"""How the victim ends what we have begun with it."""
PAUSE_S = 0.02
"""Before trying again, lest this process do nothing but try."""
FRAME_BYTES = 120 * 1024
_SEEN_MAX = 500
UNCHECKED = TransportLimits(
    message_bytes_max=64 * 1024 * 1024,
    frame_bytes_max=64 * 1024 * 1024,
    streams_max=100_000,
    buffered_bytes_max=256 * 1024 * 1024,
    work_percent_max=100,
)


def _everybody(pid: ID, address: str) -> bool:
    return True


def _nothing(pid: ID, fault: Fault, detail: str) -> None:
    """Nobody is blamed."""


class Hostile:
    """A member `id` of the network in `directory`, and the node of `victim` as it sees it."""

    def __init__(self, directory: Path, id: str, victim: str) -> None:
        genesis = parse_genesis((directory / "genesis.toml").read_bytes())
        members = {member.id: member for member in genesis.institutions}
        self.genesis = genesis
        self.chain_id = genesis.chain_id
        self.id = id
        self.key = PrivateKey(bytes.fromhex((directory / id / "node.key").read_text()))
        self.own_address = parse_address(members[id].address)
        self.address = parse_address(members[victim].address)
        self.socket = directory / victim / "rpc.sock"
        self.pid = ID.from_pubkey(Ed25519PublicKey.from_bytes(members[victim].key))
        self.others = tuple(member for member in genesis.institutions if member.id != id)
        self.counts: Counter[str] = Counter()
        self.height = 1
        """The height that the victim works on, as far as it has told."""
        self.told = trio.Event()
        """The victim has said where it is."""
        self.seen: list[bytes] = []
        """Messages that the victim has sent."""
        self.hello = Hello(PROTOCOL_VERSION, self.chain_id, "hostile", id)
        self.sequence = time.time_ns() // 1_000_000
        self.host = self._make_host(self.key)

    def _make_host(self, key: PrivateKey) -> Host:
        pair = create_new_key_pair(key.seed)
        host = make_host(pair, UNCHECKED, self.counts, _everybody, self._guard, _nothing)
        host.handle(DIRECT, self._welcome)
        return host

    @contextlib.contextmanager
    def _guard(self, pid: ID) -> Iterator[bool]:
        with contextlib.suppress(*Failures):
            yield True

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Be there."""
        async with self.host.run([]):
            yield
            for connection in self.host.get_network().get_connections():
                await connection.close()
            await self.host.close()

    def stranger(self) -> Host:
        """Somebody whose key no genesis names."""
        return self._make_host(PrivateKey(time.time_ns().to_bytes(32, "big")))

    async def dial(self, host: Host | None = None) -> Muxer:
        """A connection to the victim."""
        stream = await trio.open_tcp_stream(*self.address)
        try:
            raw = RawConnection(Socket(stream), True)
            chosen = host or self.host
            connection: Any = await chosen.upgrade_outbound_connection(raw, self.pid)
        except BaseException:
            stream.socket.close()
            raise
        muxer = connection.muxed_conn
        assert isinstance(muxer, Muxer)
        return muxer

    async def link(self, muxer: Muxer) -> Stream:
        """The stream on which frames may be written, after our hello."""
        hello = encode_hello(Kind.HELLO, self.hello)
        stream = await self.host.open(muxer.peer_id, DIRECT, hello)
        await read_exactly(stream, 5)
        return stream

    async def connected(self) -> Stream:
        """Dial until there is a link both ways."""
        while True:
            with contextlib.suppress(*Failures), trio.move_on_after(5):
                link = await self.link(await self.dial())
                with trio.move_on_after(1):
                    await self.told.wait()
                return link
            await trio.sleep(PAUSE_S)

    async def ask(self, muxer: Muxer, request: bytes) -> Stream:
        """A stream on which a request was sent."""
        data = struct.pack(">I", len(request)) + request
        return await self.host.open(muxer.peer_id, REQUEST, data)

    async def flood(self, stream: Stream, messages: list[bytes]) -> None:
        """Write messages as fast as the victim takes them."""
        start = 0
        while start < len(messages):
            end, size = start, 0
            while end < len(messages) and end - start < 4096 and size < FRAME_BYTES:
                size += len(messages[end])
                end += 1
            await stream.write(encode_messages(messages[start:end]))
            self.counts["sent"] += end - start
            self.counts["bytes"] += size
            start = end
            await trio.lowlevel.checkpoint()

    def sign(self, message: Message) -> Signed:
        """Sign as the member that we are."""
        return sign(self.chain_id, self.id, self.key, message)

    async def _welcome(self, stream: Stream) -> None:
        """Take the victim's stream, and learn from it how far it is."""
        decoder = FrameDecoder(UNCHECKED.frame_bytes_max)
        greeted = False
        while True:
            for kind, body in decoder.feed(await stream.read()):
                if kind is Kind.MESSAGES:
                    for raw in decode_messages(body, UNCHECKED.message_bytes_max):
                        self._learn(raw)
            if not greeted:
                greeted = True
                await stream.write(encode_hello(Kind.HELLO, self.hello))

    def _learn(self, raw: bytes) -> None:
        match decode_message(raw):
            case Head(height):
                self.height = max(self.height, height + 1)
                self.told.set()
            case Consensus(signed):
                self.height = max(self.height, signed.message.height)
                if len(self.seen) < _SEEN_MAX:
                    self.seen.append(raw)
            case BatchBody():
                if len(self.seen) < _SEEN_MAX:
                    self.seen.append(raw)
