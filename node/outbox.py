"""What one step of the core may use and fill: the two clocks, who is connected, and the effects
gathered so far.
"""

from collections import Counter
from collections.abc import Iterable

from node.conduct import Conduct, Reason
from node.events import Effect, Report, SendMessage
from node.wire import Message


class Outbox:
    """Shared by the parts of one core; `open` begins a step and `effects` is its result."""

    def __init__(self, id: str, now: int) -> None:
        self._id = id
        self._connected: dict[str, None] = {}
        self.now = now
        """Monotonic ms, for deadlines."""
        self.wall = 0
        """Milliseconds since the Unix epoch, for block time only."""
        self.effects: list[Effect] = []
        self.counters: Counter[str] = Counter()
        self.conduct = Conduct(now)

    def open(self, now: int, wall: int) -> None:
        """Begin a step."""
        self.now, self.wall, self.effects = now, wall, []
        self.conduct.now = now

    def close(self) -> list[Effect]:
        """End a step: its effects, and what the operator should read of the members."""
        self.effects += self.conduct.take_reports()
        return self.effects

    @property
    def connected(self) -> tuple[str, ...]:
        """Connected members, in the order in which they connected."""
        return tuple(self._connected)

    def is_connected(self, peer: str) -> bool:
        """Whether messages can be exchanged with this member."""
        return peer in self._connected

    def connect(self, peer: str) -> None:
        """Messages can now be exchanged with this member."""
        self._connected[peer] = None

    def disconnect(self, peer: str) -> None:
        """Messages can no longer be exchanged with this member."""
        self._connected.pop(peer, None)

    def add(self, effect: Effect) -> None:
        """One more effect of this step."""
        self.effects.append(effect)

    def send(self, peer: str, message: Message) -> None:
        """Send to a member that is connected; to ourselves or others it is nothing."""
        if peer != self._id and peer in self._connected:
            self.effects.append(SendMessage(peer, message))

    def send_all(self, peers: Iterable[str], message: Message) -> None:
        """Send one and the same message to several members, so that it is encoded once."""
        for peer in peers:
            self.send(peer, message)

    def blame(self, peer: str, reason: Reason, detail: str = "") -> None:
        """Note what a member did wrong or too much, unless it is this one, and count it."""
        self.counters[reason] += 1
        if peer != self._id:
            self.conduct.note(peer, reason, detail)

    def report(self, event: str, **facts: str | int) -> None:
        """Count an event and tell the operator."""
        self.counters[event] += 1
        self.effects.append(Report(event, tuple(facts.items())))
