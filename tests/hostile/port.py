"""Floods by whoever reaches the port, or the socket of the RPC: no key is needed."""

import os
import socket
from collections import deque

import trio

from tests.hostile.member import PAUSE_S, Failures, Hostile

OPEN_MAX = 900
MULTISTREAM = b"\x13/multistream/1.0.0\n"
NOISE = MULTISTREAM + b"\x07/noise\n"
BEGINNINGS = (
    b"",
    b"\x13/multi",
    MULTISTREAM,
    NOISE,
    NOISE + b"\0\x20" + os.urandom(32),
    NOISE + b"\xff\xff" + os.urandom(30_000),
)
GARBAGE = (
    b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + b"x" * 100_000,
    b"\x80\x80\x80\x80\x08" + b"x" * 100_000,
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    os.urandom(5_000),
    MULTISTREAM + b"\x05ls\n" * 10_000,
    MULTISTREAM + b"\x0d/not/offered\n" * 10_000,
    NOISE + b"\0\0" * 10_000,
    NOISE + b"\xff\xff" + os.urandom(65_535),
    NOISE + b"\0\x20" + os.urandom(32) + b"\0\x40" + os.urandom(64),
)


async def half_open(hostile: Hostile) -> None:
    """Connections that begin a handshake and say no more, as many as we may hold."""
    held: deque[trio.SocketStream] = deque()
    while True:
        try:
            stream = await trio.open_tcp_stream(*hostile.address)
            held.append(stream)
            hostile.counts["sent"] += 1
            await stream.send_all(BEGINNINGS[hostile.counts["sent"] % len(BEGINNINGS)])
        except (OSError, trio.BrokenResourceError):
            hostile.counts["cut"] += 1
            await trio.sleep(PAUSE_S)
        if len(held) > OPEN_MAX:
            await held.popleft().aclose()


async def garbage(hostile: Hostile) -> None:
    """Connections that say what no peer says, as fast as they can be made."""

    async def talk() -> None:
        while True:
            try:
                async with await trio.open_tcp_stream(*hostile.address) as stream:
                    hostile.counts["sent"] += 1
                    await stream.send_all(GARBAGE[hostile.counts["sent"] % len(GARBAGE)])
                    with trio.move_on_after(0.5):
                        while await stream.receive_some(65_536):
                            pass
            except (OSError, trio.BrokenResourceError):
                hostile.counts["cut"] += 1
                await trio.sleep(PAUSE_S)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(talk)


async def strangers(hostile: Hostile) -> None:
    """Handshakes in good order, with keys of no member."""

    async def knock() -> None:
        while True:
            host = hostile.stranger()
            try:
                muxer = await hostile.dial(host)
                hostile.counts["sent"] += 1
                await muxer.close()
            except Failures:
                hostile.counts["sent"] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(knock)


async def rpc(hostile: Hostile) -> None:
    """The local socket: bodies that never end, long ones, and calls without end."""
    call = b'{"jsonrpc":"2.0","id":1,"method":"institution_list"}'
    batch = b"[" + b",".join([call] * 100) + b"]"

    async def talk(number: int) -> None:
        while True:
            body = (batch, b"[" * 1_000_000, b"x" * 4_000_000)[number % 3]
            size = len(body) + (number % 4 == 0)
            head = (
                f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {size}\r\n\r\n"
            )
            try:
                stream = await trio.open_unix_socket(os.fspath(hostile.socket))
                async with stream:
                    await stream.send_all(head.encode() + body)
                    hostile.counts["sent"] += 1
                    with trio.move_on_after(2):
                        while await stream.receive_some(65_536):
                            pass
            except (OSError, trio.BrokenResourceError, socket.gaierror):
                hostile.counts["cut"] += 1
                await trio.sleep(PAUSE_S)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(talk, number)
