"""What waits for a turn of the driver: how much of whom, and who is next.

Peers take turns, one message each, and none has more than MESSAGES_PER_SECOND_MAX of its messages
handled. Beyond that they wait here; when some wait the peer is not read any more, so that the rest
waits at its end. So a member that floods delays itself alone, and a busy one that is honest loses
nothing: it is never cut off, and what it sends is late at worst.
"""

from collections import Counter
from dataclasses import dataclass

from node.conduct import Conduct
from node.events import Event
from node.framing import Allowance
from node.inbox import Inbox
from node.transport import Transport

MESSAGES_PER_SECOND_MAX = 1_000
"""Of one peer, and as many at once. A busy primary needs some hundred."""
PEER_MESSAGES_MAX = 16_384
PEER_BYTES_MAX = 12 * 1024 * 1024
"""Messages of one peer that may wait; more are dropped. The transport hands over whole frames, and
some more before it has paused, so this is above what pauses it.
"""
PEER_MESSAGES_PAUSE = 512
PEER_BYTES_PAUSE = 1024 * 1024
HELD_MS = 20
"""How soon to look again at messages that wait only for their peer's allowance."""
OURS = ""
"""The source of events that are no peer's message: submissions, answers, checked batches."""


@dataclass(frozen=True, slots=True)
class Direct:
    """A message that nobody has looked at yet."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class Announcement:
    """The same, by gossip."""

    raw: bytes


class Arrivals:
    """Events and messages by source. Times are monotonic ms."""

    def __init__(self, transport: Transport, conduct: Conduct, counters: Counter[str]) -> None:
        self._transport = transport
        self._conduct = conduct
        self._counters = counters
        self._inbox: Inbox[Event | Direct | Announcement] = Inbox(PEER_MESSAGES_MAX, PEER_BYTES_MAX)
        self._allowances: dict[str, Allowance] = {}
        self._paused: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._inbox)

    def waiting(self, peer: str) -> tuple[int, int]:
        """How many messages of a peer wait, and their bytes."""
        return self._inbox.waiting(peer)

    def is_paused(self, peer: str) -> bool:
        """Whether a peer is not read now."""
        return peer in self._paused

    def post(self, event: Event, source: str) -> None:
        """Add what must not be lost: OURS, or in the order of a peer's messages."""
        self._inbox.force(source, event)

    def take_in(self, peer: str, item: Direct | Announcement) -> None:
        """Add a message of a peer, and read no more of it while too much waits."""
        if not self._inbox.put(peer, item, len(item.raw)):
            self._counters["messages_dropped"] += 1
            self._conduct.note(peer, "flood", "more messages than are handled in good time")
            return
        count, held_bytes = self._inbox.waiting(peer)
        long = count >= PEER_MESSAGES_PAUSE or held_bytes >= PEER_BYTES_PAUSE
        if long and peer not in self._paused:
            self._paused[peer] = None
            self._counters["peers_paused"] += 1
            self._transport.pause_reading(peer)

    def next(self, now: int) -> tuple[str, Event | Direct | Announcement] | None:
        """Whose turn it is, and with what; None if all that waits has to wait longer."""

        def may(source: str) -> bool:
            return source == OURS or self._allowance(source).take(now)

        return self._inbox.take(may)

    def resume_reading(self) -> None:
        """Read those peers again of which little waits now."""
        for peer in tuple(self._paused):
            count, size_bytes = self._inbox.waiting(peer)
            if count <= PEER_MESSAGES_PAUSE // 2 and size_bytes <= PEER_BYTES_PAUSE // 2:
                del self._paused[peer]
                self._transport.resume_reading(peer)

    def read_afresh(self, peer: str) -> None:
        """A new link is read, whatever the last one was."""
        self._paused.pop(peer, None)

    def _allowance(self, peer: str) -> Allowance:
        found = self._allowances.get(peer)
        if found is None:
            found = self._allowances[peer] = Allowance(MESSAGES_PER_SECOND_MAX)
        return found
