"""Nodes broken on purpose: the campaign must catch each within a few seeds."""

from collections.abc import Sequence

import pytest

from ledger.receipts import Receipt
from ledger.store import WriteBatch, WriteBlock
from node.events import Effect, SendMessage
from node.wire import Request
from simulations import faults
from simulations.campaign import Report, Verdict, run_scenario
from simulations.drawing import draw
from simulations.faults import Fault
from simulations.host import Host
from simulations.world import Backup

SEEDS_MAX = 12


class Forgetful(Host):
    """Starts without what it promised."""

    def start(self) -> None:
        self.store._promises.clear()
        super().start()


class Hasty(Host):
    """Sends before it writes."""

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendMessage):
                self._perform_one(effect)
        super()._perform([effect for effect in effects if not isinstance(effect, SendMessage)])


class Bodyless(Host):
    """Votes for blocks whose batches it does not keep."""

    def _perform(self, effects: Sequence[Effect]) -> None:
        super()._perform([effect for effect in effects if not isinstance(effect, WriteBatch)])


class Credulous(Host):
    """Is content with one vote less than a quorum."""

    def start(self) -> None:
        super().start()
        sizes = self.running.chain.committee.quorum_sizes
        for group in sizes:
            sizes[group] -= 1


class Unaware(Host):
    """Does not notice that its disk is an old copy."""

    def restore(self, backup: Backup) -> None:
        super().restore(backup)
        self._forgot = False


class Uninterested(Host):
    """Never asks for what it lacks."""

    def _ask(self, peer: str, request: Request) -> None:
        return


class Inventive(Host):
    """Writes receipts of its own."""

    def _perform(self, effects: Sequence[Effect]) -> None:
        super()._perform([self._changed(effect) for effect in effects])

    def _changed(self, effect: Effect) -> Effect:
        if not isinstance(effect, WriteBlock) or self.id != "recorder-1":
            return effect
        receipts = [Receipt(receipt.transaction, 20, 0) for receipt in effect.receipts]
        return WriteBlock(
            effect.decision,
            effect.batches,
            receipts,
            effect.transaction_ids,
            effect.executed,
            effect.chains,
            effect.changes,
        )


def first_failure(
    host_class: type[Host], kinds: tuple[type[Fault], ...], first_seed: int
) -> Report | None:
    """What the first seed says that catches the mutant."""
    for seed in range(first_seed, first_seed + SEEDS_MAX):
        report = run_scenario(draw(seed, kinds=kinds, byzantine=()), host_class=host_class)
        if report.verdict is not Verdict.PASSED:
            return report
    return None


@pytest.mark.parametrize(
    ("host_class", "kinds", "first_seed", "verdict", "reason"),
    [
        (Forgetful, (faults.Crash, faults.CrashAll), 2, Verdict.WRONG, "contradicts itself"),
        (Hasty, (), 0, Verdict.WRONG, "before it is durable"),
        (Bodyless, (), 0, Verdict.WRONG, "batches are not durable"),
        (Credulous, (), 2, Verdict.WRONG, "proves nothing"),
        (Unaware, (faults.RestoredBackup,), 50, Verdict.WRONG, "its disk has lost what it signed"),
        (Uninterested, (faults.Crash,), 0, Verdict.STUCK, "wait for their receipts"),
        (Inventive, (), 0, Verdict.WRONG, "other receipts"),
    ],
)
def test_a_mutant_is_caught(
    host_class: type[Host],
    kinds: tuple[type[Fault], ...],
    first_seed: int,
    verdict: Verdict,
    reason: str,
) -> None:
    report = first_failure(host_class, kinds, first_seed)
    assert report is not None
    assert report.verdict is verdict
    assert reason in report.reason
