"""Chaos on a few real daemons: it passes, it notices a crash, and nothing is left of it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--recorders", "2", "--auditors", "1", "--observers", "0", "--base-port", "21300")
STOP_S = 100

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]


@contextmanager
def chaos(directory: Path, *options: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """A run whose homes are below a directory; killed if it still goes on at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "simulations.chaos", *SMALL, *options],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(directory), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def wait_for(process: "subprocess.Popen[str]", words: str) -> None:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if words in line:
            return
    pytest.fail(f"it ended without {words!r}: {''.join(seen)}")


def daemons_below(directory: Path) -> list[int]:
    """Process ids of the daemons whose homes are below a directory."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = place.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"start" in command and any(part.startswith(bytes(directory)) for part in command):
            found.append(int(place.parent.name))
    return found


@pytest.mark.parametrize("environment", [{}, {"MEDPACT_CHAOS_INSIDE": "no"}])
def test_honest_daemons_pass(tmp_path: Path, environment: dict[str, str]) -> None:
    options = ("--seed", "1", "--seconds", "10", "--json")
    with chaos(tmp_path, *options, **environment) as process:
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    document = json.loads(output)
    assert document["exit_code"] == 0
    (report,) = document["seeds"]
    assert (report["seed"], report["verdict"], report["reason"]) == (1, "passed", "")
    assert report["rounds"] >= 1
    assert sum(report["faults"].values()) >= 1
    assert report["height"] > 0
    assert report["acknowledged"] > 0
    # In each block both recorders and the auditor commit.
    assert report["votes"] >= 3 * report["height"]
    assert report["promises"] > 0
    assert daemons_below(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_daemon_that_ends_by_itself_is_a_crash(tmp_path: Path) -> None:
    with chaos(tmp_path, "--seed", "1", "--seconds", "40") as process:
        wait_for(process, "daemons are up")
        os.kill(daemons_below(tmp_path)[0], signal.SIGKILL)
        _, errors = process.communicate()
    assert process.returncode == 127
    assert re.search(r"crashed \S+ ended with -9", errors)
    assert "--seed 1 --seconds 40 --recorders 2" in errors
    assert daemons_below(tmp_path) == []
    kept = re.search(r"Homes and logs are kept in (\S+)", errors)
    assert kept is not None
    assert (Path(kept[1]) / "network" / "recorder-1" / "data" / "ledger.db").exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_nothing_is_left_of_an_interrupted_run(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with chaos(tmp_path, "--seed", "1", "--seconds", "60") as process:
        wait_for(process, "daemons are up")
        assert daemons_below(tmp_path)
        process.send_signal(number)
        process.communicate(timeout=STOP_S)
    assert process.returncode == code
    assert daemons_below(tmp_path) == []
