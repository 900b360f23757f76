"""Sweeps over networks, wherever they run, and what is told of them."""

import pickle
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger.genesis import parse_genesis
from simulations.capacity import Result
from simulations.capacity_genesis import answers, questions
from simulations.capacity_links import LINKS
from simulations.capacity_networks import Load, Mix, genesis_of, mix_of
from simulations.capacity_report import HEADS, csv_text, document, plot, rows
from simulations.capacity_sweep import SIZES, CapacityError, Sweep, run_cells, workers
from simulations.costs import DEFAULT

TINY = Sweep(
    sizes=(4,),
    rules=("flat", "per_class"),
    conditions=("healthy",),
    blocks=2,
    latencies=10,
    load=Load(burst=4, outstanding=80, block_transactions=40),
)
RESULT = Result(
    institutions=8,
    recorders=4,
    auditors=4,
    voters=8,
    quorum="per_class",
    condition="healthy",
    link="province",
    dead=(),
    transactions_per_second=2_000.0,
    blocks_per_second=4.0,
    transactions_per_block=500.0,
    messages_per_block=120.0,
    bytes_per_transaction=2_400.0,
    processor_percent=50.0,
    latency_ms_p50=80.0,
    latency_ms_p95=150.0,
    latency_ms_p99=200.0,
    view_changes=0,
    stopped=False,
)


class Elsewhere(Executor):
    """Runs at once what a cluster would run some time; what it is given must survive a pickle."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        function, arguments = pickle.loads(pickle.dumps((fn, args)))
        future.set_result(pickle.loads(pickle.dumps(function(*arguments, **kwargs))))
        return future


def test_results_are_the_same_wherever_they_are_computed() -> None:
    cells = TINY.cells()
    seen: list[Result] = []
    elsewhere = run_cells(cells, DEFAULT.costs, Elsewhere(), seen.append)
    with workers(2, None) as pool:
        here = run_cells(cells, DEFAULT.costs, pool)
    assert here == elsewhere
    assert [result.quorum for result in here] == ["flat", "per_class"]
    assert len(seen) == len(cells)


def test_every_size_has_a_plausible_mix() -> None:
    for size in SIZES:
        mix = mix_of(size)
        assert mix.recorders + mix.auditors + mix.observers == size
        assert 4 <= mix.recorders <= 13
    assert mix_of(200) == Mix(13, 10, 177)
    assert len(Sweep(sizes=(4, 7)).cells()) == 2 * 9


def test_where_many_vote_fewer_blocks_are_measured() -> None:
    sweep = Sweep(sizes=(4, 200), rules=("flat", "per_class"), conditions=("healthy",))
    assert [cell.blocks for cell in sweep.cells()] == [32, 32, 6, 32]


@pytest.mark.parametrize(
    ("sweep", "sentence"),
    [
        (Sweep(sizes=(3,)), "4 to 200 institutions, not 3"),
        (Sweep(sizes=(201,)), "not 201"),
        (Sweep(link="moon"), "no links named 'moon'; take one of machine, campus"),
        (Sweep(cores=0), "at least one core"),
        (Sweep(blocks=0), "at least one block"),
        (Sweep(load=Load(burst=0)), "at least one transaction in a burst"),
        (Sweep(load=Load(outstanding=3)), "at least one burst outstanding"),
        (Sweep(load=Load(block_transactions=5)), "give a smaller --burst"),
    ],
)
def test_what_cannot_be_simulated_is_said(sweep: Sweep, sentence: str) -> None:
    with pytest.raises(CapacityError, match=sentence):
        sweep.cells()


def test_extras_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(CapacityError, match=r"medpact\[dask\]"), workers(1, "tcp://127.0.0.1:1"):
        raise AssertionError("there is no Dask")
    with pytest.raises(CapacityError, match=r"medpact\[sim\]"):
        plot([RESULT], tmp_path)


def test_results_become_a_table_csv_and_a_document() -> None:
    still = replace(RESULT, stopped=True, dead=("recorder-1", "recorder-2"))
    shown = rows([RESULT, still])
    assert [len(row) for row in shown] == [len(HEADS)] * 2
    assert shown[0] == ("8 8 per_class healthy province 2,000 500 120 50 80 150 200".split())
    assert shown[1][5] == "stands still"
    heading, first, second = csv_text([RESULT, still]).splitlines()
    assert heading.startswith("institutions,recorders,")
    assert first.startswith("8,4,4,8,per_class,healthy,province,,2000.0,")
    assert ",recorder-1 recorder-2," in second
    told = document([RESULT], DEFAULT)
    assert told["results"][0]["latency_ms_p99"] == 200.0
    assert told["costs"]["signature_check_us"] == DEFAULT.costs.signature_check_us


# ---- one's own consortium -----------------------------------------------------------------------


def test_a_consortium_is_asked_about_every_distance_and_fault() -> None:
    genesis = parse_genesis(genesis_of(Mix(4, 4, 2), "per_class", {}))
    cells = questions(genesis, Sweep(link="campus"))
    healthy = [cell.link for cell in cells if cell.condition == "healthy"]
    assert healthy == ["campus", "province", "greater-bay", "continental"]
    others = [(cell.condition, cell.link) for cell in cells[4:]]
    assert others == [
        ("dead recorder", "campus"),
        ("f faults", "campus"),
        ("beyond", "campus"),
    ]


def test_a_consortium_is_told_what_it_bears() -> None:
    genesis = parse_genesis(genesis_of(Mix(4, 4, 0), "per_class", {}))
    lame = replace(RESULT, condition="dead recorder", dead=("recorder-3",))
    lame = replace(lame, transactions_per_second=1_500.0)
    still = replace(RESULT, condition="beyond", dead=("auditor-3", "auditor-4"), stopped=True)
    text = "\n".join(answers(genesis, [RESULT, lame, still]))
    for sentence in (
        f"Over {LINKS['province'].describe()}: up to 2,000 transactions a second.",
        "half of the receipts come within 80 ms, and 99 of 100 within 200 ms.",
        "The recorders are 4, and 3 of them must agree: 1 may be down without stopping the ledger",
        "2 auditors and 2 recorders who act together. One class alone, dishonest as a whole, can",
        "Simulated: when recorder-3 dies, 1,500 transactions a second are left over the next",
        "blocks (75%)",
        "Simulated: with auditor-3, auditor-4 down, no block was made any more.",
    ):
        assert sentence in text


def test_one_pool_is_told_what_one_pool_bears() -> None:
    genesis = parse_genesis(genesis_of(Mix(4, 2, 0), "pooled", {}))
    text = "\n".join(answers(genesis, [replace(RESULT, stopped=True)]))
    assert "it makes no blocks, even while all is well" in text
    assert "All voters together are 6, and 4 of them must agree: 2 may be down" in text
    assert "if 2 voters are dishonest and act together, whatever their types" in text


def test_a_single_voter_has_nothing_to_agree_on() -> None:
    genesis = parse_genesis(genesis_of(Mix(1, 0, 3), "per_class", {}))
    with pytest.raises(CapacityError, match="one voter"):
        questions(genesis, Sweep())
