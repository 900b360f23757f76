"""Networks in virtual time under a cost model: what is charged, and what must follow from it."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from ledger.genesis import parse_genesis
from node.settings import CoreSettings
from primitives.keys import each_signature_once
from simulations import capacity_node
from simulations.capacity import CapacityRun, Cell, run_cell
from simulations.capacity_links import LINKS, Links
from simulations.capacity_machine import SLICE_US, Job, Lane, Processor
from simulations.capacity_networks import Load, Mix, dead_of, genesis_of, mix_of
from simulations.capacity_sweep import Sweep
from simulations.costs import DEFAULT, Costs, CostsError, read_costs, write_costs
from simulations.schedule import Schedule

TINY = Sweep(blocks=4, latencies=20, load=Load(burst=4, outstanding=120, block_transactions=40))


def _cell(mix: Mix, quorum: Any = "per_class", link: str = "campus", **changes: Any) -> Cell:
    cell = TINY.cell(genesis_of(mix, quorum, {}), "healthy", mix.recorders + mix.auditors)
    return replace(cell, link=link, **changes)


def _rate(cell: Cell, costs: Costs = DEFAULT.costs) -> float:
    """Transactions per second at saturation."""
    with each_signature_once():
        measured = CapacityRun(cell, costs, None).run()
    assert not measured.stopped
    return measured.transactions / measured.seconds


# ---- the machine --------------------------------------------------------------------------------


def test_no_core_works_twice_at_once() -> None:
    schedule = Schedule()
    processor = Processor(schedule, 2)
    lanes = [Lane(processor, 1), Lane(processor, 2)]
    ended: list[int] = []

    def job(duration_us: int) -> Job:
        return Job(lambda: duration_us, lambda: ended.append(schedule.now))

    for number in range(30):
        lanes[number % 2].submit(job(1_000 * (number % 7) + 1))
    assert schedule.run(1_000_000, lambda: len(ended) == 30)
    assert processor.busy_us == sum(1_000 * (number % 7) + 1 for number in range(30))
    assert processor.busy_us <= processor.cores * max(ended)


def test_a_lane_does_one_thing_after_the_other() -> None:
    schedule = Schedule()
    lane = Lane(Processor(schedule, 8), 1)
    ended: list[int] = []
    for _ in range(3):
        lane.submit(Job(lambda: 500, lambda: ended.append(schedule.now)))
    schedule.run(10_000, lambda: False)
    assert ended == [500, 1_000, 1_500]


def test_a_long_job_lets_others_have_the_core() -> None:
    schedule = Schedule()
    processor = Processor(schedule, 1)
    ended: list[str] = []
    for name, duration_us in (("long", 10 * SLICE_US), ("short", 100)):
        job = Job(partial(int, duration_us), partial(ended.append, name))
        Lane(processor, 1).submit(job)
    schedule.run(20 * SLICE_US, lambda: False)
    assert ended == ["short", "long"]


def test_links_are_in_microseconds_and_bits() -> None:
    campus = LINKS["campus"]
    assert campus.leaving_us(125_000) == 1_000
    assert LINKS["province"].leaving_us(125_000) == 10_000
    assert "8 ms, 100 Mbit/s" in LINKS["province"].describe()
    assert "5 to 15 ms" in LINKS["greater-bay"].describe()


# ---- a run --------------------------------------------------------------------------------------


def test_a_cell_gives_the_same_every_time_and_never_overworks_its_cores() -> None:
    cell = _cell(Mix(4, 0, 0))
    first, again = run_cell(cell, DEFAULT.costs), run_cell(cell, DEFAULT.costs)
    assert first == again
    assert not first.stopped
    assert 0 < first.processor_percent <= 100
    assert 0 < first.latency_ms_p50 <= first.latency_ms_p95 <= first.latency_ms_p99
    assert run_cell(replace(cell, seed=1), DEFAULT.costs) != first


def test_nodes_of_one_machine_share_its_cores() -> None:
    apart = _rate(_cell(Mix(4, 0, 0), link="machine"))
    together = _cell(Mix(4, 0, 0), link="machine", shared=True)
    with each_signature_once():
        run = CapacityRun(together, DEFAULT.costs, None)
        measured = run.run()
    assert len(run.processors) == 1
    # Work that has begun when the measurement ends is counted whole.
    assert measured.busy_share <= 1.01
    assert measured.transactions / measured.seconds < apart


def test_twice_the_costs_is_not_faster() -> None:
    dear = replace(
        DEFAULT.costs, **{name: 2 * value for name, value in vars_of(DEFAULT.costs).items()}
    )
    assert _rate(_cell(Mix(4, 0, 0)), dear) < 0.7 * _rate(_cell(Mix(4, 0, 0)))


def vars_of(costs: Costs) -> dict[str, float]:
    return {name: getattr(costs, name) for name in Costs.__dataclass_fields__}


def test_checks_are_charged_to_every_voter() -> None:
    cell = _cell(Mix(4, 0, 0))
    dearer = replace(DEFAULT.costs, transaction_check_us=1_000.0)
    with each_signature_once():
        run = CapacityRun(cell, dearer, None)
        run.run()
    # The last blocks' transactions may have been checked by some only.
    head = next(iter(run.nodes.values())).core
    blocks = [head.chain.reader.receipts(height) or () for height in range(1, head.head.height)]
    applied = sum(len(receipts) for receipts in blocks) * TINY.load.burst
    for processor in run.processors:
        assert processor.busy_us >= 1_000 * applied


def test_each_node_is_charged_each_block_once_and_all_execute_it_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = Load(burst=1, operations=100, outstanding=40, block_transactions=40)
    cell = _cell(Mix(4, 0, 0), load=load)
    with each_signature_once():
        run = CapacityRun(cell, DEFAULT.costs, None)
        measured = run.run()
    for node in run.nodes.values():
        height, executed = node.core.head.height, node.core.counters["blocks_executed"]
        assert height <= executed <= height + 1
    undrafted = CoreSettings(draft_work_min=10**9)
    monkeypatch.setattr(capacity_node, "CoreSettings", lambda **_: undrafted)
    assert measured.transactions / measured.seconds > 1.2 * _rate(cell)


def test_more_voters_are_never_faster() -> None:
    rates = [_rate(_cell(mix_of(n), "flat")) for n in (4, 7, 13)]
    assert rates == sorted(rates, reverse=True)


def test_more_bandwidth_is_never_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    for megabits in (1, 10, 1_000):
        links = Links("made up", 300, 300, 30, megabits * 1_000_000)
        monkeypatch.setattr("simulations.capacity.LINKS", {"made-up": links})
        rates.append(_rate(_cell(Mix(4, 0, 2), link="made-up")))
    assert rates[0] < rates[1]
    assert rates[1] <= rates[2] * 1.05


def test_classes_are_faster_than_flat_where_agreement_is_what_costs() -> None:
    mix = mix_of(40)
    assert mix == Mix(10, 4, 26)
    by_class, flat = (_cell(mix, rule, blocks=2) for rule in ("per_class", "flat"))
    assert _rate(flat) < _rate(by_class)


@pytest.mark.parametrize(
    ("condition", "dead"),
    [
        ("healthy", ()),
        ("dead recorder", ("recorder-4",)),
        ("f faults", ("auditor-1", "recorder-1", "recorder-4")),
        ("beyond", ("auditor-3", "auditor-4")),
    ],
)
def test_who_dies(condition: Any, dead: tuple[str, ...]) -> None:
    genesis = parse_genesis(genesis_of(Mix(7, 4, 3), "per_class", {}))
    assert dead_of(genesis, condition)[: len(dead)] == dead
    assert len(dead_of(genesis, condition)) == len(dead)


def test_a_dead_recorder_costs_a_little_and_one_too_many_everything() -> None:
    healthy = _cell(Mix(4, 0, 0), blocks=8)
    lame = run_cell(replace(healthy, condition="dead recorder"), DEFAULT.costs)
    assert not lame.stopped
    assert 0 < lame.transactions_per_second < _rate(healthy)
    still = run_cell(replace(healthy, condition="beyond"), DEFAULT.costs)
    assert still.stopped
    assert still.transactions_per_second == 0


# ---- the costs file -----------------------------------------------------------------------------


def test_costs_are_read_as_they_were_written() -> None:
    assert read_costs(write_costs(DEFAULT).encode()) == DEFAULT


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.pop("version"), "must be an object with"),
        (lambda d: d.pop("machine"), 'lacks "machine"'),
        (lambda d: d.pop("costs"), 'lacks its table "costs"'),
        (lambda d: d["costs"].pop("turn_us"), "lacks a number for turn_us"),
        (lambda d: d["costs"].update(turn_us=True), "lacks a number for turn_us"),
        (lambda d: d["costs"].update(turn_us=-1), "must be from 0"),
        (lambda d: d["costs"].update(other=1), "unknown cost 'other'"),
    ],
)
def test_bad_costs_are_refused(change: Callable[[Any], object], sentence: str) -> None:
    found = json.loads(write_costs(DEFAULT))
    change(found)
    with pytest.raises(CostsError, match=sentence):
        read_costs(json.dumps(found).encode())


def test_what_is_no_json_is_no_costs_file() -> None:
    with pytest.raises(CostsError, match="--calibrate"):
        read_costs(b"{")
