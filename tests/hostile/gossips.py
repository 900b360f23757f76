"""Floods of gossip: by a member with its own key, and in the names of others."""

import itertools
import os
from collections.abc import Callable, Iterator

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX

from node.framing import PROTOCOL_VERSION
from node.wire import BatchesAnnounced, Gossip, HeadAnnounced
from primitives.codec import encode
from tests.hostile.member import Failures, Hostile

GOSSIP = TProtocol(PROTOCOL_ID_V11)
BURST = 100
Packets = Callable[[Hostile], Iterator[rpc_pb2.RPC]]


def gossip(packets: Packets) -> Callable[[Hostile], "object"]:
    """A flood of what `packets` makes, beside a link, so that the victim asks us back."""

    async def flood(hostile: Hostile) -> None:
        made = packets(hostile)
        while True:
            link = await hostile.connected()
            try:
                stream = await hostile.host.open(hostile.pid, GOSSIP, b"")
                await stream.write(_framed(rpc_pb2.RPC(subscriptions=[_subscription(hostile)])))
                for packet in made:
                    await stream.write(_framed(packet))
                    hostile.counts["sent"] += max(len(packet.publish), 1)
                    await trio.lowlevel.checkpoint()
            except Failures:
                hostile.counts["cut"] += 1
            await link.reset()

    return flood


def _topic(hostile: Hostile) -> str:
    return f"/medpact/gossip/{PROTOCOL_VERSION}/{hostile.chain_id.hex()}"


def _subscription(hostile: Hostile) -> rpc_pb2.RPC.SubOpts:
    return rpc_pb2.RPC.SubOpts(subscribe=True, topicid=_topic(hostile))


def _framed(packet: rpc_pb2.RPC) -> bytes:
    raw = packet.SerializeToString()
    length, prefix = len(raw), bytearray()
    while length > 127:
        prefix.append(length & 127 | 128)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + raw


def _signed(hostile: Hostile, number: int, data: bytes) -> rpc_pb2.Message:
    pair = create_new_key_pair(hostile.key.seed)
    message = rpc_pb2.Message(
        from_id=hostile.host.get_id().to_bytes(),
        seqno=(hostile.sequence * 1_000_000 + number).to_bytes(8, "big"),
        data=data,
        topicIDs=[_topic(hostile)],
    )
    message.signature = pair.private_key.sign(
        PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
    )
    return message


def announcements(hostile: Hostile) -> Iterator[rpc_pb2.RPC]:
    """Validly signed announcements of batches that do not exist, and of heads."""
    for number in itertools.count(0, BURST):
        messages = []
        for n in range(BURST):
            invented: Gossip = BatchesAnnounced(tuple(os.urandom(32) for _ in range(256)))
            if n % 4 == 0:
                invented = HeadAnnounced(hostile.height + number + n, os.urandom(32))
            messages.append(_signed(hostile, number + n, encode(invented)))
        yield rpc_pb2.RPC(publish=messages)


def forged(hostile: Hostile) -> Iterator[rpc_pb2.RPC]:
    """Announcements in other members' names, with signatures that they did not make."""
    author = hostile.pid.to_bytes()
    while True:
        yield rpc_pb2.RPC(
            publish=[
                rpc_pb2.Message(
                    from_id=author,
                    seqno=os.urandom(8),
                    data=os.urandom(100),
                    topicIDs=[_topic(hostile)],
                    signature=os.urandom(64),
                )
                for _ in range(BURST)
            ]
        )


def promises(hostile: Hostile) -> Iterator[rpc_pb2.RPC]:
    """Gossip's own control messages: ids of messages that nobody has, offered and wanted."""
    topic = _topic(hostile)
    while True:
        ids = [os.urandom(46).hex().encode() for _ in range(5_000)]
        control = rpc_pb2.ControlMessage(
            ihave=[rpc_pb2.ControlIHave(topicID=topic, messageIDs=ids)],
            iwant=[rpc_pb2.ControlIWant(messageIDs=ids)],
            graft=[rpc_pb2.ControlGraft(topicID=topic)] * 50,
            prune=[rpc_pb2.ControlPrune(topicID=topic)] * 50,
        )
        yield rpc_pb2.RPC(control=control, subscriptions=[_subscription(hostile)] * 500)
