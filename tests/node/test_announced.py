"""Announced batches: asked for once, of somebody else when it takes too long, and of no liar for
long.
"""

import pytest

from ledger.genesis import genesis_state
from ledger.store import WriteBatch, WriteGenesis
from node.announced import Announced
from node.events import SendRequest
from node.mempool import Mempool, MempoolLimits
from node.outbox import Outbox
from node.penalties import Penalties
from node.wire import BatchesWanted
from simulations.store import MemoryStore
from tests.node.support import make_batch, make_genesis

GENESIS = make_genesis(4)
ONE, TWO = make_batch(GENESIS, "recorder-1", 1), make_batch(GENESIS, "recorder-1", 2)
INTERVAL, RETRY, PENALTY = 500, 400, 5_000


class Desk:
    """Announced with everything that it needs."""

    def __init__(self) -> None:
        self.outbox = Outbox("me", 0)
        self.mempool = Mempool(MempoolLimits(), GENESIS.limits)
        self.store = MemoryStore()
        self.announced = Announced(
            INTERVAL, RETRY, Penalties(PENALTY, 40_000), self.mempool, self.store, self.outbox
        )

    def hear(self, author: str, *batches: bytes, at: int) -> tuple[bytes, ...]:
        """What is asked of the announcer then."""
        self.outbox.open(at, at)
        self.announced.heard(author, batches)
        asked = [effect for effect in self.outbox.effects if isinstance(effect, SendRequest)]
        assert [effect.peer for effect in asked] in ([], [author])
        requests = [effect.request for effect in asked]
        assert all(isinstance(request, BatchesWanted) for request in requests)
        return tuple(id for r in requests if isinstance(r, BatchesWanted) for id in r.batches)

    def end(self, author: str, *batches: bytes, at: int, answered: bool = True) -> None:
        self.outbox.open(at, at)
        self.announced.ended(author, BatchesWanted(batches), answered=answered)


def test_what_is_lacking_is_asked_for_once_though_it_is_named_twice() -> None:
    desk = Desk()
    desk.mempool.add(ONE, 0)
    assert desk.hear("a", TWO.id, ONE.id, TWO.id, at=0) == (TWO.id,)
    assert desk.hear("a", TWO.id, at=INTERVAL) == (), "its request is still under way"
    assert desk.outbox.conduct.counts() == {}
    assert desk.hear("a", TWO.id, at=INTERVAL + 1) == ()
    assert desk.outbox.conduct.counts() == {"a": {"announced_too_often": 1}}


def test_what_is_stored_is_neither_asked_for_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch may have a megabyte, and a member may name hundreds twice a second."""
    desk = Desk()
    desk.store.write([WriteGenesis(*genesis_state(GENESIS)), WriteBatch(ONE)])
    monkeypatch.delattr(MemoryStore, "batch")
    assert desk.hear("a", ONE.id, TWO.id, at=0) == (TWO.id,)


def test_a_second_announcer_is_asked_when_the_first_takes_too_long() -> None:
    desk = Desk()
    assert desk.hear("liar", ONE.id, at=0) == (ONE.id,)
    assert desk.hear("honest", ONE.id, at=RETRY - 1) == ()
    assert desk.hear("honest", ONE.id, at=RETRY + INTERVAL) == (ONE.id,)


def test_liars_delay_a_repair_by_one_retry_each_and_not_by_their_time_outs() -> None:
    desk, now = Desk(), 0
    liars = [f"liar-{number}" for number in range(5)]
    asked: list[str] = []
    while "honest" not in asked:
        # Everyone announces whenever it is heard, the liars first; their requests never end.
        asked += [name for name in (*liars, "honest") if desk.hear(name, ONE.id, at=now)]
        now += INTERVAL
        assert now <= (len(liars) + 1) * INTERVAL
    assert sorted(asked) == sorted([*liars, "honest"])


def test_who_does_not_give_what_it_announced_is_left_alone_longer_each_time() -> None:
    desk, now = Desk(), 0
    for penalty in (PENALTY, 2 * PENALTY, 4 * PENALTY):
        assert desk.hear("a", ONE.id, at=now) == (ONE.id,)
        desk.end("a", ONE.id, at=now)
        assert desk.hear("a", ONE.id, at=now + penalty - 1) == ()
        now += penalty + INTERVAL
    # Useless batches are no better than none.
    assert desk.hear("a", ONE.id, at=now) == (ONE.id,)
    desk.announced.arrived("a", ONE.id, useless=True)
    desk.end("a", ONE.id, at=now)
    assert desk.hear("a", ONE.id, at=now + 8 * PENALTY - 1) == ()
    now += 8 * PENALTY + INTERVAL
    # What it gives in the end clears it, but silence does cost a wait.
    assert desk.hear("a", ONE.id, at=now) == (ONE.id,)
    desk.announced.arrived("a", ONE.id, useless=False)
    desk.end("a", ONE.id, at=now)
    assert desk.hear("a", TWO.id, at=now + INTERVAL) == (TWO.id,)
    desk.end("a", TWO.id, at=now + INTERVAL, answered=False)
    assert desk.hear("a", TWO.id, at=now + INTERVAL + PENALTY - 1) == ()


def test_other_requests_and_batches_have_nothing_to_do_with_it() -> None:
    desk = Desk()
    desk.announced.arrived("a", ONE.id, useless=True)
    desk.end("a", ONE.id, at=0, answered=False)
    assert desk.hear("a", ONE.id, at=0) == (ONE.id,)
    desk.announced.arrived("b", ONE.id, useless=True)
    desk.announced.arrived("a", TWO.id, useless=True)
    desk.end("a", TWO.id, at=1, answered=False)
    desk.announced.arrived("a", ONE.id, useless=False)
    desk.end("a", ONE.id, at=1)
    assert desk.hear("a", ONE.id, at=INTERVAL) == (ONE.id,)


def test_those_who_are_no_members_are_forgotten() -> None:
    desk = Desk()
    desk.hear("a", ONE.id, at=0)
    desk.hear("b", TWO.id, at=0)
    desk.announced.keep({"b": None})
    assert list(desk.announced._announcers) == ["b"]
