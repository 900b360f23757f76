"""py-libp2p 0.8.1, made safe to expose: the parts that the transport is built from.

The library's defaults are not ours. Each of these was reproduced or read in its source; look again
when its version moves (docs/adr/0006-network-on-py-libp2p.md):

* It accepts plaintext and more besides Noise: nothing else is offered here, and the key that the
  other end proves must be a member's, within the handshake.
* Its listeners share their port with other processes (SO_REUSEPORT) and never give back the slot
  of an inbound connection; its dialler remembers failures, and addresses that peers claim. Here
  sockets are opened and accepted by us, and `dial_peer` is shut.
* An exception in a stream handler, or in what a gossip message starts, ends the host. Whatever a
  peer sends must not raise into it.
* Its Yamux is slow and takes a peer's word for the receive window: ours is in yamux.py.
* Gossip: see gossip.py.
* Identify, resource manager, spam guard, auto-connector: they cost more than they protect.
  Limits are per member, and kept by links.py and requests.py.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import trio
from libp2p.abc import IMuxedConn, INetStream, IRawConnection, ISecureConn
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.net_stream import NetStream
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectClientError, MultiselectError
from libp2p.protocol_muxer.multiselect import MULTISELECT_PROTOCOL_ID
from libp2p.security.noise.exceptions import NoiseFailure
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.security.secure_session import SecureSession
from libp2p.transport.exceptions import MuxerUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader
from libp2p.utils import encode_delim
from multiaddr import Multiaddr

from node.libp2p.pace import Pace
from node.libp2p.streams import Stream
from node.libp2p.yamux import Blame, Muxer
from node.transport import TransportLimits

YAMUX = TProtocol("/yamux/1.0.0")
_MULTISTREAM = encode_delim(MULTISELECT_PROTOCOL_ID.encode())
_PROPOSALS_MAX = 8
_CONNECTIONS_MAX = 1024
_LIBRARY_LOG_INTERVAL_S = 60.0


class MembersNoise(Noise):
    """Noise that completes no inbound handshake unless `admit(peer, IP address)`."""

    def __init__(self, key_pair: KeyPair, admit: Callable[[ID, str], bool]) -> None:
        super().__init__(key_pair, create_noise_key_pair().private_key)
        self._admit = admit

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """As the library's."""
        secured = await super().secure_inbound(conn)
        address = conn.get_remote_address()
        if not self._admit(secured.get_remote_peer(), address[0] if address else "unknown"):
            raise NoiseFailure("not a member")
        return secured


class Upgrader(TransportUpgrader):
    """Offers Noise, and our own Yamux."""

    def __init__(
        self, noise: Noise, limits: TransportLimits, counts: Counter[str], blame: Blame
    ) -> None:
        # Only the name of the muxer is used: the library would make its own.
        super().__init__({NOISE: noise}, {YAMUX: Muxer})
        self._limits = limits
        self._counts = counts
        self._blame = blame
        self._paces: dict[ID, Pace] = {}

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """As the library's."""
        try:
            await self.muxer_multistream.select_transport(conn)
        except (MultiselectError, MultiselectClientError) as error:
            raise MuxerUpgradeFailure("no common muxer") from error
        if not isinstance(conn, SecureSession):
            raise TypeError("not a Noise connection")
        # One for all connections of a peer, else more of them would mean more time. Whoever comes
        # so far is a member.
        pace = self._paces.setdefault(peer_id, Pace(self._limits.work_percent_max))
        return Muxer(conn, peer_id, self._limits, self._counts, pace, self._blame)


class _NoAutoConnector(AutoConnector):
    async def maybe_connect(self) -> None:
        """Nothing; low watermarks of 0 would not stop it."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """Nothing."""


class UndiallingSwarm(Swarm):
    """Uses connections and never makes one."""

    def _init_connection_management(self) -> None:
        super()._init_connection_management()
        self.auto_connector = _NoAutoConnector(self)

    async def dial_peer(self, peer_id: ID) -> list[Any]:
        """Raises SwarmException."""
        raise SwarmException(f"{peer_id} is not connected")


class Host(BasicHost):
    """No identify and no addresses to advertise.

    `guard(peer)` surrounds the handling of each stream that a peer opens: it is entered with
    whether the peer may, and swallows exceptions.
    """

    def __init__(
        self,
        network: Swarm,
        guard: Callable[[ID], AbstractContextManager[bool]],
        negotiation_timeout: float,
    ) -> None:
        super().__init__(network, disable_identify_address_discovery=True)
        self.multiselect.handlers.clear()
        self._guard = guard
        self._negotiation_timeout = negotiation_timeout

    def get_addrs(self) -> list[Multiaddr]:
        """None: members know each other's addresses."""
        return []

    def connections(self, peer: ID) -> list[Muxer]:
        """Those with `peer` that are open."""
        connections = [c.muxed_conn for c in self.get_network().get_connections(peer)]
        return [c for c in connections if isinstance(c, Muxer) and not c.is_closed]

    async def open(self, peer: ID, protocol: TProtocol, data: bytes) -> Stream:
        """A stream on which `protocol` is agreed and `data` sent, in one round trip.

        multistream-select lets the opener send on before the answer, which repeats the proposal.
        https://github.com/multiformats/multistream-select
        """
        connections = self.connections(peer)
        if not connections:
            raise SwarmException(f"{peer} is not connected")
        stream = await connections[-1].open_stream()
        try:
            proposal = _MULTISTREAM + encode_delim(protocol.encode())
            await stream.write(proposal + data)
            if await read_exactly(stream, len(proposal)) != proposal:
                raise SwarmException(f"{peer} does not speak {protocol}")
        except BaseException:
            await stream.reset()
            raise
        return stream

    def handle(self, protocol: TProtocol, handler: Callable[[Stream], Awaitable[None]]) -> None:
        """Have `handler` called with each stream that a peer opens for `protocol`."""

        async def unwrap(stream: INetStream) -> None:
            await handler(_inner(stream))

        self.set_stream_handler(protocol, unwrap)

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        pass

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        stream = _inner(net_stream)
        with self._guard(stream.muxed_conn.peer_id) as admitted:
            if admitted:
                with trio.fail_after(self._negotiation_timeout):
                    handler = await self._negotiate(net_stream, stream)
                await handler(net_stream)
                await stream.close()
                return
        await stream.reset()

    async def _negotiate(self, net_stream: INetStream, stream: Stream) -> StreamHandlerFn:
        if await read_exactly(stream, len(_MULTISTREAM)) != _MULTISTREAM:
            raise SwarmException("no multistream-select")
        await stream.write(_MULTISTREAM)
        for _ in range(_PROPOSALS_MAX):
            size = (await read_exactly(stream, 1))[0]
            proposal = await read_exactly(stream, min(size, 127))
            protocol = TProtocol(proposal[:-1].decode(errors="replace"))
            handler = self.multiselect.handlers.get(protocol)
            if handler is not None:
                await stream.write(bytes([size]) + proposal)
                net_stream.set_protocol(protocol)
                return handler
            await stream.write(encode_delim(b"na"))
        raise SwarmException("no common protocol")


def _inner(stream: INetStream) -> Stream:
    inner = stream.muxed_stream if isinstance(stream, NetStream) else None
    if not isinstance(inner, Stream):
        raise TypeError("not a stream of our Yamux")
    return inner


def make_host(
    key_pair: KeyPair,
    limits: TransportLimits,
    counts: Counter[str],
    admit: Callable[[ID, str], bool],
    guard: Callable[[ID], AbstractContextManager[bool]],
    blame: Blame,
) -> Host:
    """A host that neither listens nor dials: give it raw connections to upgrade."""
    own = ID.from_pubkey(key_pair.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(own, key_pair)
    seconds = max(limits.dial_timeout_ms / 1000, 1.0)
    config = ConnectionConfig(
        max_connections=_CONNECTIONS_MAX,
        high_watermark=_CONNECTIONS_MAX,
        low_watermark=0,
        min_connections=0,
        inbound_upgrade_timeout=seconds,
        outbound_upgrade_timeout=seconds,
        inbound_stream_protocol_negotiation_timeout=seconds,
        outbound_stream_protocol_negotiation_timeout=seconds,
    )
    upgrader = Upgrader(MembersNoise(key_pair, admit), limits, counts, blame)
    swarm = UndiallingSwarm(own, peerstore, upgrader, [], connection_config=config)
    return Host(swarm, guard, seconds)


async def read_exactly(stream: Stream, count: int) -> bytes:
    """Raises MuxedStreamEOF or MuxedStreamReset if the stream ends before."""
    parts: list[bytes] = []
    while count:
        parts.append(await stream.read(count))
        count -= len(parts[-1])
    return b"".join(parts)


class _OncePerLine(logging.Handler):
    """Passes each line of the library's source that logs to the application once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._silent_until: dict[tuple[str, int], float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        line = (record.pathname, record.lineno)
        if record.created >= self._silent_until.get(line, 0.0):
            self._silent_until[line] = record.created + _LIBRARY_LOG_INTERVAL_S
            logging.getLogger("medpact.libp2p").handle(record)


def quieten_library() -> None:
    """Route the library's log to the application's, without floods. What it says of failed dials
    and handshakes is left out: links.py says it better."""
    library = logging.getLogger("libp2p")
    if not any(isinstance(handler, _OncePerLine) for handler in library.handlers):
        library.addHandler(_OncePerLine())
    for name in ("network", "host", "transport", "stream_muxer", "protocol_muxer"):
        library.getChild(name).setLevel(logging.CRITICAL)
    # This module logs on the root logger, and so would configure it where nobody has.
    setattr(swarm_connection, "logging", logging.getLogger("libp2p.network"))  # noqa: B010
