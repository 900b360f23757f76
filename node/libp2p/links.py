"""One link per peer: two streams, each opened by one of the two and carrying its messages.

The opener says hello; the other answers with a hello, or a refusal, and writes no more. The peer
counts as connected while both streams stand. When one ends both are torn down, so that two nodes
never disagree for long. Whoever has no connection to the other dials. If both dialled at once both
connections stay in use: closing one of them is what would make links flap.

Silence is told from death by heartbeats, an empty frame where there is nothing to say: neither TCP
nor yamux notices a peer that has frozen.
"""

from __future__ import annotations

import functools
import math
import socket
import time
from collections import Counter

import structlog
import trio
from libp2p.crypto.ed25519 import Ed25519PublicKey
from libp2p.custom_types import TProtocol
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID

from node.framing import (
    PROTOCOL_VERSION,
    Allowance,
    FrameDecoder,
    FramingError,
    Hello,
    Kind,
    Outbox,
    decode_hello,
    decode_messages,
    encode_hello,
    encode_messages,
    mismatch,
)
from node.libp2p.guest import Crossing
from node.libp2p.host import Host
from node.libp2p.pace import Pace
from node.libp2p.packets import Socket, shut
from node.libp2p.streams import Stream
from node.libp2p.yamux import Blame
from node.transport import Handler, Member, TransportLimits
from primitives.institution import InstitutionError, parse_address
from primitives.keys import is_public_key

DIRECT = TProtocol(f"/medpact/direct/{PROTOCOL_VERSION}")
_NOTES_MAX = 3
_NOTES_S = 60.0 * 60.0
"""Why there is no link to a peer is logged when it changes, at most so often within so long."""
_HEARTBEATS_PER_INTERVAL_MAX = 10
"""An honest peer sends one in `heartbeat_ms`, and may be late with some."""

_log = structlog.get_logger("medpact.network")


class _NoLink(Exception):
    """Why there is no link to a peer, in words for the log that do not change from try to try."""


class Peer:
    """A member other than ourselves, and what there is of the link to it."""

    def __init__(self, member: Member, limits: TransportLimits) -> None:
        if not is_public_key(member.key):
            raise ValueError(f"The key of {member.id} is not an Ed25519 public key.")
        self.id = member.id
        self.pid = ID.from_pubkey(Ed25519PublicKey.from_bytes(member.key))
        self.address = member.address
        try:
            self.host, self.port = parse_address(member.address)
        except InstitutionError as error:
            raise ValueError(f"{member.id} cannot be dialled: {error}") from error
        self.outbox = Outbox(limits.queue_messages_max, limits.queue_bytes_max)
        self.gossip = Allowance(limits.gossip_per_second_max)
        self.heartbeats = Allowance(
            _HEARTBEATS_PER_INTERVAL_MAX * max(1_000 // limits.heartbeat_ms, 1)
        )
        self.scope = trio.CancelScope()
        self.outgoing: trio.CancelScope | None = None
        self.incoming: trio.CancelScope | None = None
        self.stream: Stream | None = None
        """Ours to write, while it stands; None also while the writing task is amid a frame."""
        self.up = False
        self.both_ready = trio.Event()
        self.wake = trio.Event()
        self.poke = trio.Event()
        self.trouble = ""
        self.notes = 0
        self.noted_since = -math.inf
        self.relink_at = -math.inf
        self.read: Stream | None = None
        """Theirs to write, while the peer is up."""
        self.asking = trio.Semaphore(max(limits.requests_in_flight_max // 2, 1))
        self.receiving = trio.Lock()
        self.answering = trio.Lock()
        self.answer_pace = Pace(limits.work_percent_max)
        self.asked = 0


class Links:
    """Keeps the links to all peers. Everything here runs under trio."""

    def __init__(
        self,
        hello: Hello,
        limits: TransportLimits,
        counts: Counter[str],
        crossing: Crossing,
        handler: Handler,
        host: Host,
        by_pid: dict[ID, Peer],
        blame: Blame,
    ) -> None:
        self._hello = hello
        self._limits = limits
        self._counts = counts
        self._crossing = crossing
        self._handler = handler
        self._host = host
        self._by_pid = by_pid
        self._blame = blame
        self._heartbeat = limits.heartbeat_ms / 1000
        self._timeout = limits.heartbeat_timeout_ms / 1000
        self._dial_timeout = limits.dial_timeout_ms / 1000

    async def keep(self, peer: Peer) -> None:
        """Have a link to `peer` whenever possible, until its scope is cancelled."""
        pause_min, pause_max = self._limits.redial_ms_min / 1000, self._limits.redial_ms_max / 1000
        pause = pause_min
        with peer.scope:
            while True:
                peer.poke = trio.Event()
                began = trio.current_time()
                try:
                    await self._link(peer)
                # Errors may come in a group, and together with a cancellation, which goes on.
                except* _NoLink as group:
                    self._note(peer, str(group.exceptions[0]))
                except* trio.TooSlowError:
                    self._counts["timeouts"] += 1
                    self._note(peer, f"{peer.address} does not answer in time")
                    await self.drop(peer)
                except* FramingError as group:
                    self._counts["malformed"] += 1
                    self._blame(peer.pid, "malformed", str(group.exceptions[0]))
                except* Exception as group:  # noqa: BLE001 - the peer's fault, or the network's
                    _log.debug("link_ended", peer=peer.id, error=repr(group.exceptions))
                finally:
                    self.tear_down(peer)
                if trio.current_time() - began > pause_max:
                    pause = pause_min
                # A peer that reaches us ends the pause, but cannot make us spin.
                await trio.sleep_until(began + pause_min)
                with trio.move_on_at(began + pause):
                    await peer.poke.wait()
                pause = min(pause * 2, pause_max)

    def tear_down(self, peer: Peer) -> None:
        """End both streams, forget what was queued, and tell the node if it was connected."""
        for scope in (peer.outgoing, peer.incoming):
            if scope is not None:
                scope.cancel()
        peer.outgoing = peer.incoming = peer.stream = peer.read = None
        peer.both_ready = trio.Event()
        self._counts["messages_dropped"] += peer.outbox.clear()
        if peer.up:
            peer.up = False
            _log.debug("link_down", peer=peer.id)
            self._crossing.post(self._handler.disconnected, peer.id)

    async def drop(self, peer: Peer) -> None:
        """Close the sockets to `peer`; what stands on them then ends by itself."""
        for connection in self._host.connections(peer.pid):
            await connection.close()

    def flush(self, peer: Peer) -> None:
        """Send what is queued for `peer`, if that needs no waiting. On the asyncio side."""
        while peer.outbox and peer.stream is not None:
            if not peer.stream.takes(peer.outbox.next_frame_bytes_max):
                break
            self._write_now(peer.stream, peer.outbox.take())
        if peer.outbox:
            self._crossing.command(peer.wake.set)

    def pause(self, peer: Peer) -> None:
        """Take no more from the link that stands now."""
        if peer.read is not None:
            peer.read.pause()

    def resume(self, peer: Peer) -> None:
        """Take again what the peer sends."""
        if peer.read is not None:
            peer.read.resume()

    async def receive(self, stream: Stream) -> None:
        """Handle a stream that a peer has opened for its messages."""
        peer = self._by_pid[stream.muxed_conn.peer_id]
        decoder = FrameDecoder(self._limits.frame_bytes_max)
        trouble = mismatch(self._hello, await self._read_hello(stream, decoder), peer.id)
        if trouble is not None:
            self._counts["hellos_refused"] += 1
            self._note(peer, trouble)
            await stream.write(encode_hello(Kind.REFUSAL, self._hello))
            return
        await self._space(peer)
        # A second stream means that the peer has given up the first, and our stream with it.
        if peer.up:
            self.tear_down(peer)
        elif peer.incoming is not None:
            peer.incoming.cancel()
        with trio.CancelScope() as scope:
            peer.incoming = scope
            peer.read = stream
            try:
                await stream.write(encode_hello(Kind.HELLO, self._hello))
                peer.poke.set()
                self._connect_if_ready(peer)
                with trio.fail_after(self._timeout):
                    await peer.both_ready.wait()
                await stream.feed(functools.partial(self._take, peer, decoder), self._timeout)
            except trio.TooSlowError:
                self._counts["timeouts"] += 1
                await self.drop(peer)
            finally:
                await stream.reset()
                if peer.incoming is scope:
                    self.tear_down(peer)

    async def _space(self, peer: Peer) -> None:
        """Links of one peer follow each other no faster than allowed: each costs the node a
        greeting, and whatever the other may have missed.
        """
        turn = max(peer.relink_at, trio.current_time())
        peer.relink_at = turn + self._limits.relink_ms_min / 1000
        await trio.sleep_until(turn)

    async def _read_hello(self, stream: Stream, decoder: FrameDecoder) -> Hello:
        with trio.fail_after(self._dial_timeout):
            while True:
                for kind, body in decoder.feed(await stream.read()):
                    if kind is Kind.MESSAGES:
                        raise FramingError("messages before the hello")
                    return decode_hello(body)

    def _take(self, peer: Peer, decoder: FrameDecoder, data: bytes) -> None:
        for kind, body in decoder.feed(data):
            if kind is not Kind.MESSAGES:
                raise FramingError("a second hello")
            messages = decode_messages(body, self._limits.message_bytes_max)
            if not messages and not peer.heartbeats.take(time.monotonic_ns() // 1_000_000):
                raise FramingError("more heartbeats than anybody needs")
            if messages:
                self._counts["messages_received"] += len(messages)
                self._crossing.post(self._hand_over, peer.id, messages)

    def _hand_over(self, peer: str, messages: list[bytes]) -> None:
        for message in messages:
            self._handler.message(peer, message)

    def _connect_if_ready(self, peer: Peer) -> None:
        if peer.outgoing is not None and peer.incoming is not None:
            peer.up = True
            peer.trouble = ""
            peer.both_ready.set()
            _log.debug("link_up", peer=peer.id)
            self._crossing.post(self._handler.connected, peer.id)

    def _note(self, peer: Peer, trouble: str) -> None:
        now = trio.current_time()
        if now >= peer.noted_since + _NOTES_S:
            peer.noted_since, peer.notes = now, 0
        # A peer can have a part in the words: they may change all the time.
        if trouble != peer.trouble and peer.notes < _NOTES_MAX:
            peer.trouble = trouble
            peer.notes += 1
            _log.warning("no_link", peer=peer.id, reason=trouble)

    async def _link(self, peer: Peer) -> None:
        """Open our stream and write to it until it, or the peer's, ends."""
        with trio.fail_after(self._dial_timeout):
            if not self._host.connections(peer.pid):
                await self._dial(peer)
            hello = encode_hello(Kind.HELLO, self._hello)
            stream = await self._host.open(peer.pid, DIRECT, hello)
        try:
            decoder = FrameDecoder(self._limits.frame_bytes_max)
            trouble = mismatch(self._hello, await self._read_hello(stream, decoder), peer.id)
            if trouble is not None:
                self._counts["hellos_refused"] += 1
                raise _NoLink(trouble)
            async with trio.open_nursery() as nursery:
                peer.outgoing = nursery.cancel_scope
                peer.stream = stream
                self._connect_if_ready(peer)
                nursery.start_soon(self._watch, stream)
                await self._write_messages(peer, stream)
        finally:
            await stream.reset()

    async def _dial(self, peer: Peer) -> None:
        self._counts["dials"] += 1
        try:
            stream = await trio.open_tcp_stream(peer.host, peer.port)
        except socket.gaierror as error:
            raise _NoLink(f"the name {peer.host} is not known: check its address") from error
        except OSError as error:
            raise _NoLink(f"nothing answers at {peer.address}") from error
        try:
            raw = RawConnection(Socket(stream), True)
            await self._host.upgrade_outbound_connection(raw, peer.pid)
        except SwarmException as error:
            shut(stream)
            raise _NoLink(
                f"the handshake at {peer.address} failed: another program or another node is "
                "there, or our node is not among its members"
            ) from error
        except BaseException:
            shut(stream)
            raise

    async def _watch(self, stream: Stream) -> None:
        await stream.read(1)
        raise FramingError("data on a stream that is ours to write")

    async def _write_messages(self, peer: Peer, stream: Stream) -> None:
        """Write heartbeats, and what `flush` must leave because it needs waiting."""
        while True:
            peer.wake = trio.Event()
            if not peer.outbox:
                with trio.move_on_after(self._heartbeat):
                    await peer.wake.wait()
            peer.stream = None
            messages = peer.outbox.take()
            await stream.write(encode_messages(messages), self._timeout)
            self._counts["messages_sent"] += len(messages)
            self._counts["frames_sent"] += 1
            peer.stream = stream

    def _write_now(self, stream: Stream, messages: list[bytes]) -> None:
        stream.write_now(encode_messages(messages))
        self._counts["messages_sent"] += len(messages)
        self._counts["frames_sent"] += 1
