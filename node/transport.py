"""What the node asks of a network: messages in order to each peer, gossip, requests.

The port and its value types; node/libp2p is the one implementation that reaches other machines,
and a test may give the node another. docs/ARCHITECTURE.md section 7.

The network promises little, and the node relies on no more: messages sent to one peer between one
`connected` and the next `disconnected` arrive in order and unaltered, a suffix of them may be lost
with the connection; gossip may be lost, repeated or late. A peer is known by its institution id
because its node key has proved it; what the peer says may still be false.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from node.wire import (
    GOSSIP_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    REQUEST_BYTES_MAX,
    RESPONSE_BYTES_MAX,
)

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Member:
    """A peer that may connect: an institution's node."""

    id: str
    """Institution id, e.g. "recorder-1"."""
    key: bytes
    """Ed25519 public key of the node, 32 bytes."""
    address: str
    """Where to dial it: "host:port", with an IPv4 address, an IPv6 one in brackets, or a name."""


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """How much a peer can make us hold and do, and how long we wait for it. All per peer, where
    nothing else is said. Nothing larger is taken here than node/wire.py would decode.
    """

    message_bytes_max: int = MESSAGE_BYTES_MAX
    frame_bytes_max: int = MESSAGE_BYTES_MAX + 64 * KIB
    queue_messages_max: int = 8192
    queue_bytes_max: int = 16 * MIB
    gossip_bytes_max: int = GOSSIP_BYTES_MAX
    gossip_per_second_max: int = 20
    """Of one author, whoever passes them on: an honest one announces two things a second."""
    gossip_reads_per_second_max: int = 200
    """Gossip that one peer passes to us, its own control messages included; more has to wait."""
    request_bytes_max: int = REQUEST_BYTES_MAX
    response_bytes_max: int = RESPONSE_BYTES_MAX
    response_bytes_small: int = 256 * KIB
    """Longer answers of one peer are received one after the other."""
    requests_in_flight_max: int = 16
    """Requests of one peer that we hold; they are answered one after the other. We ask it half as
    many at a time."""
    request_answer_ms_max: int = 30_000
    work_percent_max: int = 25
    """Of the thread's time, what reading from one connection, and answering one peer's requests,
    may take each, for longer than a moment; after that we let the peer wait."""
    streams_max: int = 64
    buffered_bytes_max: int = 12 * MIB
    """Received on one connection and not read yet: flow control keeps honest peers far below."""
    connections_max: int = 3
    """With one member: the oldest makes way. Two arise where both dial at once."""
    relink_ms_min: int = 100
    """A peer that replaces its link has to wait so long."""
    heartbeat_ms: int = 2_000
    heartbeat_timeout_ms: int = 10_000
    """A peer from which nothing came for so long is disconnected: it is frozen or cut off."""
    dial_timeout_ms: int = 5_000
    redial_ms_min: int = 250
    redial_ms_max: int = 10_000
    handshakes_max: int = 64
    """Connections of unknown origin at a time, over all of them; the oldest of the address with the
    most makes way."""
    handshakes_per_second_max: int = 30
    """From one address; the connections above it are closed at once."""


Fault = Literal["malformed", "flood"]
"""What the transport itself sees a peer do wrong: what nobody can read, and far too much."""


class TransportError(Exception):
    """The transport cannot start; a sentence for the administrator: port taken, bad address."""


class PeerUnreachable(Exception):
    """A request got no answer: not connected, timed out, refused, or the peer failed."""


class Handler(Protocol):
    """The node's side. All are called on the event loop's thread and must return at once."""

    def connected(self, peer: str) -> None:
        """Messages can flow both ways from now on."""

    def disconnected(self, peer: str) -> None:
        """Exactly once after each `connected`. What was queued for the peer is lost."""

    def message(self, peer: str, message: bytes) -> None:
        """One message from `peer`, in the order in which it sent them."""

    def gossip(self, author: str, message: bytes) -> None:
        """A message that `author`, a member other than ourselves, signed and published."""

    def at_fault(self, peer: str, fault: Fault, detail: str) -> None:
        """A member broke the rules of the transport; `detail` says how, in a few fixed words."""

    async def request(self, peer: str, request: bytes) -> bytes:
        """The answer to `request`. An exception is logged, and the peer told only that we failed.

        Cancelled when the peer gives up.
        """


class Transport(Protocol):
    """All methods are called on the event loop's thread."""

    failed: asyncio.Future[None]
    """Completes, with the exception, only if the network layer dies: then stop the node loudly.

    It exists from `start` on.
    """

    async def start(self, handler: Handler) -> None:
        """Listen, and connect to the members. Raises TransportError."""

    async def stop(self) -> None:
        """Disconnect all, within seconds. Harmless if repeated, or after a failure."""

    def send(self, peer: str, message: bytes) -> bool:
        """Queue `message` (1 to message_bytes_max bytes) for `peer`.

        False if `peer` is not connected, or its queue is full: then the message is dropped and
        counted. Raises ValueError for a message of a forbidden size.
        """

    def pause_reading(self, peer: str) -> None:
        """Take no more messages from `peer`, until `resume_reading` or its next link; what it sends
        meanwhile waits at its end. What has been received already is handed over all the same.
        """

    def resume_reading(self, peer: str) -> None:
        """Undo `pause_reading`. Harmless if repeated."""

    def publish(self, message: bytes) -> None:
        """Gossip `message` (at most gossip_bytes_max bytes) to all members, best effort.

        Never raises: what cannot be published is dropped and counted.
        """

    async def request(self, peer: str, request: bytes, timeout_ms: int) -> bytes:
        """The answer of `peer`. Raises PeerUnreachable."""

    def connected(self) -> tuple[str, ...]:
        """The ids of the peers to which messages can be sent now, sorted."""

    def counters(self) -> dict[str, int]:
        """What has happened since the start, by name; a name that is missing stands for 0."""

    def set_members(self, members: Sequence[Member]) -> None:
        """Replace who may connect and is dialled. Those who are no longer in it are disconnected.

        Our own entry may be in it. Raises ValueError for a malformed key or address.
        """
