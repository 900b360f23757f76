"""Batches that others announce and we lack: whom to ask for them, and how often.

An announcement costs many reads of the store, and an announcer may have nothing of what it names.
So each is heard at most twice per announcing interval, has at most one request of ours under way,
and is left alone for a while, longer each time, if it does not give what it announced. A batch that
was asked of one is asked of another announcer as well once `retry_ms` have passed: a liar who
announces what it will not give delays the repair by that much, not by a request's time-out, and as
it then has its one request, only once.
"""

from collections.abc import Container
from dataclasses import dataclass, field

from ledger.store import LedgerReader
from node.events import SendRequest
from node.mempool import Mempool
from node.outbox import Outbox
from node.penalties import Penalties
from node.wire import BatchesWanted


@dataclass(slots=True)
class _Announcer:
    """What is under way with one member."""

    deaf_until: int = 0
    asked_at: int = 0
    asked: dict[bytes, None] = field(default_factory=dict)
    gave: bool = False
    useless: bool = False


class Announced:
    """By announcer, as many as there are members."""

    def __init__(
        self,
        interval_ms: int,
        retry_ms: int,
        penalties: Penalties,
        mempool: Mempool,
        reader: LedgerReader,
        outbox: Outbox,
    ) -> None:
        self._interval_ms = interval_ms
        self._retry_ms = retry_ms
        self._penalties = penalties
        self._mempool = mempool
        self._reader = reader
        self._outbox = outbox
        self._announcers: dict[str, _Announcer] = {}

    def keep(self, members: Container[str]) -> None:
        """Forget all others."""
        self._penalties.keep(members)
        self._announcers = {
            author: announcer for author, announcer in self._announcers.items() if author in members
        }

    def heard(self, author: str, batches: tuple[bytes, ...]) -> None:
        """A connected member announces batches: ask it for those that we lack."""
        now = self._outbox.now
        announcer = self._announcers.setdefault(author, _Announcer())
        if announcer.deaf_until > now:
            self._outbox.blame(author, "announced_too_often")
            return
        announcer.deaf_until = now + self._interval_ms
        if announcer.asked or self._penalties.until(author) > now:
            return
        others = [
            other.asked
            for other in self._announcers.values()
            if other.asked and other.asked_at + self._retry_ms > now
        ]
        lacking = tuple(
            batch_id
            for batch_id in dict.fromkeys(batches)
            if not any(batch_id in asked for asked in others) and self._lacks(batch_id)
        )
        if lacking:
            announcer.asked, announcer.asked_at = dict.fromkeys(lacking), now
            announcer.gave = announcer.useless = False
            self._outbox.add(SendRequest(author, BatchesWanted(lacking)))

    def arrived(self, peer: str, batch_id: bytes, *, useless: bool) -> None:
        """A batch came from this peer; `useless` if it is not worth holding."""
        announcer = self._announcers.get(peer)
        if announcer is not None and batch_id in announcer.asked:
            announcer.gave = True
            # Else it could have us fetch and check it again at every announcement.
            announcer.useless = announcer.useless or useless

    def ended(self, peer: str, request: BatchesWanted, *, answered: bool) -> None:
        """A request for batches is over, ours or another's."""
        announcer = self._announcers.get(peer)
        if announcer is None or tuple(announcer.asked) != request.batches:
            return
        announcer.asked = {}
        if not answered:
            self._penalties.failed(peer, self._outbox.now)
        elif announcer.useless or not announcer.gave:
            self._penalties.lied(peer, self._outbox.now)
        else:
            self._penalties.proved(peer)

    def _lacks(self, batch_id: bytes) -> bool:
        return batch_id not in self._mempool and not self._reader.has_batch(batch_id)
