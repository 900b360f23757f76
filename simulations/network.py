"""The network between simulated nodes: bytes that are late, lost, doubled, reordered or cut off.

It does what the daemon's transport does for its handler: it tells who is connected, carries
messages, announcements and requests, and answers every request or says that it failed. Everything
is bytes, so that what the nodes say passes through the codec as on a wire.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from simulations.scenario import REQUEST_TIMEOUT_MS, Weather
from simulations.schedule import Schedule
from simulations.trace import Trace

DETECT_MS_MAX = 1_500
"""The longest that a node does not notice that a connection is dead."""
REDIAL_MS_MAX = 800
"""The longest that two nodes which can reach each other stay without a connection."""


class Endpoint(Protocol):
    """One process on the network. Twins are two endpoints with one id."""

    name: str
    id: str
    life: int
    """Counts the starts: what was under way to an earlier process never arrives."""

    @property
    def up(self) -> bool:
        """Whether the process runs."""
        ...

    def connected(self, peer: str) -> None:
        """Messages can be exchanged with this member from now on."""
        ...

    def disconnected(self, peer: str) -> None:
        """Messages can no longer be exchanged with this member."""
        ...

    def message(self, peer: str, raw: bytes) -> None:
        """A direct message."""
        ...

    def gossip(self, author: str, raw: bytes) -> None:
        """An announcement."""
        ...

    def request(self, peer: str, raw: bytes) -> bytes | None:
        """Answer a peer; None for no answer."""
        ...


@dataclass(frozen=True, slots=True)
class Cut:
    """Nothing passes from the left to the right. Names are of endpoints: of twins, a cut that names
    the id holds for the first alone.
    """

    left: tuple[str, ...]
    right: tuple[str, ...]


class Network:
    """All links. Names are of endpoints, ids of institutions."""

    def __init__(
        self, schedule: Schedule, chance: random.Random, weather: Weather, trace: Trace
    ) -> None:
        self.weather = weather
        self._cuts: list[Cut] = []
        self._muted: list[str] = []
        self._slowed: dict[str, int] = {}
        self._worsened: dict[tuple[str, str], tuple[int, float]] = {}
        self.sent = 0
        self._schedule = schedule
        self._chance = chance
        self._trace = trace
        self._endpoints: dict[str, Endpoint] = {}
        self._by_id: dict[str, list[Endpoint]] = {}
        self._sessions: dict[tuple[str, str], None] = {}
        self._dialling: dict[tuple[str, str], None] = {}
        self._told: dict[tuple[str, str], None] = {}
        """By endpoint and member: who has been told last that the other can be reached."""
        self._latest: dict[tuple[str, str], int] = {}

    def join(self, endpoint: Endpoint) -> None:
        """Add an endpoint, which is not up yet."""
        self._endpoints[endpoint.name] = endpoint
        self._by_id.setdefault(endpoint.id, []).append(endpoint)

    # ---- connections -----------------------------------------------------------------------------

    def started(self, endpoint: Endpoint) -> None:
        """A process has started and dials everyone."""
        for other in self._endpoints.values():
            if other.id != endpoint.id:
                self._dial(endpoint, other)

    def stopped(self, endpoint: Endpoint) -> None:
        """A process has died; the others notice after a while."""
        for pair in [pair for pair in self._sessions if endpoint.name in pair]:
            other = self._endpoints[pair[0] if pair[1] == endpoint.name else pair[1]]
            del self._sessions[pair]
            self._tell_gone(other, endpoint)
        for told in [told for told in self._told if told[0] == endpoint.name]:
            del self._told[told]

    def mend(self) -> None:
        """All links work again, as fast as the weather allows."""
        self._cuts.clear()
        self._muted.clear()
        self._slowed.clear()
        self._worsened.clear()

    def join_again(self, cut: Cut) -> None:
        """A cut is over."""
        if cut in self._cuts:
            self._cuts.remove(cut)

    def mute(self, who: str) -> None:
        """Nothing that this member says is heard."""
        self._muted.append(who)

    def unmute(self, who: str) -> None:
        """It is heard again."""
        if who in self._muted:
            self._muted.remove(who)

    def slow(self, who: str, delay_ms: int) -> None:
        """What this member says takes so much longer."""
        self._slowed[who] = delay_ms

    def worsen(self, link: tuple[str, str], delay_ms: int, loss: float) -> None:
        """What the first of a link sends the second is so much later, and lost so often."""
        self._worsened[link] = (delay_ms, loss)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """What is cut now."""
        return tuple(self._cuts)

    def cut(self, cut: Cut) -> None:
        """Links are dead from now on; whoever has a connection over one notices after a while."""
        self._cuts.append(cut)
        for pair in list(self._sessions):
            one, other = self._endpoints[pair[0]], self._endpoints[pair[1]]
            if self._is_cut(one.name, other.name) or self._is_cut(other.name, one.name):
                delay = self._chance.randint(1, DETECT_MS_MAX)
                self._schedule.after(delay, partial(self._check, pair))

    def _check(self, pair: tuple[str, str]) -> None:
        one, other = self._endpoints[pair[0]], self._endpoints[pair[1]]
        broken = self._is_cut(one.name, other.name) or self._is_cut(other.name, one.name)
        if pair in self._sessions and broken:
            del self._sessions[pair]
            self._tell_gone(one, other)
            self._tell_gone(other, one)
            self._dial(one, other)

    def _tell_gone(self, endpoint: Endpoint, peer: Endpoint) -> None:
        life = endpoint.life

        def tell() -> None:
            known = endpoint.life == life and (endpoint.name, peer.id) in self._told
            if known and not self._reaches(endpoint, peer.id):
                del self._told[endpoint.name, peer.id]
                endpoint.disconnected(peer.id)

        self._schedule.after(self._chance.randint(0, DETECT_MS_MAX), tell)

    def _dial(self, one: Endpoint, other: Endpoint) -> None:
        pair = (min(one.name, other.name), max(one.name, other.name))
        if pair in self._dialling or pair in self._sessions:
            return
        self._dialling[pair] = None
        self._schedule.after(self._chance.randint(1, REDIAL_MS_MAX), lambda: self._answer(pair))

    def _answer(self, pair: tuple[str, str]) -> None:
        del self._dialling[pair]
        one, other = self._endpoints[pair[0]], self._endpoints[pair[1]]
        if not (one.up and other.up) or pair in self._sessions:
            return
        if self._is_cut(one.name, other.name) or self._is_cut(other.name, one.name):
            self._dial(one, other)
            return
        self._sessions[pair] = None
        self._trace.note(self._schedule.now, pair[0], "connected", pair[1])
        self._tell_here(one, other)
        self._tell_here(other, one)

    def _tell_here(self, endpoint: Endpoint, peer: Endpoint) -> None:
        """As the transport does: whoever has not noticed that the last connection is dead is told
        before it hears of a new one.
        """
        if (endpoint.name, peer.id) in self._told:
            endpoint.disconnected(peer.id)
        self._told[endpoint.name, peer.id] = None
        endpoint.connected(peer.id)

    def _reaches(self, endpoint: Endpoint, id: str) -> bool:
        return any(self._has_session(endpoint, other) for other in self._by_id[id])

    def _has_session(self, one: Endpoint, other: Endpoint) -> bool:
        return (min(one.name, other.name), max(one.name, other.name)) in self._sessions

    def _is_cut(self, sender: str, receiver: str) -> bool:
        return any(sender in cut.left and receiver in cut.right for cut in self._cuts)

    # ---- what is carried -------------------------------------------------------------------------

    def send(self, sender: Endpoint, to: str, raw: bytes) -> None:
        """Carry a message to every endpoint of a member."""
        for receiver in self._by_id[to]:
            if self._has_session(sender, receiver):
                self._carry(sender, receiver, partial(receiver.message, sender.id, raw))

    def publish(self, sender: Endpoint, raw: bytes) -> None:
        """Carry an announcement to everyone."""
        for receiver in self._endpoints.values():
            if receiver.id != sender.id:
                self._carry(sender, receiver, partial(receiver.gossip, sender.id, raw))

    def ask(
        self, sender: Endpoint, to: str, raw: bytes, answered: Callable[[bytes | None], None]
    ) -> None:
        """Ask a member; `answered` is called once, with None if no answer came in time."""
        life = sender.life
        open_request = [True]

        def finish(answer: bytes | None) -> None:
            if open_request and sender.life == life and sender.up:
                open_request.clear()
                answered(answer)

        receivers = [r for r in self._by_id[to] if self._has_session(sender, r)]
        if not receivers:
            self._schedule.after(self._chance.randint(0, 50), lambda: finish(None))
            return
        receiver = self._chance.choice(receivers)

        def arrive() -> None:
            answer = receiver.request(sender.id, raw)
            if answer is not None:
                self._carry(receiver, sender, lambda: finish(answer))

        self._schedule.after(REQUEST_TIMEOUT_MS, lambda: finish(None))
        self._carry(sender, receiver, arrive)

    def _carry(self, sender: Endpoint, receiver: Endpoint, arrive: Callable[[], None]) -> None:
        self.sent += 1
        chance, weather = self._chance, self.weather
        if sender.id in self._muted or (self._cuts and self._is_cut(sender.name, receiver.name)):
            return
        if weather.loss and chance.random() < weather.loss:
            return
        late_ms = self._slowed.get(sender.id, 0)
        if self._worsened:
            worse_ms, loss = self._worsened.get((sender.id, receiver.id), (0, 0.0))
            late_ms += worse_ms
            if loss and chance.random() < loss:
                return
        copies = 2 if weather.duplication and chance.random() < weather.duplication else 1
        life = receiver.life

        def deliver() -> None:
            if receiver.up and receiver.life == life:
                arrive()

        for _ in range(copies):
            delay = weather.delay_ms_min + int(chance.expovariate(1 / weather.delay_ms_mean))
            delay = min(delay, weather.delay_ms_max) + late_ms
            time = self._schedule.now + delay
            if weather.ordered:
                link = (sender.name, receiver.name)
                time = self._latest[link] = max(time, self._latest.get(link, 0))
            self._schedule.at(time, deliver)
