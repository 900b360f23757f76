"""The floor that a benchmark compares with."""

import random
from pathlib import Path

import pytest

from ledger.transactions import TransactionError
from primitives.keys import PrivateKey
from simulations.bench import payload
from simulations.bench.floor import floor, mean, measure
from storage.floor import store

SHAPE = payload.shape(1, 300)


def test_bad_transactions_do_not_pass(tmp_path: Path) -> None:
    chance = random.Random(1)
    key = PrivateKey(chance.randbytes(32))
    made = payload.sign(bytes(32), [key], SHAPE, 1_000, 5, chance)
    good = [signed.raw for signed in made]
    kept = store(good, bytes(32), tmp_path / "good.db", 2)
    assert [each.raw for each in kept] == good
    with pytest.raises(TransactionError, match="signature is wrong"):
        store([*good, good[0][:-1] + bytes([good[0][-1] ^ 1])], bytes(32), tmp_path / "b.db", 2)


def test_the_slowest_process_counts() -> None:
    took = [
        {"started": 1.0, "ended": 3.0, "cpu_seconds": 0.5, "check_cpu_seconds": 0.25},
        {"started": 1.5, "ended": 5.0, "cpu_seconds": 1.5, "check_cpu_seconds": 0.75},
    ]
    found = floor(1_000, took, "3")
    assert found.tx_per_second == 250
    assert found.cpu_us_per_transaction == 1_000
    assert found.check_us_per_transaction == 500
    assert mean([found, floor(3_000, took, "3")]).tx_per_second == 500


@pytest.mark.processes
def test_the_floor_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.bench.floor.TRANSACTIONS", 50)
    for _ in range(2):
        found = measure(tmp_path, 2, SHAPE, 7)
        assert found.tx_per_second > 0
        assert 0 < found.check_us_per_transaction <= 2 * found.cpu_us_per_transaction
