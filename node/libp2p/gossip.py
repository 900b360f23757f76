"""Gossip on py-libp2p 0.8.1: one topic, a bounded share of work for each peer that passes it on.

The library numbers messages by the wall clock's seconds, and remembers without bound; it starts a
task for each of the thousands of messages that one packet can hold, and checks a signature over the
sender's addresses in every packet. Here packets of a peer are read one after the other, no faster
than `gossip_reads_per_second_max`, and what is beyond waits at its end; addresses are not read.
What an author may say is bounded apart from that, by whoever judges `valid`.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable

import trio
from libp2p.abc import INetStream
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils import read_varint_prefixed_bytes_limited

from node.framing import Allowance
from node.libp2p.host import Host
from node.libp2p.yamux import Blame
from node.transport import KIB, TransportLimits

_SEEN_MAX = 50_000
_PACKET_BYTES_MAX = 1024 * KIB
_PACKET_MESSAGES_MAX = 1_000
_CONTROL_UNIT_BYTES = 256
"""So much of control messages costs as much as one message."""


class _Router(GossipSub):
    def __init__(self) -> None:
        super().__init__(
            protocols=[PROTOCOL_ID_V11],
            degree=8,
            degree_low=4,
            degree_high=16,
            heartbeat_interval=1,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
            adaptive_gossip_enabled=False,
        )

    def _check_equivocation(self, msg: rpc_pb2.Message) -> bool:
        return True  # The library's keeps a thousand messages to compare with.


class _Seen:
    """The ids of the newest gossip messages. The library's needs a thread and has no bound."""

    def __init__(self) -> None:
        self.cache: OrderedDict[bytes, None] = OrderedDict()

    def has(self, key: bytes) -> bool:
        return key in self.cache

    def add(self, key: bytes) -> bool:
        self.cache[key] = None
        if len(self.cache) > _SEEN_MAX:
            self.cache.popitem(last=False)
        return True


class Gossip(Pubsub):
    """One topic, delivered by a call at once. Messages are known by (author, number).

    So the protocol has it, and the library's message cache: with other ids peers would fetch every
    message again at each heartbeat. Numbers start at the time in ns, so that a restart repeats
    none. `valid(message)` must be quick and not raise.
    """

    def __init__(
        self,
        host: Host,
        topic: str,
        valid: Callable[[rpc_pb2.Message], bool],
        deliver: Callable[[rpc_pb2.Message], None],
        limits: TransportLimits,
        counts: Counter[str],
        blame: Blame,
    ) -> None:
        self._router = _Router()
        super().__init__(host, self._router, strict_signing=True, allowed_topics={topic})
        self.counter = time.time_ns()
        self.seen_messages.stop()
        self.seen_messages = _Seen()  # type: ignore[assignment]
        self.set_topic_validator(topic, lambda _, message: valid(message), False)
        self._topic = topic
        self._deliver = deliver
        self._limits = limits
        self._allowances: dict[ID, Allowance] = {}
        self._counts = counts
        self._blame = blame

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it within this context."""
        async with background_trio_service(self), background_trio_service(self._router):
            await self.wait_until_ready()
            await self.subscribe(self._topic)
            yield

    async def send(self, message: bytes) -> None:
        """Publish `message`."""
        await self.publish(self._topic, message)

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        """Called for each valid message, our own too."""
        self._deliver(publish_message)

    async def stream_handler(self, stream: INetStream) -> None:
        """As the library's."""
        peer = stream.muxed_conn.peer_id
        try:
            await self.continuously_read_stream(stream)
        except Exception:  # noqa: BLE001 - it would end the host
            await stream.reset()
            self._handle_dead_peer(peer)

    async def continuously_read_stream(self, stream: INetStream) -> None:
        """Handle one packet after the other, until the stream ends or breaks the rules."""
        peer = stream.muxed_conn.peer_id
        new = Allowance(self._limits.gossip_reads_per_second_max)
        allowance = self._allowances.setdefault(peer, new)
        while True:
            raw = await read_varint_prefixed_bytes_limited(stream, _PACKET_BYTES_MAX)
            packet = rpc_pb2.RPC()
            try:
                packet.ParseFromString(raw)
                if len(packet.publish) > _PACKET_MESSAGES_MAX:
                    raise ValueError("too many messages in one packet")
            except Exception:
                self._counts["malformed"] += 1
                self._blame(peer, "malformed", "gossip that cannot be read")
                raise
            units = 1 + packet.control.ByteSize() // _CONTROL_UNIT_BYTES
            for message in packet.publish:
                await self._rest(peer, allowance, 1)
                if self._is_subscribed_to_msg(message):
                    await self.push_msg(peer, message)
                # A thousand in one packet would be one turn of the thread.
                await trio.lowlevel.checkpoint()
            await self._rest(peer, allowance, units)
            for subscription in packet.subscriptions[:1]:
                self.handle_subscription(peer, subscription)
            if packet.HasField("control"):
                packet.ClearField("senderRecord")
                await self._router.handle_rpc(packet, peer)

    async def _rest(self, peer: ID, allowance: Allowance, units: int) -> None:
        """Let a peer wait that passes too much on."""
        for _ in range(units):
            while not allowance.take(int(trio.current_time() * 1000)):
                self._counts["gossip_paused"] += 1
                self._blame(peer, "flood", "more gossip than can be read in good time")
                await trio.sleep(0.1)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """As the library's."""
        try:
            await super().push_msg(msg_forwarder, msg)
        except Exception:  # noqa: BLE001 - it would end the host
            self._counts["malformed"] += 1
            self._blame(msg_forwarder, "malformed", "gossip that cannot be read")
