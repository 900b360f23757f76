"""The links of a capacity run: messages leave one after the other through their sender's uplink,
are under way for a while, and arrive in order. Nothing is lost; a dead process neither sends nor
hears.

What a message is passes as it is: its bytes are known from encoding it once, and whoever decodes
them gets the same value (tests/primitives), at a cost that the receiver is charged for.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from node.wire import Gossip, Message, Request
from simulations.capacity_links import Links
from simulations.schedule import Schedule

OVERHEAD_BYTES = 64
"""Of TCP, IP, Noise, Yamux and our frame, for each message."""
NEIGHBOURS = 8
"""To whom a node passes an announcement; each of those passes it on."""
REQUEST_TIMEOUT_US = 5_000_000

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class Sized(Generic[Content]):
    """Something to carry, and its size on the wire in bytes."""

    content: Content
    size_bytes: int


Answered = Callable[[Sized[bytes] | None], None]
"""Gets the bytes of the response, and their size, or None."""


class Endpoint(Protocol):
    """A node, as the network sees it."""

    id: str

    @property
    def up(self) -> bool:
        """Whether its process runs."""
        ...

    def connected(self, peer: str) -> None:
        """Messages can be exchanged with this member from now on."""
        ...

    def disconnected(self, peer: str) -> None:
        """Messages can no longer be exchanged with this member."""
        ...

    def message(self, peer: str, message: Sized[Message]) -> None:
        """A direct message."""
        ...

    def gossip(self, author: str, gossip: Sized[Gossip]) -> None:
        """An announcement."""
        ...

    def request(self, peer: str, request: Request, answer: Answered) -> None:
        """Answer a peer, once there is time for it."""
        ...


class CapacityNetwork:
    """All links. Times are microseconds."""

    def __init__(
        self,
        schedule: Schedule,
        chance: random.Random,
        links: Links,
        regions: Mapping[str, str],
    ) -> None:
        self.messages = 0
        self.bytes = 0
        self._schedule = schedule
        self._chance = chance
        self._links = links
        self._regions = regions
        self._endpoints: dict[str, Endpoint] = {}
        self._uplink_free: dict[str, int] = {}
        self._latest: dict[tuple[str, str], int] = {}

    def join(self, endpoint: Endpoint) -> None:
        """Add a node."""
        self._endpoints[endpoint.id] = endpoint

    def connect_all(self) -> None:
        """Everyone who is up is connected with everyone else who is."""
        up = [endpoint for endpoint in self._endpoints.values() if endpoint.up]
        for one in up:
            for other in up:
                if one is not other:
                    one.connected(other.id)

    def died(self, gone: Endpoint) -> None:
        """A process has ended: its connections are reset, and the others hear of that."""
        for other in self._endpoints.values():
            if other is not gone:
                tell = partial(self._tell_gone, other, gone.id)
                self._schedule.after(self._latency_us(gone.id, other.id), tell)

    def _tell_gone(self, other: Endpoint, gone: str) -> None:
        if other.up:
            other.disconnected(gone)

    def send(self, sender: str, to: str, message: Sized[Message], leaves: int) -> None:
        """Carry a message that is ready at the time `leaves`."""
        receiver = self._endpoints[to]
        self._carry(
            sender, to, message.size_bytes, leaves, partial(receiver.message, sender, message)
        )

    def publish(self, sender: str, gossip: Sized[Gossip], leaves: int) -> None:
        """Carry an announcement to everyone: to neighbours, and through them to the others."""
        others = [endpoint for id, endpoint in self._endpoints.items() if id != sender]
        for receiver in others[:NEIGHBOURS]:
            arrive = partial(receiver.gossip, sender, gossip)
            self._carry(sender, receiver.id, gossip.size_bytes, leaves, arrive)
        for receiver in others[NEIGHBOURS:]:
            # Two hops; what neighbours pass on is small, and not counted against their uplinks.
            hops = self._latency_us(sender, receiver.id) + self._latency_us(sender, receiver.id)
            arrive = partial(receiver.gossip, sender, gossip)
            self._schedule.at(leaves + hops, partial(_deliver, receiver, arrive))

    def ask(
        self, sender: str, to: str, request: Sized[Request], leaves: int, answered: Answered
    ) -> None:
        """Ask a member; `answered` is called once, with None if no answer came in time."""
        open_request = [True]

        def finish(answer: Sized[bytes] | None) -> None:
            if open_request:
                open_request.clear()
                answered(answer)

        def answer(response: Sized[bytes] | None) -> None:
            if response is None:
                return
            now = self._schedule.now
            self._carry(to, sender, response.size_bytes, now, partial(finish, response))

        receiver = self._endpoints[to]
        arrive = partial(receiver.request, sender, request.content, answer)
        self._schedule.after(REQUEST_TIMEOUT_US, partial(finish, None))
        self._carry(sender, to, request.size_bytes, leaves, arrive)

    def _latency_us(self, sender: str, to: str) -> int:
        across = self._regions[sender] != self._regions[to]
        return self._links.latency_us(across, self._chance)

    def _carry(
        self, sender: str, to: str, size_bytes: int, leaves: int, arrive: Callable[[], None]
    ) -> None:
        size_bytes += OVERHEAD_BYTES
        self.messages += 1
        self.bytes += size_bytes
        left = max(leaves, self._uplink_free.get(sender, 0)) + self._links.leaving_us(size_bytes)
        self._uplink_free[sender] = left
        link = (sender, to)
        arrives = max(left + self._latency_us(sender, to), self._latest.get(link, 0))
        self._latest[link] = arrives
        self._schedule.at(arrives, partial(_deliver, self._endpoints[to], arrive))


def _deliver(receiver: Endpoint, arrive: Callable[[], None]) -> None:
    if receiver.up:
        arrive()
