"""A stream of our Yamux (yamux.py): reading, writing, and being fed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import trio
from libp2p.abc import IMuxedStream
from libp2p.stream_muxer.exceptions import MuxedStreamClosed, MuxedStreamEOF, MuxedStreamReset

from node.libp2p.packets import UNSENT_BYTES_MAX, Waiters

if TYPE_CHECKING:
    from node.libp2p.yamux import Muxer

WINDOW_BYTES = 1024 * 1024
WINDOW_BYTES_INITIAL = 256 * 1024
_FRAME_BODY_BYTES = 60 * 1024

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


class Stream(IMuxedStream):
    """One of the streams of a connection."""

    def __init__(self, muxer: Muxer, number: int) -> None:
        self.muxed_conn: Muxer = muxer
        self.number = number
        self.unread = bytearray()
        self.readable = Waiters(muxer.token)
        self.writable = Waiters(muxer.token)
        self.credit = WINDOW_BYTES_INITIAL
        """Bytes that we may send."""
        self.granted = WINDOW_BYTES
        """Bytes that the peer may send."""
        self.read_since_grant = 0
        self.peer_ended = self.we_ended = self.dead = False
        self.heard_at = 0.0
        self.consumer: Callable[[bytes], None] | None = None
        self.paused = False
        self.error: Exception | None = None

    async def read(self, n: int | None = None) -> bytes:
        """Some bytes, at most n. Raises MuxedStreamEOF or MuxedStreamReset."""
        while not self.unread:
            self._raise_if_over()
            await self.readable.park()
        if n is None or n < 0 or n >= len(self.unread):
            data = bytes(self.unread)
            self.unread.clear()
        else:
            data = bytes(self.unread[:n])
            del self.unread[:n]
        self.muxed_conn.has_read(self, len(data))
        return data

    async def feed(self, consumer: Callable[[bytes], None], silence_max: float) -> None:
        """Call `consumer` with all data as it comes, and never return.

        Raises MuxedStreamEOF, MuxedStreamReset or what `consumer` does, or TooSlowError if nothing
        comes for `silence_max` seconds.
        """
        if self.unread:
            consumer(await self.read())
        self.consumer = consumer
        self.heard_at = time.monotonic()
        while True:
            self._raise_if_over()
            with trio.move_on_after(max(self.heard_at + silence_max - time.monotonic(), 0)):
                await self.readable.park()
            if time.monotonic() >= self.heard_at + silence_max:
                if not self.paused:
                    raise trio.TooSlowError
                self.heard_at = time.monotonic()  # It may not have had the room to say more.

    def pause(self) -> None:
        """Keep what comes instead of feeding it: soon the peer has no room to send more."""
        self.paused = True

    def resume(self) -> None:
        """Feed what was kept, and what comes."""
        self.paused = False
        if self.consumer is not None and self.unread:
            body = bytes(self.unread)
            self.unread.clear()
            self._consume(self.consumer, body)
            self.muxed_conn.packets.send()

    def _raise_if_over(self) -> None:
        if self.error is not None:
            raise self.error
        if self.dead:
            raise MuxedStreamReset("The stream was reset")
        if self.peer_ended:
            raise MuxedStreamEOF("The stream has ended")

    async def write(self, data: bytes, standstill_max: float = math.inf) -> None:
        """Returns when all is on its way. Raises MuxedStreamReset or MuxedStreamClosed, or
        TooSlowError if for `standstill_max` seconds the peer takes nothing: a slow one may go on.
        """
        start = 0
        while start < len(data):
            if self.dead:
                raise MuxedStreamReset("The stream was reset")
            if self.we_ended:
                raise MuxedStreamClosed("The stream is closed for writing")
            if self.muxed_conn.packets.unsent_bytes >= UNSENT_BYTES_MAX:
                with trio.fail_after(standstill_max):
                    await self.muxed_conn.packets.room.park()
            elif not self.credit:
                with trio.fail_after(standstill_max):
                    await self.writable.park()
            else:
                size = min(self.credit, _FRAME_BODY_BYTES, len(data) - start)
                self._put(data[start : start + size])
                self.muxed_conn.packets.send()
                start += size

    def takes(self, size: int) -> bool:
        """Whether `size` bytes can be written without waiting. More than a window never can, even
        if the peer grants more: what it does not read stays with us.
        """
        ended = self.dead or self.we_ended
        enough = min(self.credit, WINDOW_BYTES) >= size
        return not ended and enough and not self.muxed_conn.packets.unsent_bytes

    def write_now(self, data: bytes) -> None:
        """Write what the stream `takes`; this may be called from outside trio."""
        for start in range(0, len(data), _FRAME_BODY_BYTES):
            self._put(data[start : start + _FRAME_BODY_BYTES])
        self.muxed_conn.packets.send()

    def _put(self, body: bytes) -> None:
        self.credit -= len(body)
        self.muxed_conn.put(DATA, 0, self.number, len(body), body)

    async def close(self) -> None:
        """Say that no more comes from us; the peer may still send."""
        if not self.we_ended:
            self.we_ended = True
            self.muxed_conn.put(WINDOW_UPDATE, FIN, self.number, 0)
            self.muxed_conn.packets.send()
            self.muxed_conn.forget_if_over(self)

    async def reset(self) -> None:
        """End both directions. Never waits."""
        if not self.dead:
            self.muxed_conn.put(WINDOW_UPDATE, RST, self.number, 0)
            self.muxed_conn.packets.send()
            self.kill()

    def take(self, body: bytes) -> None:
        """Handle data from the peer."""
        self.heard_at = time.monotonic()
        if self.consumer is None or self.paused:
            self.unread += body
            self.readable.wake()
        else:
            self._consume(self.consumer, body)

    def _consume(self, consumer: Callable[[bytes], None], body: bytes) -> None:
        self.muxed_conn.has_read(self, len(body))
        try:
            consumer(body)
        except Exception as error:  # noqa: BLE001 - `feed` raises it
            self.error = error
            self.muxed_conn.put(WINDOW_UPDATE, RST, self.number, 0)
            self.kill()

    def kill(self) -> None:
        """End it on our side."""
        self.dead = self.peer_ended = self.we_ended = True
        self.muxed_conn.forget_if_over(self)
        self.readable.wake()
        self.writable.wake()

    def set_deadline(self, ttl: int) -> None:
        """Not offered: use trio's."""
        raise NotImplementedError

    def get_remote_address(self) -> tuple[str, int] | None:
        """The peer's (host, port)."""
        return self.muxed_conn.get_remote_address()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()
