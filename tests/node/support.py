"""What the tests of the node's pure parts share: a consortium, transactions, batches, one core
stepped by hand, and several of them wired together in virtual time.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ledger.execution import restore_window
from ledger.genesis import Genesis, genesis_state, parse_genesis, render_genesis
from ledger.operations import EnrolPerson, Operation
from ledger.receipts import ReceiptCode
from ledger.store import Write, WriteBlock, WriteGenesis
from ledger.transactions import (
    BatchError,
    CheckedBatch,
    CheckedTransaction,
    TransactionBody,
    check_transaction,
    seal_batch,
    sign_transaction,
)
from node.core import Core
from node.events import (
    BlockStored,
    Effect,
    Event,
    Expired,
    GossipArrived,
    PeerConnected,
    PeerDisconnected,
    Publish,
    Report,
    RequestEnded,
    SendMessage,
    SendRequest,
    Submitted,
    SyncedBlock,
)
from node.intake import (
    IntakeError,
    Rules,
    answer_events,
    check_blocks_found,
    check_raw_batch,
)
from node.settings import CoreSettings
from node.wire import (
    BlocksFound,
    BlocksWanted,
    Gossip,
    Message,
    Request,
    decode_gossip,
    decode_message,
    decode_request,
)
from primitives.codec import encode
from primitives.hashing import digest
from primitives.institution import Institution, lei_with_check_digits
from primitives.keys import PrivateKey
from simulations.store import MemoryStore
from simulations.world import Checks

TYPES = {
    "recorder": "tertiary_hospital",
    "auditor": "health_authority",
    "observer": "research_institute",
}
START_MS = 1_700_000_000_000


def key_of(name: str) -> PrivateKey:
    """The key of an institution or person of these tests."""
    return PrivateKey(digest("tests", name.encode()))


def make_genesis(
    recorders: int = 4, auditors: int = 0, observers: int = 0, **settings: int
) -> Genesis:
    """A consortium recorder-1.., auditor-1.., observer-1..; settings of [timing] and [limits]."""
    institutions: list[Institution] = []
    for role, count in (("recorder", recorders), ("auditor", auditors), ("observer", observers)):
        for number in range(1, count + 1):
            name = f"{role}-{number}"
            place = len(institutions)
            institutions.append(
                Institution(
                    name,
                    f"Institution {name}",
                    TYPES[role],
                    "CN-GD",
                    lei_with_check_digits(f"TEST{place:014d}"),
                    key_of(name).public,
                    f"127.0.0.1:{40_000 + place}",
                )
            )
    return parse_genesis(render_genesis("test", START_MS, institutions, settings=settings))


def make_transaction(
    genesis: Genesis,
    author: str,
    number: int,
    *,
    until_height: int = 500,
    until_ms: int = 2**52,
    operations: Sequence[Operation] = (),
) -> CheckedTransaction:
    """An enrolment of person `number` by an institution, unless other operations are given."""
    body = TransactionBody(
        key_of(author).public,
        until_height,
        until_ms,
        number.to_bytes(16, "big"),
        tuple(operations) or (EnrolPerson(key_of(f"person-{number}").public, "patient"),),
    )
    raw = sign_transaction(genesis.chain_id, key_of(author), body)
    return check_transaction(raw, genesis.chain_id, genesis.limits)


def make_batch(
    genesis: Genesis,
    author: str,
    sequence: int,
    transactions: Sequence[CheckedTransaction] | None = None,
    *,
    until_height: int = 500,
) -> CheckedBatch:
    """A batch of one transaction whose number is the sequence, unless others are given."""
    held = transactions or [make_transaction(genesis, author, sequence)]
    return seal_batch(genesis.chain_id, key_of(author), author, sequence, until_height, tuple(held))


def rules_of(genesis: Genesis) -> Rules:
    """What intake needs to know."""
    keys = {institution.id: institution.key for institution in genesis.institutions}
    return Rules(genesis.chain_id, genesis.limits, keys)


class Bench:
    """One core with its store, stepped by hand."""

    def __init__(
        self,
        genesis: Genesis,
        id: str,
        store: MemoryStore | None = None,
        *,
        boots: int = 1,
        restored: bool = False,
        now: int = 1_000,
        settings: CoreSettings | None = None,
    ) -> None:
        self.genesis = genesis
        self.id = id
        self.now = now
        self.skew_ms = 0
        self.store = MemoryStore() if store is None else store
        if self.store.head_height() is None:
            self.store.write([WriteGenesis(*genesis_state(genesis))])
        self.core = Core(
            genesis,
            id,
            key_of(id),
            self.store,
            settings or CoreSettings(),
            restore_window(self.store, genesis),
            boots=boots,
            restored=restored,
            now=now,
        )
        self.effects: list[Effect] = []

    @property
    def wall(self) -> int:
        """The wall clock goes with the monotonic one, `skew_ms` ahead."""
        return START_MS + self.now + self.skew_ms

    def start(self) -> list[Effect]:
        """Take back what the store kept, as the daemon does."""
        rules = rules_of(self.genesis)
        pending = [
            check_raw_batch(raw, rules, signatures=False) for raw in self.store.pending_batches()
        ]
        return self._perform(self.core.start(pending, self.now, self.wall))

    def step(self, event: Event) -> list[Effect]:
        """Step, write, and go on after a block until the core is at rest; all effects."""
        effects = self._perform(self.core.step(event, self.now, self.wall))
        while (waiting := self.core.sync.ready) > 0:
            effects += self._perform(self.core.step(Expired(), self.now, self.wall))
            assert self.core.sync.ready < waiting, "a block that waits for ever"
        return effects

    def expire(self, now: int) -> list[Effect]:
        """Let all deadlines up to `now` pass; the effects of all of them."""
        gathered: list[Effect] = []
        while self.core.deadline <= now:
            self.now = max(self.now, self.core.deadline)
            gathered += self.step(Expired())
            assert self.core.deadline > self.now, "a deadline that Expired does not end"
        self.now = max(self.now, now)
        self.effects = gathered
        return gathered

    def _perform(self, effects: list[Effect]) -> list[Effect]:
        gathered: list[Effect] = []
        expired = False
        while True:
            check_order(effects)
            gathered += effects
            writes = [effect for effect in effects if isinstance(effect, Write)]
            self.store.write(writes)
            if any(isinstance(write, WriteBlock) for write in writes):
                effects = self.core.step(BlockStored(), self.now, self.wall)
                expired = False
            elif not expired and self.core.deadline <= self.now:
                effects = self.core.step(Expired(), self.now, self.wall)
                expired = True
            else:
                break
        self.effects = gathered
        return gathered

    def sent(self) -> list[tuple[str, Message]]:
        """The messages among the last effects, with their receivers."""
        return [(e.peer, e.message) for e in self.effects if isinstance(e, SendMessage)]

    def asked(self) -> list[tuple[str, Request]]:
        """The requests among the last effects."""
        return [(e.peer, e.request) for e in self.effects if isinstance(e, SendRequest)]

    def published(self) -> list[Gossip]:
        """The announcements among the last effects."""
        return [e.gossip for e in self.effects if isinstance(e, Publish)]

    def reported(self) -> list[str]:
        """The names of the reports among the last effects."""
        return [e.event for e in self.effects if isinstance(e, Report)]


def make_chain(genesis: Genesis, blocks: int, batches: int = 1) -> MemoryStore:
    """The store of a single recorder after some blocks."""
    bench = Bench(genesis, "recorder-1")
    bench.start()
    for number in range(blocks * batches):
        bench.now += 10
        bench.step(Submitted((make_transaction(genesis, "recorder-1", number),)))
        bench.expire(bench.now + 10)
    assert bench.core.head.height == blocks * batches
    return bench.store


def synced(
    genesis: Genesis, store: MemoryStore, height: int, count: int = 1
) -> tuple[SyncedBlock, ...]:
    """Blocks of a store as an answer brings them."""
    bench = Bench(genesis, "recorder-1", store)
    wanted = BlocksWanted(height, count)
    found = bench.core.answer(wanted)
    assert isinstance(found, BlocksFound)
    return check_blocks_found(wanted, found, lambda _: None, rules_of(genesis))


def check_order(effects: Sequence[Effect]) -> None:
    """Nothing is written after a block in one step, since its reader would not show it yet."""
    kinds = [type(effect) for effect in effects if isinstance(effect, Write)]
    assert WriteBlock not in kinds[:-1]


@dataclass(frozen=True, slots=True)
class Parcel:
    """Something under way from one member to another."""

    sender: str
    to: str
    content: bytes | Request
    gossip: bool = False


class Net:
    """Several cores in virtual time: what is sent arrives at once and in order, unless lost."""

    def __init__(self, genesis: Genesis, *ids: str, settings: CoreSettings | None = None) -> None:
        self.genesis = genesis
        self.rules = rules_of(genesis)
        self._checks = Checks()
        self.settings = settings
        self.now = 1_000
        self.benches: dict[str, Bench] = {}
        self.lose: Callable[[Parcel], bool] = lambda parcel: False
        self.requests: list[tuple[str, str, Request]] = []
        self._under_way: deque[Parcel] = deque()
        for id in ids or [institution.id for institution in genesis.institutions]:
            self.start(id)

    def __getitem__(self, id: str) -> Bench:
        return self.benches[id]

    def start(self, id: str, store: MemoryStore | None = None, *, restored: bool = False) -> Bench:
        """Start a node and connect it to all that run."""
        bench = Bench(
            self.genesis, id, store, restored=restored, now=self.now, settings=self.settings
        )
        others = list(self.benches)
        self.benches[id] = bench
        self._take(id, bench.start())
        for other in others:
            self.connect(id, other)
        return bench

    def stop(self, id: str) -> MemoryStore:
        """A node crashes; what is left of it."""
        bench = self.benches.pop(id)
        self._under_way = deque(p for p in self._under_way if id not in (p.sender, p.to))
        for other in self.benches:
            self.step(other, PeerDisconnected(id))
        return bench.store

    def connect(self, first: str, second: str) -> None:
        """Both can now exchange messages."""
        self.step(first, PeerConnected(second))
        self.step(second, PeerConnected(first))

    def step(self, id: str, event: Event) -> list[Effect]:
        """Step one node; what it sends is under way."""
        bench = self.benches[id]
        bench.now = self.now
        return self._take(id, bench.step(event))

    def submit(self, id: str, *numbers: int) -> list[CheckedTransaction]:
        """A client of a node submits enrolments."""
        taken = [make_transaction(self.genesis, id, number) for number in numbers]
        self.step(id, Submitted(tuple(taken)))
        return taken

    def run(self, duration_ms: int, until: Callable[[], bool] = lambda: False) -> None:
        """Deliver everything and let time pass, until the time is over or `until` holds."""
        end = self.now + duration_ms
        while not until():
            self.deliver(until)
            if until():
                return
            due = min(self.benches, key=lambda id: self.benches[id].core.deadline)
            deadline = self.benches[due].core.deadline
            if deadline > end:
                self.now = end
                return
            self.now = max(self.now, deadline)
            self.step(due, Expired())
            assert self.benches[due].core.deadline > self.now, "a deadline that never ends"

    def deliver(self, until: Callable[[], bool] = lambda: False) -> None:
        """Deliver all that is under way, and what follows from it."""
        while self._under_way and not until():
            parcel = self._under_way.popleft()
            lost = parcel.to not in self.benches or self.lose(parcel)
            if not isinstance(parcel.content, bytes):
                self._answer(parcel, parcel.content, lost=lost)
            elif not lost and parcel.gossip:
                gossip = decode_gossip(parcel.content)
                self.step(parcel.to, GossipArrived(parcel.sender, gossip))
            elif not lost:
                self._arrive(parcel, decode_message(parcel.content))

    def resume(self, parcels: Iterable[Parcel]) -> None:
        """What seemed lost was only late, and is under way again, in this order."""
        self._under_way.extend(parcels)

    def heights(self) -> list[int]:
        """The heads of all nodes, in the order of their start."""
        return [bench.core.head.height for bench in self.benches.values()]

    def _take(self, id: str, effects: Sequence[Effect]) -> list[Effect]:
        for effect in effects:
            match effect:
                case SendMessage(peer, message):
                    self._under_way.append(Parcel(id, peer, encode(message)))
                case Publish(gossip):
                    content = encode(gossip)
                    others = [other for other in self.benches if other != id]
                    self._under_way += [Parcel(id, other, content, True) for other in others]
                case SendRequest(peer, request):
                    self.requests.append((id, peer, request))
                    self._under_way.append(Parcel(id, peer, request))
                case _:
                    pass
        return list(effects)

    def _arrive(self, parcel: Parcel, message: Message) -> None:
        bench = self.benches[parcel.to]
        try:
            event = self._checks.event(parcel.sender, message, bench.core, self.rules)
        except BatchError:
            return
        if event is not None:
            self.step(parcel.to, event)

    def _answer(self, parcel: Parcel, request: Request, *, lost: bool) -> None:
        asker = parcel.sender
        if asker not in self.benches:
            return
        answered = invalid = False
        if not lost:
            asked = decode_request(encode(request))
            raw = encode(self.benches[parcel.to].core.answer(asked))
            try:
                for event in self._events(parcel, request, raw):
                    self.step(asker, event)
                answered = True
            except (IntakeError, BatchError):
                invalid = True
        self.step(asker, RequestEnded(parcel.to, request, answered, invalid))

    def _events(self, parcel: Parcel, request: Request, raw: bytes) -> Sequence[Event]:
        core = self.benches[parcel.sender].core
        known, votes = core.following.known, core.votes
        return answer_events(parcel.to, request, raw, self.rules, known, votes=votes)


def executed_on(net: Net, id: str, transactions: Sequence[CheckedTransaction]) -> bool:
    """Whether a node's store has a receipt of success for all of them."""
    store = net[id].store
    for transaction in transactions:
        position = store.transaction_position(transaction.id)
        receipts = None if position is None else store.receipts(position[0])
        if position is None or receipts is None:
            return False
        if receipts[position[1]].code != ReceiptCode.OK:
            return False
    return True


def executed(net: Net, transactions: Sequence[CheckedTransaction]) -> bool:
    """Whether all nodes have them."""
    return all(executed_on(net, id, transactions) for id in net.benches)


def view_changes(net: Net) -> int:
    """How many views were left, on all nodes together."""
    return sum(bench.core.counters["view_changes"] for bench in net.benches.values())
