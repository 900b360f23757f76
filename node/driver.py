"""The shell around the core: it brings events in, and performs effects in order, durable before
sent.

One task turns. A turn steps the core with all events that wait, commits every write of their
effects in one transaction, and only then sends, asks and tells. While a turn commits, new events
gather: the busier the node, the more events share one fsync. Signatures are checked on a thread
before a batch becomes an event, since PyNaCl lets go of the interpreter lock while it calculates.

What a peer can make grow here is bounded: messages that wait for a turn (EVENTS_MAX) and batches of
one peer being checked (PEER_CHECKS_MAX); whatever exceeds a bound is dropped and counted, and the
core's own repair brings it back. Peers take turns on the threads, so that none can occupy them.
What the core relies on, such as the end of a request, is never dropped.

A peer's fault is counted and logged, at most once a second of each kind. Anything else that goes
wrong, here or in a task, ends `run` with its exception: the node stops rather than go on without a
part of itself.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from ledger.store import Write, WriteBlock
from ledger.transactions import BatchError, CheckedTransaction, TransactionError
from node.core import Core
from node.events import (
    Applied,
    BatchArrived,
    BlockArrived,
    BlocksArrived,
    BlockStored,
    Effect,
    Event,
    Expired,
    GossipArrived,
    MessageArrived,
    PeerConnected,
    PeerDisconnected,
    Publish,
    Report,
    RequestEnded,
    SendMessage,
    SendRequest,
    Submitted,
)
from node.intake import (
    IntakeError,
    Rules,
    check_batches_found,
    check_blocks_found,
    check_raw_batch,
    check_submission,
)
from node.methods.backend import SubmitOutcome
from node.transport import PeerUnreachable, Transport
from node.wire import (
    BatchBody,
    BatchesFound,
    BatchesWanted,
    BlockFound,
    BlocksFound,
    BlocksWanted,
    BlockWanted,
    Request,
    decode_gossip,
    decode_message,
    decode_request,
    decode_response,
)
from primitives.codec import CodecError, encode
from storage.database import Database, StorageError
from storage.reader import SqliteReader

log = structlog.get_logger()
Result = TypeVar("Result")

EVENTS_MAX = 20_000
"""Events that may wait for a turn."""
PEER_CHECKS_MAX = 64
"""Batches of one peer that may wait for their signatures to be checked."""
CHECK_THREADS = 2
WARN_MS = 1_000
"""One peer's faults of one kind are logged at most this often."""
REQUEST_TIMEOUT_MS = 5_000


def monotonic_ms() -> int:
    """Milliseconds of the clock that never jumps."""
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    """Milliseconds since the Unix epoch, as this machine has it."""
    return time.time_ns() // 1_000_000


class Driver:
    """Drives one core over a transport and a database; also what the RPC submits through."""

    def __init__(
        self, core: Core, database: Database, reader: SqliteReader, transport: Transport
    ) -> None:
        self.core = core
        self.counters: Counter[str] = Counter()
        self._database = database
        self._reader = reader
        self._transport = transport
        self._events: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._threads = ThreadPoolExecutor(CHECK_THREADS, "check")
        self._checking: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._warned: dict[tuple[str, str], int] = {}
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._submitted = 0
        self._submitted_bytes = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._rules = self._current_rules()

    # ---- the turn --------------------------------------------------------------------------------

    async def run(self, effects: Sequence[Effect]) -> None:
        """Perform the core's first effects, then turn until cancelled. Raises StorageError, and
        whatever else ends the node.
        """
        await self._perform(effects)
        while True:
            await self._sleep_until_due()
            await self._turn()

    def close(self) -> None:
        """Stop checking; whatever has not been committed is as if it had never come."""
        for task in tuple(self._tasks):
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _sleep_until_due(self) -> None:
        delay_ms = self.core.deadline - monotonic_ms()
        if delay_ms <= 0:
            # Let messages in between two turns, however busy the core's own deadlines are.
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(delay_ms / 1000):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _turn(self) -> None:
        self._wake.clear()
        if self._failure is not None:
            raise self._failure
        effects: list[Effect] = []
        now, wall = monotonic_ms(), wall_ms()
        while self._events and self.core.chain.writing is None:
            event = self._events.popleft()
            if isinstance(event, Submitted):
                self._submitted -= len(event.transactions)
                self._submitted_bytes -= sum(len(t.raw) for t in event.transactions)
            effects += self.core.step(event, now, wall)
        if self.core.chain.writing is None and self.core.deadline <= now:
            effects += self.core.step(Expired(), now, wall)
        await self._perform(effects)
        if self._events:
            self._wake.set()

    async def _perform(self, effects: Sequence[Effect]) -> None:
        while effects:
            writes = [effect for effect in effects if isinstance(effect, Write)]
            if writes:
                await self._database.write(writes)
                self._reader.written(writes)
            encoded: dict[int, bytes] = {}
            for effect in effects:
                self._perform_one(effect, encoded)
            stored = any(isinstance(write, WriteBlock) for write in writes)
            effects = self.core.step(BlockStored(), monotonic_ms(), wall_ms()) if stored else ()

    def _perform_one(self, effect: Effect, encoded: dict[int, bytes]) -> None:
        match effect:
            case SendMessage(peer, message):
                # A broadcast is one message object for all peers: encode it once.
                raw = encoded.setdefault(id(message), b"") or encode(message)
                encoded[id(message)] = raw
                self._transport.send(peer, raw)
            case Publish(gossip):
                self._transport.publish(encode(gossip))
            case SendRequest(peer, request):
                self._spawn(self._ask(peer, request))
            case Applied():
                self._rules = self._current_rules()
                waiters, self._waiters = self._waiters, set()
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)
            case Report(event, facts):
                log.warning(event, **dict(facts))
            case _:
                pass

    def _current_rules(self) -> Rules:
        keys = {member.id: member.key for member in self.core.members.values()}
        return Rules(self.core.genesis.chain_id, self.core.genesis.limits, keys)

    def _post(self, event: Event) -> None:
        self._events.append(event)
        self._wake.set()

    def _post_message(self, event: Event) -> None:
        if len(self._events) >= EVENTS_MAX:
            self.counters["events_dropped"] += 1
        else:
            self._post(event)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._wake.set()

    async def _off_loop(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    # ---- the transport's handler -----------------------------------------------------------------

    def connected(self, peer: str) -> None:
        """A member can be reached."""
        log.info("peer_connected", peer=peer)
        self._post(PeerConnected(peer))

    def disconnected(self, peer: str) -> None:
        """A member can no longer be reached."""
        log.info("peer_disconnected", peer=peer)
        self._post(PeerDisconnected(peer))

    def message(self, peer: str, message: bytes) -> None:
        """A direct message."""
        try:
            decoded = decode_message(message)
        except CodecError:
            self._warn("malformed_message", peer)
            return
        if not isinstance(decoded, BatchBody):
            self._post_message(MessageArrived(peer, decoded))
        elif len(decoded.raw) > self._rules.limits.batch_bytes_max:
            self._warn("batch_invalid", peer, reason="It is longer than this ledger allows.")
        elif self._checking[peer] >= PEER_CHECKS_MAX:
            self.counters["batch_checks_dropped"] += 1
        else:
            self._checking[peer] += 1
            self._spawn(self._check_batch(peer, decoded.raw))

    def gossip(self, author: str, message: bytes) -> None:
        """An announcement."""
        try:
            self._post_message(GossipArrived(author, decode_gossip(message)))
        except CodecError:
            self._warn("malformed_gossip", author)

    async def request(self, peer: str, request: bytes) -> bytes:
        """Answer a peer from memory and the store."""
        try:
            return encode(self.core.answer(decode_request(request)))
        except CodecError:
            self._warn("malformed_request", peer)
            raise
        except StorageError as error:
            self._fail(error)
            raise

    def _warn(self, event: str, peer: str, **facts: str) -> None:
        """A peer is at fault."""
        self.counters[event] += 1
        now = monotonic_ms()
        if self._warned.get((event, peer), now) <= now:
            self._warned[event, peer] = now + WARN_MS
            log.warning(event, peer=peer, **facts)

    async def _check_batch(self, peer: str, raw: bytes) -> None:
        rules, known = self._rules, self.core.mempool.get
        try:
            batch = await self._check(peer, lambda: check_raw_batch(raw, rules, known))
        except BatchError as error:
            self._warn("batch_invalid", peer, reason=str(error))
            return
        finally:
            self._checking[peer] -= 1
        self._post(BatchArrived(peer, batch))

    async def _check(self, peer: str, function: Callable[[], Result]) -> Result:
        """Check off the loop what a peer sent, at most CHECK_THREADS of one peer at a time."""
        async with self._turns.setdefault(peer, asyncio.Semaphore(CHECK_THREADS)):
            return await self._off_loop(function)

    # ---- asking peers ----------------------------------------------------------------------------

    async def _ask(self, peer: str, request: Request) -> None:
        answered = False
        try:
            raw = await self._transport.request(peer, encode(request), REQUEST_TIMEOUT_MS)
            await self._take_answer(peer, request, raw)
            answered = True
        except PeerUnreachable:
            self.counters["requests_unanswered"] += 1
        except (CodecError, IntakeError) as error:
            self._warn("answer_invalid", peer, reason=str(error))
        finally:
            self._post(RequestEnded(peer, request, answered))

    async def _take_answer(self, peer: str, request: Request, raw: bytes) -> None:
        response = decode_response(raw)
        rules, known = self._rules, self.core.mempool.get
        match request, response:
            case BatchesWanted(), BatchesFound():
                for batch in await self._check(
                    peer, lambda: check_batches_found(request, response, rules, known)
                ):
                    self._post(BatchArrived(peer, batch))
            case BlockWanted(), BlockFound():
                self._post(BlockArrived(peer, response))
            case BlocksWanted(), BlocksFound():
                blocks = await self._check(
                    peer, lambda: check_blocks_found(request, response, known, rules)
                )
                self._post(BlocksArrived(peer, blocks, response.head_height))
            case _:
                raise IntakeError("the answer is of another kind than the question")

    # ---- local clients ---------------------------------------------------------------------------

    async def submit(self, raws: Sequence[bytes]) -> list[SubmitOutcome]:
        """Check clients' transactions off the loop and take those that are good."""
        rules, height, wall = self._rules, self.core.head.height, wall_ms()

        def check() -> list[CheckedTransaction | str]:
            return [_checked(raw, rules, height, wall) for raw in raws]

        results = await self._off_loop(check)
        outcomes: list[SubmitOutcome] = []
        taken: list[CheckedTransaction] = []
        count, size = self._submitted, self._submitted_bytes
        for result in results:
            if isinstance(result, str):
                outcomes.append(SubmitOutcome(None, result))
            elif not self.core.mempool.has_room(count + 1, size + len(result.raw)):
                outcomes.append(
                    SubmitOutcome(result.id, "The node's queue is full; submit again in a second.")
                )
            else:
                taken.append(result)
                count, size = count + 1, size + len(result.raw)
                outcomes.append(SubmitOutcome(result.id))
        if taken:
            self._submitted, self._submitted_bytes = count, size
            self._post(Submitted(tuple(taken)))
        return outcomes

    async def applied(self, above: int) -> int:
        """Wait until the head is higher than `above`; its height."""
        while self.core.head.height <= above:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self.core.head.height


def _checked(raw: bytes, rules: Rules, height: int, wall: int) -> CheckedTransaction | str:
    try:
        return check_submission(raw, rules, height, wall)
    except TransactionError as error:
        return str(error)
