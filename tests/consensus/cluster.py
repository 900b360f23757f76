"""Replicas wired together in virtual time under a seeded scheduler: the worst that networks, disks
and f Byzantine voters may do, with the promises of every honest voter checked on the way.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from consensus.committee import Committee, faulty_max
from consensus.events import (
    Broadcast,
    Connected,
    Disconnected,
    Effect,
    Event,
    Expired,
    Fetch,
    Fetched,
    Persist,
    Received,
    Send,
)
from consensus.messages import (
    Commit,
    Decision,
    Phase,
    PrePrepare,
    Signed,
    ViewChange,
    claim_of,
    phase_of,
)
from consensus.settings import ConsensusSettings
from tests.consensus.node import Node

SETTINGS = ConsensusSettings(
    view_timeout_ms_min=100, view_timeout_ms_initial=200, view_timeout_ms_max=3_000, resend_ms=150
)

NOTICE_MS_MAX = 400
"""The longest that a node does not notice that it can, or cannot, reach another."""


@dataclass
class Weather:
    """How the network treats messages, in milliseconds and probabilities."""

    delay_ms_max: int = 20
    loss: float = 0.0
    duplication: float = 0.0
    cut: frozenset[str] = field(default_factory=frozenset)
    """The labels of one side of a partition; those on the other side do not hear them."""


class Cluster:
    """A committee's nodes, some of them Byzantine, and everything between them."""

    def __init__(
        self, seed: int, committee: Committee, byzantine: tuple[str, ...] = (), twins: bool = False
    ) -> None:
        self.random = random.Random(seed)
        self.now = 0
        self.committee = committee
        self.byzantine = byzantine
        self.weather = Weather()
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._alarm: dict[int, int] = {}
        self._said: dict[tuple[str, Phase, int, int], object] = {}
        self._durable: dict[tuple[str, bytes], None] = {}
        self._decided: dict[int, bytes] = {}
        self._told: dict[tuple[int, str], None] = {}
        """By node and peer: who has been told last that the other can be reached."""
        self.nodes: list[Node] = []
        self._add([voter.id for voter in committee.voters], "")
        if twins:
            self._add(byzantine, "'")
        self.notice_links()
        self.hooks: dict[str, Callable[[Signed], None]] = {}
        self.crash_before_effect = 0.0

    def _add(self, names: Sequence[str], mark: str) -> None:
        for name in names:
            node = Node(self, name, self.committee, SETTINGS)
            node.label = name + mark
            self._meet(node)
            self.nodes.append(node)

    @property
    def honest(self) -> list[Node]:
        return [node for node in self.nodes if node.id not in self.byzantine]

    # ---- the world of the nodes --------------------------------------------------------------

    def connected(self, node: Node) -> list[str]:
        return [voter.id for voter in self.committee.voters if self._reaches(node, voter.id)]

    def send(self, node: Node, to: str, signed: Signed) -> None:
        for receiver in self.nodes:
            if receiver.id == to and receiver is not node:
                self.transmit(node.label, receiver, signed)

    def transmit(self, sender: str, receiver: Node, signed: Signed) -> None:
        weather = self.weather
        if (sender in weather.cut) != (receiver.label in weather.cut):
            return
        copies = 1 + (self.random.random() < weather.duplication)
        for _ in range(copies):
            if self.random.random() >= weather.loss:
                self.later(
                    self.random.randint(1, weather.delay_ms_max),
                    lambda: self.deliver(receiver, signed),
                )

    def deliver(self, receiver: Node, signed: Signed) -> None:
        hook = self.hooks.get(receiver.id)
        if hook is not None:
            hook(signed)
        else:
            self.step(receiver, Received(signed))

    def announce(self, node: Node, transaction: bytes) -> None:
        for receiver in self.nodes:
            apart = (node.label in self.weather.cut) != (receiver.label in self.weather.cut)
            if receiver is not node and not apart and self.random.random() >= self.weather.loss:
                delay = self.random.randint(1, self.weather.delay_ms_max)
                self.later(delay, partial(receiver.learn, transaction))

    def answer(self, node: Node, event: Event) -> None:
        replica = node.replica
        delay = self.random.randint(0, 3)

        def arrive() -> None:
            # What was under way in a process that has died is gone with it.
            if node.replica is replica:
                self.step(node, event)

        self.later(delay, arrive)

    def look_for(self, node: Node, fetch: Fetch) -> None:
        replica = node.replica
        others = [other for other in self.nodes if other.id in fetch.holders and other.up]
        if not others:
            return
        block = self.random.choice(others).find(fetch.block_hash)

        def arrive() -> None:
            if block is not None and node.replica is replica and node.is_valid(block):
                node.seen[block.hash] = block
                self.step(node, Fetched(block))

        self.later(2 * self.random.randint(1, self.weather.delay_ms_max), arrive)

    def serve(self, node: Node, to: str, height: int) -> None:
        decision = node.chain[height - 1]
        for receiver in self.nodes:
            if receiver.id == to:
                self.hand_over(receiver, decision)

    def hand_over(self, receiver: Node, decision: Decision) -> None:
        def arrive() -> None:
            if receiver.up:
                receiver.apply(decision)

        self.later(self.random.randint(1, self.weather.delay_ms_max), arrive)

    def note(self, node: Node, effect: Effect) -> None:
        """Check, of an honest node, that what leaves it is durable and contradicts nothing."""
        if node.id in self.byzantine:
            return
        if self.crash_before_effect and self.random.random() < self.crash_before_effect:
            raise Crash
        match effect:
            case Persist(signed):
                self._durable[node.id, signed.signature] = None
            case Broadcast(signed) | Send(_, signed):
                if (node.id, signed.signature) not in self._durable:
                    raise AssertionError("a message left before it was durable")
                self._check_promise(node.id, signed)
            case _:
                pass

    def _check_promise(self, name: str, signed: Signed) -> None:
        message = signed.message
        match message:
            case PrePrepare(block=block):
                value: object = block.hash
            case ViewChange(prepared=prepared):
                value = claim_of(prepared)
            case _:
                value = message.block_hash
        key = (name, phase_of(message), message.height, message.view)
        if self._said.setdefault(key, value) != value:
            raise AssertionError(f"{key} was promised twice")
        for (other, phase, height, view), claim in self._said.items():
            if other != name or height != message.height:
                continue
            if isinstance(message, Commit) and phase is Phase.VIEW_CHANGE and view > message.view:
                claimed = getattr(claim, "view", -1)
                if claimed < message.view:
                    raise AssertionError(f"{name} committed in a view it had left unprepared")

    # ---- time --------------------------------------------------------------------------------

    def later(self, delay_ms: int, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay_ms, self._count, action))

    def step(self, node: Node, event: Event) -> None:
        try:
            node.step(event)
        except Crash:
            node.crash()
            self.notice_links()
            self.later(self.random.randint(10, 1_500), lambda: self.restart(node))
        self.set_alarm(node)

    def restart(self, node: Node) -> None:
        if not node.up:
            node.start()
            self._meet(node)
            self.set_alarm(node)
            self.notice_links()

    # ---- links -------------------------------------------------------------------------------

    def notice_links(self) -> None:
        """Whoever can or cannot reach whom now, notices within a while, each on its own."""
        for node in self.nodes:
            for voter in self.committee.voters:
                if voter.id != node.id:
                    delay = self.random.randint(1, NOTICE_MS_MAX)
                    self.later(delay, partial(self._notice, node, voter.id))

    def _notice(self, node: Node, peer: str) -> None:
        reaches, told = self._reaches(node, peer), (id(node), peer) in self._told
        if node.up and reaches != told:
            if reaches:
                self._told[id(node), peer] = None
            else:
                del self._told[id(node), peer]
            self.step(node, Connected(peer) if reaches else Disconnected(peer))

    def _meet(self, node: Node) -> None:
        for voter in self.committee.voters:
            self._told.pop((id(node), voter.id), None)
        self._told.update({(id(node), peer): None for peer in self.connected(node)})

    def _reaches(self, node: Node, peer: str) -> bool:
        cut = self.weather.cut
        return any(
            other.up and (other.label in cut) == (node.label in cut)
            for other in self.nodes
            if other.id == peer and other is not node
        )

    def set_alarm(self, node: Node) -> None:
        deadline = None if node.replica is None else node.replica.deadline
        if deadline is None or self._alarm.get(id(node)) == deadline:
            return
        self._alarm[id(node)] = deadline

        def ring() -> None:
            if self._alarm.get(id(node)) == deadline:
                del self._alarm[id(node)]
            if node.replica is not None and node.replica.deadline == deadline:
                self.step(node, Expired())

        self.later(max(deadline - self.now, 0), ring)

    def run(self, until_ms: int, done: Callable[[], bool] = lambda: False) -> bool:
        """Run to that time or until `done`; which of the two."""
        while self._queue and self._queue[0][0] <= until_ms:
            self.now, _, action = heapq.heappop(self._queue)
            action()
            self.check_agreement()
            if done():
                return True
        self.now = max(self.now, until_ms)
        return done()

    def synchronize(self, every_ms: int) -> None:
        """Heads are compared now and then, as the node's own sync does."""
        for node in self.honest:
            best = max(self.honest, key=lambda other: len(other.chain))
            apart = (node.label in self.weather.cut) != (best.label in self.weather.cut)
            if node.up and not apart and len(best.chain) > len(node.chain):
                self.hand_over(node, best.chain[len(node.chain)])
        self.later(every_ms, lambda: self.synchronize(every_ms))

    def clear_up(self) -> None:
        """The network becomes timely, clocks right, and everyone is up."""
        self.weather = Weather()
        self.crash_before_effect = 0.0
        for node in self.honest:
            node.clock_off = False
        for node in self.nodes:
            self.restart(node)
        self.notice_links()

    # ---- what must hold ----------------------------------------------------------------------

    def check_agreement(self) -> None:
        for node in self.honest:
            if not node.chain:
                continue
            height = len(node.chain)
            decided = node.chain[-1].block.hash
            if self._decided.setdefault(height, decided) != decided:
                raise AssertionError(f"two blocks are decided at height {height}")


class Crash(Exception):
    """The process dies between two effects."""


def byzantine_within_bounds(committee: Committee, source: random.Random) -> tuple[str, ...]:
    """As many voters as agreement and progress bear: f of every group."""
    chosen: list[str] = []
    for group, size in committee.group_sizes.items():
        members = [voter.id for voter in committee.voters if voter.group == group]
        chosen += source.sample(members, faulty_max(size))
    return tuple(sorted(chosen))
