"""The shell around the core: it brings events in, and performs effects in order, durable before
sent.

One task turns. A turn steps the core with events that wait, commits every write of their effects
in one transaction, and only then sends, asks and tells. While a turn commits, new events gather:
the busier the node, the more events share one fsync. A turn takes at most TURN_MS, so that clients
are answered however much there is to do.

Peers take turns within a turn, one message each; who sends much has to wait (arrivals.py). What the
core relies on, such as the end of a request, is never dropped. Signatures of batches are checked on
threads (checks.py).

A peer's fault is noted in the core's conduct.py, which tells the operator once. Anything else that
goes wrong, here or in a task, ends `run` with its exception: the node stops rather than go on
without a part of itself.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence

import structlog

from consensus.messages import Decision
from ledger.store import Write, WriteBlock
from ledger.transactions import BatchError, CheckedTransaction, TransactionError
from node.admission import admitted_members, check_own_key
from node.arrivals import HELD_MS, OURS, Announcement, Arrivals, Direct
from node.checks import Checks
from node.core import Core
from node.events import (
    Admit,
    Applied,
    BatchArrived,
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
    Report,
    RequestEnded,
    SendMessage,
    SendRequest,
    Submitted,
)
from node.intake import (
    IntakeError,
    Rules,
    answer_events,
    check_raw_batch,
    check_submissions,
    reason_of,
    verified_commits,
)
from node.link_log import LinkLog
from node.methods.backend import AppliedBlock, SubmitOutcome
from node.transport import Fault, Member, PeerUnreachable, Transport
from node.wire import (
    BatchBody,
    Decided,
    Request,
    decode_gossip,
    decode_message,
    decode_request,
)
from primitives.codec import CodecError, encode
from primitives.institution import Institution
from storage.database import Database, StorageError
from storage.reader import SqliteReader

log = structlog.get_logger()

TURN_MS = 10
REQUEST_TIMEOUT_MS = 5_000
RECENT_BLOCKS = 4
"""Whose receipts are kept in memory; whoever waits and lags behind further reads the disk."""


def monotonic_ms() -> int:
    """Milliseconds of the clock that never jumps."""
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    """Milliseconds since the Unix epoch, as this machine has it."""
    return time.time_ns() // 1_000_000


class Driver:
    """Drives one core over a transport and a database; also what the RPC submits through."""

    def __init__(
        self,
        core: Core,
        database: Database,
        reader: SqliteReader,
        transport: Transport,
        bootstrap: Sequence[Member] = (),
    ) -> None:
        self.core = core
        self._bootstrap = bootstrap
        self._listed = self._listed_key()
        self.counters: Counter[str] = Counter()
        self._database = database
        self._reader = reader
        self._transport = transport
        self.arrivals = Arrivals(transport, core.conduct, self.counters)
        self._wake = asyncio.Event()
        self._checks = Checks()
        self._links = LinkLog()
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._submitted = 0
        self._submitted_bytes = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._rules = self._current_rules()
        self.recent: dict[int, AppliedBlock] = {}
        """The last blocks by height, for those who wait for their transactions."""

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
        self._checks.close()

    def process_ids(self) -> Sequence[int]:
        """The processes of the checks."""
        return tuple(self._checks.process_ids)

    async def _sleep_until_due(self) -> None:
        delay_ms = self.core.deadline - monotonic_ms()
        if len(self.arrivals):
            delay_ms = min(delay_ms, HELD_MS)
        if delay_ms <= 0 or self._wake.is_set():
            # Let everything else have its turn, however much there is to do here.
            await asyncio.sleep(0)
            return
        alarm = asyncio.get_running_loop().call_later(delay_ms / 1000, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            alarm.cancel()

    async def _turn(self) -> None:
        self._wake.clear()
        if self._failure is not None:
            raise self._failure
        effects: list[Effect] = []
        now, wall = monotonic_ms(), wall_ms()
        with self._reader.steady():
            while self.core.chain.writing is None:
                found = self.arrivals.next(now)
                if found is None:
                    break
                event = self._event(*found)
                if event is not None:
                    effects += self.core.step(event, now, wall)
                if monotonic_ms() >= now + TURN_MS:
                    self._wake.set()
                    break
            if self.core.chain.writing is None and self.core.deadline <= now:
                effects += self.core.step(Expired(), now, wall)
        await self._perform(effects)
        self.arrivals.resume_reading()

    def _event(self, source: str, item: Event | Direct | Announcement) -> Event | None:
        """The event that an item is or stands for; None if the core is to see nothing of it now."""
        match item:
            case Direct(raw):
                return self._read_message(source, raw)
            case Announcement(raw):
                try:
                    return GossipArrived(source, decode_gossip(raw))
                except CodecError as error:
                    self.core.conduct.note(source, "malformed", str(error))
                    return None
            case Submitted(transactions):
                self._submitted -= len(transactions)
                self._submitted_bytes -= sum(len(t.raw) for t in transactions)
                return item
            case _:
                return item

    def _read_message(self, peer: str, raw: bytes) -> Event | None:
        try:
            decoded = decode_message(raw)
        except CodecError as error:
            self.core.conduct.note(peer, "malformed", str(error))
            return None
        match decoded:
            case Decided(decision) if self.core.following.wants(decision.block.header.height):
                self._check(peer, len(raw), self._check_decision(peer, decision))
            case Decided():
                return MessageArrived(peer, decoded.head)
            case BatchBody(batch) if len(batch) > self._rules.limits.batch_bytes_max:
                detail = "It is longer than this ledger allows."
                self.core.conduct.note(peer, "batch_invalid", detail)
            case BatchBody(batch) if self.core.votes or self.core.following.is_near:
                self._check(peer, len(batch), self._check_batch(peer, batch))
            case BatchBody():
                self.counters["batches_unread"] += 1
            case _:
                return MessageArrived(peer, decoded)
        return None

    def _check(self, peer: str, size_bytes: int, check: Callable[[], Event]) -> None:
        """Check what a peer sent on a thread, when it is its turn."""
        if self._checks.admit(peer, size_bytes):
            self._spawn(self._run_check(peer, size_bytes, check))
        else:
            self.counters["batch_checks_dropped"] += 1
            self.core.conduct.note(peer, "flood", "more batches than are checked in good time")

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
            with self._reader.steady():
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
            case Applied(header, written):
                self._rules = self._current_rules()
                self.recent[header.height] = AppliedBlock(written.receipts, written.executed)
                self.recent.pop(header.height - RECENT_BLOCKS, None)
                waiters, self._waiters = self._waiters, set()
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)
            case Admit(institutions):
                self._admit(institutions)
            case Report(event, facts):
                log.warning(event, **dict(facts))
            case _:
                pass

    def _admit(self, institutions: Sequence[Institution]) -> None:
        if self._listed is not None:
            check_own_key(institutions, self.core.id, self._listed)
        self._listed = self._listed_key()
        self._transport.set_members(admitted_members(institutions, self._bootstrap, self._reader))

    def _listed_key(self) -> bytes | None:
        """The key that the ledger lists for this node."""
        member = self.core.members.get(self.core.id)
        return None if member is None else member.key

    def _current_rules(self) -> Rules:
        keys = {member.id: member.key for member in self.core.members.values()}
        genesis = self.core.genesis
        return Rules(genesis.chain_id, genesis.limits, keys, self._checks.verify_each)

    def _post(self, event: Event, source: str = OURS) -> None:
        self.arrivals.post(event, source)
        self._wake.set()

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

    # ---- the transport's handler -----------------------------------------------------------------

    def connected(self, peer: str) -> None:
        """A member can be reached."""
        self._links.tell("peer_connected", peer, monotonic_ms())
        self.arrivals.read_afresh(peer)
        self._post(PeerConnected(peer), peer)

    def disconnected(self, peer: str) -> None:
        """A member can no longer be reached."""
        self._links.tell("peer_disconnected", peer, monotonic_ms())
        self._post(PeerDisconnected(peer), peer)

    def message(self, peer: str, message: bytes) -> None:
        """A direct message."""
        self.arrivals.take_in(peer, Direct(message))
        self._wake.set()

    def gossip(self, author: str, message: bytes) -> None:
        """An announcement."""
        self.arrivals.take_in(author, Announcement(message))
        self._wake.set()

    def at_fault(self, peer: str, fault: Fault, detail: str) -> None:
        """A member broke the rules of the transport."""
        self.core.conduct.note(peer, fault, detail)

    async def request(self, peer: str, request: bytes) -> bytes:
        """Answer a peer from memory and the store."""
        try:
            return encode(self.core.answer(decode_request(request)))
        except CodecError as error:
            self.core.conduct.note(peer, "malformed", str(error))
            raise
        except StorageError as error:
            self._fail(error)
            raise

    async def _run_check(self, peer: str, size_bytes: int, check: Callable[[], Event]) -> None:
        try:
            event = await self._checks.run_for(peer, check)
        except BatchError as error:
            self.core.conduct.note(peer, "batch_invalid", str(error))
            return
        finally:
            self._checks.leave(peer, size_bytes)
        self._post(event)

    def _check_batch(self, peer: str, raw: bytes) -> Callable[[], Event]:
        rules, known, votes = self._rules, self.core.following.known, self.core.votes
        return lambda: BatchArrived(
            peer, check_raw_batch(raw, rules, known, signatures=votes), votes
        )

    def _check_decision(self, peer: str, decision: Decision) -> Callable[[], Event]:
        rules = self._rules
        return lambda: DecisionArrived(peer, decision, verified_commits(decision, rules))

    # ---- asking peers ----------------------------------------------------------------------------

    async def _ask(self, peer: str, request: Request) -> None:
        answered = invalid = False
        try:
            raw = await self._transport.request(peer, encode(request), REQUEST_TIMEOUT_MS)
            rules, known, votes = self._rules, self.core.following.known, self.core.votes
            for event in await self._checks.run_for(
                peer, lambda: answer_events(peer, request, raw, rules, known, votes=votes)
            ):
                self._post(event)
            answered = True
        except PeerUnreachable:
            self.counters["requests_unanswered"] += 1
        except (CodecError, IntakeError, BatchError) as error:
            invalid = True
            self.core.conduct.note(peer, reason_of(error), str(error))
        finally:
            self._post(RequestEnded(peer, request, answered, invalid))

    # ---- local clients ---------------------------------------------------------------------------

    async def submit(self, raws: Sequence[bytes]) -> list[SubmitOutcome]:
        """Check clients' transactions off the loop and take those that are good."""
        rules, height, wall = self._rules, self.core.head.height, wall_ms()
        results = await self._checks.run(lambda: check_submissions(raws, rules, height, wall))
        outcomes: list[SubmitOutcome] = []
        taken: list[CheckedTransaction] = []
        count, size = self._submitted, self._submitted_bytes
        for result in results:
            if isinstance(result, TransactionError):
                outcomes.append(SubmitOutcome(None, str(result)))
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
