"""Real daemons: two homes with one key, of which neither knows of the other. No lock of one machine
sees that if they run on two, or one after the other; the ledger does.
"""

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from node.home import Home
from node.supervision import launch, stop
from node.testnet import Plan, create, homes
from simulations.command import ask, run
from simulations.demo import free_ports, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]
RECORDERS = 4
WAIT_S = 60
TWIN, WITNESS, PAUSED = "recorder-2", "recorder-3", ("recorder-1", "recorder-4")
HEIGHT = 1
"""recorder-2 is its primary. Later a twin would find votes of its key in blocks, and abstain."""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Path]:
    """Four recorders, patient enough to be in view 0 still when the twin has started."""
    found = tmp_path / "n"
    create(found, Plan(RECORDERS, 0, 0, free_ports(RECORDERS + 1), "per_class"))
    for home in homes(found):
        text = home.genesis_file.read_text()
        home.genesis_file.write_text(
            text.replace("view_timeout_ms_min = 500", "view_timeout_ms_min = 15000")
        )
    twin = Home(tmp_path / "t")
    shutil.copytree(found / TWIN, twin.path)
    try:
        ended = run("testnet", "up", found, "--detach")
        assert ended.code == 0, ended.sentence
        yield found
    finally:
        for node in PAUSED:
            signal_to(found, node, signal.SIGCONT)
        pids = [home.running_pid() for home in (*homes(found), twin)]
        stop([pid for pid in pids if pid is not None], 2_000)


def signal_to(network: Path, node: str, number: signal.Signals) -> None:
    pid = Home(network / node).running_pid()
    if pid is not None:
        os.kill(pid, number)


def enrol(home: Path, number: int, *options: str) -> None:
    key = home.parent / f"{number}.key"
    ask("keys", "generate", "-o", key)
    ask("person", "enrol", "--key", key, "--kind", "patient", *options, home=home)


def promises(home: Path) -> int:
    """How many messages this node has signed at HEIGHT."""
    with closing(sqlite3.connect(Home(home).database)) as database:
        select = "SELECT count(*) FROM promise WHERE height = ?"
        return int(database.execute(select, (HEIGHT,)).fetchone()[0])


def contradictions(network: Path) -> int:
    return int(ask("status", home=network / WITNESS)["counters"].get("contradiction", 0))


def standing(network: Path) -> Any:
    found = ask("member", "list", home=network / WITNESS)["members"]
    return next(member for member in found if member["id"] == TWIN)


def test_two_homes_with_one_key_are_found_out_and_lose_its_vote(network: Path) -> None:
    # The first proposes a block, which the witness prepares and nobody else hears of.
    for node in PAUSED:
        signal_to(network, node, signal.SIGSTOP)
    enrol(network / TWIN, HEIGHT, "--no-wait")
    wait_until(lambda: promises(network / WITNESS) > 0, WAIT_S, "nothing is proposed")
    assert run("testnet", "kill", network, TWIN).code == 0

    # The second has never voted, as far as it knows. In the same turn it proposes the same batch,
    # in a block of another time.
    twin = network.parent / "t"
    with launch(Home(twin)) as process:
        try:
            check_twin(network, twin)
        finally:
            process.kill()


def check_twin(network: Path, twin: Path) -> None:
    wait_until(lambda: contradictions(network) > 0, WAIT_S, "nobody notices")
    for node in PAUSED:
        signal_to(network, node, signal.SIGCONT)
    wait_until(lambda: standing(network)["suspended"], WAIT_S, "the twins keep their vote")

    member = standing(network)
    assert not member["votes"]
    (listed,) = ask("evidence", "list", home=network / WITNESS)["evidence"]
    assert listed["evidence"]["evidence"] == member["evidence"]
    file = network.parent / "evidence"
    shown = ask("evidence", "show", member["evidence"], "-o", file, home=network / WITNESS)
    assert shown["verified"]
    verified = ask("evidence", "verify", file, "--genesis", network / WITNESS / "genesis.toml")
    assert verified["evidence"][0]["signer"] == TWIN
    statements = [verified["evidence"][0][each] for each in ("first", "second")]
    assert [each["phase"] for each in statements] == ["PRE-PREPARE", "PRE-PREPARE"]

    # The others go on without it, and it knows why.
    enrol(network / "recorder-1", HEIGHT + 1)
    assert "key_used_elsewhere" in (twin / "node.log").read_text()
