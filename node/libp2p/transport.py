"""Libp2pTransport: what the node sees of the network; start and stop; gate; gossip."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import structlog
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from node.framing import PROTOCOL_VERSION, FramingError, Hello
from node.libp2p.gate import Gate
from node.libp2p.gossip import Gossip
from node.libp2p.guest import Crossing, Guest
from node.libp2p.host import make_host, quieten_library
from node.libp2p.links import DIRECT, Links, Peer
from node.libp2p.packets import shut
from node.libp2p.requests import REQUEST, Requests
from node.transport import Fault, Handler, Member, PeerUnreachable, TransportError, TransportLimits
from primitives.institution import InstitutionError, parse_address

_GOSSIP_QUEUE_MAX = 64
_STOP_S_MAX = 5.0

_log = structlog.get_logger("medpact.network")


class Libp2pTransport:
    """A node.transport.Transport.

    `seed` is the Ed25519 private key of `own`, 32 bytes; `listen` is "host:port". Raises ValueError
    for malformed arguments.
    """

    failed: asyncio.Future[None]

    def __init__(
        self,
        seed: bytes,
        own: Member,
        members: Sequence[Member],
        chain_id: bytes,
        listen: str,
        limits: TransportLimits | None = None,
        software: str = "unknown",
    ) -> None:
        self._key_pair = create_new_key_pair(seed)
        if self._key_pair.public_key.to_bytes() != own.key:
            raise ValueError(f"The private key is not that of {own.id}.")
        self._own = own
        self._listen = listen
        self._limits = limits or TransportLimits()
        self._hello = Hello(PROTOCOL_VERSION, chain_id, software, own.id)
        self._topic = f"/medpact/gossip/{PROTOCOL_VERSION}/{chain_id.hex()}"
        self._counts: Counter[str] = Counter()
        self._peers = self._make_peers(members)
        self._by_pid = {peer.pid: peer for peer in self._peers.values()}
        self._woken: list[Peer] = []
        self._gossip_queue: deque[bytes] = deque()
        self._guest: Guest | None = None
        self._requests: Requests | None = None
        self._running = False

    def _make_peers(self, members: Sequence[Member]) -> dict[str, Peer]:
        # Our id may have got another key: then this node has no seat, and must not dial itself.
        own = self._own
        others = (m for m in members if m.key != own.key and m.id != own.id)
        return {member.id: Peer(member, self._limits) for member in others}

    # ---- the asyncio side ----

    async def start(self, handler: Handler) -> None:
        """See Transport."""
        quieten_library()
        loop = asyncio.get_running_loop()
        self._handler = handler
        self.failed = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._guest = await Guest.join()
        self._guest.ended.add_done_callback(self._guest_ended)
        self._crossing = Crossing(loop, self._guest.wake, self._fail)
        self._scope, self._stopping = trio.CancelScope(), trio.Event()
        started: asyncio.Future[None] = loop.create_future()
        self._crossing.command(self._guest.nursery.start_soon, self._run, started)
        try:
            await started
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """See Transport."""
        guest, self._guest = self._guest, None
        if guest is None:
            return
        over: set[asyncio.Future[Any]] = {self._ended, guest.ended}
        first = asyncio.FIRST_COMPLETED
        self._crossing.command(self._stopping.set)
        await asyncio.wait(over, timeout=_STOP_S_MAX, return_when=first)
        self._crossing.command(self._scope.cancel)
        await asyncio.wait(over, return_when=first)
        self._crossing.run_posts()
        if self._requests is not None:
            await self._requests.cancel_all()
        guest.ended.remove_done_callback(self._guest_ended)
        await guest.leave()

    def send(self, peer: str, message: bytes) -> bool:
        """See Transport."""
        if not 1 <= len(message) <= self._limits.message_bytes_max:
            raise ValueError(f"A message of {len(message)} bytes cannot be sent.")
        to = self._peers.get(peer)
        if to is None or not to.up:
            return False
        if not to.outbox.put(message):
            self._counts["messages_dropped"] += 1
            return False
        if len(to.outbox) == 1:
            if not self._woken:
                self._crossing.post(self._flush_links)
            self._woken.append(to)
        return True

    def pause_reading(self, peer: str) -> None:
        """See Transport."""
        if peer in self._peers:
            self._crossing.command(self._links.pause, self._peers[peer])

    def resume_reading(self, peer: str) -> None:
        """See Transport."""
        if peer in self._peers:
            self._crossing.command(self._links.resume, self._peers[peer])

    def publish(self, message: bytes) -> None:
        """See Transport."""
        full = len(self._gossip_queue) >= _GOSSIP_QUEUE_MAX
        if not self._running or full or len(message) > self._limits.gossip_bytes_max:
            self._counts["gossip_dropped"] += 1
            return
        self._gossip_queue.append(message)
        if len(self._gossip_queue) == 1:
            self._crossing.command(self._wake_publisher)

    async def request(self, peer: str, request: bytes, timeout_ms: int) -> bytes:
        """See Transport."""
        if len(request) > self._limits.request_bytes_max:
            raise ValueError(f"A request of {len(request)} bytes cannot be sent.")
        to = self._peers.get(peer)
        if to is None or not to.up:
            raise PeerUnreachable(f"{peer} is not connected")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        scope = trio.CancelScope()
        self._crossing.command(self._begin_asking, to, request, timeout_ms / 1000, answer, scope)
        try:
            return await answer
        finally:
            if answer.cancelled():
                self._crossing.command(scope.cancel)

    def connected(self) -> tuple[str, ...]:
        """See Transport."""
        return tuple(sorted(peer.id for peer in self._peers.values() if peer.up))

    def counters(self) -> dict[str, int]:
        """See Transport."""
        return dict(self._counts)

    def set_members(self, members: Sequence[Member]) -> None:
        """See Transport."""
        peers = self._make_peers(members)
        if self._guest is None:
            self._replace_peers(peers)
        else:
            self._crossing.command(self._replace_peers, peers)

    def _fail(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    def _guest_ended(self, ended: asyncio.Future[BaseException | None]) -> None:
        self._fail(ended.result() or RuntimeError("The network layer has ended."))

    def _flush_links(self) -> None:
        for peer in self._woken:
            self._links.flush(peer)
        self._woken.clear()

    # ---- the trio side ----

    async def _run(self, started: asyncio.Future[None]) -> None:
        try:
            with self._scope:
                await self._serve(await self._open_listeners(), started)
        except Exception as error:  # noqa: BLE001 - handed on
            if started.done():
                self._fail(error)
            else:
                started.set_exception(error)
        finally:
            self._running = False
            self._ended.set_result(None)

    async def _serve(
        self, listeners: Sequence[trio.SocketListener], started: asyncio.Future[None]
    ) -> None:
        gate = Gate(self._limits, self._counts, self._by_pid)
        host = make_host(
            self._key_pair, self._limits, self._counts, gate.admit, self._guard, self._blame
        )
        peers = self._by_pid
        shared = self._limits, self._counts, self._crossing, self._handler, host, peers, self._blame
        self._gate = gate
        self._host = host
        self._links = Links(self._hello, *shared)
        self._requests = requests = Requests(*shared)
        host.handle(DIRECT, self._links.receive)
        host.handle(REQUEST, requests.serve)
        gossip = Gossip(
            host,
            self._topic,
            self._gossip_valid,
            self._gossip_deliver,
            self._limits,
            self._counts,
            self._blame,
        )
        async with host.run([]), gossip.running():
            try:
                async with trio.open_nursery() as self._nursery:
                    self._running = True
                    self._nursery.start_soon(trio.serve_listeners, self._accept, listeners)
                    self._nursery.start_soon(self._publish, gossip)
                    for peer in self._peers.values():
                        self._nursery.start_soon(self._links.keep, peer)
                    if not started.done():
                        started.set_result(None)
                    await self._stopping.wait()
                    self._nursery.cancel_scope.cancel()
            finally:
                self._running = False
                for peer in self._peers.values():
                    self._links.tear_down(peer)
            await self._close()

    async def _close(self) -> None:
        async with trio.open_nursery() as nursery:
            # The library would close one after the other, and sleep for each.
            for connection in self._host.get_network().get_connections():
                nursery.start_soon(connection.close)
        await self._host.close()

    async def _open_listeners(self) -> Sequence[trio.SocketListener]:
        host, port = self._listen, 0
        try:
            host, port = parse_address(self._listen)
            return await trio.open_tcp_listeners(port, host=host)
        except InstitutionError as error:
            raise TransportError(f"The node cannot listen on {self._listen!r}: {error}") from error
        except socket.gaierror as error:
            problem = f"{host} is not a known name: set a known one, or an address, with `listen`."
            raise TransportError(f"The node cannot listen: {problem}") from error
        except OSError as error:
            match error.errno:
                case errno.EADDRINUSE:
                    problem = (
                        f"port {port} on {host} is in use: another program or node listens there. "
                        "Stop it, or set another port with `listen`."
                    )
                case errno.EADDRNOTAVAIL:
                    problem = (
                        f"{host} is not an address of this machine. Set one that is with `listen`; "
                        "0.0.0.0 stands for all."
                    )
                case errno.EACCES:
                    problem = (
                        f"port {port} on {host} is reserved for the system. Set one above 1023 "
                        "with `listen`."
                    )
                case _:
                    problem = f"port {port} on {host} cannot be opened ({error.strerror})."
            raise TransportError(f"The node cannot listen: {problem}") from error

    async def _accept(self, stream: trio.SocketStream) -> None:
        try:
            await self._gate.take(self._host, stream)
        finally:
            shut(stream)

    def _blame(self, pid: ID, fault: Fault, detail: str) -> None:
        peer = self._by_pid.get(pid)
        if peer is not None:
            self._crossing.post(self._handler.at_fault, peer.id, fault, detail)

    @contextlib.contextmanager
    def _guard(self, pid: ID) -> Iterator[bool]:
        """Whether the opener of a stream is a member; keeps in what handling it raises."""
        peer = self._by_pid.get(pid)
        try:
            yield peer is not None
        except FramingError as error:
            self._counts["malformed"] += 1
            self._blame(pid, "malformed", str(error))
            _log.debug("malformed_data", peer=str(pid), error=str(error))
        except Exception as error:  # noqa: BLE001 - it would end the host
            _log.debug("stream_ended", peer=str(pid), error=repr(error))

    def _replace_peers(self, peers: dict[str, Peer]) -> None:
        old = dict(self._peers)
        for name, peer in peers.items():
            before = old.get(name)
            if before is not None and before.pid == peer.pid:
                before.address, before.host, before.port = peer.address, peer.host, peer.port
                peers[name] = old.pop(name)
            elif self._running:
                self._nursery.start_soon(self._links.keep, peer)
        self._peers.clear()
        self._peers.update(peers)
        self._by_pid.clear()
        self._by_pid.update((peer.pid, peer) for peer in peers.values())
        for peer in old.values() if self._running else ():
            peer.scope.cancel()
            self._links.tear_down(peer)
            self._nursery.start_soon(self._links.drop, peer)

    def _begin_asking(
        self,
        peer: Peer,
        request: bytes,
        timeout: float,
        answer: asyncio.Future[bytes],
        scope: trio.CancelScope,
    ) -> None:
        async def ask(requests: Requests) -> None:
            with scope:
                await requests.ask(peer, request, timeout, answer)

        if self._running and self._requests is not None:
            self._nursery.start_soon(ask, self._requests)
        elif not answer.done():
            answer.set_exception(PeerUnreachable("this node is stopping"))

    # ---- gossip, under trio ----

    def _wake_publisher(self) -> None:
        self._gossip_wake.set()

    async def _publish(self, gossip: Gossip) -> None:
        while True:
            self._gossip_wake = trio.Event()
            while self._gossip_queue:
                try:
                    await gossip.send(self._gossip_queue[0])
                    self._counts["gossip_sent"] += 1
                except Exception as error:  # noqa: BLE001 - gossip is best effort
                    self._counts["gossip_dropped"] += 1
                    _log.debug("gossip_not_published", error=repr(error))
                self._gossip_queue.popleft()
            await self._gossip_wake.wait()

    def _gossip_valid(self, message: rpc_pb2.Message) -> bool:
        if message.from_id == self._host.get_id().to_bytes():
            return True
        author = self._by_pid.get(ID(message.from_id))
        if (
            author is None
            or list(message.topicIDs) != [self._topic]
            or len(message.data) > self._limits.gossip_bytes_max
        ):
            self._counts["gossip_refused"] += 1
            return False
        if not author.gossip.take(int(trio.current_time() * 1000)):
            self._counts["gossip_refused"] += 1
            self._blame(author.pid, "flood", "more announcements than are read")
            return False
        return True

    def _gossip_deliver(self, message: rpc_pb2.Message) -> None:
        author = self._by_pid.get(ID(message.from_id))
        if author is not None:
            self._counts["gossip_received"] += 1
            self._crossing.post(self._handler.gossip, author.id, message.data)
