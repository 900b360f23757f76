"""docs/limits.md says what the code does: every limit in its tables has the value that it has."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "limits.md"
ROW = re.compile(r"^\| `([\w.]+)` \| ([\d,]+) \|", re.MULTILINE)
ROWS = {name: int(value.replace(",", "")) for name, value in ROW.findall(PAGE.read_text())}
HOMES = (
    "consensus.certificates",
    "consensus.height",
    "consensus.intake",
    "consensus.tally",
    "consensus.witness",
    "node.checks",
    "node.conduct",
    "node.core",
    "node.drafts",
    "node.driver",
    "node.fetching",
    "node.following",
    "node.judging",
    "node.mempool",
    "node.seat",
    "node.serving",
    "node.spreading",
    "node.sync",
    "node.verifier",
    "node.wire",
)


def test_the_page_has_its_tables() -> None:
    assert len(ROWS) > 25
    assert PAGE.read_text().count("\n| `") == len(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_limit_is_what_the_page_says(name: str) -> None:
    first, _, field = name.partition(".")
    homes = [importlib.import_module(home) for home in HOMES]
    (found,) = {id(getattr(home, first)): home for home in homes if hasattr(home, first)}.values()
    limit = getattr(found, first)
    assert (getattr(limit(), field) if field else limit) == ROWS[name]
