"""Drivers with real databases over an honest network in memory: what is durable before what is
sent, what a crash leaves, and what ends a node.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
import structlog

from ledger.execution import payload_batches
from ledger.genesis import Genesis
from ledger.receipts import ReceiptCode
from ledger.store import Write, WriteBatch, WritePromise
from node import arrivals, checks
from node import driver as module
from node.core import Core
from node.driver import Driver, monotonic_ms, wall_ms
from node.events import (
    Admit,
    BatchArrived,
    BlockArrived,
    BlocksArrived,
    Effect,
    Event,
    GossipArrived,
    MessageArrived,
    RequestEnded,
)
from node.intake import check_raw_batch
from node.mempool import MempoolLimits
from node.settings import CoreSettings
from node.transport import Handler, Member, PeerUnreachable
from node.wire import (
    BatchBody,
    BatchesAnnounced,
    BatchesFound,
    BatchesWanted,
    BlockFound,
    BlocksFound,
    BlocksWanted,
    BlockWanted,
    Consensus,
    Head,
    HeadAnnounced,
    Request,
    decode_message,
)
from primitives.codec import CodecError, encode
from storage.database import Database, StorageError
from storage.reader import SqliteReader
from storage.redo import redo
from tests.node.support import key_of, make_batch, make_genesis, make_transaction, rules_of

ANY_HASH = b"\x07" * 32


class MemoryTransport:
    """node.transport.Transport between the nodes of one test."""

    def __init__(self, id: str, others: dict[str, "MemoryTransport"]) -> None:
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.handler: Handler | None = None
        self.sent: list[tuple[str, bytes]] = []
        self.asked: list[tuple[str, bytes]] = []
        self.paused: list[str] = []
        self.members: tuple[Member, ...] = ()
        self.answers: Callable[[str, bytes], Awaitable[bytes]] = self._ask
        self._id = id
        self._others = others

    async def start(self, handler: Handler) -> None:
        """Connect to all that have started."""
        self.handler = handler
        for name, other in self._others.items():
            if other.handler is not None:
                other.handler.connected(self._id)
                handler.connected(name)
        self._others[self._id] = self

    async def stop(self) -> None:
        """Disconnect from all."""
        if self._others.pop(self._id, None) is not None:
            for other in self._others.values():
                if other.handler is not None:
                    other.handler.disconnected(self._id)

    def send(self, peer: str, message: bytes) -> bool:
        """Deliver soon."""
        self.sent.append((peer, message))
        other = self._others.get(peer)
        if other is None or other.handler is None or self._id not in self._others:
            return False
        asyncio.get_running_loop().call_soon(other.handler.message, self._id, message)
        return True

    def pause_reading(self, peer: str) -> None:
        """Only note it."""
        self.paused.append(peer)

    def resume_reading(self, peer: str) -> None:
        """Only note it."""
        self.paused.remove(peer)

    def publish(self, message: bytes) -> None:
        """Deliver to all soon."""
        for name, other in self._others.items():
            if name != self._id and other.handler is not None:
                asyncio.get_running_loop().call_soon(other.handler.gossip, self._id, message)

    async def request(self, peer: str, request: bytes, timeout_ms: int) -> bytes:
        """Ask the other node."""
        self.asked.append((peer, request))
        return await self.answers(peer, request)

    async def _ask(self, peer: str, request: bytes) -> bytes:
        other = self._others.get(peer)
        if other is None or other.handler is None:
            raise PeerUnreachable
        return await other.handler.request(self._id, request)

    def connected(self) -> tuple[str, ...]:
        """All others."""
        return tuple(sorted(name for name in self._others if name != self._id))

    def counters(self) -> dict[str, int]:
        """Nothing is counted here."""
        return {}

    def set_members(self, members: Sequence[Member]) -> None:
        """Only note it: everybody is a member."""
        self.members = tuple(members)


def waiting(driver: Driver) -> list[Event]:
    """Take what waits for a turn."""
    found: list[Event] = []
    while (entry := driver.arrivals.next(monotonic_ms())) is not None:
        event = driver._event(*entry)
        assert event is not None
        found.append(event)
    return found


class Disk:
    """A database whose writes a test can see, hold up, or let fail."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.before: Callable[[Sequence[Write]], Awaitable[None]] | None = None
        self.after: Callable[[Sequence[Write]], None] = lambda writes: None

    async def write(self, writes: Sequence[Write]) -> None:
        """As the database, between `before` and `after`."""
        if self.before is not None:
            await self.before(writes)
        await self.database.write(writes)
        self.after(writes)


class Node:
    """What the daemon composes, with a transport of this file."""

    def __init__(
        self, core: Core, disk: Disk, reader: SqliteReader, transport: MemoryTransport
    ) -> None:
        self.core, self.disk, self.reader, self.transport = core, disk, reader, transport
        self.driver = Driver(core, cast(Database, disk), reader, transport)
        self.running: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Start, as the daemon does."""
        genesis = self.core.genesis
        rules = rules_of(genesis)
        raws = self.reader.pending_batches()
        pending = [check_raw_batch(raw, rules, signatures=False) for raw in raws]
        effects = self.core.start(pending, monotonic_ms(), wall_ms())
        await self.transport.start(self.driver)
        self.running = asyncio.create_task(self.driver.run(effects))

    async def stop(self) -> None:
        """Stop in the daemon's order."""
        await self.transport.stop()
        if self.running is not None:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)
        self.driver.close()
        self.reader.close()
        await self.disk.database.close()

    async def ended(self) -> BaseException | None:
        """What ended the driver."""
        assert self.running is not None
        async with asyncio.timeout(20):
            await asyncio.wait([self.running])
        return self.running.exception()


class World:
    """The nodes of one test."""

    def __init__(self, genesis: Genesis, home: Path) -> None:
        self.genesis, self.home = genesis, home
        self.nodes: dict[str, Node] = {}
        self.transports: dict[str, MemoryTransport] = {}

    async def make(self, id: str, settings: CoreSettings | None = None) -> Node:
        """A node on its file, new or not, that does not run yet."""
        genesis = self.genesis
        database = await Database.open(self.home / f"{id}.db", genesis.chain_id)
        await database.boot(self.home / f"{id}.boots")
        reader = SqliteReader(self.home / f"{id}.db", database.recent, cached=True)
        replay = await redo(database, reader, genesis, lambda height, head: None)
        core = Core(
            genesis,
            id,
            key_of(id),
            reader,
            settings or CoreSettings(),
            replay,
            boots=1,
            restored=False,
            now=monotonic_ms(),
        )
        transport = MemoryTransport(id, self.transports)
        self.nodes[id] = Node(core, Disk(database), reader, transport)
        return self.nodes[id]

    async def start(self, *ids: str) -> None:
        """Make and run nodes."""
        for id in ids:
            await (await self.make(id)).run()

    async def stop(self) -> None:
        """Stop all nodes."""
        for node in self.nodes.values():
            await node.stop()

    async def height(self, height: int, *ids: str) -> None:
        """Wait until these nodes have applied a height."""
        async with asyncio.timeout(20):
            for id in ids or tuple(self.nodes):
                await self.nodes[id].driver.applied(height - 1)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Four recorders and an observer, none of them started."""
    made = World(make_genesis(4, observers=1), tmp_path)
    yield made
    await made.stop()


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[World]:
    """A recorder that decides by itself, and an observer."""
    made = World(make_genesis(1, observers=1), tmp_path)
    yield made
    await made.stop()


RECORDERS = ("recorder-1", "recorder-2", "recorder-3", "recorder-4")


# ---- together ------------------------------------------------------------------------------------


async def test_what_a_client_submits_is_on_every_disk(world: World) -> None:
    await world.start(*RECORDERS, "observer-1")
    taken = make_transaction(world.genesis, "observer-1", 1)

    (outcome,) = await world.nodes["observer-1"].driver.submit([taken.raw])
    await world.height(1)

    assert outcome.id == taken.id
    assert outcome.refused is None
    for node in world.nodes.values():
        assert node.reader.transaction_position(taken.id) == (1, 0)
        receipts = node.reader.receipts(1)
        assert receipts is not None
        assert receipts[0].code == ReceiptCode.OK


async def test_a_node_that_comes_late_syncs_over_requests(alone: World) -> None:
    await alone.start("recorder-1")
    driver = alone.nodes["recorder-1"].driver
    for number in range(3):
        await driver.submit([make_transaction(alone.genesis, "recorder-1", number).raw])
        await alone.height(number + 1)

    await alone.start("observer-1")
    await alone.height(3)

    assert alone.nodes["observer-1"].core.chain.head_hash == driver.core.chain.head_hash


async def test_a_voter_fetches_a_batch_that_it_lacks(world: World) -> None:
    await world.start(*RECORDERS)
    sender = world.nodes["recorder-1"].transport
    send = sender.send

    def lossy(peer: str, message: bytes) -> bool:
        batch = isinstance(decode_message(message), BatchBody)
        return (batch and peer == "recorder-4") or send(peer, message)

    sender.send = lossy  # type: ignore[method-assign]
    taken = make_transaction(world.genesis, "recorder-1", 1)
    await world.nodes["recorder-1"].driver.submit([taken.raw])
    await world.height(1)

    assert world.nodes["recorder-4"].reader.transaction_position(taken.id) == (1, 0)


# ---- crashes -------------------------------------------------------------------------------------


class PowerCut(Exception):
    """The machine stops here."""


async def test_a_crash_between_write_and_send_leaves_the_promise_and_sends_nothing(
    world: World,
) -> None:
    victim = "recorder-3"
    node = await world.make(victim)

    def cut(writes: Sequence[Write]) -> None:
        if any(isinstance(write, WritePromise) for write in writes):
            raise PowerCut

    node.disk.after = cut
    await node.run()
    await world.start(*(id for id in RECORDERS if id != victim))
    taken = make_transaction(world.genesis, "recorder-1", 1)
    await world.nodes["recorder-1"].driver.submit([taken.raw])

    assert isinstance(await node.ended(), PowerCut)
    promised = node.reader.promises(1)
    assert promised
    named = [promise.block for promise in promised if promise.block is not None]
    assert named
    assert node.reader.batch(make_ids(node, taken.id)) is not None
    sent = [decode_message(message) for _, message in node.transport.sent]
    assert not any(isinstance(message, Consensus) for message in sent)

    await node.stop()
    await world.start(victim)
    await world.height(1)
    assert world.nodes[victim].reader.transaction_position(taken.id) == (1, 0)


def make_ids(node: Node, transaction_id: bytes) -> bytes:
    """The id of the pending batch that holds this transaction."""
    rules = rules_of(node.core.genesis)
    for raw in node.reader.pending_batches():
        batch = check_raw_batch(raw, rules)
        if any(transaction.id == transaction_id for transaction in batch.transactions):
            return batch.id
    raise AssertionError("no stored batch holds the transaction")


async def test_a_disk_that_fails_ends_the_node_before_anything_is_sent(alone: World) -> None:
    node = await alone.make("recorder-1")

    async def fail(writes: Sequence[Write]) -> None:
        raise StorageError("The disk is full.")

    node.disk.before = fail
    await node.run()
    await alone.start("observer-1")
    await node.driver.submit([make_transaction(alone.genesis, "recorder-1", 1).raw])

    assert isinstance(await node.ended(), StorageError)
    sent = [decode_message(message) for _, message in node.transport.sent]
    assert not any(isinstance(message, BatchBody) for message in sent)
    assert node.core.head.height == 0


async def test_a_node_that_is_stopped_in_the_middle_of_a_write_has_written(alone: World) -> None:
    node = await alone.make("recorder-1")
    written = asyncio.Event()
    never = asyncio.Event()

    async def hold(writes: Sequence[Write]) -> None:
        if any(isinstance(write, WriteBatch) for write in writes):
            await node.disk.database.write(writes[:1])
            written.set()
            await never.wait()

    node.disk.before = hold
    await node.run()
    taken = make_transaction(alone.genesis, "recorder-1", 1)
    await node.driver.submit([taken.raw])
    async with asyncio.timeout(20):
        await written.wait()
    await node.stop()

    await alone.start("recorder-1")
    await alone.height(1)
    assert alone.nodes["recorder-1"].reader.transaction_position(taken.id) == (1, 0)


async def test_a_task_that_fails_ends_the_node(alone: World) -> None:
    await alone.start("recorder-1")
    node = alone.nodes["recorder-1"]

    async def broken(peer: str, request: bytes) -> bytes:
        raise RuntimeError("a mistake of ours")

    node.transport.answers = broken
    node.driver.connected("observer-1")
    node.driver.message("observer-1", encode(Head(3, ANY_HASH)))

    ended = await node.ended()
    assert isinstance(ended, RuntimeError)
    assert str(ended) == "a mistake of ours"


async def test_a_store_that_cannot_be_read_for_a_peer_ends_the_node(
    alone: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await alone.start("recorder-1")
    node = alone.nodes["recorder-1"]

    def broken(request: object) -> None:
        raise StorageError("A page is bad.")

    monkeypatch.setattr(node.core, "answer", broken)
    with pytest.raises(StorageError):
        await node.driver.request("observer-1", encode(BlockWanted(ANY_HASH)))
    assert isinstance(await node.ended(), StorageError)


# ---- what peers send -----------------------------------------------------------------------------


async def test_what_cannot_be_read_is_counted_by_peer_and_logged_once(alone: World) -> None:
    await alone.start("recorder-1")
    driver = alone.nodes["recorder-1"].driver
    with structlog.testing.capture_logs() as logs:
        for _ in range(100):
            driver.message("observer-1", b"\xff")
            driver.gossip("observer-1", b"\xff")
            driver.at_fault("observer-1", "malformed", "a frame of kind 9")
            with pytest.raises(CodecError):
                await driver.request("observer-1", b"\xff")
        await driver.submit([make_transaction(alone.genesis, "recorder-1", 1).raw])
        await alone.height(1)

    assert driver.core.conduct.counts() == {"observer-1": {"malformed": 400}}
    at_fault = [entry for entry in logs if entry["event"] == "peer_at_fault"]
    assert [(entry["peer"], entry["reason"]) for entry in at_fault] == [("observer-1", "malformed")]


async def test_bad_and_long_batches_are_counted_and_good_ones_taken(alone: World) -> None:
    await alone.start("recorder-1")
    driver = alone.nodes["recorder-1"].driver
    good = make_batch(alone.genesis, "observer-1", 1)
    long = bytes(alone.genesis.limits.batch_bytes_max + 1)

    driver.message("observer-1", encode(BatchBody(b"no batch")))
    driver.message("observer-1", encode(BatchBody(long)))
    driver.message("observer-1", encode(BatchBody(good.raw)))
    await alone.height(1)

    assert driver.core.conduct.counts() == {"observer-1": {"batch_invalid": 2}}
    assert alone.nodes["recorder-1"].reader.batch(good.id) == good.raw


async def test_a_flood_is_held_up_then_dropped_but_not_what_the_core_relies_on(
    alone: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "PEER_CHECKS_MAX", 0)
    node = await alone.make("recorder-1")
    driver = node.driver
    head = encode(Head(0, ANY_HASH))
    for _ in range(arrivals.PEER_MESSAGES_MAX + 3):
        driver.message("observer-1", head)
    driver.gossip("observer-1", encode(BatchesAnnounced((ANY_HASH,))))
    driver.connected("observer-1")
    await driver._ask("recorder-9", BlockWanted(ANY_HASH))
    driver.message("recorder-2", encode(BatchBody(b"")))

    assert node.transport.paused == ["observer-1"]
    assert driver.counters == Counter(messages_dropped=4, peers_paused=1, requests_unanswered=1)
    assert driver.core.conduct.counts() == {"observer-1": {"flood": 4}}
    await driver._turn()
    assert driver.counters["batch_checks_dropped"] == 1
    assert driver.core.conduct.counts()["recorder-2"] == {"flood": 1}
    left = arrivals.PEER_MESSAGES_MAX - arrivals.MESSAGES_PER_SECOND_MAX + 1
    assert driver.arrivals.waiting("observer-1")[0] >= left
    assert node.transport.paused == ["observer-1"]


async def test_a_flood_delays_only_its_own_peer(
    alone: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await alone.make("recorder-1")
    driver = node.driver
    # A turn has its time, which a busy machine may spend on the first message.
    now = module.monotonic_ms()
    monkeypatch.setattr(module, "monotonic_ms", lambda: now)
    head = encode(Head(0, ANY_HASH))
    for _ in range(500):
        driver.message("observer-1", head)
    driver.message("recorder-2", head)
    driver.gossip("recorder-3", encode(HeadAnnounced(0, ANY_HASH)))
    order: list[str] = []
    step = node.core.step

    def note(event: Event, now: int, wall: int) -> list[Effect]:
        if isinstance(event, MessageArrived):
            order.append(event.peer)
        elif isinstance(event, GossipArrived):
            order.append(event.author)
        return step(event, now, wall)

    node.core.step = note  # type: ignore[method-assign]
    await driver._turn()

    assert order[:3] == ["observer-1", "recorder-2", "recorder-3"]


async def test_a_turn_ends_in_time_and_the_next_goes_on(
    alone: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1_000
    node = await alone.make("recorder-1")
    driver = node.driver
    for _ in range(10):
        driver.message("observer-1", encode(Head(0, ANY_HASH)))
    step = node.core.step

    def slow(event: Event, now: int, wall: int) -> list[Effect]:
        nonlocal clock
        clock += 6
        return step(event, now, wall)

    monkeypatch.setattr(module, "monotonic_ms", lambda: clock)
    node.core.step = slow  # type: ignore[method-assign]
    counts = []
    while len(driver.arrivals):
        await driver._turn()
        counts.append(driver.arrivals.waiting("observer-1")[0])

    assert counts == [8, 6, 4, 2, 0]


@pytest.mark.parametrize(
    ("request_", "response"),
    [
        (BlocksWanted(1, 1), encode(BlockFound(None))),
        (BlocksWanted(1, 1), b"\xff"),
        (BlocksWanted(1, 1), None),
        (BlockWanted(ANY_HASH), encode(BlocksFound((), 1))),
        (BatchesWanted((ANY_HASH,)), encode(BatchesFound((b"bad",)))),
        (BatchesWanted((ANY_HASH,)), encode(BatchesFound((b"bad", b"bad")))),
    ],
)
async def test_a_bad_answer_ends_the_request_all_the_same(
    alone: World, request_: Request, response: bytes | None
) -> None:
    node = await alone.make("recorder-1")

    async def answer(peer: str, request: bytes) -> bytes:
        if response is None:
            raise PeerUnreachable
        return response

    node.transport.answers = answer
    await node.driver._ask("observer-1", request_)

    ended = RequestEnded("observer-1", request_, False, invalid=response is not None)
    assert waiting(node.driver) == [ended]
    if response is None:
        assert node.driver.counters == Counter(requests_unanswered=1)
    else:
        assert node.driver.core.conduct.counts() == {"observer-1": {"answer_invalid": 1}}


async def test_good_answers_become_events(alone: World) -> None:
    await alone.start("recorder-1")
    source = alone.nodes["recorder-1"]
    await source.driver.submit([make_transaction(alone.genesis, "recorder-1", 1).raw])
    await alone.height(1)
    decision = source.reader.decision(1)
    assert decision is not None
    (batch_id,) = payload_batches(decision.block.payload)
    node = await alone.make("observer-1")

    for wanted in (
        BatchesWanted((batch_id,)),
        BlockWanted(decision.block.hash),
        BlocksWanted(1, 1),
    ):
        await node.driver._ask("recorder-1", wanted)

    events = waiting(node.driver)
    kinds = [type(event) for event in events]
    ended = RequestEnded
    assert kinds == [BatchArrived, ended, BlockArrived, ended, BlocksArrived, ended]
    for event in events:
        node.driver._post(event)
    await node.run()
    await alone.height(1)


async def test_the_transport_follows_the_ledger_s_members(alone: World) -> None:
    node = await alone.make("recorder-1")
    joining = alone.genesis.institutions[-1]

    await node.driver._perform([Admit((joining,))])

    assert node.transport.members == (Member(joining.id, joining.key, joining.address),)


# ---- local clients -------------------------------------------------------------------------------


async def test_what_was_accepted_has_room_and_what_has_none_is_refused(alone: World) -> None:
    first, second, third = (make_transaction(alone.genesis, "recorder-1", n) for n in range(3))
    size = len(first.raw)
    assert len(second.raw) == size
    limits = MempoolLimits(waiting_transactions_max=10, waiting_bytes_max=2 * size)
    node = await alone.make("recorder-1", CoreSettings(mempool=limits))

    one = await node.driver.submit([b"nothing", first.raw])
    two = await node.driver.submit([second.raw, third.raw])

    assert [outcome.id for outcome in one + two] == [None, first.id, second.id, third.id]
    refused = [outcome.refused for outcome in one + two]
    assert refused[0] is not None
    assert refused[1:3] == [None, None]
    assert refused[3] is not None
    assert "again" in refused[3]
    await node.run()
    # What comes first waits for nothing.
    await alone.height(2)
    assert node.core.counters["submission_dropped"] == 0
    assert [o.refused for o in await node.driver.submit([third.raw])] == [None]
    await alone.height(3)
    for transaction in (first, second, third):
        assert node.reader.transaction_position(transaction.id) is not None


async def test_transactions_of_parallel_calls_share_the_room(alone: World) -> None:
    limits = MempoolLimits(waiting_transactions_max=3)
    node = await alone.make("recorder-1", CoreSettings(mempool=limits))
    raws = [make_transaction(alone.genesis, "recorder-1", n).raw for n in range(8)]

    answers = await asyncio.gather(*(node.driver.submit(raws[n : n + 2]) for n in range(0, 8, 2)))

    accepted = [o for outcomes in answers for o in outcomes if o.refused is None]
    assert len(accepted) == 3
    await node.run()
    await alone.height(1)
    assert node.core.counters["submission_dropped"] == 0


async def test_waiting_for_a_height_that_is_there_already(alone: World) -> None:
    node = await alone.make("recorder-1")
    assert await node.driver.applied(-1) == 0
    waiting = asyncio.create_task(node.driver.applied(0))
    gone = asyncio.create_task(node.driver.applied(0))
    await node.run()
    gone.cancel()
    await node.driver.submit([make_transaction(alone.genesis, "recorder-1", 1).raw])
    async with asyncio.timeout(20):
        assert await waiting == 1
