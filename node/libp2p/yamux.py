"""Yamux for trio: many streams in one connection.

The same protocol as the library's on the wire (https://github.com/hashicorp/yamux/blob/master/spec.md),
built for the path that every vote takes:

* What arrives is dealt out at once, and what is written leaves at once: neither takes a turn of the
  scheduler unless it must wait. The library passes each frame through a dozen locks, each a turn.
* The asyncio loop, whose guest trio is, waits for the socket: trio would wait on a thread, and a
  message would cost two switches of threads and a turn of trio before anybody looks at it.
* A peer that overruns its window, or opens more streams than allowed, or has more of its data wait
  here than allowed, loses the stream or the connection. The library lets it go on.
* Closing never waits for the peer.
* Reading from one peer takes a bounded share of our time. Beyond it the connection is not read for
  a while, so that the peer, and nobody else, waits; it is not cut, as a busy peer may be honest.

What does not wait is a plain function, so no task can come between and nothing is locked.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable

import trio
from libp2p.abc import IMuxedConn
from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
)
from multiaddr import Multiaddr

from node.framing import Allowance
from node.libp2p.pace import Pace
from node.libp2p.packets import Overrun, Packets, Waiters
from node.libp2p.streams import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    PING,
    RST,
    SYN,
    WINDOW_BYTES,
    WINDOW_BYTES_INITIAL,
    WINDOW_UPDATE,
    Stream,
)
from node.transport import Fault, TransportLimits

Blame = Callable[[ID, Fault, str], None]
"""Told what a peer does wrong. Must return at once and not raise."""

_CREDIT_MAX = 2**31
_PINGS_PER_SECOND_MAX = 10
"""More are not answered: nobody needs them."""
_STREAM_WORK_S = 0.001
"""What a stream that the peer opens costs us besides reading: a task, and its negotiation."""

_HEADER = struct.Struct(">BBHII")  # version, type, flags, stream, length


class ProtocolError(Exception):
    """The peer broke the protocol or a limit: the connection ends."""


class Muxer(IMuxedConn):
    """A connection, from the moment that Yamux has been agreed on."""

    on_close: Callable[[], Awaitable[None]] | None = None

    def __init__(
        self,
        conn: SecureSession,
        peer_id: ID,
        limits: TransportLimits,
        counts: Counter[str],
        pace: Pace,
        blame: Blame,
    ) -> None:
        self.peer_id = peer_id
        self.secured_conn = conn
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self._limits = limits
        self._counts = counts
        self._pace = pace
        self._blame = blame
        self._work_s = 0.0
        self._pings = Allowance(_PINGS_PER_SECOND_MAX)
        self.token = trio.lowlevel.current_trio_token()
        self._loop = asyncio.get_running_loop()
        self._resting: asyncio.TimerHandle | None = None
        self._reads = False
        self._read_all = False
        self._trouble: Exception | None = None
        self._over = Waiters(self.token)
        self.packets = Packets(conn, self.token, counts)
        self._streams: dict[int, Stream] = {}
        self._next = 1 if conn.is_initiator else 2
        self._inbound = 0
        self._unread_bytes = 0
        self._accepted: deque[Stream] = deque()
        self._acceptable = Waiters(self.token)

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
                self._take_packets()
                if not self.is_closed:
                    self._read_on()
                while not self._read_all:
                    await self._over.park()
                if self._trouble is not None:
                    raise self._trouble
                nursery.cancel_scope.cancel()
        # Perhaps together with a cancellation, which goes on.
        except* (ProtocolError, Overrun) as group:
            self._counts["connections_broken"] += 1
            self._blame(self.peer_id, "malformed", f"Yamux: {group.exceptions[0]}")
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
        grant = WINDOW_BYTES - WINDOW_BYTES_INITIAL
        self.put(WINDOW_UPDATE, SYN, stream.number, grant)
        return stream

    async def accept_stream(self) -> Stream:
        """The next stream that the peer opens. Raises MuxedConnUnavailable."""
        while True:
            while self._accepted:
                stream = self._accepted.popleft()
                if not stream.dead:
                    return stream
            if self.is_closed:
                raise MuxedConnUnavailable("The connection has ended")
            await self._acceptable.park()

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

    # ---- frames from the peer, on the asyncio side ----

    def _read_on(self) -> None:
        """Read whenever there is something."""
        self._resting = None
        self._reads = True
        self._loop.add_reader(self.packets.descriptor, self._read)

    def _stop_reading(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
        if self._reads:
            self._reads = False
            self._loop.remove_reader(self.packets.descriptor)

    def _read(self) -> None:
        rest = 0.0
        try:
            self._read_all = not self.packets.read()
            if not self._read_all:
                rest = self._take_packets()
        except Exception as error:  # noqa: BLE001 - `start` raises it
            self._trouble = error
            self._read_all = True
        if self._read_all:
            self._stop_reading()
            self._over.wake()
        elif rest:
            self._stop_reading()
            self._resting = self._loop.call_later(rest, self._read_on)
            self._counts["reads_paused"] += 1
            self._blame(self.peer_id, "flood", "more than can be read in good time")

    def _take_packets(self) -> float:
        """Handle what was received; how many seconds to rest for it."""
        began = time.perf_counter()
        self._work_s = 0.0
        self.packets.decrypt()
        self._take_frames()
        return self._pace.spend(time.perf_counter() - began + self._work_s)

    def _take_frames(self) -> None:
        plain = self.packets.plain
        start = 0
        while len(plain) - start >= _HEADER.size:
            version, kind, flags, number, length = _HEADER.unpack_from(plain, start)
            if version:
                raise ProtocolError(f"yamux version {version}")
            end = start + _HEADER.size
            if kind == DATA:
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
        if kind == PING:
            if flags & SYN and self._pings.take(time.monotonic_ns() // 1_000_000):
                self.put(PING, ACK, 0, length)
            return
        if kind == GO_AWAY:
            raise ProtocolError("the peer goes away")
        if kind > GO_AWAY:
            raise ProtocolError(f"a frame of type {kind}")
        if flags & SYN:
            self._take_stream(number)
        stream = self._streams.get(number)
        if stream is None:
            return  # Of one that we have reset.
        if kind == WINDOW_UPDATE:
            stream.credit = min(stream.credit + length, _CREDIT_MAX)
            stream.writable.wake()
        elif body:
            stream.granted -= length
            self._unread_bytes += length
            if stream.granted < 0 or self._unread_bytes > self._limits.buffered_bytes_max:
                raise ProtocolError("more data than was granted")
            stream.take(bytes(body))
        if flags & RST:
            stream.kill()
        elif flags & FIN:
            stream.peer_ended = True
            stream.readable.wake()
            self.forget_if_over(stream)

    def _take_stream(self, number: int) -> None:
        if number % 2 == self._next % 2 or number == 0 or number in self._streams:
            raise ProtocolError(f"stream {number} cannot be opened")
        self._work_s += _STREAM_WORK_S
        if self._inbound >= self._limits.streams_max:
            self._counts["streams_refused"] += 1
            self.put(WINDOW_UPDATE, RST, number, 0)
            return
        self._inbound += 1
        stream = self._streams[number] = Stream(self, number)
        self.put(WINDOW_UPDATE, ACK, number, WINDOW_BYTES - WINDOW_BYTES_INITIAL)
        self._accepted.append(stream)
        self._acceptable.wake()

    def has_read(self, stream: Stream, size: int) -> None:
        """Count bytes that left `stream`, and grant the peer more when a quarter has gone."""
        if stream.number in self._streams:
            self._unread_bytes -= size
        stream.read_since_grant += size
        if stream.read_since_grant >= WINDOW_BYTES // 4 and not stream.peer_ended:
            stream.granted += stream.read_since_grant
            self.put(WINDOW_UPDATE, 0, stream.number, stream.read_since_grant)
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
        self._stop_reading()
        self._read_all = True
        self._over.wake()
        for stream in list(self._streams.values()):
            stream.kill()
        self._acceptable.wake()
        self.packets.close()
