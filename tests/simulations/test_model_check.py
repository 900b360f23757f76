"""Reading the model checker: nothing that Spin did not search to its end may pass for a proof."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from consensus.committee import faulty_max, quorum_size
from simulations.model_check import (
    FAULTS,
    GOALS,
    MODEL,
    ModelError,
    Outcome,
    Run,
    as_document,
    as_table,
    check,
    judge,
    main,
    parse,
    plan,
)

ROOT = Path(__file__).resolve().parents[2]
COMPLETE = """
(Spin Version 6.5.2 -- 6 December 2019)

Full statespace search for:
	never claim         	- (none specified)
	assertion violations	+
	invalid end states	+

State-vector 116 byte, depth reached 62, errors: 0
   191704 states, stored
   387102 states, matched

unreached in proctype voter
	agreement.pml:423, state 339, "-end-"
	(1 of 339 states)
unreached in init
	agreement.pml:440, state 85, "x = 1"
	(1 of 85 states)

pan: elapsed time 1.17 seconds
"""
FORK = COMPLETE.replace("errors: 0", "errors: 1").replace(
    "\n(Spin", "pan:1: assertion violated (decided!=3) (at depth 34)\n(Spin", 1
)
RUN = Run("one", "holds", 4, 1, 1, 1, 3, whole=True)


def _goal(words: str) -> str:
    return FORK.replace("(decided!=3)", words)


def test_a_complete_search_holds() -> None:
    assert parse(COMPLETE) == Outcome("holds", 191_704, 62, ())
    assert judge(RUN, parse(COMPLETE)) == ""


def test_large_numbers_of_states_are_read() -> None:
    assert parse(COMPLETE.replace("   191704", "1.4137e+06")).states == 1_413_700


def test_a_fork_is_no_goal_and_a_goal_no_fork() -> None:
    fork, goal = parse(FORK), parse(_goal(" !((committed[0]!=0))"))
    assert (fork.ending, goal.ending) == ("forks", "reached")
    assert judge(replace(RUN, expected="forks"), fork) == ""
    assert judge(replace(RUN, expected="reached"), goal) == ""
    assert "holds, but it forks" in judge(RUN, fork)
    assert "holds, but it reached" in judge(RUN, goal)
    assert "forks, but it holds" in judge(replace(RUN, expected="forks"), parse(COMPLETE))


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("error: max search depth too small\n" + COMPLETE, "longer than"),
        ("pan: reached -DMEMLIM bound\n" + COMPLETE, "MiB"),
        ("pan: out of memory\n" + COMPLETE, "memory of this machine"),
        (COMPLETE.replace("(Spin", "Warning: Search not completed\n(Spin"), "not completed"),
        (COMPLETE.replace("errors: 0", "errors: 2"), "does not name"),
        (FORK.replace("(decided!=3)", "- invalid array index"), "model itself is wrong"),
        (FORK.replace("assertion violated (decided!=3)", "invalid end state"), "model itself"),
        ("", "no count"),
        (COMPLETE.replace("states, stored", ""), "no count"),
    ],
)
def test_what_proves_nothing_is_refused(output: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        parse(output)


def test_a_rule_that_never_fires_is_named_where_all_must() -> None:
    line = 'agreement.pml:400, state 12, "locked[me] = 1"'
    outcome = parse(COMPLETE.replace("voter\n", f"voter\n\t{line}\n"))
    assert outcome.unreached == (line,)
    assert line in judge(RUN, outcome)
    assert judge(replace(RUN, whole=False), outcome) == ""


def test_the_runs_are_those_that_the_claim_needs() -> None:
    for run in plan():
        within = run.byzantine_recorders <= faulty_max(
            run.recorders
        ) or run.byzantine_auditors <= faulty_max(run.auditors)
        broken = any(option in FAULTS for option in run.options)
        assert within or run.expected == "forks"
        assert broken or not within or run.expected != "forks"
        assert (run.expected == "reached") == any(option in GOALS for option in run.options)
    for faults in (FAULTS, GOALS):
        for option in faults:
            assert any(option in run.options for run in plan())


def test_the_model_knows_every_option_and_size() -> None:
    model = MODEL.read_text()
    for run in plan():
        assert run.views <= 4
        for option in run.options:
            assert re.search(rf"^#(if|ifdef|elif)\b.*\b{option}\b", model, re.MULTILINE)


@pytest.mark.parametrize("n", range(1, 40))
def test_the_model_counts_as_the_code_does(n: int) -> None:
    macros = dict(re.findall(r"^#define ([FQ])\(n\) +(.*)$", MODEL.read_text(), re.MULTILINE))
    f = eval(macros["F"].replace("/", "//"), {"n": n})
    q = eval(macros["Q"].replace("F(n)", str(f)).replace("/", "//"), {"n": n})
    assert (f, q) == (faulty_max(n), quorum_size(n))


def test_the_code_that_the_model_stands_for_exists() -> None:
    rows = re.findall(r"^\| (.+) \| `(\S+\.py)` \| (.+) \|$", _page(), re.MULTILINE)
    assert len(rows) > 10
    for parts, path, functions in rows:
        tree = ast.parse((ROOT / path).read_text())
        defined = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        assert set(re.findall(r"`(\w+)`", functions)) <= defined, path
        for name in re.findall(r"`(\w+)`", parts):
            assert re.search(rf"\b{name}\b", MODEL.read_text()), name


def _page() -> str:
    return (MODEL.parent / "README.md").read_text()


# ---- with programs in the place of the checker --------------------------------------------------


def _program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spin that tells a story, and a gcc whose program prints the file `output` beside it."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("sys.argv", ["model_check"])
    _program(tmp_path / "spin", 'echo "spin: trail"; echo "view 0: A is DECIDED"')
    _program(
        tmp_path / "gcc",
        f"printf '#!/bin/sh\\ncat \"{tmp_path}/output\"\\n' > pan; chmod +x pan",
    )
    return tmp_path


@pytest.mark.processes
def test_a_run_is_compiled_searched_and_told(tools: Path) -> None:
    (tools / "output").write_text(FORK)
    result = check(replace(RUN, expected="forks"))
    assert (result.problem, result.story) == ("", ("view 0: A is DECIDED",))
    document = as_document([result])
    assert document["passed"]
    assert document["runs"][0]["definitions"] == ["NR=4", "NA=1", "BR=1", "BA=1", "VIEWS=3"]
    assert as_table([result]).row_count == 1


@pytest.mark.processes
def test_a_tool_that_fails_is_a_problem_in_its_own_words(tools: Path) -> None:
    _program(tools / "spin", "echo 'syntax error' >&2; exit 1")
    result = check(RUN)
    assert result.outcome is None
    assert result.problem == "spin failed: syntax error"
    assert not as_document([result])["passed"]


@pytest.mark.processes
def test_any_run_that_ends_otherwise_fails_the_whole(
    tools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tools / "output").write_text(FORK)
    assert main() == 1
    assert "holds, but it forks" in capsys.readouterr().err


def test_a_missing_checker_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["model_check"])
    assert main() == 2
    said = capsys.readouterr().err
    assert said == "The model is checked by programs that are not here: apt-get install spin gcc\n"
