"""Every liar lies, and the honest hold: no kind is without effect."""

import random
from collections import Counter
from collections import deque as consume
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import pytest

from consensus.certificates import CertificateError, check_certificate, check_justification
from consensus.messages import (
    Phase,
    Prepare,
    PreparedClaim,
    PrePrepare,
    Signed,
    ViewChange,
    sign,
)
from node.wire import BlocksWanted, Consensus, Message, decode_response
from simulations import faults
from simulations.byzantine import BEHAVIOURS, KINDS, Collusion
from simulations.byzantine.forgeries import altered, invented, relabelled, spoilt
from simulations.byzantine.plot import Plot
from simulations.byzantine.syncing import SyncLiar
from simulations.checkers import PromiseBook, Violation
from simulations.cluster import Cluster
from simulations.drawing import draw
from simulations.faults import Fault
from simulations.host import Host
from simulations.network import Cut
from simulations.profiles import BYZANTINE, TWINS
from simulations.scenario import Byzantine, Scenario, Shape

LIAR = "recorder-2"
SHAPE = Shape(4, 1, 1, "per_class")
# Enough goes wrong besides that views change and the crashed catch up.
TROUBLE: tuple[Fault, ...] = (
    faults.Crash(600, "recorder-1", 0, 800),
    faults.Mute(1_500, 3_000, "recorder-3"),
    faults.Pause(3_200, 3_900, "recorder-4"),
)
LIES: dict[str, tuple[str, ...]] = {
    "equivocator": ("second block", "second vote"),
    "double_voter": ("second vote",),
    "forger": ("vote of another", "repetition", "view change", "proposal"),
    "view_forger": ("altered claim", "view asked for"),
    "replayer": ("repetition",),
    "garbler": ("garbage",),
    "withholder": ("batch kept", "body kept"),
    "censor": ("batch left out", "vote kept back"),
    "sync_liar": ("height", "stall"),
    "spoiler": ("false body", "COMMIT kept"),
    "clock_cheat": ("within the drift", "beyond the drift", "vote unread"),
    "mute": ("Commit kept", "ViewChange kept"),
    "silent": ("silence", "no answer"),
    "slanderer": ("forged evidence", "harmless evidence"),
    "conspirator": ("starve", "one side", "rush"),
    "chameleon": ("silence", "batch left out"),
}


def scenario_with(kind: str, seed: int = 1, liars: Sequence[str] = (LIAR,)) -> Scenario:
    return replace(
        draw(seed, kinds=(), byzantine=()),
        shape=SHAPE,
        byzantine=tuple(Byzantine(who, kind) for who in liars),
        faults=TROUBLE,
    )


def lies_of(cluster: Cluster) -> Counter[str]:
    told: Counter[str] = Counter()
    for host in cluster.hosts:
        if host.behaviour is not None:
            told += host.behaviour.lies
    return told


@pytest.fixture(scope="module")
def finished() -> Cluster:
    """An honest run that is over, whose blocks and keys the tests use."""
    cluster = Cluster(replace(scenario_with("silent"), byzantine=(), faults=()))
    cluster.run()
    return cluster


def test_every_kind_is_drawn_and_shown_to_lie() -> None:
    assert tuple(LIES) == KINDS == tuple(BEHAVIOURS)
    assert {*BYZANTINE.lies} == {*KINDS, TWINS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_liar_lies_and_the_honest_hold(kind: str) -> None:
    """The run checks itself: it raises if anything wrong happens or anything right does not."""
    told: Counter[str] = Counter()
    for seed in (1, 0, 2, 3, 4):
        cluster = Cluster(scenario_with(kind, seed))
        cluster.run()
        assert cluster.watch.chain
        told += lies_of(cluster)
        if all(told[name] for name in LIES[kind]):
            return
    raise AssertionError(f"never told: {[name for name in LIES[kind] if not told[name]]}")


def test_liars_do_the_same_for_the_same_seed() -> None:
    scenario = scenario_with("conspirator", 5, ("recorder-1",))
    digests = []
    for _ in range(2):
        cluster = Cluster(replace(scenario, faults=()))
        cluster.run()
        digests.append(cluster.trace.digest())
    assert digests[0] == digests[1]


# ---- twins ---------------------------------------------------------------------------------------


class Recorded(Host):
    """Writes down what leaves under the name of the twins."""

    said: ClassVar[list[Signed]] = []

    def _send(self, peer: str, message: Message) -> None:
        if isinstance(message, Consensus) and message.signed.signer == self.id == LIAR:
            self.said.append(message.signed)
        super()._send(peer, message)


def test_twins_on_either_side_of_a_cut_contradict_each_other_and_nothing_forks() -> None:
    left, right = ("recorder-1", "recorder-3", LIAR), ("recorder-4", "auditor-1", f"{LIAR}'")
    cut = faults.Partition(600, 2_500, left, right, one_way=False)
    Recorded.said.clear()
    cluster = Cluster(replace(scenario_with(TWINS), faults=(cut,)), host_class=Recorded)
    cluster.run()
    assert [host.name for host in cluster.hosts if host.id == LIAR] == [LIAR, f"{LIAR}'"]
    book = PromiseBook(LIAR)
    with pytest.raises(Violation, match=r"contradicts itself|that it has left|hides a block"):
        consume(map(book.add, Recorded.said), maxlen=0)


def test_partitions_are_drawn_with_a_twin_on_either_side() -> None:
    parted = 0
    for seed in range(150):
        scenario = draw(seed, BYZANTINE, byzantine=(TWINS,))
        twins = [one.who for one in scenario.byzantine]
        for fault in scenario.faults:
            if isinstance(fault, faults.Partition) and twins:
                parted += all(
                    who in fault.left and f"{who}'" in fault.right and who not in fault.right
                    for who in twins
                )
    assert parted > 5


# ---- collusion -----------------------------------------------------------------------------------


def test_the_sides_halve_every_group_of_the_honest(finished: Cluster) -> None:
    collusion = Collusion(("recorder-1", "recorder-3"))
    host = finished.hosts[0]
    sides = {who: collusion.side(host, who) for who in host.running.chain.committee.by_id}
    assert [sides[f"recorder-{n}"] for n in range(1, 5)] == [0, 0, 0, 1]


def test_the_sides_follow_a_cut(finished: Cluster) -> None:
    cluster = Cluster(replace(scenario_with("silent"), faults=()))
    cluster.run()
    cluster.network.cut(Cut(("recorder-1", "auditor-1"), ("recorder-3",)))
    collusion = Collusion((LIAR,))
    host = cluster.hosts[0]
    sides = [collusion.side(host, who) for who in ("recorder-1", "auditor-1", "recorder-3")]
    assert sides == [0, 0, 1]


# ---- forgeries -----------------------------------------------------------------------------------


def signed_by(finished: Cluster, who: str, message: Prepare | ViewChange) -> Signed:
    host = next(host for host in finished.hosts if host.id == who)
    return sign(finished.genesis.chain_id, who, host.key, message)


def test_conspirators_justify_whatever_the_honest_do_not_stand_against(finished: Cluster) -> None:
    """Two honest recorders claim nothing, a third claims block A: with two conspirators both a
    fresh block and A can be justified in view 2.
    """
    committee = finished.hosts[0].running.chain.committee
    chain_id = finished.genesis.chain_id
    block_hash = b"A" * 32
    plot = Plot(50, active=True)
    for who in ("recorder-1", "recorder-3", "recorder-4"):
        plot.learn(signed_by(finished, who, Prepare(50, 0, block_hash)))
    schemers = [host for host in finished.hosts if host.id in (LIAR, "auditor-1")]
    (proof,) = plot.proofs(schemers, committee, below=2)
    check_certificate(proof, Phase.PREPARE, chain_id, committee)
    for who, claim in (("recorder-1", None), ("recorder-3", None), ("recorder-4", proof)):
        plot.learn(signed_by(finished, who, ViewChange(50, 2, claim)))
    for wanted in (None, proof):
        why = plot.justify(schemers, committee, 2, wanted)
        assert why is not None
        obliged = check_justification(why, 50, 2, chain_id, committee)
        assert (obliged is None) == (wanted is None)
    assert plot.justify(schemers[:1], committee, 2, None) is None


def test_no_forged_proof_is_one(finished: Cluster) -> None:
    host = finished.hosts[0]
    committee, chain_id = host.running.chain.committee, finished.genesis.chain_id
    schemers = list(finished.hosts)
    plot = Plot(50, active=True)
    for who in committee.by_id:
        plot.learn(signed_by(finished, who, Prepare(50, 0, b"A" * 32)))
    (proof,) = plot.proofs([], committee, below=1)
    why = plot.justify(schemers, committee, 1, proof)
    assert why is not None
    groups = [[v.id for v in committee.voters if v.group == g] for g in committee.group_sizes]
    chance = random.Random(1)
    fresh = 0
    for _ in range(60):
        bad = altered(chance, proof, 51, 2, b"B" * 32)
        with pytest.raises(CertificateError):
            check_certificate(bad, Phase.PREPARE, chain_id, committee)
        false = spoilt(chance, why, [invented(host, 50, 0, b"B" * 32)], groups)
        try:
            check_justification(false, 50, 1, chain_id, committee)
            fresh += 1
        except CertificateError:
            pass
    # One of four recorders left out still leaves a quorum: that is no lie.
    assert fresh < 15
    renamed = relabelled(PreparedClaim(1, b"B" * 32), proof)
    with pytest.raises(CertificateError):
        check_certificate(renamed, Phase.PREPARE, chain_id, committee)


def test_a_liar_in_sync_spoils_answers_in_every_way(finished: Cluster) -> None:
    host = finished.hosts[0]
    wanted = BlocksWanted(2, 4)
    true = host.running.answer(wanted)
    liar = SyncLiar(random.Random(1), Collusion((host.id,)))
    honest = 0
    for _ in range(300):
        raw = liar.answer(host, wanted, true)
        honest += raw is not None and decode_response(raw) == true
    ways = "stall unsigned redated half gap".split()
    ways += ["signed alone", "swapped bodies", "old certificate", "old block"]
    assert all(liar.lies[way] > 0 for way in ways), liar.lies
    assert honest < 100


def test_a_second_block_is_a_true_one() -> None:
    """Equivocation is worth little if the second block is refused for its content."""
    proposals: dict[tuple[int, int], dict[bytes, None]] = {}

    class Listening(Host):
        def message(self, peer: str, raw: bytes) -> None:
            message = self.world.checks.message(raw)
            if isinstance(message, Consensus) and isinstance(message.signed.message, PrePrepare):
                said = message.signed.message
                if message.signed.signer == LIAR:
                    place = proposals.setdefault((said.height, said.view), {})
                    place[said.block.hash] = None
            super().message(peer, raw)

    cluster = Cluster(scenario_with("equivocator"), host_class=Listening)
    cluster.run()
    assert any(len(hashes) == 2 for hashes in proposals.values())
    assert "block_invalid" not in cluster.trace.counts
    assert cluster.trace.counts["contradiction"] > 0
