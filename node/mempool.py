"""What waits to be ordered: the members' undecided batches, and our own clients' transactions not
yet in a batch.

Everything is bounded: the bytes of all members together and of each, our own undecided batches
(what exceeds the bound waits unsealed), and the transactions that wait. Half of the total is
divided among the members: that share nobody can take from a member, however many others fill
theirs. The other half serves whoever has more, up to `author_bytes_max`. One batch is always taken
from a member that has none, or the largest batch would not fit the share in a large consortium.

A batch lives while a block of the next height, dated now, could run some of it: only what lives is
work that is worth a change of view, and only that is proposed. It is held for longer, until it is
dead: as long as a primary whose clock is late by what is tolerated may propose it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ledger.replay import ReplayWindow
from ledger.transactions import CheckedBatch, CheckedTransaction, Limits
from node.conduct import Reason
from node.fairness import Listed, take_turns
from primitives.institution import Institution


@dataclass(frozen=True, slots=True)
class MempoolLimits:
    """What one member may make this node hold."""

    total_bytes_max: int = 64 * 1024 * 1024
    """Undecided batches of all members; one of each that has no other may come on top."""
    author_bytes_max: int = 8 * 1024 * 1024
    author_batches_max: int = 1_000
    own_bytes_max: int = 4 * 1024 * 1024
    """Undecided batches of ours; half of what the others may hold of us, so that a correct member
    never exceeds it."""
    own_batches_max: int = 500
    waiting_transactions_max: int = 20_000
    waiting_bytes_max: int = 16 * 1024 * 1024


@dataclass(slots=True)
class Held:
    """A pending batch, and when it came."""

    batch: CheckedBatch
    arrived_ms: int
    height: int = 0
    """The height that was being agreed on when it came."""
    own: bool = False
    passed_over: int = 0
    """How many blocks had room for it and listed nothing of its author."""
    dead: int = 0
    """How many of its transactions, from the first, can never run any more."""


@dataclass(slots=True)
class _Account:
    batches: int = 0
    size_bytes: int = 0
    sequences: dict[int, bytes] = field(default_factory=dict)


class Mempool:
    """Pending batches by id, in order of arrival, and the transactions that wait for our own next
    batch.
    """

    def __init__(self, limits: MempoolLimits, batch_limits: Limits) -> None:
        self._limits = limits
        self._batch_limits = batch_limits
        self._held: dict[bytes, Held] = {}
        self._accounts: dict[str, _Account] = {}
        self._members: Mapping[str, Institution] = {}
        self._served: dict[str, int] = {}
        self._waiting: dict[bytes, CheckedTransaction] = {}
        self._waiting_bytes = 0
        self._own_ids: set[bytes] = set()

    # ---- our clients' transactions ---------------------------------------------------------------

    @property
    def waiting_count(self) -> int:
        """Transactions that wait for our next batch."""
        return len(self._waiting)

    @property
    def pending_transactions(self) -> int:
        """Transactions in pending batches."""
        return sum(len(held.batch.transactions) for held in self._held.values())

    def room(self) -> int:
        """How many more transactions clients may submit now."""
        if not self.has_room(1, 0):
            return 0
        return self._limits.waiting_transactions_max - len(self._waiting)

    def has_room(self, count: int, size_bytes: int) -> bool:
        """Whether clients may submit `count` more transactions of together `size_bytes`."""
        return (
            len(self._waiting) + count <= self._limits.waiting_transactions_max
            and self._waiting_bytes + size_bytes <= self._limits.waiting_bytes_max
        )

    def submit(self, transaction: CheckedTransaction) -> bool:
        """Take a client's transaction; False if there is no room. Submitting again is harmless."""
        if transaction.id in self._waiting or transaction.id in self._own_ids:
            return True
        if not self.has_room(1, len(transaction.raw)):
            return False
        self._waiting[transaction.id] = transaction
        self._waiting_bytes += len(transaction.raw)
        return True

    def may_seal(self, author: str) -> bool:
        """Whether one more batch of ours, `author`, may join those that are undecided."""
        account = self._accounts.get(author)
        return account is None or (
            account.batches < self._limits.own_batches_max
            and account.size_bytes < self._limits.own_bytes_max
        )

    def has_batch_of(self, author: str) -> bool:
        """Whether a batch of this member is undecided."""
        return author in self._accounts

    def batch_is_full(self) -> bool:
        """Whether the waiting transactions fill a batch, so that waiting longer gains nothing."""
        limits = self._batch_limits
        return (
            len(self._waiting) >= limits.batch_transactions_max
            or self._waiting_bytes * 2 >= limits.batch_bytes_max
        )

    def take_waiting(self) -> tuple[CheckedTransaction, ...]:
        """Take the oldest waiting transactions that fit one batch."""
        bytes_max = self._batch_limits.batch_bytes_max * 9 // 10
        taken: list[CheckedTransaction] = []
        size, work = 0, 0
        for transaction in self._waiting.values():
            size += len(transaction.raw) + 8
            work += transaction.work
            if taken and (size > bytes_max or work > self._batch_limits.block_work_max):
                break
            taken.append(transaction)
            if len(taken) == self._batch_limits.batch_transactions_max:
                break
        for transaction in taken:
            del self._waiting[transaction.id]
            self._waiting_bytes -= len(transaction.raw)
        return tuple(taken)

    # ---- pending batches -------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, batch_id: bytes) -> bool:
        return batch_id in self._held

    def meet(self, members: Mapping[str, Institution]) -> None:
        """Who the members are now: the batches of others, and of keys that were changed, are
        forgotten, since no block may list them. What our own held waits for the next one.
        """
        self._members = members
        self._served = {id: height for id, height in self._served.items() if id in members}
        gone = [
            held
            for held in self._held.values()
            if held.batch.author not in members
            or members[held.batch.author].key != held.batch.signer_key
        ]
        self.remove(held.batch.id for held in gone)
        for held in gone:
            for transaction in held.batch.transactions if held.own else ():
                self.submit(transaction)

    def add(
        self, batch: CheckedBatch, now: int, *, own: bool = False, height: int = 0
    ) -> str | None:
        """Hold a batch. Returns None, or the reason why it is not held."""
        if batch.id in self._held:
            return "known"
        account = self._accounts.get(batch.author, _Account())
        if account.sequences.get(batch.sequence, batch.id) != batch.id:
            return "sequence_used_twice"
        refusal = None if own else self._quota(account, len(batch.raw))
        if refusal is not None:
            return refusal
        self._accounts[batch.author] = account
        account.batches += 1
        account.size_bytes += len(batch.raw)
        account.sequences[batch.sequence] = batch.id
        self._held[batch.id] = Held(batch, now, height, own)
        if own:
            self._own_ids.update(transaction.id for transaction in batch.transactions)
        return None

    def _quota(self, account: _Account, size_bytes: int) -> str | None:
        """Which bound one more batch of a member would exceed."""
        limits = self._limits
        if account.batches == 0:
            return None
        wanted = account.size_bytes + size_bytes
        if wanted > limits.author_bytes_max or account.batches >= limits.author_batches_max:
            return "quota"
        share = limits.total_bytes_max // 2 // max(len(self._members), 1)
        if wanted <= share:
            return None
        above = sum(max(other.size_bytes - share, 0) for other in self._accounts.values())
        above += wanted - max(account.size_bytes, share)
        return "full" if above > limits.total_bytes_max // 2 else None

    def get(self, batch_id: bytes) -> CheckedBatch | None:
        """A pending batch by id."""
        held = self._held.get(batch_id)
        return None if held is None else held.batch

    def held(self) -> Iterable[Held]:
        """Pending batches in order of arrival."""
        return self._held.values()

    def batches(self) -> list[CheckedBatch]:
        """Pending batches in the order in which members have their turns."""
        return [held.batch for held in take_turns(self._queues())]

    def proposable(self, height: int, time_ms: int, replay: ReplayWindow) -> Iterator[CheckedBatch]:
        """Those that live at this height and time, in the order in which a primary takes them."""
        return take_turns(
            (held.batch for held in queue if _lives(held.batch, height, time_ms, replay))
            for queue in self._queues()
        )

    def _queues(self) -> list[Iterator[Held]]:
        """Each member's pending batches, lowest sequence first; who was served last comes last."""
        authors = sorted(self._accounts, key=lambda author: (self._served.get(author, 0), author))
        return [self._queue(author) for author in authors]

    def _queue(self, author: str) -> Iterator[Held]:
        sequences = self._accounts[author].sequences
        for sequence in sorted(sequences):
            yield self._held[sequences[sequence]]

    def oldest(self, height: int, time_ms: int, replay: ReplayWindow) -> Held | None:
        """The batch that has waited for the longest of those that live; None: there is no work."""
        for held in self._held.values():
            if _lives(held.batch, height, time_ms, replay):
                return held
        return None

    def by_author(self, author: str) -> list[Held]:
        """This member's pending batches, oldest first."""
        return [held for held in self._held.values() if held.batch.author == author]

    def remove(self, batch_ids: Iterable[bytes]) -> None:
        """Forget batches that a block lists or that are dead."""
        for batch_id in batch_ids:
            held = self._held.pop(batch_id, None)
            if held is None:
                continue
            account = self._accounts[held.batch.author]
            account.batches -= 1
            account.size_bytes -= len(held.batch.raw)
            del account.sequences[held.batch.sequence]
            if account.batches == 0:
                del self._accounts[held.batch.author]
            if held.own:
                self._own_ids.difference_update(t.id for t in held.batch.transactions)

    def remove_dead(self, height: int, time_ms: int, replay: ReplayWindow) -> int:
        """Forget batches that no block from `height` and `time_ms` on can carry for any effect;
        how many.

        Without this a batch of expired transactions would count as work for ever, and views would
        change in vain. What is dead stays dead, so each transaction is found to be so only once.
        """
        dead = []
        for held in self._held.values():
            held.dead = _count_dead(held.batch, held.dead, height, time_ms, replay)
            if held.dead == len(held.batch.transactions):
                dead.append(held.batch.id)
        self.remove(dead)
        return len(dead)

    def served(self, batches: Iterable[CheckedBatch], height: int) -> None:
        """A block lists these: their members have had a turn."""
        for batch in batches:
            if batch.author in self._members:
                self._served[batch.author] = height

    def count_passed_over(
        self,
        batches: Sequence[CheckedBatch],
        height: int,
        time_ms: int,
        replay: ReplayWindow,
        censorship_heights: int,
    ) -> list[Held]:
        """Count against the block of this height and time, of these batches, what it passed over;
        those, before what it lists is removed. A count above `censorship_heights` starts anew: one
        height was the time to act on it.
        """
        found = self.passed_over(batches, height, time_ms, replay)
        for held in found:
            late = held.passed_over > censorship_heights
            held.passed_over = 0 if late else held.passed_over + 1
        return found

    def passed_over(
        self, batches: Sequence[CheckedBatch], height: int, time_ms: int, replay: ReplayWindow
    ) -> list[Held]:
        """Of each member of which a block of these lists nothing the first batch that lives, if the
        block had room for it, and if it was here before anyone could propose at this height.
        """
        listed = Listed(batches, self._batch_limits)
        found: list[Held] = []
        for author in self._accounts:
            if not listed.serves(author):
                first = self._first(author, height, time_ms, replay)
                if first is not None and listed.leaves_room(first[0].batch, first[1]):
                    found.append(first[0])
        return [held for held in found if held.height < height]

    def _first(
        self, author: str, height: int, time_ms: int, replay: ReplayWindow
    ) -> tuple[Held, int] | None:
        """A member's first batch that lives, and how many come before it."""
        for older, held in enumerate(self._queue(author)):
            if _lives(held.batch, height, time_ms, replay):
                return held, older
        return None


def refusal(
    batch: CheckedBatch, height: int, time_ms: int, replay: ReplayWindow, window_blocks: int
) -> str | None:
    """Why a batch is not worth holding at `height` and `time_ms`, or None.

    "dead": it can have no effect in a block of that time. "ahead": a block could not list it yet,
    or not run all of it, since it is valid beyond the replay window; no honest author makes such a
    batch, and it would count as work that nobody can propose.
    """
    if not _lives(batch, height, time_ms, replay):
        return "dead"
    latest = max(transaction.body.valid_until_height for transaction in batch.transactions)
    if max(latest, batch.valid_until_height) > height + window_blocks:
        return "ahead"
    return None


def fault_of(reason: str, *, by_author: bool) -> Reason | None:
    """What whoever sent a batch that is not held is counted for, if anything. Who carries another's
    batch cannot know whether we have room for it, or another of the same sequence; its author can.
    """
    match reason:
        case "dead":
            return "batch_dead"
        case "ahead":
            return "batch_ahead"
        case "quota" if by_author:
            return "batch_quota"
        case "sequence_used_twice" if by_author:
            return "batch_sequence_used_twice"
        case _:
            return None


def _lives(batch: CheckedBatch, height: int, time_ms: int, replay: ReplayWindow) -> bool:
    """Whether a block of this height and time can run some of it."""
    return _count_dead(batch, 0, height, time_ms, replay) < len(batch.transactions)


def _count_dead(
    batch: CheckedBatch, known: int, height: int, time_ms: int, replay: ReplayWindow
) -> int:
    """How many transactions from the first can never run, when `known` of them cannot."""
    count = len(batch.transactions)
    if batch.valid_until_height < height or replay.used(batch.author, batch.sequence):
        return count
    while known < count:
        transaction = batch.transactions[known]
        body = transaction.body
        expired = body.valid_until_height < height or body.valid_until_ms < time_ms
        if not expired and not replay.seen(transaction.id):
            break
        known += 1
    return known
