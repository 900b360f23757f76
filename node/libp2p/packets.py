"""A Noise connection after its handshake: plain bytes in and out of a socket, for trio.

What is queued is encrypted and handed to the system at once, without a turn of the scheduler; only
what the system does not take waits for `write_the_rest`. Nothing but that, and waiting for `room`,
is done by a task of trio, so all else may be called from outside it.
https://github.com/libp2p/specs/tree/master/noise
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter

import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession

UNSENT_BYTES_MAX = 256 * 1024
"""Writers wait while more than this waits for the system."""
_UNSENT_BYTES_ABUSE = 8 * UNSENT_BYTES_MAX
"""Far more than writers who wait, and one large batch that was written at once, leave behind."""
_PACKET_BYTES_MAX = 65535 - 16
_READ_BYTES = 64 * 1024
_READ_AHEAD_BYTES = 64 * 1024


class Overrun(Exception):
    """The peer makes us answer and reads nothing."""


class Socket(TrioTCPStream):
    """Reads ahead, so that the packets of a handshake cost one system call instead of two."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self.ahead = bytearray()

    async def read(self, n: int | None = None) -> bytes:
        """N bytes, at most 64 KiB at a time; less only where the connection ends."""
        wanted = min(n or _READ_AHEAD_BYTES, _READ_AHEAD_BYTES)
        while len(self.ahead) < wanted:
            data = await super().read(_READ_AHEAD_BYTES)
            if not data:
                break
            self.ahead += data
        taken = bytes(self.ahead[:wanted])
        del self.ahead[:wanted]
        return taken


def shut(stream: trio.SocketStream) -> None:
    """End a connection for all who hold its socket."""
    with contextlib.suppress(OSError):
        stream.socket.shutdown(trio.socket.SHUT_RDWR)
    stream.socket.close()


class Waiters:
    """Tasks of trio that wait for something that is looked at before and after."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._lot = trio.lowlevel.ParkingLot()

    async def park(self) -> None:
        """Wait, under trio."""
        await self._lot.park()

    def wake(self) -> None:
        """Have them go on soon; this may be called from outside trio."""
        if self._lot:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._lot.unpark_all)


class Packets:
    """Both directions of one connection, whose socket it takes over.

    `counts` learns the bytes that pass, encrypted and without what TCP adds.
    """

    def __init__(
        self, session: SecureSession, token: trio.lowlevel.TrioToken, counts: Counter[str]
    ) -> None:
        noise = session.conn
        if not isinstance(noise, NoiseTransportReadWriter):
            raise TypeError("not a Noise connection")
        raw = noise.read_writer.read_write_closer
        if not isinstance(raw, RawConnection) or not isinstance(raw.stream, Socket):
            raise TypeError("not over a Socket")
        self._counts = counts
        self._noise = noise.noise_state
        self._socket = raw.stream.stream.socket
        self._encrypted = raw.stream.ahead
        self.plain = bytearray(session._drain(None))
        """Received; the caller removes what it has understood."""
        self.descriptor = os.dup(self._socket.fileno())
        """Our own, to read from: nobody else closes it while the loop watches it. Whoever else ends
        the connection must `shut` it."""
        self._queue: list[bytes] = []
        self._outgoing = memoryview(b"")
        self._error: OSError | None = None
        self.unsent_bytes = 0
        self.room = Waiters(token)
        """Woken whenever the system takes more."""
        self._stuck = Waiters(token)

    def put(self, *parts: bytes) -> None:
        """Queue bytes; `send` or `flush` comes after it."""
        self._queue += parts
        self.unsent_bytes += sum(map(len, parts))

    def send(self) -> None:
        """Hand to the system what it takes, and leave the rest to `write_the_rest`."""
        if not self.flush():
            self._stuck.wake()

    def flush(self) -> bool:
        """Hand to the system what it takes. Whether that was all."""
        while self._queue or self._outgoing:
            if not self._outgoing:
                self._outgoing = memoryview(self._encrypt(b"".join(self._queue)))
                self._queue.clear()
                self.unsent_bytes = len(self._outgoing)
            try:
                written = os.write(self._socket.fileno(), self._outgoing)
            except BlockingIOError:
                return False
            except OSError as error:
                self._error = error
                return False
            self._counts["wire_bytes_sent"] += written
            self._outgoing = self._outgoing[written:]
            self.unsent_bytes -= written
        return True

    def _encrypt(self, plain: bytes) -> bytes:
        packets: list[bytes] = []
        for start in range(0, len(plain), _PACKET_BYTES_MAX):
            packet = self._noise.encrypt(plain[start : start + _PACKET_BYTES_MAX])
            packets += len(packet).to_bytes(2, "big"), packet
        return b"".join(packets)

    async def write_the_rest(self) -> None:
        """Never returns. Raises OSError, ClosedResourceError, or Overrun."""
        while True:
            whole = self.flush()
            self.room.wake()
            if whole:
                await self._stuck.park()
            elif self._error is not None:
                raise self._error
            elif self.unsent_bytes > _UNSENT_BYTES_ABUSE:
                raise Overrun
            else:
                await trio.lowlevel.wait_writable(self._socket.fileno())

    def read(self) -> bool:
        """Take what the system has, which may be nothing; `decrypt` comes after it. False at the
        end. Raises OSError.
        """
        try:
            data = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return True
        self._counts["wire_bytes_received"] += len(data)
        self._encrypted += data
        return bool(data)

    def decrypt(self) -> None:
        """Move what has been received whole to `plain`. Raises what Noise raises at a forgery."""
        encrypted = self._encrypted
        start = 0
        while len(encrypted) - start >= 2:
            end = start + 2 + int.from_bytes(encrypted[start : start + 2], "big")
            if len(encrypted) < end:
                break
            self.plain += self._noise.decrypt(bytes(encrypted[start + 2 : end]))
            start = end
        del encrypted[:start]

    def close(self) -> None:
        """Close the socket, and let go those who wait for room; once, when nobody reads."""
        os.close(self.descriptor)
        self._socket.close()
        self._queue.clear()
        self._outgoing = memoryview(b"")
        self.unsent_bytes = 0
        self.room.wake()
