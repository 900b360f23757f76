"""A plan follows from its seed and keeps to what a consortium can bear."""

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.committee import quorum_size
from simulations.chaos import parse, repeat_command, seeds_of, settings_of
from simulations.chaos_plan import EVERYBODY, LASTS_MS, ON_DISK, Kind, Plan, Round, Shape

ROOT = Path(__file__).resolve().parents[2]
SEEDS = st.integers(0, 2**32)
SHAPES = st.builds(Shape, st.integers(1, 9), st.integers(0, 9), st.integers(0, 3)).filter(
    lambda shape: len(shape.members) > 1
)


def first(plan: Plan, count: int = 40) -> list[Round]:
    return list(islice(plan.rounds(), count))


@given(SEEDS, SHAPES)
def test_no_class_has_more_faulty_members_than_it_can_miss(seed: int, shape: Shape) -> None:
    spare = shape.spare()
    for one in first(Plan(seed, shape)):
        if one.faults[0].kind in EVERYBODY:
            assert len(one.faults) == 1
            continue
        victims = [name for fault in one.faults for name in fault.victims]
        assert len(victims) == len(set(victims))
        for kind, names in shape.classes.items():
            assert sum(name in names for name in victims) <= spare[kind]


@given(SEEDS, SHAPES)
def test_faults_are_as_their_kinds_say(seed: int, shape: Shape) -> None:
    plan = Plan(seed, shape)
    for fault in (fault for one in first(plan) for fault in one.faults):
        low, high = LASTS_MS[fault.kind]
        assert low <= fault.lasts_ms < high
        assert not set(fault.victims) & set(fault.others)
        assert set(fault.victims) | set(fault.others) <= set(shape.members)
        assert bool(fault.offset_ms) == (fault.kind is Kind.CLOCK)
        assert bool(fault.others) == (fault.kind in (Kind.LINK, Kind.SPLIT))
        if fault.kind in ON_DISK:
            assert set(fault.victims) <= set(plan.small_disks)
        if fault.kind is Kind.CLOCK:
            assert set(fault.victims) <= set(plan.moved_clocks)


@given(SEEDS, st.integers(2, 9), st.integers(1, 9))
def test_no_part_of_a_split_has_a_quorum_of_both_classes(
    seed: int, recorders: int, auditors: int
) -> None:
    shape = Shape(recorders, auditors)
    splits = [f for one in first(Plan(seed, shape)) for f in one.faults if f.kind is Kind.SPLIT]
    assert splits
    for fault in splits:
        assert {*fault.victims, *fault.others} == set(shape.members)
        for part in (fault.victims, fault.others):
            counts = {kind: sum(n in part for n in names) for kind, names in shape.classes.items()}
            assert any(
                counts[kind] < quorum_size(len(shape.classes[kind]))
                for kind in ("recorder", "auditor")
            )


def test_a_class_can_miss_what_is_beyond_its_quorum() -> None:
    for n in range(1, 100):
        assert Shape(n, 1).spare()["recorder"] == n - quorum_size(n)
    assert Shape(4, 0).spare()["auditor"] == 0


def test_all_kinds_come_soon() -> None:
    for seed in range(50):
        met = {fault.kind for one in first(Plan(seed, Shape())) for fault in one.faults}
        assert met == set(Kind)


def test_a_plan_is_the_same_in_every_process_and_each_time_it_is_asked() -> None:
    command = [sys.executable, "-m", "simulations.chaos", "--plan", "--seed", "5"]
    shown = [
        subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert shown[0] == shown[1]
    assert shown[0].count("\n") > 5
    plan = Plan(5, Shape())
    assert first(plan) == first(plan) == first(Plan(5, Shape()))
    assert first(plan) != first(Plan(6, Shape()))


def test_the_command_that_repeats_a_run_draws_the_same_plan() -> None:
    settings = settings_of(parse(["--recorders", "7", "--rate", "5", "--seconds", "90"]))
    words = repeat_command(9, settings).split()
    assert words[:3] == ["python", "-m", "simulations.chaos"]
    again = parse(words[3:])
    assert settings_of(again) == settings
    assert list(seeds_of(again)) == [9]


def test_three_seeds_unless_one_is_named() -> None:
    assert list(seeds_of(parse([]))) == [1, 2, 3]
    assert list(seeds_of(parse(["--seed", "4"]))) == [4]
    assert list(seeds_of(parse(["--seed", "4", "--seeds", "2"]))) == [4, 5]


@pytest.mark.parametrize("words", [["--seeds", "0"], ["--recorders", "x"], ["--rate", "-1"]])
def test_a_wrong_command_line_ends_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2
