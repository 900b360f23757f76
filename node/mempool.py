"""What waits to be ordered: the members' undecided batches, and our own clients' transactions not
yet in a batch.

Everything is bounded: bytes per author (so that no member can fill the others' memory), our own
undecided batches (what exceeds the bound waits unsealed), and the transactions that wait. Batches
keep the order of their arrival; that order is what a primary proposes in.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ledger.replay import ReplayWindow
from ledger.transactions import CheckedBatch, CheckedTransaction, Limits


@dataclass(frozen=True, slots=True)
class MempoolLimits:
    """What one member may make this node hold."""

    author_bytes_max: int = 16 * 1024 * 1024
    author_batches_max: int = 1_000
    own_bytes_max: int = 8 * 1024 * 1024
    """Undecided batches of ours; half of what the others hold of us, so that they refuse none."""
    own_batches_max: int = 500
    waiting_transactions_max: int = 20_000
    waiting_bytes_max: int = 16 * 1024 * 1024


@dataclass(slots=True)
class Held:
    """A pending batch, when it came, and how many blocks went by with batches that came later."""

    batch: CheckedBatch
    arrived_ms: int
    own: bool = False
    overtaken: int = 0
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

    def add(self, batch: CheckedBatch, now: int, *, own: bool = False) -> str | None:
        """Hold a batch. Returns None, or the reason why it is not held."""
        if batch.id in self._held:
            return "known"
        account = self._accounts.setdefault(batch.author, _Account())
        if account.sequences.get(batch.sequence, batch.id) != batch.id:
            return "sequence_used_twice"
        full = account.size_bytes + len(batch.raw) > self._limits.author_bytes_max
        if not own and (full or account.batches >= self._limits.author_batches_max):
            return "author_quota"
        account.batches += 1
        account.size_bytes += len(batch.raw)
        account.sequences[batch.sequence] = batch.id
        self._held[batch.id] = Held(batch, now, own)
        if own:
            self._own_ids.update(transaction.id for transaction in batch.transactions)
        return None

    def get(self, batch_id: bytes) -> CheckedBatch | None:
        """A pending batch by id."""
        held = self._held.get(batch_id)
        return None if held is None else held.batch

    def held(self) -> Iterable[Held]:
        """Pending batches in order of arrival."""
        return self._held.values()

    def batches(self) -> list[CheckedBatch]:
        """Pending batches in order of arrival."""
        return [held.batch for held in self._held.values()]

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

    def overtaken_by(self, listed: Iterable[bytes]) -> list[Held]:
        """Count, for every batch left out of a block, that a later one was taken in; those to which
        that happened for the first time.
        """
        places = {batch_id: place for place, batch_id in enumerate(self._held)}
        taken = [places[batch_id] for batch_id in listed if batch_id in places]
        listed_places = dict.fromkeys(taken)
        latest = max(taken, default=-1)
        first: list[Held] = []
        for place, held in enumerate(self._held.values()):
            if place >= latest:
                break
            if place not in listed_places:
                held.overtaken += 1
                if held.overtaken == 1:
                    first.append(held)
        return first


def refusal(
    batch: CheckedBatch, height: int, time_ms: int, replay: ReplayWindow, window_blocks: int
) -> str | None:
    """Why a batch is not worth holding at `height` and `time_ms`, or None.

    "dead": it can have no effect any more. "ahead": a block could not list it yet, or not run all
    of it, since it is valid beyond the replay window; no honest author makes such a batch, and it
    would count as work that nobody can propose.
    """
    if _count_dead(batch, 0, height, time_ms, replay) == len(batch.transactions):
        return "dead"
    latest = max(transaction.body.valid_until_height for transaction in batch.transactions)
    if max(latest, batch.valid_until_height) > height + window_blocks:
        return "ahead"
    return None


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
