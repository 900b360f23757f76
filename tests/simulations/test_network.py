"""The network between simulated nodes."""

import random
from dataclasses import replace

from simulations.network import DETECT_MS_MAX, REDIAL_MS_MAX, Cut, Network
from simulations.scenario import REQUEST_TIMEOUT_MS, Weather
from simulations.schedule import Schedule
from simulations.trace import Trace

FAIR = Weather(
    delay_ms_min=1, delay_ms_mean=10, delay_ms_max=50, loss=0.0, duplication=0.0, ordered=True
)


class Peer:
    """An endpoint that writes down what it is told."""

    def __init__(self, schedule: Schedule, id: str, name: str = "") -> None:
        self.schedule = schedule
        self.id = id
        self.name = name or id
        self.life = 1
        self.up = True
        self.heard: list[tuple[int, str, object]] = []

    def connected(self, peer: str) -> None:
        self.heard.append((self.schedule.now, "connected", peer))

    def disconnected(self, peer: str) -> None:
        self.heard.append((self.schedule.now, "disconnected", peer))

    def message(self, peer: str, raw: bytes) -> None:
        self.heard.append((self.schedule.now, peer, raw))

    def gossip(self, author: str, raw: bytes) -> None:
        self.heard.append((self.schedule.now, f"gossip of {author}", raw))

    def request(self, peer: str, raw: bytes) -> bytes | None:
        return raw.upper() if raw != b"silence" else None

    def said_by(self, peer: str) -> list[object]:
        return [what for _, who, what in self.heard if who == peer]


class World:
    """Two or more peers on a network, connected."""

    def __init__(self, weather: Weather = FAIR, names: tuple[str, ...] = ("a", "b", "c")) -> None:
        self.schedule = Schedule()
        self.network = Network(self.schedule, random.Random(1), weather, Trace())
        self.peers = {name: Peer(self.schedule, name.removesuffix("'"), name) for name in names}
        for peer in self.peers.values():
            self.network.join(peer)
        for peer in self.peers.values():
            self.network.started(peer)
        self.wait(REDIAL_MS_MAX)

    def wait(self, ms: int) -> None:
        self.schedule.run(self.schedule.now + ms, lambda: False)


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_a_link_keeps_the_order_if_it_should() -> None:
    for ordered in (True, False):
        world = World(replace(FAIR, ordered=ordered))
        a, b = world.peers["a"], world.peers["b"]
        for raw in numbers(30):
            world.network.send(a, "b", raw)
        world.wait(100)
        assert sorted(b.said_by("a"), key=str) == sorted(numbers(30), key=str)
        assert (b.said_by("a") == numbers(30)) is ordered


def test_messages_are_lost_and_doubled_as_often_as_the_weather_says() -> None:
    for loss, duplication, low, high in ((0.5, 0.0, 60, 140), (0.0, 0.5, 260, 340)):
        world = World(replace(FAIR, loss=loss, duplication=duplication))
        for raw in numbers(200):
            world.network.send(world.peers["a"], "b", raw)
        world.wait(1_000)
        assert low < len(world.peers["b"].said_by("a")) < high


def test_a_cut_goes_one_way_and_ends() -> None:
    world = World()
    a, b = world.peers["a"], world.peers["b"]
    cut = Cut(("a",), ("b", "c"))
    world.network.cut(cut)
    world.network.send(a, "b", b"lost")
    world.network.send(b, "a", b"heard")
    world.network.publish(a, b"lost too")
    world.wait(60)
    assert b.said_by("a") == []
    assert b.said_by("gossip of a") == []
    assert a.said_by("b") == [b"heard"]
    world.wait(3 * DETECT_MS_MAX)
    assert b.heard[-1][1:] == ("disconnected", "a")
    world.network.send(b, "a", b"not connected")
    world.network.join_again(cut)
    world.wait(2 * REDIAL_MS_MAX)
    assert b.heard[-1][1:] == ("connected", "a")
    assert a.said_by("b") == [b"heard"]
    world.network.send(a, "b", b"again")
    world.wait(60)
    assert b.said_by("a") == [b"again"]


def test_what_was_under_way_to_a_process_dies_with_it() -> None:
    world = World()
    a, b = world.peers["a"], world.peers["b"]
    world.network.send(a, "b", b"too late")
    b.up = False
    world.network.stopped(b)
    world.wait(DETECT_MS_MAX)
    assert a.heard[-1][1:] == ("disconnected", "b")
    b.up, b.life = True, 2
    world.network.started(b)
    world.wait(REDIAL_MS_MAX)
    assert a.heard[-1][1:] == ("connected", "b")
    assert b.said_by("a") == []


def links_of(peer: Peer) -> list[tuple[str, object]]:
    """What a peer was told of its links."""
    return [(str(what), who) for _, what, who in peer.heard if what.endswith("connected")]


def test_a_process_that_dies_and_returns_unnoticed_is_told_gone_before_it_is_told_here() -> None:
    told = []
    for down_ms in range(0, DETECT_MS_MAX, 50):
        world = World()
        a, b = world.peers["a"], world.peers["b"]
        b.up = False
        world.network.stopped(b)
        world.wait(down_ms)
        b.up, b.life = True, 2
        b.heard.clear()
        world.network.started(b)
        world.wait(2 * DETECT_MS_MAX)
        assert [what for what, who in links_of(a) if who == "b"] == [
            "connected",
            "disconnected",
            "connected",
        ]
        assert ("connected", "a") in links_of(b)
        assert ("disconnected", "a") not in links_of(b), "it is a new process"
        told += [a.heard[-2][0] == a.heard[-1][0]]
    assert True in told, "sometimes nothing but the new connection shows that the old one is dead"
    assert False in told


def test_links_that_break_again_and_again_are_told_in_turn() -> None:
    world = World()
    cut = Cut(("a",), ("b",))
    for number in range(40):
        world.network.cut(cut)
        world.wait(100 * (number % 20))
        world.network.join_again(cut)
        world.wait(100 * (number % 7))
    world.wait(3 * DETECT_MS_MAX)
    for one, other in ("ab", "ba"):
        told = [what for what, who in links_of(world.peers[one]) if who == other]
        assert len(told) > 5
        assert told == ["connected", "disconnected"] * (len(told) // 2) + ["connected"]


def test_a_muted_member_is_not_heard_and_a_slow_one_later() -> None:
    world = World()
    a, b = world.peers["a"], world.peers["b"]
    world.network.mute("a")
    world.network.send(a, "b", b"lost")
    world.network.unmute("a")
    world.network.slow("a", 1_000)
    sent_at = world.schedule.now
    world.network.send(a, "b", b"late")
    world.wait(2_000)
    assert b.said_by("a") == [b"late"]
    assert b.heard[-1][0] > sent_at + 1_000


def test_every_request_ends_once() -> None:
    world = World(replace(FAIR, duplication=0.9))
    a = world.peers["a"]
    answers: list[tuple[int, bytes | None]] = []

    def take(answer: bytes | None) -> None:
        answers.append((world.schedule.now, answer))

    asked_at = world.schedule.now
    world.network.ask(a, "b", b"hello", take)
    world.network.ask(a, "b", b"silence", take)
    world.wait(2 * REQUEST_TIMEOUT_MS)
    assert [answer for _, answer in answers] == [b"HELLO", None]
    assert answers[1][0] == asked_at + REQUEST_TIMEOUT_MS
    world.peers["b"].up = False
    world.network.stopped(world.peers["b"])
    world.network.ask(a, "b", b"anyone", take)
    world.wait(100)
    assert answers[2][1] is None
    a.life += 1
    world.network.ask(a, "c", b"from an earlier life", take)
    a.life += 1
    world.wait(2 * REQUEST_TIMEOUT_MS)
    assert len(answers) == 3


def test_twins_hear_the_same_and_speak_with_one_name() -> None:
    world = World(names=("a", "b", "b'"))
    a = world.peers["a"]
    world.network.send(a, "b", b"to both")
    world.network.send(world.peers["b'"], "a", b"from one")
    world.wait(100)
    assert world.peers["b"].said_by("a") == [b"to both"]
    assert world.peers["b'"].said_by("a") == [b"to both"]
    assert a.said_by("b") == [b"from one"]
