"""Yamux for trio: many streams in one connection.

The same protocol as the library's on the wire (https://github.com/hashicorp/yamux/blob/master/spec.md),
built for the path that every vote takes:

* What arrives is dealt out at once, and what is written leaves at once: neither takes a turn of the
  scheduler unless it must wait. The library passes each frame through a dozen locks, each a turn.
* A peer that overruns its window, or opens more streams than allowed, or has more of its data wait
  here than allowed, loses the stream or the connection. The library lets it go on.
* Closing never waits for the peer.

What does not wait is a plain function, so no task can come between and nothing is locked.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from types import TracebackType

import trio
from libp2p.abc import IMuxedConn, IMuxedStream
from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamReset,
)
from multiaddr import Multiaddr

from node.libp2p.packets import UNSENT_BYTES_MAX, Packets
from node.transport import TransportLimits

WINDOW_BYTES = 1024 * 1024
_WINDOW_BYTES_INITIAL = 256 * 1024
_FRAME_BODY_BYTES = 60 * 1024
_CREDIT_MAX = 2**31

_HEADER = struct.Struct(">BBHII")  # version, type, flags, stream, length
_DATA, _WINDOW_UPDATE, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8


class ProtocolError(Exception):
    """The peer broke the protocol or a limit: the connection ends."""


class Stream(IMuxedStream):
    """One of the streams of a connection."""

    def __init__(self, muxer: Muxer, number: int) -> None:
        self.muxed_conn: Muxer = muxer
        self.number = number
        self.unread = bytearray()
        self.readable = trio.lowlevel.ParkingLot()
        self.writable = trio.lowlevel.ParkingLot()
        self.credit = _WINDOW_BYTES_INITIAL
        """Bytes that we may send."""
        self.granted = WINDOW_BYTES
        """Bytes that the peer may send."""
        self.read_since_grant = 0
        self.peer_ended = self.we_ended = self.dead = False
        self.heard_at = 0.0
        self.consumer: Callable[[bytes], None] | None = None
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
        self.heard_at = trio.current_time()
        while True:
            self._raise_if_over()
            with trio.move_on_at(self.heard_at + silence_max):
                await self.readable.park()
            if trio.current_time() >= self.heard_at + silence_max:
                raise trio.TooSlowError

    def _raise_if_over(self) -> None:
        if self.error is not None:
            raise self.error
        if self.dead:
            raise MuxedStreamReset("The stream was reset")
        if self.peer_ended:
            raise MuxedStreamEOF("The stream has ended")

    async def write(self, data: bytes) -> None:
        """Returns when all is on its way. Raises MuxedStreamReset or MuxedStreamClosed."""
        start = 0
        while start < len(data):
            if self.dead:
                raise MuxedStreamReset("The stream was reset")
            if self.we_ended:
                raise MuxedStreamClosed("The stream is closed for writing")
            if self.muxed_conn.packets.unsent_bytes >= UNSENT_BYTES_MAX:
                await self.muxed_conn.packets.room.park()
            elif not self.credit:
                await self.writable.park()
            else:
                size = min(self.credit, _FRAME_BODY_BYTES, len(data) - start)
                self._put(data[start : start + size])
                self.muxed_conn.packets.send()
                start += size

    def takes(self, size: int) -> bool:
        """Whether `size` bytes can be written without waiting."""
        ended = self.dead or self.we_ended
        return not ended and self.credit >= size and not self.muxed_conn.packets.unsent_bytes

    def write_now(self, data: bytes) -> None:
        """Write what the stream `takes`; this may be called from outside trio.

        Then have `packets.send` called within, if `packets.unsent_bytes` is not 0 afterwards.
        """
        for start in range(0, len(data), _FRAME_BODY_BYTES):
            self._put(data[start : start + _FRAME_BODY_BYTES])
        self.muxed_conn.packets.flush()

    def _put(self, body: bytes) -> None:
        self.credit -= len(body)
        self.muxed_conn.put(_DATA, 0, self.number, len(body), body)

    async def close(self) -> None:
        """Say that no more comes from us; the peer may still send."""
        if not self.we_ended:
            self.we_ended = True
            self.muxed_conn.put(_WINDOW_UPDATE, _FIN, self.number, 0)
            self.muxed_conn.packets.send()
            self.muxed_conn.forget_if_over(self)

    async def reset(self) -> None:
        """End both directions. Never waits."""
        if not self.dead:
            self.muxed_conn.put(_WINDOW_UPDATE, _RST, self.number, 0)
            self.muxed_conn.packets.send()
            self.kill()

    def take(self, body: bytes) -> None:
        """Handle data from the peer."""
        self.heard_at = trio.current_time()
        if self.consumer is None:
            self.unread += body
            self.readable.unpark_all()
            return
        self.muxed_conn.has_read(self, len(body))
        try:
            self.consumer(body)
        except Exception as error:  # noqa: BLE001 - `feed` raises it
            self.error = error
            self.muxed_conn.put(_WINDOW_UPDATE, _RST, self.number, 0)
            self.kill()

    def kill(self) -> None:
        """End it on our side."""
        self.dead = self.peer_ended = self.we_ended = True
        self.muxed_conn.forget_if_over(self)
        self.readable.unpark_all()
        self.writable.unpark_all()

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


class Muxer(IMuxedConn):
    """A connection, from the moment that Yamux has been agreed on."""

    on_close: Callable[[], Awaitable[None]] | None = None

    def __init__(
        self, conn: SecureSession, peer_id: ID, limits: TransportLimits, counts: Counter[str]
    ) -> None:
        self.peer_id = peer_id
        self.secured_conn = conn
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self._limits = limits
        self._counts = counts
        self.packets = Packets(conn)
        self._streams: dict[int, Stream] = {}
        self._next = 1 if conn.is_initiator else 2
        self._inbound = 0
        self._unread_bytes = 0
        self._accepted: deque[Stream] = deque()
        self._acceptable = trio.lowlevel.ParkingLot()

    # ---- what the library asks of a muxer ----

    @property
    def is_initiator(self) -> bool:
        """Whether we dialled."""
        return self.secured_conn.is_initiator

    @property
    def is_established(self) -> bool:
        """Whether streams can be opened."""
        return self.event_started.is_set() and not self.is_closed

    @property
    def is_closed(self) -> bool:
        """Whether it is over."""
        return self.event_closed.is_set()

    async def start(self) -> None:
        """Run until the connection ends. Nothing that the peer does raises."""
        self.event_started.set()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.packets.write_the_rest)
                self.packets.decrypt()
                self._take_frames()
                while await self.packets.read():
                    self._take_frames()
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        # Perhaps together with a cancellation, which goes on.
        except* Exception:  # noqa: BLE001 - the peer's fault, or the network's
            self._counts["connections_broken"] += 1
        finally:
            self._end()
        if self.on_close is not None:
            await self.on_close()

    async def close(self) -> None:
        """End it at once."""
        self._end()

    async def open_stream(self) -> Stream:
        """A new stream. Raises MuxedConnUnavailable."""
        if self.is_closed:
            raise MuxedConnUnavailable("The connection has ended")
        stream = self._streams[self._next] = Stream(self, self._next)
        self._next += 2
        grant = WINDOW_BYTES - _WINDOW_BYTES_INITIAL
        self.put(_WINDOW_UPDATE, _SYN, stream.number, grant)
        return stream

    async def accept_stream(self) -> Stream:
        """The next stream that the peer opens. Raises MuxedConnUnavailable."""
        while not self._accepted:
            if self.is_closed:
                raise MuxedConnUnavailable("The connection has ended")
            await self._acceptable.park()
        return self._accepted.popleft()

    def get_remote_address(self) -> tuple[str, int] | None:
        """The peer's (host, port)."""
        return self.secured_conn.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        """None that anybody needs."""
        return []

    def get_connection_type(self) -> ConnectionType:
        """Direct."""
        return ConnectionType.DIRECT

    def put(self, kind: int, flags: int, number: int, length: int, body: bytes = b"") -> None:
        """Queue a frame; `packets.send` comes after it."""
        if not self.is_closed:
            self.packets.put(_HEADER.pack(0, kind, flags, number, length), body)

    # ---- frames from the peer ----

    def _take_frames(self) -> None:
        plain = self.packets.plain
        start = 0
        while len(plain) - start >= _HEADER.size:
            version, kind, flags, number, length = _HEADER.unpack_from(plain, start)
            if version:
                raise ProtocolError(f"yamux version {version}")
            end = start + _HEADER.size
            if kind == _DATA:
                end += length
                if length > WINDOW_BYTES:
                    raise ProtocolError(f"a frame of {length} bytes")
                if len(plain) < end:
                    break
            self._take_frame(kind, flags, number, length, plain[end - length : end])
            start = end
        del plain[:start]
        self.packets.send()

    def _take_frame(self, kind: int, flags: int, number: int, length: int, body: bytearray) -> None:
        if kind == _PING:
            if flags & _SYN:
                self.put(_PING, _ACK, 0, length)
            return
        if kind == _GO_AWAY:
            raise ProtocolError("the peer goes away")
        if kind > _GO_AWAY:
            raise ProtocolError(f"a frame of type {kind}")
        if flags & _SYN:
            self._take_stream(number)
        stream = self._streams.get(number)
        if stream is None:
            return  # Of one that we have reset.
        if kind == _WINDOW_UPDATE:
            stream.credit = min(stream.credit + length, _CREDIT_MAX)
            stream.writable.unpark_all()
        elif body:
            stream.granted -= length
            self._unread_bytes += length
            if stream.granted < 0 or self._unread_bytes > self._limits.buffered_bytes_max:
                raise ProtocolError("more data than was granted")
            stream.take(bytes(body))
        if flags & _RST:
            stream.kill()
        elif flags & _FIN:
            stream.peer_ended = True
            stream.readable.unpark_all()
            self.forget_if_over(stream)

    def _take_stream(self, number: int) -> None:
        if number % 2 == self._next % 2 or number == 0 or number in self._streams:
            raise ProtocolError(f"stream {number} cannot be opened")
        if self._inbound >= self._limits.streams_max:
            self._counts["streams_refused"] += 1
            self.put(_WINDOW_UPDATE, _RST, number, 0)
            return
        self._inbound += 1
        stream = self._streams[number] = Stream(self, number)
        self.put(_WINDOW_UPDATE, _ACK, number, WINDOW_BYTES - _WINDOW_BYTES_INITIAL)
        self._accepted.append(stream)
        self._acceptable.unpark()

    def has_read(self, stream: Stream, size: int) -> None:
        """Count bytes that left `stream`, and grant the peer more when a quarter has gone."""
        if stream.number in self._streams:
            self._unread_bytes -= size
        stream.read_since_grant += size
        if stream.read_since_grant >= WINDOW_BYTES // 4 and not stream.peer_ended:
            stream.granted += stream.read_since_grant
            self.put(_WINDOW_UPDATE, 0, stream.number, stream.read_since_grant)
            self.packets.send()
            stream.read_since_grant = 0

    # ---- ends ----

    def forget_if_over(self, stream: Stream) -> None:
        """Give up the number of a stream that has ended both ways."""
        over = stream.peer_ended and stream.we_ended
        if over and self._streams.pop(stream.number, None) is not None:
            self._inbound -= stream.number % 2 != self._next % 2
            self._unread_bytes -= len(stream.unread)
            if stream.dead:
                stream.unread.clear()

    def _end(self) -> None:
        if self.event_closed.is_set():
            return
        self.event_closed.set()
        for stream in list(self._streams.values()):
            stream.kill()
        self._acceptable.unpark_all()
        self.packets.close()
