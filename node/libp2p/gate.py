"""Who comes in at the port: members, from where they like, and of strangers not too many at a time.

Until a handshake is complete nobody knows who is there, so what is bounded is bounded by address:
how many connections a second begin a handshake, and who makes way when too many are half-way
through one. So a member that dials from elsewhere gets in during a flood; one that shares the
address of the flood may have to try more than once. Links that stand are not touched.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Mapping

import structlog
import trio
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from node.framing import Allowance
from node.libp2p.host import Host
from node.libp2p.links import Peer
from node.libp2p.packets import Socket
from node.libp2p.yamux import Muxer
from node.transport import TransportLimits

_ADDRESSES_MAX = 4_096
"""Addresses whose rates are remembered; the one unheard for longest gives way."""
_IPV6_NETWORK_BITS = 64
"""Whoever has one address of IPv6 has as many as these leave."""
_REPORT_INTERVAL_S = 60.0 * 60.0
_SOMEWHERE = Multiaddr("/ip4/0.0.0.0/tcp/0")  # The library wants an address to name in its log.

_log = structlog.get_logger("medpact.network")


class Gate:
    """Takes connections until they are a member's, and closes the others. All under trio."""

    def __init__(
        self, limits: TransportLimits, counts: Counter[str], by_pid: Mapping[ID, Peer]
    ) -> None:
        self._limits = limits
        self._counts = counts
        self._by_pid = by_pid
        self._rates: OrderedDict[str, Allowance] = OrderedDict()
        self._handshakes: dict[str, list[trio.CancelScope]] = {}
        self._strangers = 0
        self._strangers_reported_at = -_REPORT_INTERVAL_S

    async def take(self, host: Host, stream: trio.SocketStream) -> None:
        """Handle a connection from its first byte to its end. The caller closes the socket."""
        address = _origin(stream)
        if not self._rate(address).take(int(trio.current_time() * 1000)):
            self._counts["handshakes_refused"] += 1
            return
        with trio.CancelScope(deadline=trio.current_time() + self._patience) as scope:
            self._begin(address, scope)
            try:
                raw = RawConnection(Socket(stream), False)
                connection = await host.upgrade_inbound_connection(raw, _SOMEWHERE)
            except Exception:  # noqa: BLE001 - the peer's fault, whatever it is
                self._counts["handshakes_failed"] += 1
                return
            finally:
                self._end(address, scope)
        if scope.cancelled_caught:
            self._counts["handshakes_failed"] += 1
        elif isinstance(connection, Muxer):
            await self._make_room(host, connection.peer_id)
            await connection.event_closed.wait()

    def admit(self, pid: ID, address: str) -> bool:
        """Whether the key that was proved is a member's."""
        if pid in self._by_pid:
            return True
        self._counts["strangers_refused"] += 1
        self._strangers += 1
        now = trio.current_time()
        if now >= self._strangers_reported_at + _REPORT_INTERVAL_S:
            _log.warning(
                "strangers_refused",
                count=self._strangers,
                last_node=str(pid),
                last_address=address,
            )
            self._strangers = 0
            self._strangers_reported_at = now
        return False

    @property
    def _patience(self) -> float:
        return self._limits.dial_timeout_ms / 1000

    def _rate(self, address: str) -> Allowance:
        rate = self._rates.setdefault(address, Allowance(self._limits.handshakes_per_second_max))
        self._rates.move_to_end(address)
        if len(self._rates) > _ADDRESSES_MAX:
            self._rates.popitem(last=False)
        return rate

    def _begin(self, address: str, scope: trio.CancelScope) -> None:
        if sum(map(len, self._handshakes.values())) >= self._limits.handshakes_max:
            most = max(self._handshakes.values(), key=len)
            most.pop(0).cancel()
            self._counts["handshakes_displaced"] += 1
        self._handshakes.setdefault(address, []).append(scope)

    def _end(self, address: str, scope: trio.CancelScope) -> None:
        scopes = self._handshakes.get(address, [])
        if scope in scopes:
            scopes.remove(scope)
        if not scopes:
            self._handshakes.pop(address, None)

    async def _make_room(self, host: Host, pid: ID) -> None:
        """The newest connections of a member stay: the others may be those of a crash."""
        connections = host.connections(pid)
        for connection in connections[: -self._limits.connections_max]:
            self._counts["connections_displaced"] += 1
            await connection.close()


def _origin(stream: trio.SocketStream) -> str:
    try:
        address = ipaddress.ip_address(stream.socket.getpeername()[0].partition("%")[0])
    except (OSError, ValueError):
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_NETWORK_BITS), strict=False))
    return str(address)
