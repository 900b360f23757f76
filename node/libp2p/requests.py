"""Requests to peers, and our answers to theirs: a stream for each.

request  := length (4 bytes, big endian)  bytes
response := status (1 byte)  length (4 bytes, big endian)  bytes; nothing follows a status not 0
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter

import structlog
import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamEOF

from node.framing import PROTOCOL_VERSION, FramingError
from node.libp2p.guest import Crossing
from node.libp2p.host import Host, read_exactly
from node.libp2p.links import Peer
from node.libp2p.streams import Stream
from node.libp2p.yamux import Blame
from node.transport import Handler, PeerUnreachable, TransportLimits
from primitives.codec import CodecError

REQUEST = TProtocol(f"/medpact/request/{PROTOCOL_VERSION}")
_LENGTH_BYTES = 4
_OK, _BUSY, _FAILED = b"\0", b"\1", b"\2"

_log = structlog.get_logger("medpact.network")


class _Answer:
    """What asyncio computes and trio sends."""

    def __init__(self) -> None:
        self.ready = trio.Event()
        self.response: bytes | None = None
        self.work_s = 0.0
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


class Requests:
    """Both directions, for all peers."""

    def __init__(
        self,
        limits: TransportLimits,
        counts: Counter[str],
        crossing: Crossing,
        handler: Handler,
        host: Host,
        by_pid: dict[ID, Peer],
        blame: Blame,
    ) -> None:
        self._limits = limits
        self._counts = counts
        self._crossing = crossing
        self._handler = handler
        self._host = host
        self._by_pid = by_pid
        self._blame = blame
        self._tasks: set[asyncio.Task[None]] = set()

    async def cancel_all(self) -> None:
        """On the asyncio side: end the handler's work."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- ours to them, under trio ----

    async def ask(
        self, peer: Peer, request: bytes, timeout: float, answer: asyncio.Future[bytes]
    ) -> None:
        """Complete `answer` with the response or PeerUnreachable, within `timeout` seconds."""
        self._counts["requests_sent"] += 1
        problem = f"the connection to {peer.id} ended"
        try:
            with trio.fail_after(timeout):
                async with peer.asking:
                    response = await self._ask(peer, request)
            if not answer.done():
                answer.set_result(response)
        except trio.TooSlowError:
            problem = f"{peer.id} did not answer within {timeout:g} s"
        except PeerUnreachable as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 - the peer's fault, or the network's
            _log.debug("request_failed", peer=peer.id, error=repr(error))
        finally:
            if not answer.done():
                self._counts["requests_failed"] += 1
                answer.set_exception(PeerUnreachable(problem))

    async def _ask(self, peer: Peer, request: bytes) -> bytes:
        length = len(request).to_bytes(_LENGTH_BYTES, "big")
        stream = await self._host.open(peer.pid, REQUEST, length + request)
        try:
            status = await read_exactly(stream, 1)
            if status != _OK:
                why = "is busy" if status == _BUSY else "failed to answer"
                raise PeerUnreachable(f"{peer.id} {why}")
            size = int.from_bytes(await read_exactly(stream, _LENGTH_BYTES), "big")
            if size > self._limits.response_bytes_max:
                raise PeerUnreachable(f"{peer.id} wants to send {size} bytes: more than allowed")
            if size <= self._limits.response_bytes_small:
                return await read_exactly(stream, size)
            async with peer.receiving:
                return await read_exactly(stream, size)
        finally:
            await stream.reset()

    # ---- theirs to us ----

    async def serve(self, stream: Stream) -> None:
        """Under trio: answer the request on `stream`, within limits. The caller closes it.

        Those of one peer take turns, so that of each peer one answer is held, and read from the
        store, at a time, however slowly the peer takes it.
        """
        peer = self._by_pid[stream.muxed_conn.peer_id]
        if peer.asked >= self._limits.requests_in_flight_max:
            self._counts["requests_refused"] += 1
            self._blame(peer.pid, "flood", "more requests at once than are answered")
            with trio.fail_after(1):
                await stream.write(_BUSY)
            return
        peer.asked += 1
        try:
            with trio.fail_after(self._limits.request_answer_ms_max / 1000):
                length = int.from_bytes(await read_exactly(stream, _LENGTH_BYTES), "big")
                if length > self._limits.request_bytes_max:
                    raise FramingError(f"a request of {length} bytes")
                request = await read_exactly(stream, length)
                async with peer.answering:
                    await self._respond(peer, request, stream)
        finally:
            peer.asked -= 1

    async def _respond(self, peer: Peer, request: bytes, stream: Stream) -> None:
        self._counts["requests_answered"] += 1
        answer = _Answer()
        self._crossing.post(self._begin, peer.id, request, answer)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, stream)
                await answer.ready.wait()
                nursery.cancel_scope.cancel()
            if answer.response is None:
                await stream.write(_FAILED)
            else:
                await stream.write(_OK + len(answer.response).to_bytes(_LENGTH_BYTES, "big"))
                await stream.write(answer.response)
        finally:
            self._crossing.post(answer.cancel)
            rest = peer.answer_pace.spend(answer.work_s)
        await trio.sleep(rest)

    async def _watch(self, stream: Stream) -> None:
        """Raise MuxedStreamReset when the peer gives up."""
        with contextlib.suppress(MuxedStreamEOF):
            await stream.read(1)

    def _begin(self, peer: str, request: bytes, answer: _Answer) -> None:
        answer.task = asyncio.get_running_loop().create_task(self._call(peer, request, answer))
        self._tasks.add(answer.task)
        answer.task.add_done_callback(self._tasks.discard)

    async def _call(self, peer: str, request: bytes, answer: _Answer) -> None:
        began = time.perf_counter()
        try:
            response = await self._handler.request(peer, request)
            if len(response) > self._limits.response_bytes_max:
                raise ValueError(f"The response of {len(response)} bytes cannot be sent.")
            answer.response = response
        except CodecError:
            # The peer's fault, which the node has told already.
            self._counts["requests_not_answered"] += 1
        except Exception as error:  # noqa: BLE001 - one bad answer must not end the node
            self._counts["requests_not_answered"] += 1
            _log.error("request_not_answered", peer=peer, exc_info=error)
        finally:
            answer.work_s = time.perf_counter() - began
            self._crossing.command(answer.ready.set)
