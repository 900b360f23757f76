"""Members that send too much: they are held up, and whoever sends no more than its share is not."""

import asyncio
import dataclasses
import os

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX

from node.libp2p.pace import Pace
from node.libp2p.yamux import Muxer
from tests.node.network_support import POLL_S, QUICK, Intruder, Node, member
from tests.node.test_libp2p_hostile import GOSSIP, HOSTILE, NODE, TOPIC


def packet(messages: list[rpc_pb2.Message]) -> bytes:
    raw = rpc_pb2.RPC(publish=messages).SerializeToString()
    length, prefix = len(raw), b""
    while length > 127:
        prefix += bytes([length & 127 | 128])
        length >>= 7
    return prefix + bytes([length]) + raw


def signed(number: int) -> rpc_pb2.Message:
    pair = create_new_key_pair(HOSTILE.encode().ljust(32, b"."))
    message = rpc_pb2.Message(
        from_id=Intruder(HOSTILE).host.get_id().to_bytes(),
        seqno=number.to_bytes(8, "big"),
        data=b"news",
        topicIDs=[TOPIC],
    )
    unsigned = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
    message.signature = pair.private_key.sign(unsigned)
    return message


async def test_an_author_is_heard_no_more_often_than_allowed() -> None:
    limits = dataclasses.replace(QUICK, gossip_per_second_max=5)
    members = [member(NODE), member(HOSTILE)]
    messages = [signed(number) for number in range(1, 101)]

    async def connect(intruder: Intruder) -> None:
        muxer = await intruder.dial(members[0])
        await intruder.host.open(muxer.peer_id, GOSSIP, packet(messages))
        while heard() < 100:  # noqa: ASYNC110
            await trio.sleep(POLL_S)

    def heard() -> int:
        return sum(counters().get(name, 0) for name in ("gossip_received", "gossip_refused"))

    async with Node(members[0], members, limits) as node:
        counters = node.transport.counters
        await Intruder(HOSTILE).run(connect)
        assert counters()["gossip_refused"] >= 50
        assert (HOSTILE, "flood") in node.heard.faults
        assert all(heard == (HOSTILE, b"news") for heard in node.heard.gossips)
        assert 5 <= len(node.heard.gossips) <= 50


async def test_gossip_is_read_no_faster_than_allowed_whoever_made_it() -> None:
    limits = dataclasses.replace(QUICK, gossip_reads_per_second_max=20)
    members = [member(NODE), member(HOSTILE)]
    forged = [
        rpc_pb2.Message(
            from_id=Intruder(NODE).host.get_id().to_bytes(),
            seqno=os.urandom(8),
            data=b"x",
            topicIDs=[TOPIC],
            signature=bytes(64),
        )
        for _ in range(900)
    ]

    async def connect(intruder: Intruder) -> None:
        muxer = await intruder.dial(members[0])
        await intruder.host.open(muxer.peer_id, GOSSIP, packet(forged))
        while not counters().get("gossip_paused"):  # noqa: ASYNC110
            await trio.sleep(POLL_S)

    async with Node(members[0], members, limits) as node:
        counters = node.transport.counters
        await Intruder(HOSTILE).run(connect)
        await node.heard.until(lambda heard: (HOSTILE, "flood") in heard.faults)
        assert node.heard.gossips == []


async def test_links_of_one_peer_follow_each_other_at_a_distance() -> None:
    limits = dataclasses.replace(QUICK, relink_ms_min=60_000)
    members = [member(NODE), member(HOSTILE)]
    refused = asyncio.Event()

    async def connect(intruder: Intruder) -> None:
        intruder.welcome()
        muxer: Muxer = await intruder.dial(members[0])
        await intruder.link(muxer)
        with trio.move_on_after(0.5) as scope:
            await intruder.link(muxer)
        if scope.cancelled_caught:
            refused.set()

    async with Node(members[0], members, limits) as node:
        await Intruder(HOSTILE).run(connect)
        assert refused.is_set()
        assert node.heard.links.count(("+", HOSTILE)) <= 1


def test_work_beyond_a_share_is_paid_for_with_rest() -> None:
    pace = Pace(25)
    assert pace.spend(0.1) == 0
    rest = pace.spend(0.3)
    assert 0.5 < rest <= 0.8
    # However long something took, nobody waits for it longer than a second.
    assert pace.spend(1_000) == 1.0
