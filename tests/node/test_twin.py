"""Our key at work elsewhere: whatever shows a vote that is not ours silences us, loudly."""

import pytest

from consensus.events import Persist
from consensus.messages import Certificate, Commit, Phase, Prepare, ViewChange, VoteSignature, sign
from consensus.promises import Promises
from node.events import Effect, Report
from simulations.store import MemoryStore
from tests.node.support import Net, executed, key_of, make_genesis

GENESIS = make_genesis(4)
BLOCK, OTHER = b"\x01" * 32, b"\x02" * 32


def committed(net: Net, victim: str) -> bool:
    """Whether every other node has a block with a COMMIT of this voter, of whichever votes each
    has counted.
    """
    return all(_has_commit(net[id].store, victim) for id in net.benches if id != victim)


def _has_commit(store: MemoryStore, victim: str) -> bool:
    heights = range(1, (store.head_height() or 0) + 1)
    decisions = [store.decision(height) for height in heights]
    return any(
        entry.signer == victim
        for decision in decisions
        if decision is not None
        for entry in decision.certificate.signatures
    )


def run_until_committed(net: Net, victim: str, number: int) -> int:
    while not committed(net, victim):
        number += 1
        net.submit("recorder-2", number)
        net.run(3_000)
    return number


def reports(net: Net, id: str) -> list[Report]:
    """From now on, what this node tells its operator."""
    found: list[Report] = []
    bench = net[id]
    perform = bench._perform

    def noting(effects: list[Effect]) -> list[Effect]:
        performed = perform(effects)
        found.extend(effect for effect in performed if isinstance(effect, Report))
        return performed

    bench._perform = noting  # type: ignore[method-assign]
    return found


def set_back(net: Net, victim: str, old: MemoryStore) -> list[Report]:
    """The victim comes back with an old disk, and nothing in its files shows that."""
    net.stop(victim)
    net.start(victim, old)
    return reports(net, victim)


def test_a_disk_that_was_set_back_shows_in_the_blocks_that_follow() -> None:
    net = Net(GENESIS)
    victim = "recorder-4"
    old = net[victim].store.copy()
    number = run_until_committed(net, victim, 0)
    told = set_back(net, victim, old)
    net.run(10_000)
    core = net[victim].core
    assert core.head.height == net["recorder-1"].core.head.height
    assert [report.event for report in told].count("key_used_elsewhere") == 1
    assert (core.abstaining, core.votes) == (True, False)

    done = []
    for _ in range(4):
        number += 1
        done += net.submit("recorder-2", number)
        net.run(6_000)
    assert executed(net, done)
    assert (core.abstaining, core.votes) == (False, True)


def test_a_disk_that_is_merely_behind_shows_nothing() -> None:
    net = Net(GENESIS)
    victim = "recorder-4"
    store = net.stop(victim)
    for number in range(1, 4):
        net.submit("recorder-2", number)
        net.run(3_000)
    net.start(victim, store)
    told = reports(net, victim)
    net.run(10_000)
    assert net[victim].core.head.height == net["recorder-1"].core.head.height
    assert told == []
    assert net[victim].core.votes


def promised(*votes: Prepare | Commit | ViewChange) -> Promises:
    promises = Promises(1)
    for vote in votes:
        signed = sign(GENESIS.chain_id, "recorder-1", key_of("recorder-1"), vote)
        promises.latest[Phase.COMMIT if isinstance(vote, Commit) else Phase.PREPARE] = signed
        promises.prepared = Persist(signed, None, None).prepared
    return promises


@pytest.mark.parametrize(
    ("view", "block_hash", "foreign"),
    [
        (1, BLOCK, False),
        (1, OTHER, True),
        (2, BLOCK, True),
        (0, OTHER, False),  # of a view that we have left, nothing is known here any more
    ],
)
@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.COMMIT])
def test_which_votes_are_not_ours(
    view: int, block_hash: bytes, foreign: bool, phase: Phase
) -> None:
    vote = Prepare(1, 1, BLOCK) if phase is Phase.PREPARE else Commit(1, 1, BLOCK)
    entries = (VoteSignature("recorder-1", bytes(64)),)
    certificate = Certificate(int(phase), 1, view, block_hash, entries)
    assert promised(vote).disowns(certificate) is foreign
    assert promised().disowns(certificate)
