"""Our own part in what spreads: sealing our clients' transactions into batches, carrying them to
the members, telling those without a vote what was decided, announcing what is undecided and where
our head is (docs/ARCHITECTURE.md sections 5 and 7).

Bodies go from their author to all members directly, to the voters first. So everybody's uplink
carries a share, and nobody has to fetch a block from the few who decided it. Gossip carries
announcements only, at most one of each kind per interval, because every gossip message costs every
member a signature check: whoever lacks an announced batch asks its author.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from consensus.messages import Decision
from ledger.store import WriteBatch
from ledger.transactions import CheckedBatch, CheckedTransaction, seal_batch
from node.chain import Chain
from node.events import Publish
from node.mempool import Held, Mempool
from node.outbox import Outbox
from node.wire import (
    WANTED_BATCHES_MAX,
    BatchBody,
    BatchesAnnounced,
    Decided,
    Head,
    HeadAnnounced,
)
from primitives.keys import PrivateKey


@dataclass(frozen=True, slots=True)
class SpreadSettings:
    """How often things are said again."""

    announce_ms: int = 1_000
    head_announce_ms: int = 1_000
    laggard_ms: int = 200
    head_repeat_ms: int = 5_000
    resent_batches_max: int = 16
    """Batches carried at once to a voter that connects; of other members' batches as many are
    announced at once."""


ROUND_PARTS = 4
"""A voter that does not vote before collects for one of so many parts of the last round."""
VOTER_DELAYS_MAX = 10
"""But no longer than so many times `batch_delay_ms`: the last round may have been an idle one."""
BOOTS_COUNTED = 2**16
"""Starts after which the number of a start in a sequence repeats; a sequence below 2**63 leaves the
clock above it room until the year 6400."""


class Spreading:
    """Batches of this member and heads, on their way to the others."""

    def __init__(
        self,
        id: str,
        key: PrivateKey,
        settings: SpreadSettings,
        chain: Chain,
        mempool: Mempool,
        outbox: Outbox,
        boots: int,
    ) -> None:
        self._id = id
        self._key = key
        self._settings = settings
        self._chain = chain
        self._mempool = mempool
        self._outbox = outbox
        self._boots = boots % BOOTS_COUNTED
        self._sequence = chain.replay.highest_sequence(id) or 0
        self._seal_at: int | None = None
        self._moved_at = outbox.now
        self._round_ms = 0
        """How long the last height took, idle or not."""
        self._announce_at = outbox.now + settings.announce_ms
        self._head_at: int | None = None
        self._head_announced = outbox.now - settings.head_announce_ms
        self._head_repeat_at = outbox.now + settings.head_repeat_ms
        self._laggards: dict[str, int] = {}

    @property
    def deadline(self) -> int:
        """When `expire` has something to do; never None, since heads are repeated for whoever
        missed them.
        """
        times = (self._announce_at, self._head_repeat_at, self._seal_at, self._head_at)
        return min(time for time in times if time is not None)

    def restore(self, batches: Iterable[CheckedBatch]) -> None:
        """Take back the batches that the store kept."""
        for batch in batches:
            own, height = batch.author == self._id, self._chain.next_height
            self._mempool.add(batch, self._outbox.now, own=own, height=height)
            self.note(batch)

    def note(self, batch: CheckedBatch) -> None:
        """Never use a sequence again that a batch of ours has, though we may have forgotten it."""
        if batch.author == self._id:
            self._sequence = max(self._sequence, batch.sequence)

    def submit(self, transactions: Iterable[CheckedTransaction]) -> bool:
        """Take clients' transactions; True if that filled and sealed a batch."""
        for transaction in transactions:
            if self._chain.replay.seen(transaction.id) or not self._mempool.submit(transaction):
                self._outbox.counters["submission_dropped"] += 1
        return self._seal_when_due()

    def seal_with_vote(self) -> None:
        """A vote of ours is about to be written and sent. What waits goes with it: one write, one
        frame, and the others check it while they wait for votes.
        """
        if self._mempool.waiting_count > 0 and self._mempool.may_seal(self._id):
            self._seal()

    def expire(self) -> bool:
        """Do what is due; True if a batch was sealed."""
        now = self._outbox.now
        if self._announce_at <= now:
            self._announce_at = now + self._settings.announce_ms
            self._announce_batches()
        if self._head_repeat_at <= now:
            self._head_repeat_at = now + self._settings.head_repeat_ms
            for peer in self._outbox.connected:
                self.tell_head(peer)
        self._announce_head()
        return self._seal_when_due()

    def greet(self, peer: str) -> None:
        """A member connected: tell it our head, and carry to it what it may have missed."""
        self.tell_head(peer)
        if peer in self._chain.members:
            for held in self._mempool.by_author(self._id)[: self._settings.resent_batches_max]:
                self.carry_to(peer, held.batch)

    def tell_head(self, peer: str) -> None:
        """Tell one member our head."""
        self._outbox.send(peer, Head(self._chain.head.height, self._chain.head_hash))

    def tell_laggard(self, peer: str) -> None:
        """Answer a member that speaks of an old height, at most once per interval."""
        told_at = self._laggards.get(peer)
        if told_at is None or told_at + self._settings.laggard_ms <= self._outbox.now:
            self._laggards[peer] = self._outbox.now
            self.tell_head(peer)

    def forget(self, peer: str) -> None:
        """A member went away."""
        self._laggards.pop(peer, None)

    def head_moved(self, listed: Iterable[CheckedBatch]) -> None:
        """A block with these batches was applied. Its proposer tells the members without a vote at
        once, and announces it at most once per interval. What waited because too much of ours was
        undecided is sealed.
        """
        self._round_ms, self._moved_at = self._outbox.now - self._moved_at, self._outbox.now
        for batch in listed:
            self.note(batch)
        if self._chain.head.proposer == self._id:
            soonest = self._head_announced + self._settings.head_announce_ms
            self._head_at = max(soonest, self._outbox.now)
            for peer in self._outbox.connected:
                if peer not in self._chain.committee.by_id:
                    self.tell_head(peer)
            self._announce_head()
        self._seal_when_due()

    def tell_followers(self, decision: Decision) -> None:
        """We have decided a block. Each voter tells some of the members without a vote, others at
        the next height: so no uplink carries all of it, and who is passed over by one liar hears of
        the next block from others.
        """
        voters = self._chain.committee.by_id
        tellers = [id for id in voters if id == self._id or self._outbox.is_connected(id)]
        followers = [id for id in self._chain.members if id not in voters]
        first = tellers.index(self._id) - decision.block.header.height
        told = followers[first % len(tellers) :: len(tellers)]
        self._outbox.send_all(told, Decided(decision))

    def carry(self, batch: CheckedBatch) -> None:
        """Send a batch to every voter, to repair what may have been lost."""
        self._outbox.send_all(self._chain.committee.by_id, BatchBody(batch.raw))

    def carry_to(self, peer: str, batch: CheckedBatch) -> None:
        """Send a batch to one member."""
        self._outbox.send(peer, BatchBody(batch.raw))

    def _seal_when_due(self) -> bool:
        """Seal at once where nothing of ours is undecided: nobody gains by waiting. Else collect
        for a while: the next block cannot be proposed yet, and each batch has its price.
        """
        sealed = False
        while self._mempool.waiting_count > 0 and self._mempool.may_seal(self._id):
            if self._seal_at is None:
                self._seal_at = self._outbox.now + self._patience_ms
            collects = self._mempool.has_batch_of(self._id) and not self._mempool.batch_is_full()
            if collects and self._seal_at > self._outbox.now:
                return sealed
            self._seal()
            sealed = True
        self._seal_at = None
        return sealed

    @property
    def _patience_ms(self) -> int:
        """A voter has a vote to send before long, and waits longer for it where rounds are long."""
        delay_ms = self._chain.genesis.batch_delay_ms
        if self._id not in self._chain.committee.by_id:
            return delay_ms
        return min(max(delay_ms, self._round_ms // ROUND_PARTS), delay_ms * VOTER_DELAYS_MAX)

    def _seal(self) -> None:
        """Sign waiting transactions as one batch, keep it, and carry it to the members.

        The wall clock in the sequence keeps it above any used before, even where the store that
        knew them is lost, and the number of this start below it apart from them, even where the
        clock was set back as well, unless the boot counter was lost with the store. What has run
        meanwhile, in the batch of another member, is left out.
        """
        self._seal_at = None
        waiting = self._mempool.take_waiting()
        transactions = [t for t in waiting if not self._chain.replay.seen(t.id)]
        if not transactions:
            return
        moment = max(self._sequence // BOOTS_COUNTED + 1, self._outbox.wall)
        self._sequence = moment * BOOTS_COUNTED + self._boots
        batch = seal_batch(
            self._chain.genesis.chain_id,
            self._key,
            self._id,
            self._sequence,
            self._chain.head.height + self._chain.genesis.limits.validity_blocks,
            transactions,
        )
        height = self._chain.next_height
        self._mempool.add(batch, self._outbox.now, own=True, height=height)
        self._outbox.add(WriteBatch(batch))
        voters_first = dict.fromkeys([*self._chain.committee.by_id, *self._chain.members])
        self._outbox.send_all(voters_first, BatchBody(batch.raw))

    def _announce_batches(self) -> None:
        """Repair: what is undecided for longer than batches need to arrive is announced, also the
        oldest batches of others, lest one be stuck that only we hold; ours are carried again if
        they have waited long.
        """
        late = self._outbox.now - self._settings.announce_ms
        own: list[Held] = []
        others: list[Held] = []
        for held in self._mempool.held():
            if held.arrived_ms <= late:
                (own if held.batch.author == self._id else others).append(held)
        others = others[: self._settings.resent_batches_max]
        announced = own[: WANTED_BATCHES_MAX - len(others)] + others
        if announced:
            ids = tuple(held.batch.id for held in announced)
            self._outbox.add(Publish(BatchesAnnounced(ids)))
        if own and own[0].arrived_ms <= late - self._settings.announce_ms:
            self.carry(own[0].batch)

    @property
    def _others(self) -> list[str]:
        return [member for member in self._chain.members if member != self._id]

    def _announce_head(self) -> None:
        if self._head_at is not None and self._head_at <= self._outbox.now:
            self._head_at = None
            if all(map(self._outbox.is_connected, self._others)):
                # Voters hear of it in votes, and the rest were told by ourselves.
                return
            self._head_announced = self._outbox.now
            announced = HeadAnnounced(self._chain.head.height, self._chain.head_hash)
            self._outbox.add(Publish(announced))
