"""Real daemons: damage is refused and repaired; a second process with one key is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.home import Home
from node.supervision import stop
from node.testnet import Plan, create, homes
from simulations.command import CLI, ask, heads, run, wait_for_equal_heads
from simulations.demo import free_ports, wait_until

pytestmark = pytest.mark.processes
RECORDERS = 4
WAIT_S = 60
VICTIM = "recorder-4"


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Path]:
    found = tmp_path / "n"
    create(found, Plan(RECORDERS, 0, 0, free_ports(RECORDERS + 1), "per_class"))
    try:
        ended = run("testnet", "up", found, "--detach")
        assert ended.code == 0, ended.sentence
        yield found
    finally:
        pids = [home.running_pid() for home in homes(found)]
        stop([pid for pid in pids if pid is not None], 2_000)


def grow(network: Path, blocks: int, start: int = 0) -> None:
    """Decide so many blocks."""
    for number in range(start, start + blocks):
        key = network / f"{number}.key"
        ask("keys", "generate", "-o", key)
        ask("person", "enrol", "--key", key, "--kind", "patient", home=network / "recorder-1")


def status(network: Path) -> Any:
    return ask("status", home=network / VICTIM)


def test_a_damaged_node_is_repaired_from_the_others(network: Path) -> None:
    home = Home(network / VICTIM)
    grow(network, 3)
    wait_for_equal_heads(network, WAIT_S)
    assert run("testnet", "kill", network, VICTIM).code == 0
    with home.database.open("r+b") as f:
        f.write(b"\xff" * 64)

    refused = run("start", "--home", home.path)
    assert (refused.code, "Traceback" in refused.errors) == (5, False)
    assert f"The database {home.database} is damaged: it is not a database" in refused.errors
    assert "medpact repair" in refused.errors

    repaired = ask("repair", home=home.path)
    aside = Path(repaired["directory"])
    assert (aside / "ledger.db").read_bytes()[:64] == b"\xff" * 64
    assert not home.database.exists()

    assert run("testnet", "start", network, VICTIM).code == 0
    assert status(network)["abstaining"]
    wait_for_equal_heads(network, WAIT_S)
    assert status(network)["abstaining"]
    grow(network, 4, start=3)
    wait_until(lambda: not status(network)["abstaining"], WAIT_S, "the node abstains for ever")

    # It is needed now: of four recorders three are a quorum.
    assert run("testnet", "kill", network, "recorder-2").code == 0
    grow(network, 1, start=7)
    assert run("testnet", "start", network, "recorder-2").code == 0
    wait_for_equal_heads(network, WAIT_S)
    assert run("verify", "--home", home.path).code == 0
    for name in heads(network):
        counters = ask("status", home=network / name)["counters"]
        assert "contradiction" not in counters
        assert "key_used_elsewhere" not in counters


def test_a_copy_of_a_home_is_refused_while_the_first_runs(network: Path) -> None:
    first, second = Home(network / "recorder-1"), Home(network / "copy")
    shutil.copytree(first.path, second.path, ignore=shutil.ignore_patterns("*.sock"))
    text = second.config_file.read_text()
    listen = f'listen = "127.0.0.1:{free_ports(1)}"'
    lines = [listen, *(line for line in text.splitlines() if not line.startswith("listen"))]
    second.config_file.write_text("\n".join(lines) + "\n")

    refused = run("start", "--home", second.path)
    assert refused.code == 4
    assert f"is in use by the process {first.running_pid()} of this machine" in refused.errors

    # Once the first has stopped the copy may run, and does not vote: it may be older.
    stop([pid for pid in [first.running_pid()] if pid is not None])
    command = [sys.executable, str(CLI), "start", "--home", str(second.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert "abstaining" in (json.loads(line)["event"] for line in process.stdout)
        finally:
            process.kill()
