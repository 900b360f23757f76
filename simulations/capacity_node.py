"""One node of a capacity run: the daemon's core in a shell whose every step costs time.

The shell does what node/driver.py does: a turn takes events for at most TURN_US of work, commits
the writes, then sends; clients' transactions and peers' batches are checked on two threads beside
it. What each costs comes from costs.py. A transaction here stands for `burst` like it that a client
submits at once: checks, execution, rows and bytes are charged for all of them, and the limits of
the ledger are divided by it (capacity_networks.py), so that the core runs as it would, on fewer
objects.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ledger.execution import restore_window
from ledger.genesis import genesis_state
from ledger.store import Write, WriteBatch, WriteBlock, WriteGenesis, WritePromise
from ledger.transactions import CheckedBatch, TransactionError
from node.core import Core
from node.events import (
    Applied,
    BatchArrived,
    BlocksArrived,
    BlockStored,
    DecisionArrived,
    Effect,
    Event,
    Expired,
    GossipArrived,
    MessageArrived,
    PeerConnected,
    PeerDisconnected,
    Publish,
    RequestEnded,
    SendMessage,
    SendRequest,
    Submitted,
)
from node.intake import answer_events, check_submissions
from node.settings import CoreSettings
from node.wire import BatchBody, Decided, Gossip, Message, Request
from primitives.codec import encode
from primitives.keys import PrivateKey
from simulations.capacity_machine import Ended, Job, Lane, Processor
from simulations.capacity_network import NEIGHBOURS, Answered, Sized
from simulations.capacity_networks import GENESIS_MS
from simulations.capacity_site import Site
from simulations.store import MemoryStore

TURN_US = 10_000
"""As node/driver.py has it."""
CHECK_THREADS = 2


@dataclass(frozen=True, slots=True)
class Item:
    """What waits for a turn: an event, or something to hand on, and what taking it in costs."""

    event: Event | None
    cost_us: float
    then: Ended | None


class CapacityNode:
    """A node's process, processor and disk."""

    def __init__(self, site: Site, id: str, key: PrivateKey, processor: Processor) -> None:
        self.site = site
        self.id = id
        self.key = key
        self.up = True
        self._loop = Lane(processor, 1)
        self._threads = Lane(processor, CHECK_THREADS)
        self._disk = Lane(processor, 1)
        store = MemoryStore()
        store.write([WriteGenesis(*genesis_state(site.genesis))])
        self._store = store
        self._items: deque[Item] = deque()
        self._effects: list[Effect] = []
        self._busy = False
        """Whether a turn waits, runs, or commits what it has to write."""
        self._deadline_ms: int | None = None
        self._woken_at: int | None = None
        self._executed_before = 0, 0
        """Blocks and simulated transactions that the core had executed before its last step."""
        self._checks_seen = 0
        self._sent: tuple[Message | None, Sized[Message] | None] = (None, None)
        window = restore_window(store, site.genesis)
        stands_for = site.shape.burst * site.shape.operations
        draft_work_min = max(CoreSettings().draft_work_min // stands_for, 1)
        self.core = Core(
            site.genesis,
            id,
            key,
            store,
            CoreSettings(draft_work_min=draft_work_min),
            window,
            boots=1,
            restored=False,
            now=self._now_ms,
        )

    @property
    def _now_ms(self) -> int:
        return self.site.schedule.now // 1_000

    @property
    def _wall(self) -> int:
        return GENESIS_MS + self._now_ms

    def start(self) -> None:
        """Begin; nothing was stored before."""
        self._perform(self.core.start((), self._now_ms, self._wall))

    def stop(self) -> None:
        """Die, for good."""
        self.up = False
        self._items.clear()
        self.site.network.died(self)

    # ---- the turn --------------------------------------------------------------------------------

    def _post(self, event: Event | None, cost_us: float, then: Ended | None = None) -> None:
        self._items.append(Item(event, cost_us, then))
        self._plan()

    def _plan(self) -> None:
        """Turn as soon as the loop can, if there is something to do; else at the deadline."""
        if self._busy or not self.up:
            return
        due_us = self._deadline * 1_000
        if self._items or due_us <= self.site.schedule.now:
            self._busy = True
            self._loop.submit(Job(self._turn, self._turned))
        elif self._woken_at is None or self._woken_at > due_us:
            self._woken_at = due_us
            self.site.schedule.at(due_us, partial(self._wake, due_us))

    def _wake(self, due_us: int) -> None:
        if self._woken_at == due_us:
            self._woken_at = None
            self._plan()

    @property
    def _deadline(self) -> int:
        if self._deadline_ms is None:
            self._deadline_ms = self.core.deadline
        return self._deadline_ms

    def step(self, event: Event) -> list[Effect]:
        """Step the core now."""
        self._deadline_ms = None
        return self.core.step(event, self._now_ms, self._wall)

    def _turn(self) -> int:
        """Step the core with what waits; the microseconds that this takes."""
        self._effects = []
        if not self.up:
            return 0
        chain, spent_us = self.core.chain, self.site.costs.turn_us
        while self._items and chain.writing is None and spent_us < TURN_US:
            item = self._items.popleft()
            spent_us += item.cost_us
            if item.then is not None:
                item.then()
            if item.event is not None:
                spent_us += self._take(self.step(item.event))
        if chain.writing is None and self._deadline <= self._now_ms:
            spent_us += self._take(self.step(Expired()))
        return int(spent_us)

    def _turned(self) -> None:
        self._perform(self._effects)

    def _take(self, effects: Sequence[Effect]) -> float:
        """Gather the effects of a step; what it has calculated besides taking in its event."""
        self._effects += effects
        costs, checks = self.site.costs, self.core.signature_checks
        spent_us = self._execute_us()
        # A replica that has just taken its seat counts from 0.
        spent_us += max(checks - self._checks_seen, 0) * costs.signature_check_us
        self._checks_seen = checks
        for effect in effects:
            match effect:
                case WritePromise():
                    spent_us += costs.signature_make_us
                case WriteBatch(batch) if batch.author == self.id:
                    self.site.checks.keep(batch)
                    spent_us += costs.signature_make_us
                case _:
                    pass
        return spent_us

    def _execute_us(self) -> float:
        """What the blocks cost that the last step has executed."""
        counters, (blocks, transactions) = self.core.counters, self._executed_before
        executed = counters["blocks_executed"], counters["transactions_executed"]
        self._executed_before = executed
        costs, shape = self.site.costs, self.site.shape
        operations = (executed[1] - transactions) * shape.burst * shape.operations
        return (executed[0] - blocks) * costs.block_execute_us + (
            operations * costs.operation_execute_us
        )

    # ---- effects ---------------------------------------------------------------------------------

    def _perform(self, effects: Sequence[Effect]) -> None:
        """Commit what is to be written, then do the rest; then the next turn may come."""
        writes = [effect for effect in effects if isinstance(effect, Write)]
        finish = partial(self._finish, effects, writes)
        if writes:
            self._busy = True
            commit_us = int(self.site.commit_us(writes))
            fsync = partial(self.site.schedule.after, int(self.site.costs.fsync_us), finish)
            self._disk.submit(Job(lambda: commit_us, fsync))
        elif effects:
            finish()
        else:
            self._busy = False
            self._plan()

    def _finish(self, effects: Sequence[Effect], writes: Sequence[Write]) -> None:
        if not self.up:
            return
        self._busy = True
        self._store.write(writes)
        self._effects = []
        stored = any(isinstance(write, WriteBlock) for write in writes)
        self._loop.submit(Job(partial(self._send_all, effects, stored), self._turned))

    def _send_all(self, effects: Sequence[Effect], stored: bool) -> int:
        """Send and tell; go on to the next height if a block was stored."""
        if not self.up:
            return 0
        spent_us, site = 0.0, self.site
        for effect in effects:
            match effect:
                case SendMessage(peer, message):
                    sized = self._size(message)
                    spent_us += site.sending_us(sized.size_bytes)
                    site.network.send(self.id, peer, sized, site.schedule.now + int(spent_us))
                case Publish(gossip):
                    spent_us += NEIGHBOURS * site.costs.gossip_us
                    announced: Sized[Gossip] = Sized(gossip, len(encode(gossip)))
                    site.network.publish(self.id, announced, site.schedule.now + int(spent_us))
                case SendRequest(peer, request):
                    spent_us += site.costs.request_us
                    self._ask(peer, request, site.schedule.now + int(spent_us))
                case Applied():
                    site.observer.applied(self, effect)
                case _:
                    pass
        if stored:
            spent_us += site.costs.block_apply_us + self._take(self.step(BlockStored()))
        return int(spent_us)

    def _size(self, message: Message) -> Sized[Message]:
        """A broadcast is one message object for all peers."""
        if self._sent[0] is message and self._sent[1] is not None:
            return self._sent[1]
        size_bytes = len(encode(message))
        if isinstance(message, BatchBody):
            size_bytes += self.site.absent_bytes(self.site.checks.check(message.raw))
        sized: Sized[Message] = Sized(message, size_bytes)
        self._sent = message, sized
        return sized

    # ---- the network's endpoint ------------------------------------------------------------------

    def connected(self, peer: str) -> None:
        """A member can be reached."""
        self._post(PeerConnected(peer), 0.0)

    def disconnected(self, peer: str) -> None:
        """A member can no longer be reached."""
        self._post(PeerDisconnected(peer), 0.0)

    def message(self, peer: str, message: Sized[Message]) -> None:
        """A direct message."""
        receive_us = self.site.receiving_us(message.size_bytes)
        if isinstance(message.content, BatchBody | Decided):
            self._post(None, receive_us, partial(self._read, peer, message.content))
        else:
            handle_us = self.site.costs.vote_handle_us
            self._post(MessageArrived(peer, message.content), receive_us + handle_us)

    def _read(self, peer: str, message: BatchBody | Decided) -> None:
        """Check beside the loop what is to be checked."""
        site, costs = self.site, self.site.costs
        event = site.checks.event(peer, message, self.core, site.rules)
        match event:
            case BatchArrived(_, batch):
                count = len(batch.transactions) * site.shape.burst
                known = self.core.following.known(batch.id) is not None
                check_us = 0.0 if known else self._check_us(batch, count, event.checked)
                take_us = costs.batch_take_us + count * costs.transaction_take_us
            case DecisionArrived(_, _, verified):
                check_us = len(verified) * costs.signature_check_us
                take_us = costs.vote_handle_us
            case _:
                check_us, take_us = 0.0, costs.vote_handle_us

        def checked() -> None:
            if self.up and event is not None:
                self._post(event, take_us)

        self._threads.submit(Job(lambda: int(check_us), checked))

    def _check_us(self, batch: CheckedBatch, count: int, signatures: bool) -> float:
        """What checking a batch costs, its own signature included."""
        costs = self.site.costs
        each_us = costs.transaction_check_us
        if not signatures:
            each_us = max(each_us - costs.signature_check_us, 0.0)
        return costs.signature_check_us + count * each_us

    def gossip(self, author: str, gossip: Sized[Gossip]) -> None:
        """An announcement."""
        self._post(GossipArrived(author, gossip.content), self.site.costs.gossip_us)

    def request(self, peer: str, request: Request, answer: Answered) -> None:
        """Answer a peer from memory and the disk, between two turns."""
        found: list[Sized[bytes]] = []

        def work() -> int:
            if not self.up:
                return 0
            response = self.core.answer(request)
            raw = encode(response)
            size_bytes = len(raw) + self.site.absent_from(response)
            found.append(Sized(raw, size_bytes))
            return int(self.site.costs.request_us + self.site.sending_us(size_bytes))

        self._loop.submit(Job(work, lambda: answer(found[0] if self.up and found else None)))

    # ---- asking peers ----------------------------------------------------------------------------

    def _ask(self, peer: str, request: Request, leaves: int) -> None:
        asked = Sized(request, len(encode(request)))
        self.site.network.ask(self.id, peer, asked, leaves, partial(self._hear, peer, request))

    def _hear(self, peer: str, request: Request, answer: Sized[bytes] | None) -> None:
        """An answer is read on the loop and checked beside it."""
        if not self.up:
            return
        ended = RequestEnded(peer, request, answer is not None)
        if answer is None:
            self._post(ended, 0.0)
            return
        site, events = self.site, []
        check_us = 0.0
        known, votes = site.checks.known, self.core.votes
        raw = answer.content
        for event in answer_events(peer, request, raw, site.rules, known, votes=votes):
            events.append(event)
            check_us += self._answer_us(event)

        def checked() -> None:
            for event in (*events, ended):
                self._post(event, 0.0)

        read = partial(self._threads.submit, Job(lambda: int(check_us), checked))
        self._post(None, site.receiving_us(answer.size_bytes), read)

    def _answer_us(self, event: Event) -> float:
        """What checking a part of an answer costs, certificates included."""
        costs, burst, known = self.site.costs, self.site.shape.burst, self.core.following.known
        match event:
            case BatchArrived(_, batch, checked):
                return self._check_us(batch, len(batch.transactions) * burst, checked)
            case BlocksArrived(_, blocks):
                spent_us = 0.0
                for synced in blocks:
                    spent_us += len(synced.verified) * costs.signature_check_us
                    for batch in synced.batches:
                        if known(batch.id) is None:
                            count = len(batch.transactions) * burst
                            spent_us += self._check_us(batch, count, signatures=False)
                return spent_us
            case _:
                return 0.0

    # ---- local clients ---------------------------------------------------------------------------

    def submit(self, raw: bytes) -> None:
        """Take what a client submits: `burst` transactions like this one."""
        costs, burst = self.site.costs, self.site.shape.burst
        rules, height = self.site.rules, self.core.head.height
        (transaction,) = check_submissions([raw], rules, height, self._wall)
        if isinstance(transaction, TransactionError):
            raise transaction

        def checked() -> None:
            if self.up:
                self._post(Submitted((transaction,)), burst * costs.transaction_submit_us)

        self._threads.submit(Job(lambda: int(burst * costs.transaction_check_us), checked))
