"""What the transport costs on this machine: two nodes of one process talk over loopback.

For the cost model of `medpact simulate --capacity`. All figures are processor time of one side, in
microseconds or nanoseconds: what both spent, halved.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from node.libp2p import Libp2pTransport
from node.transport import Fault, Member
from primitives.keys import PrivateKey

ROUNDS = 60
ANNOUNCEMENTS = 15
"""More at once would be a flood."""
MESSAGES_PER_ROUND = 8
"""What a busy node sends a peer in one frame."""
VOTE_BYTES = 250
LONG_BYTES = 64 * 1024
_CHAIN = b"\x4d" * 32
_PATIENCE_S = 30.0
_IDS = ("recorder-1", "recorder-2")


@dataclass(frozen=True, slots=True)
class TransportCosts:
    """Of one side."""

    message_us: float
    """A short message among others in a frame."""
    byte_ns: float
    """Of a long one."""
    request_us: float
    gossip_us: float


class _Ear:
    """A handler that counts what it hears."""

    def __init__(self) -> None:
        self.heard = 0
        self.linked = asyncio.Event()
        self.news = asyncio.Event()

    def connected(self, peer: str) -> None:
        self.linked.set()

    def disconnected(self, peer: str) -> None:
        self.linked.clear()

    def message(self, peer: str, message: bytes) -> None:
        self.heard += 1
        self.news.set()

    def gossip(self, author: str, message: bytes) -> None:
        self.heard += 1
        self.news.set()

    def at_fault(self, peer: str, fault: Fault, detail: str) -> None:
        raise RuntimeError(f"{peer} is at fault: {fault} {detail}")

    async def request(self, peer: str, request: bytes) -> bytes:
        return request

    async def until(self, count: int) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while self.heard < count:
                self.news.clear()
                await self.news.wait()


async def measure_transport() -> TransportCosts:
    """Measure; takes a few seconds. Raises TransportError if no port of loopback can be used."""
    # The links that come and go here are nobody's news.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    keys = [PrivateKey(id.encode().ljust(32, b".")) for id in _IDS]
    members = [
        Member(id, key.public, f"127.0.0.1:{_free_port()}")
        for id, key in zip(_IDS, keys, strict=True)
    ]
    ears = [_Ear(), _Ear()]
    transports = [
        Libp2pTransport(key.seed, member, members, _CHAIN, member.address)
        for key, member in zip(keys, members, strict=True)
    ]
    try:
        for transport, ear in zip(transports, ears, strict=True):
            await transport.start(ear)
        async with asyncio.timeout(_PATIENCE_S):
            for ear in ears:
                await ear.linked.wait()
        return await _measure(transports[0], ears[1])
    finally:
        for transport in transports:
            await transport.stop()


async def _measure(transport: Libp2pTransport, ear: _Ear) -> TransportCosts:
    async def send(count: int, size_bytes: int) -> None:
        wanted = ear.heard + count
        for _ in range(count):
            transport.send(_IDS[1], bytes(size_bytes))
        await ear.until(wanted)

    async def publish() -> None:
        wanted = ear.heard + 1
        number = ear.heard.to_bytes(8)
        transport.publish(number + bytes(92))
        await ear.until(wanted)

    async def ask() -> None:
        await transport.request(_IDS[1], bytes(VOTE_BYTES), int(_PATIENCE_S * 1_000))

    short_us = await _spent_us(lambda: send(MESSAGES_PER_ROUND, VOTE_BYTES)) / MESSAGES_PER_ROUND
    long_us = await _spent_us(lambda: send(1, LONG_BYTES))
    return TransportCosts(
        message_us=short_us / 2,
        byte_ns=max(long_us - short_us, 0.0) / 2 / LONG_BYTES * 1_000,
        request_us=await _spent_us(ask) / 2,
        gossip_us=await _spent_us(publish, ANNOUNCEMENTS) / 2,
    )


async def _spent_us(work: Callable[[], Awaitable[None]], rounds: int = ROUNDS) -> float:
    """Processor time of one round, after one to warm up."""
    await work()
    began = time.process_time()
    for _ in range(rounds):
        await work()
    return (time.process_time() - began) / rounds * 1_000_000


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
