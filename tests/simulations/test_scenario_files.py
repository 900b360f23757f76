"""Scenario files: what is written is read back, and nothing else is taken."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations import faults
from simulations.drawing import draw
from simulations.profiles import PROFILES
from simulations.scenario_files import ScenarioError, read_scenario, write_scenario


@pytest.mark.parametrize("name", PROFILES)
def test_what_is_written_is_read_back(name: str) -> None:
    drawn = [draw(seed, PROFILES[name]) for seed in range(60)]
    for scenario in drawn:
        assert read_scenario(write_scenario(scenario)) == scenario
    kinds = {type(fault) for scenario in drawn for fault in scenario.faults}
    assert kinds == {kind for kind in faults.KINDS if kind in PROFILES[name].faults}


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(write_scenario(draw(0, kinds=(faults.Crash,))))
    found["byzantine"] = []
    return found


CHANGES: list[tuple[list[str | int], Any, str]] = [
    (["heal"], 1, "unknown name, 'heal'"),
    (["shape", "regulators"], 1, "shape has an unknown name"),
    (["faults", 0, "howlong"], 1, "fault 1 has an unknown name"),
    (["faults", 0, "kind"], "Explosion", "fault 1 needs a kind, one of: Crash"),
    (["faults"], {}, "faults must be a list"),
    (["faults", 0, "who"], "recorder-99", "Fault 1 is of recorder-99, which is no member"),
    (["faults", 0, "at"], -1, "Fault 1 ends before it begins"),
    (["faults", 0, "down_ms"], 10**6, "Fault 1 must be over when the network heals"),
    (["faults", 0, "effects"], -1, "Fault 1: effects counts from 0"),
    (["byzantine"], [{"who": "nobody", "kind": "twins"}], "The liar nobody is no member"),
    (["byzantine"], [{"who": "recorder-1", "kind": "poet"}], "No liar is a 'poet'"),
    (["byzantine"], [{"who": "recorder-1", "kind": "twins"}] * 2, "lies twice"),
    (["byzantine"], ["recorder-1"], "liar 1 must be a table"),
    (["shape", "recorders"], 0, "at least one recorder"),
    (["shape", "recorders"], "4", "shape: Expected `int`"),
    (["shape", "quorum"], "majority", "shape: Invalid enum value"),
    (["shape"], 4, "shape must be a table"),
    (["storm", "loss"], 1.5, "loss and duplication are shares"),
    (["storm", "delay_ms_mean"], 0, "a mean delay must be above 0"),
    (["calm", "loss"], 0.5, "The calm after the healing loses nothing"),
    (["transactions"], -1, "transactions must be from 0"),
    (["heal_ms"], 10**9, "heal_ms must be from 1000"),
    (["disk_ms_max"], -5, "must not be negative"),
    (["profile"], "storm", "There is no profile 'storm'"),
    (["settings", "view_timeout_ms_max"], 1, "No genesis file can be made of it"),
]


@pytest.mark.parametrize(("path", "value", "sentence"), CHANGES)
def test_a_mistake_is_refused_with_a_sentence(
    path: list[str | int], value: Any, sentence: str
) -> None:
    changed = document()
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ScenarioError) as caught:
        read_scenario(json.dumps(changed))
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


def test_what_is_missing_is_named() -> None:
    lacking = document()
    del lacking["heal_ms"]
    with pytest.raises(ScenarioError, match="the scenario lacks heal_ms"):
        read_scenario(json.dumps(lacking))


@given(st.binary(max_size=60) | st.recursive(st.integers() | st.text(), st.lists).map(json.dumps))
@settings(max_examples=100, deadline=None)
def test_anything_else_is_refused_and_nothing_breaks(text: str | bytes) -> None:
    with pytest.raises(ScenarioError):
        read_scenario(text)
