"""One simulated node: the second shell around the core, doing in virtual time what node/driver.py
does with sockets and SQLite.

A turn steps the core with all events that wait, writes, and then performs the effects in their
order. The disk takes its time, and the process may die between any two effects: before the write is
durable, after it but before anything is sent, or between two sends.
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Sequence

from ledger.execution import restore_window
from ledger.genesis import genesis_state
from ledger.state import StateError
from ledger.store import Write, WriteBlock, WriteGenesis, WritePromise
from ledger.transactions import BatchError, TransactionError
from node.core import Core
from node.events import (
    Applied,
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
from node.intake import IntakeError, Rules, answer_events, check_submissions, reason_of
from node.settings import CoreSettings
from node.wire import Consensus, Message, Request, decode_gossip, decode_request
from primitives.codec import CodecError, encode
from primitives.keys import PrivateKey
from simulations.byzantine import Behaviour
from simulations.dying import Died, Doom, moments_after, moments_before
from simulations.faults import Moment
from simulations.scenario import GENESIS_MS
from simulations.store import MemoryStore
from simulations.story import name_of, steps_of
from simulations.trace import Detail
from simulations.world import DRAFT_WORK_MIN, Backup, Spinning, World

CHECK_MS_MAX = 3
"""The longest that the signatures of a batch take to be checked beside the loop."""
PAUSE_STEP_MS = 20
TURNS_PER_MS_MAX = 200
"""More turns of one node in one millisecond mean that it spins."""


class Host:
    """A node's machine: process, disk, clock. `behaviour` is None for a correct member."""

    def __init__(
        self,
        name: str,
        id: str,
        key: PrivateKey,
        world: World,
        chance: random.Random,
        behaviour: Behaviour | None,
    ) -> None:
        self.name = name
        self.id = id
        self.key = key
        self.world = world
        self.behaviour = behaviour
        self.chance = chance
        self.store = MemoryStore()
        self.core: Core | None = None
        self.life = 0
        self.skew_ms = 0
        self.paused = False
        self.shown = name
        """Its name in the story."""
        self.doom: Doom | None = None
        """When the process is to die, if that is planned."""
        self.turned_wall = 0
        """The wall clock at the turn whose effects are being performed."""
        self.counters: Counter[str] = Counter()
        self._promises = 0
        self._forgot = False
        self._offset_ms = 0
        self._events: deque[Event] = deque()
        self._performing = False
        self._turn_at: int | None = None
        self._turns_now = 0
        self._turned_at = 0
        self._deadline_ms: int | None = None
        """The core's deadline since its last step; None: not asked for yet."""
        self._encoded: tuple[Message | None, bytes] = (None, b"")
        """The message sent last, which goes to many, and its bytes."""
        self._lied: Message | None = None
        self._view_told = 0
        self.store.write([WriteGenesis(*genesis_state(world.genesis))])

    # ---- the machine -----------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        """Whether the process runs."""
        return self.core is not None

    @property
    def running(self) -> Core:
        """The core; the process must be up."""
        if self.core is None:
            raise RuntimeError(f"{self.name} is down")
        return self.core

    @property
    def now(self) -> int:
        """This machine's monotonic clock, which starts anywhere with each boot."""
        return self.world.schedule.now + self._offset_ms

    @property
    def wall(self) -> int:
        """This machine's wall clock."""
        return GENESIS_MS + self.world.schedule.now + self.skew_ms

    def start(self) -> None:
        """Boot: what the disk holds is all that the process knows."""
        world, store = self.world, self.store
        self.life += 1
        self._offset_ms = self.chance.randint(0, 10_000_000)
        self._events.clear()
        self._performing = False
        self._turn_at = None
        self._deadline_ms = None
        self.core = Core(
            world.genesis,
            self.id,
            self.key,
            store,
            CoreSettings(stubborn=self.shown != self.name, draft_work_min=DRAFT_WORK_MIN),
            restore_window(store, world.genesis),
            boots=self.life,
            restored=self._forgot,
            now=self.now,
        )
        self._read_rules()
        pending = world.checks.check_kept(store.pending_batches(), self.rules)
        self._view_told = 0
        self.tell("starts", f"at height {self.core.head.height}")
        self.turned_wall = self.wall
        effects = self.core.start(pending, self.now, self.wall)
        world.network.started(self)
        self._alive(lambda: self._perform(effects))

    def stop(self) -> None:
        """Die: memory is gone, the disk stays."""
        if self.core is not None:
            self.tell("dies")
            self.counters += self.core.counters
            self.core = None
            self.doom = None
            self.world.network.stopped(self)

    def backup(self) -> Backup:
        """Copy the disk."""
        return Backup(self.store.copy(), self.life, self._promises)

    def restore(self, backup: Backup) -> None:
        """Put a backup in place of the disk; the boot counter outside tells what is missing."""
        self.store = backup.store.copy()
        forgets = (backup.boots, backup.promises) != (self.life, self._promises)
        self._forgot = self._forgot or forgets
        self.tell("is restored from a backup")

    def die_at(self, moment: Moment | None, survived: int) -> None:
        """Die at the next such moment but so many; None stands for any effect."""
        if self.up:
            self.doom = Doom(moment, survived)

    def tell(self, what: str, *details: Detail) -> None:
        """Add a line to the story of the run."""
        self.world.trace.tell(self.world.schedule.now, self.shown, what, *details)

    def turn_clock(self, by_ms: int) -> None:
        """Set the wall clock forward or back."""
        self.skew_ms += by_ms

    def pause(self) -> None:
        """Do nothing for a while; what arrives waits."""
        self.paused = True

    def resume(self) -> None:
        """Go on after a pause."""
        self.paused = False
        if self.up:
            self._plan()

    # ---- the turn --------------------------------------------------------------------------------

    def _post(self, event: Event) -> None:
        self._events.append(event)
        self._plan()

    def _plan(self) -> None:
        """Turn when an event waits or the deadline comes."""
        if self._performing or self.paused:
            return
        schedule = self.world.schedule
        time = schedule.now
        if not self._events:
            time = max(time, self._deadline - self._offset_ms)
        if self._turn_at is not None and self._turn_at <= time:
            return
        self._turn_at = time
        life = self.life

        def turn() -> None:
            if self.up and self.life == life and self._turn_at == time:
                self._turn_at = None
                if not self.paused and not self._performing:
                    self._alive(self._turn)

        schedule.at(time, turn)

    @property
    def _deadline(self) -> int:
        if self._deadline_ms is None:
            self._deadline_ms = self.running.deadline
        return self._deadline_ms

    def _step(self, event: Event) -> list[Effect]:
        self._deadline_ms = None
        self.turned_wall = self.wall
        return self.running.step(event, self.now, self.wall)

    def _turn(self) -> None:
        self._count_turn()
        chain = self.running.chain
        effects: list[Effect] = []
        while self._events and chain.writing is None:
            effects += self._step(self._events.popleft())
        if chain.writing is None and self._deadline <= self.now:
            effects += self._step(Expired())
        view = self.running.view
        if view != self._view_told:
            self._view_told = view
            if view > 0:
                self.tell("enters", f"height {chain.next_height} view {view}")
        self._perform(effects)

    def _count_turn(self) -> None:
        now = self.world.schedule.now
        if now != self._turned_at:
            self._turned_at, self._turns_now = now, 0
        self._turns_now += 1
        if self._turns_now > TURNS_PER_MS_MAX:
            raise Spinning(f"{self.name} turns without end at {now} ms")

    def _perform(self, effects: Sequence[Effect]) -> None:
        """Commit what is to be written, then do the rest."""
        writes = [effect for effect in effects if isinstance(effect, Write)]
        if not writes:
            self._finish(effects, writes)
            return
        self._performing = True
        life = self.life

        def committed() -> None:
            if self.paused:
                self.world.schedule.after(PAUSE_STEP_MS, committed)
            elif self.up and self.life == life:
                self._alive(lambda: self._finish(effects, writes))

        delay = self.chance.randint(0, self.world.disk_ms_max)
        self.world.schedule.after(delay, committed)

    def _finish(self, effects: Sequence[Effect], writes: Sequence[Write]) -> None:
        self._performing = False
        if writes:
            self._reach(None, *moments_before(writes))
            self.store.write(writes)
            for write in writes:
                for what, details in steps_of(write):
                    self.tell(what, *details)
            promises = sum(isinstance(write, WritePromise) for write in writes)
            self._promises += promises
            self._forgot = self._forgot and promises == 0
            if self.behaviour is None:
                self.world.witness.wrote(self, writes)
            self._reach(*moments_after(writes))
        for effect in effects:
            self._reach(None)
            self._perform_one(effect)
        if any(isinstance(write, WriteBlock) for write in writes):
            self._reach(None)
            self._perform(self._step(BlockStored()))
        else:
            self._plan()

    def _reach(self, *moments: Moment | None) -> None:
        if self.doom is not None:
            for moment in moments:
                self.doom.reach(moment)

    def _alive(self, action: Callable[[], None]) -> None:
        """Do what a process does, unless it dies over it; a liar may over what others decided."""
        try:
            action()
        except (Died, StateError) as error:
            if self.behaviour is None and isinstance(error, StateError):
                raise
            self.stop()

    def _perform_one(self, effect: Effect) -> None:
        world = self.world
        match effect:
            case SendMessage(peer, Consensus() as message):
                self._reach("before a vote is sent")
                self._send(peer, message)
                self._reach("after a vote is sent")
            case SendMessage(peer, message):
                self._send(peer, message)
            case Publish(gossip):
                world.network.publish(self, encode(gossip))
            case SendRequest(peer, request):
                self._ask(peer, request)
            case Applied(header):
                self._read_rules()
                self.tell("applies", f"height {header.height}", header.hash())
                if self.behaviour is None:
                    world.witness.applied(self, effect)
            case Report(event, facts):
                self.tell(event, *(f"{name}={value}" for name, value in facts))
                if self.behaviour is None:
                    world.witness.reported(self, effect)
            case _:
                pass

    def _send(self, peer: str, message: Message) -> None:
        if self.behaviour is None:
            self.world.witness.sends(self, message)
            if self._encoded[0] is not message:
                self._encoded = message, encode(message)
            raws = [self._encoded[1]]
        else:
            raws = self.behaviour.outgoing(self, peer, message)
            if self._lied is not message and raws != [encode(message)]:
                self._lied = message
                self.tell("lies", f"to {peer} about {name_of(message)}")
        for raw in raws:
            self.world.network.send(self, peer, raw)

    def _read_rules(self) -> None:
        genesis, members = self.world.genesis, self.running.members.values()
        keys = {member.id: member.key for member in members}
        self.rules = Rules(genesis.chain_id, genesis.limits, keys)

    # ---- the network's endpoint ------------------------------------------------------------------

    def connected(self, peer: str) -> None:
        """A member can be reached."""
        self._post(PeerConnected(peer))

    def disconnected(self, peer: str) -> None:
        """A member can no longer be reached."""
        self._post(PeerDisconnected(peer))

    def message(self, peer: str, raw: bytes) -> None:
        """A direct message."""
        try:
            message = self.world.checks.message(raw)
        except CodecError as error:
            self.running.conduct.note(peer, "malformed", str(error))
            return
        self.world.trace.note(self.world.schedule.now, self.name, "hears", peer, raw)
        if self.behaviour is not None and not self.behaviour.incoming(self, peer, message):
            return
        try:
            event = self.world.checks.event(peer, message, self.running, self.rules)
        except BatchError as error:
            self.running.conduct.note(peer, "batch_invalid", str(error))
            return
        if isinstance(event, MessageArrived):
            self._post(event)
        elif event is not None:
            self._post_checked(event)

    def gossip(self, author: str, raw: bytes) -> None:
        """An announcement."""
        try:
            self._post(GossipArrived(author, decode_gossip(raw)))
        except CodecError as error:
            self.running.conduct.note(author, "malformed", str(error))

    def request(self, peer: str, raw: bytes) -> bytes | None:
        """Answer a peer from memory and the disk."""
        if self.paused:
            return None
        try:
            request = decode_request(raw)
        except CodecError as error:
            self.running.conduct.note(peer, "malformed", str(error))
            return None
        response = self.running.answer(request)
        if self.behaviour is not None:
            return self.behaviour.answer(self, request, response)
        return encode(response)

    def _post_checked(self, event: Event) -> None:
        def checked(life: int = self.life) -> None:
            if self.up and self.life == life:
                self._post(event)

        self.world.schedule.after(self.chance.randint(0, CHECK_MS_MAX), checked)

    # ---- asking peers ----------------------------------------------------------------------------

    def _ask(self, peer: str, request: Request) -> None:
        def take(raw: bytes | None) -> None:
            answered = invalid = False
            try:
                if raw is not None:
                    known, votes = self.world.checks.known, self.running.votes
                    for event in answer_events(peer, request, raw, self.rules, known, votes=votes):
                        self._post(event)
                        if isinstance(event, BlocksArrived) and event.blocks:
                            self.tell("syncs", f"{len(event.blocks)} blocks of {peer}")
                    answered = True
            except (CodecError, IntakeError, BatchError) as error:
                invalid = True
                self.running.conduct.note(peer, reason_of(error), str(error))
            self._post(RequestEnded(peer, request, answered, invalid))

        self.world.network.ask(self, peer, encode(request), take)

    # ---- local clients ---------------------------------------------------------------------------

    def submit(self, raw: bytes) -> bytes | None:
        """Take a client's transaction; its id, or None if it is refused."""
        core = self.running
        (transaction,) = check_submissions([raw], self.rules, core.head.height, self.wall)
        if isinstance(transaction, TransactionError):
            self.counters["submission_refused"] += 1
            return None
        if core.mempool.has_room(1, len(raw)):
            self._post(Submitted((transaction,)))
        return transaction.id
