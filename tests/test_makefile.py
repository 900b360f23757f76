"""The commands a newcomer types: make, and what the build server calls."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.processes


def _run(command: list[str], cwd: Path = ROOT, **environment: str) -> str:
    """The standard output of a command, run as from a fresh shell."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "DATA")}
    done = subprocess.run(
        command, cwd=cwd, env=kept | environment, check=True, capture_output=True, text=True
    )
    return done.stdout


def _program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_make_alone_explains_every_target() -> None:
    named = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named is not None
    lines = [line.split(maxsplit=2) for line in _run(["make"]).splitlines()]
    assert [target for _, target, _ in lines] == named[1].split()
    assert all(words for _, _, words in lines)


@pytest.mark.parametrize("data", ["/a dir/Röntgen", "it's", 'the "best"', "a$b$(c)`d`#e\\f*", ""])
@pytest.mark.parametrize("by_environment", [False, True])
def test_the_demo_gets_the_data_directory_unchanged(
    tmp_path: Path, data: str, by_environment: bool
) -> None:
    python = _program(tmp_path / "python", 'printf "%s|%s" "$*" "$DATA"')
    command = ["make", "-o", ".venv/.installed", "demo", f"RUN={python}"]
    seen = _run(command, DATA=data) if by_environment else _run([*command, f"DATA={data}"])
    assert seen == f"-m simulations.demo|{data}"


def test_the_build_server_runs_make_test_from_anywhere(tmp_path: Path) -> None:
    _program(tmp_path / "make", 'echo "$* in $PWD"')
    seen = _run([str(ROOT / ".ci/run")], cwd=tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert seen == f"test in {ROOT}\n"
