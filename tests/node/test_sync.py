"""Sync: whom it asks, that it never asks forever in vain, and that it never stops asking."""

from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.events import SyncedBlock
from node.penalties import Penalties
from node.sync import READY_BYTES_MIN, Patience, Sync
from node.wire import WANTED_BLOCKS_MAX, BlocksWanted
from tests.node.support import make_chain, make_genesis, synced

GENESIS = make_genesis(1)
CHAIN = synced(GENESIS, make_chain(GENESIS, 6), 1, 6)
PENALTY, PENALTY_MAX = 5_000, 40_000
AT_ONCE = Patience(0, 0)
VOTER = Patience(1, 500)
FOLLOWER = Patience(8, 200)


def make(place: int = 0) -> Sync:
    """With nothing heard yet."""
    return Sync(Penalties(PENALTY, PENALTY_MAX), place)


def test_nobody_is_asked_while_nobody_is_ahead() -> None:
    sync = make()
    sync.heard("a", 3)
    assert sync.due(3, AT_ONCE, 0) is None
    assert sync.deadline(3, AT_ONCE) is None
    assert sync.target() == 3


def test_whoever_is_told_nothing_asks_at_once_and_one_peer_at_a_time() -> None:
    sync = make()
    sync.heard("a", 100)
    sync.heard("b", 2)
    assert sync.deadline(0, AT_ONCE) == 0
    assert sync.due(0, AT_ONCE, 7) == ("a", BlocksWanted(1, 64))
    assert sync.deadline(0, AT_ONCE) is None
    assert sync.due(0, AT_ONCE, 8) is None


def test_a_voter_is_patient_about_one_height() -> None:
    sync = make()
    sync.heard("a", 4)
    assert sync.due(3, VOTER, 1_000) is None
    assert sync.deadline(3, VOTER) == 1_500
    assert sync.due(3, VOTER, 1_499) is None
    assert sync.due(3, VOTER, 1_500) == ("a", BlocksWanted(4, 1))


def test_patience_starts_again_with_each_height_and_is_not_for_large_lags() -> None:
    sync = make()
    sync.heard("a", 4)
    assert sync.due(3, VOTER, 1_000) is None
    sync.advanced()
    sync.heard("a", 5)
    assert sync.due(4, VOTER, 1_400) is None
    assert sync.due(4, VOTER, 1_899) is None
    sync.heard("b", 6)
    assert sync.due(4, VOTER, 1_899) == ("b", BlocksWanted(5, 2))


def test_whoever_is_told_of_blocks_is_patient_about_some_heights() -> None:
    sync = make()
    sync.heard("a", 11)
    assert sync.due(3, FOLLOWER, 1_000) is None
    assert sync.deadline(3, FOLLOWER) == 1_200
    sync.heard("b", 12)
    assert sync.due(3, FOLLOWER, 1_001) == ("b", BlocksWanted(4, 9)), "too many"


def test_patience_starts_again_when_all_that_was_heard_of_is_here() -> None:
    sync = make()
    sync.heard("a", 4)
    assert sync.due(3, FOLLOWER, 1_000) is None
    assert sync.due(4, FOLLOWER, 1_100) is None
    sync.heard("a", 5)
    assert sync.due(4, FOLLOWER, 1_150) is None
    assert sync.deadline(4, FOLLOWER) == 1_350


def test_equal_members_ask_different_peers() -> None:
    asked = []
    for place in range(3):
        sync = make(place)
        for name in ("a", "b", "c"):
            sync.heard(name, 9)
        wanted = sync.due(0, AT_ONCE, 0)
        assert wanted is not None
        asked.append(wanted[0])
    assert sorted(asked) == ["a", "b", "c"]


def test_one_liar_about_a_huge_head_does_not_take_the_patience_with_others() -> None:
    sync = make()
    sync.heard("liar", 10**12)
    assert sync.due(3, VOTER, 0) == ("liar", BlocksWanted(4, 64))
    sync.answered("liar", (), 10**12)
    sync.ended("liar", 0, answered=True)
    sync.heard("b", 4)
    assert sync.due(3, VOTER, 10) is None
    assert sync.deadline(3, VOTER) == 500


def test_a_peer_that_gives_nothing_is_left_alone_for_a_while() -> None:
    for answered in (True, False):
        sync = make()
        sync.heard("a", 9)
        assert sync.due(0, AT_ONCE, 0) is not None
        if answered:
            sync.answered("a", (), 9)
        sync.ended("a", 100, answered=answered)
        assert sync.due(0, AT_ONCE, 100) is None
        assert sync.deadline(0, AT_ONCE) == 100 + PENALTY
        sync.heard("b", 1)
        assert sync.due(0, AT_ONCE, 100) == ("b", BlocksWanted(1, 1))
        sync.ended("b", 200, answered=False)
        assert sync.due(0, AT_ONCE, 100 + PENALTY) == ("a", BlocksWanted(1, 9))


def test_fewer_blocks_than_asked_for_are_progress() -> None:
    sync = make()
    sync.heard("a", 6)
    sync.due(0, AT_ONCE, 0)
    sync.answered("a", CHAIN[:2], 6)
    assert sync.deadline(0, AT_ONCE) == 0, "they are to be applied at once"
    assert sync.take(0) == CHAIN[0]
    assert sync.take(1) == CHAIN[1]
    assert sync.take(2) is None
    assert sync.deadline(2, AT_ONCE) is None
    sync.ended("a", 5, answered=True)
    assert sync.due(2, AT_ONCE, 5) == ("a", BlocksWanted(3, 4))


def test_blocks_that_we_have_by_now_are_dropped() -> None:
    sync = make()
    sync.heard("a", 6)
    sync.due(0, AT_ONCE, 0)
    sync.answered("a", CHAIN[:3], 6)
    assert sync.take(2) == CHAIN[2]
    sync.answered("a", CHAIN[:3], 6)
    assert sync.take(3) is None
    assert sync.ready == 0


def test_invalid_blocks_are_thrown_away_with_those_after_them() -> None:
    sync = make()
    sync.heard("a", 6)
    sync.due(0, AT_ONCE, 0)
    sync.answered("a", CHAIN, 6)
    assert sync.take(0) == CHAIN[0]
    assert sync.source == "a"
    sync.refuted(10)
    assert sync.take(0) is None
    sync.ended("a", 10, answered=True)
    assert sync.deadline(0, AT_ONCE) == 10 + PENALTY


def test_the_next_blocks_are_asked_for_while_the_last_wait() -> None:
    sync = make()
    sync.heard("a", 6)
    assert sync.due(0, AT_ONCE, 0) == ("a", BlocksWanted(1, 6))
    sync.answered("a", CHAIN[:2], 6)
    assert sync.due(0, AT_ONCE, 5) is None, "the request has not ended"
    sync.ended("a", 5, answered=True)
    assert sync.due(0, AT_ONCE, 5) == ("a", BlocksWanted(3, 4))
    assert sync.take(0) == CHAIN[0]
    sync.answered("a", CHAIN[2:], 6)
    sync.ended("a", 9, answered=True)
    assert sync.due(1, AT_ONCE, 9) is None, "there are no more"
    assert [sync.take(height) for height in range(1, 6)] == list(CHAIN[1:])


def test_no_more_is_asked_for_while_plenty_waits() -> None:
    large = [
        replace(one, batches=one.batches * (READY_BYTES_MIN // one.size_bytes)) for one in CHAIN
    ]
    for blocks, plenty in (
        (CHAIN, False),
        (CHAIN * 11, True),
        (large[:1], False),
        (large[:2], True),
    ):
        sync = make()
        sync.heard("a", 1_000)
        sync.due(0, AT_ONCE, 0)
        sync.answered("a", blocks, 1_000)
        sync.ended("a", 5, answered=True)
        assert (sync.due(0, AT_ONCE, 5) is None) == plenty, len(blocks)
        while sync.ready:
            sync.take(0)
        assert sync._ready_bytes == 0


def test_what_follows_a_false_block_is_dropped_whoever_gave_it_and_that_peer_is_not_blamed() -> (
    None
):
    sync = make()
    for peer in ("a", "b"):
        sync.heard(peer, 6)
    assert sync.due(0, AT_ONCE, 0) == ("a", BlocksWanted(1, 6))
    sync.answered("a", CHAIN[:2], 6)
    sync.ended("a", 5, answered=True)
    sync.forget("a")
    assert sync.due(0, AT_ONCE, 5) == ("b", BlocksWanted(3, 4))
    assert sync.take(0) == CHAIN[0]
    sync.refuted(6)
    sync.heard("a", 6)
    assert sync.due(0, AT_ONCE, 6) is None
    sync.answered("b", CHAIN[2:], 6)
    sync.ended("b", 7, answered=True)
    assert sync.take(0) is None
    assert sync.due(0, AT_ONCE, 7) == ("b", BlocksWanted(1, 6))


def test_a_failure_takes_nothing_from_what_another_gave() -> None:
    sync = make()
    for peer in ("a", "b"):
        sync.heard(peer, 6)
    sync.due(0, AT_ONCE, 0)
    sync.answered("a", CHAIN[:2], 6)
    sync.ended("a", 5, answered=True)
    sync.forget("a")
    assert sync.due(0, AT_ONCE, 5) == ("b", BlocksWanted(3, 4))
    sync.answered("b", (), 6)
    assert sync.ended("b", 7, answered=True)
    assert [sync.take(0), sync.take(1)] == list(CHAIN[:2])


def test_a_peer_that_went_away_is_not_asked_though_its_answer_comes() -> None:
    sync = make()
    sync.heard("a", 6)
    sync.due(0, AT_ONCE, 0)
    sync.forget("a")
    sync.answered("a", CHAIN[:1], 6)
    assert sync.heads() == {}
    assert sync.take(0) == CHAIN[0]
    sync.ended("a", 0, answered=True)
    assert sync.due(1, AT_ONCE, 0) is None


def test_a_head_that_was_heard_never_falls_by_hearsay_but_by_the_peers_own_answer() -> None:
    sync = make()
    sync.heard("a", 6)
    sync.heard("a", 2)
    assert sync.heads() == {"a": 6}
    sync.answered("a", (), 1)
    assert sync.heads() == {"a": 1}


def test_peers_that_never_answer_do_not_keep_asking_from_those_that_do() -> None:
    for height in range(60):
        sync = make()
        for name in ("a", "b", "c", "d", "e", "f"):
            sync.heard(name, 1_000)
        now, asked = 0, []
        for _ in range(4):
            found = sync.due(height, AT_ONCE, now)
            assert found is not None
            asked.append(found[0])
            if found[0] not in ("b", "c"):
                break
            # It lets the question time out: that takes as long as its penalty.
            now += PENALTY
            sync.ended(found[0], now, answered=False)
        assert asked[-1] not in ("b", "c"), (height, asked)


PEERS = st.sampled_from(["a", "b", "c"])
EVENTS = st.one_of(
    st.tuples(st.just("heard"), PEERS, st.integers(0, 10**6)),
    st.tuples(st.just("forget"), PEERS, st.just(0)),
    st.tuples(st.just("blocks"), PEERS, st.integers(0, 4)),
    st.tuples(st.just("fail"), PEERS, st.just(0)),
    st.tuples(st.just("bad"), PEERS, st.just(0)),
    st.tuples(st.just("pass"), PEERS, st.integers(1, 3_000)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=40), st.sampled_from([AT_ONCE, VOTER, FOLLOWER]))
def test_whatever_peers_do_sync_neither_spins_nor_gets_stuck(
    events: list[tuple[str, str, int]], patience: Patience
) -> None:
    sync, height, now = make(), 0, 0
    asked_at: dict[str, int] = {}

    def ask() -> None:
        wanted = sync.due(height, patience, now)
        if wanted is not None:
            peer, request = wanted
            assert sync.heads()[peer] > height
            assert 1 <= request.count <= 64
            assert request.height == height + 1
            asked_at[peer] = now

    def end(blocks: tuple[SyncedBlock, ...], answered: bool, bad: bool) -> None:
        nonlocal height
        peer = sync.asked
        if peer is None:
            return
        if answered:
            sync.answered(peer, blocks, sync.heads().get(peer, 0))
        if bad:
            sync.take(height)
            sync.refuted(now)
        while (block := sync.take(height)) is not None:
            height = block.decision.block.header.height
            sync.advanced()
        sync.ended(peer, now, answered=answered)
        before = asked_at.get(peer)
        ask()
        if bad or not (answered and blocks):
            # No peer is asked again in the same instant after it failed.
            assert sync.asked != peer
            assert before is not None

    for what, peer, number in events:
        match what:
            case "heard":
                sync.heard(peer, number)
            case "forget":
                sync.forget(peer)
            case "blocks":
                end(CHAIN[height : height + number], True, False)
            case "fail":
                end((), False, False)
            case "bad":
                end(CHAIN[height : height + 1], True, True)
            case _:
                now += number
        ask()
        deadline = sync.deadline(height, patience)
        assert deadline is None or deadline > now
    # Whoever has blocks is asked in the end.
    end((), False, False)
    sync.heard("honest", height + 2)
    for _ in range(5):
        deadline = sync.deadline(height, patience)
        if sync.asked == "honest":
            break
        if deadline is not None:
            now = max(now, deadline)
        ask()
        if sync.asked != "honest":
            end((), False, False)
    assert sync.asked == "honest"


# ---- liars ---------------------------------------------------------------------------------------

TIMEOUT = 5_000
"""The shell ends a request after that."""


@dataclass(frozen=True, slots=True)
class Liar:
    """How a liar behaves when it is asked: how long it takes, what it gives, whether that is true,
    and whether the shell sees by itself that it is no answer.
    """

    takes_ms: int
    gives: int = 0
    true: bool = False
    invalid: bool = False


KINDS = {
    "stalls": Liar(TIMEOUT),
    "has nothing": Liar(TIMEOUT - 1),
    "sends garbage": Liar(TIMEOUT - 1, invalid=True),
    "sends false blocks": Liar(TIMEOUT - 1, gives=3),
    "sends true blocks drop by drop": Liar(TIMEOUT - 1, gives=1, true=True),
}


@dataclass(slots=True)
class Catching:
    """Sync of 1,000 blocks, of whom one peer is honest and gives 6 of them in 30 ms."""

    sync: Sync = field(default_factory=make)
    liars: dict[str, Liar] = field(default_factory=dict)
    height: int = 0
    now: int = 0
    asked: list[str] = field(default_factory=list)
    wasted_ms: int = 0

    def ask(self) -> None:
        """One request, from the question to its end."""
        for name in (*self.liars, "honest"):
            # Everyone says again that it is far ahead.
            self.sync.heard(name, 10**9 if name in self.liars else 1_000)
        while (wanted := self.sync.due(self.height, AT_ONCE, self.now)) is None:
            deadline = self.sync.deadline(self.height, AT_ONCE)
            assert deadline is not None
            assert deadline > self.now
            self.now = deadline
        peer = wanted[0]
        self.asked.append(peer)
        how = self.liars.get(peer, Liar(30, gives=6, true=True))
        self.now += how.takes_ms
        answered = not how.invalid and how.takes_ms < TIMEOUT
        if answered:
            self.sync.answered(peer, CHAIN[: how.gives], 10**9)
        if answered and how.gives:
            assert self.sync.take(0) is not None
        if not how.true and how.gives:
            self.sync.refuted(self.now)
        elif how.true:
            for height in range(1, how.gives):
                assert self.sync.take(height) is not None
            self.sync.proved()
            self.sync.advanced()
            self.height += how.gives
        self.sync.ended(peer, self.now, answered=answered, invalid=how.invalid)
        self.wasted_ms += 0 if peer == "honest" else how.takes_ms


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 5, 9])
def test_all_but_one_peer_lie_and_each_wastes_one_request(kind: str, count: int) -> None:
    for first in range(count + 1):
        catching = Catching(liars={f"liar-{n}": KINDS[kind] for n in range(count)}, height=first)
        while "honest" not in catching.asked:
            catching.ask()
        assert catching.wasted_ms <= count * TIMEOUT
        while catching.height < 1_000:
            catching.ask()
        assert catching.wasted_ms <= count * TIMEOUT
        assert len(catching.asked) - catching.asked.count("honest") <= count


def test_a_mix_of_liars_wastes_no_more() -> None:
    catching = Catching(liars=dict(KINDS))
    while catching.height < 1_000:
        catching.ask()
    assert catching.wasted_ms <= len(KINDS) * TIMEOUT


def test_liars_alone_are_asked_ever_more_rarely() -> None:
    sync, now, asked_at = make(), 0, []
    for _ in range(8):
        sync.heard("liar", 10**9)
        deadline = sync.deadline(0, AT_ONCE)
        assert deadline is not None
        now = max(now, deadline)
        assert sync.due(0, AT_ONCE, now) is not None
        asked_at.append(now)
        sync.answered("liar", (), 10**9)
        assert sync.ended("liar", now, answered=True)
    gaps = [later - earlier for earlier, later in pairwise(asked_at)]
    assert gaps == [5_000, 10_000, 20_000, 40_000, 40_000, 40_000, 40_000]


def test_a_claim_counts_until_it_is_not_kept_and_then_when_a_block_proves_true() -> None:
    for answered in (True, False):
        sync = make()
        sync.heard("honest", 4)
        sync.heard("liar", 10**9)
        assert sync.target() == 10**9
        while sync.asked != "liar":
            sync.asked = None
            sync.due(sync._asked_at % 2, AT_ONCE, sync._asked_at + 1)
        sync.ended("liar", 10, answered=answered)
        sync.heard("liar", 10**9)
        assert sync.target() == 4, "it may say so again and again"
        sync.answered("liar", CHAIN[:1], 9)
        sync.take(0)
        sync.proved()
        assert sync.target() == 9


def test_a_liar_that_comes_back_is_as_it_was() -> None:
    sync = make()
    sync.heard("liar", 9)
    sync.due(0, AT_ONCE, 0)
    sync.ended("liar", 10, answered=False, invalid=True)
    sync.forget("liar")
    sync.heard("liar", 9)
    assert sync.due(0, AT_ONCE, 10 + PENALTY - 1) is None
    assert sync.target() == 0
    # A member that left and comes back is another.
    sync.keep({})
    assert sync.target() == 9
    assert sync.due(0, AT_ONCE, 10) is not None


def test_an_answer_longer_than_any_legal_one_is_cut() -> None:
    sync = make()
    sync.answered("a", CHAIN * 20, 9)
    assert sync.ready == WANTED_BLOCKS_MAX


def test_the_end_of_a_request_that_is_not_under_way_is_nothing() -> None:
    sync = make()
    sync.heard("a", 9)
    assert not sync.ended("a", 0, answered=True)
    assert sync.due(0, AT_ONCE, 0) is not None
