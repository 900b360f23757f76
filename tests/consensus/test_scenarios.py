"""Every scenario file happens exactly as written."""

from pathlib import Path

import pytest

from tests.consensus.scenario import DIRECTORY, play

FILES = sorted(DIRECTORY.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    text = path.read_text()
    assert play(text) == text


def test_scenarios_are_found() -> None:
    assert FILES


def test_a_wrong_expectation_is_noticed() -> None:
    text = (DIRECTORY / "normal_case.txt").read_text()
    assert play(text.replace("r3 decides 1/0 A", "r3 decides 1/0 B")) == text


def test_unknown_commands_are_refused() -> None:
    with pytest.raises(ValueError, match="no such command"):
        play("network recorders=1\ndance r0\n")
    with pytest.raises(ValueError, match="begins with"):
        play("show\n")
    with pytest.raises(ValueError, match="no such message"):
        play("network recorders=1\nsay r0 poem to=r0 height=1 view=0\n")
