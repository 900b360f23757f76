"""Trial networks: what `create` writes, and daemons as processes: watched, killed, stopped."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import CliRunner

from cli import main
from ledger.genesis import parse_genesis
from node.config import load_config
from node.home import Home, StartError
from node.keyfile import read_key
from node.startup import check_identity, read_genesis
from node.supervision import Supervisor, last_words, stop
from node.testnet import Plan, create, home_of, homes
from primitives.institution import check_institution
from simulations.demo import free_ports

CLI = Path(__file__).resolve().parents[2] / "cli.py"
PORT = free_ports(10)
WAIT_S = 60


def _plan(recorders: int = 1, auditors: int = 0, observers: int = 0, port: int = PORT) -> Plan:
    return Plan(recorders, auditors, observers, port, "per_class")


# ---- create -------------------------------------------------------------------------------------


def test_every_home_is_complete_and_agrees_with_genesis(tmp_path: Path) -> None:
    made = create(tmp_path / "net", _plan(4, 3, 2))
    genesis = parse_genesis((tmp_path / "net" / "genesis.toml").read_bytes())
    assert made.chain_id == genesis.chain_id
    assert [institution.address for institution in genesis.institutions[3:5]] == [
        f"127.0.0.1:{PORT + 7}",
        f"127.0.0.1:{PORT + 8}",
    ]
    for institution in genesis.institutions:
        check_institution(institution)
    assert len({i.key for i in genesis.institutions} | {i.lei for i in genesis.institutions}) == 18
    for home in made.homes:
        config = load_config(home.path)
        key = read_key(config.key_file)
        check_identity(config, read_genesis(config), key)
        assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
        assert stat.S_IMODE(home.key_file.stat().st_mode) == 0o600


def test_two_networks_are_two_ledgers(tmp_path: Path) -> None:
    first = create(tmp_path / "a", _plan())
    second = create(tmp_path / "b", _plan())
    assert first.chain_id != second.chain_id


def test_a_class_without_a_spare_is_warned_of(tmp_path: Path) -> None:
    assert any("class auditor has 3 voters" in w for w in create(tmp_path, _plan(4, 3)).warnings)
    assert create(tmp_path / "b", _plan(4, 4)).warnings == ()


def test_only_a_new_or_empty_directory_is_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="is not empty and is left as it is"):
        create(tmp_path, _plan())
    with pytest.raises(StartError, match="file cannot be used: not a directory"):
        create(tmp_path / "file", _plan())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_ports_that_do_not_exist_are_refused_first(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="would need the port 65536, and 65535 is the last"):
        create(tmp_path / "net", _plan(2, port=65535))
    assert not (tmp_path / "net").exists()


def test_homes_are_found_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    create(tmp_path / "net", _plan(11))
    (tmp_path / "net" / "notes").mkdir()
    names = [home.path.name for home in homes(tmp_path / "net")]
    assert names == [f"recorder-{number}" for number in range(1, 12)]
    assert home_of(tmp_path / "net", "recorder-11").path.name == "recorder-11"
    with pytest.raises(StartError, match="has no node 'auditor-1'; it has recorder-1, recorder-2,"):
        home_of(tmp_path / "net", "auditor-1")
    with pytest.raises(StartError, match="is not a trial network; make one with"):
        homes(tmp_path / "net" / "notes")
    with pytest.raises(StartError, match="cannot be read: no such file"):
        homes(tmp_path / "nowhere")
    # As a home of another user's: its files cannot even be asked about.
    (tmp_path / "net" / ("y" * 250)).symlink_to("z" * 300)
    with pytest.raises(StartError, match="cannot be read: file name too long"):
        homes(tmp_path / "net")


# ---- processes without a network ----------------------------------------------------------------


async def test_nodes_that_found_each_other_not_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.supervision.JOIN_WAIT_MS_MAX", 0)
    peers: dict[str, list[str] | None] = {"a": ["b"], "b": ["a", "c"], "c": None}

    async def ask(home: Home) -> dict[str, Any] | None:
        found = peers[home.path.name]
        return None if found is None else {"peers": found}

    supervisor = Supervisor([Home(tmp_path / name) for name in peers], ask, print)
    lonely = await supervisor.wait_linked(asyncio.Event())
    assert lonely is not None
    assert "all others: a (1 of 2), c (0 of 2); their logs say why." in lonely
    peers.update(a=["b", "c"], c=["a", "b"])
    assert await supervisor.wait_linked(asyncio.Event()) is None


def test_the_last_words_are_a_sentence(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert last_words(home) == ""
    home.log_file.write_text('{"event": "start_failed", "reason": "The port is taken."}\n\n')
    assert last_words(home) == "The port is taken."
    home.log_file.write_bytes(b"x" * 10_000 + b"\nError: \xff no\n")
    assert last_words(home) == "\N{REPLACEMENT CHARACTER} no"
    home.log_file.write_text('{"event": "stopped"}\n[1]\n')
    assert last_words(home) == "[1]"


@pytest.mark.processes
def test_who_does_not_stop_is_killed() -> None:
    stubborn = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    willing = "import signal; print(flush=True); signal.pause()"
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        for code in (stubborn, willing)
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    assert stop([child.pid for child in children], wait_ms=500) == (children[0].pid,)
    for child in children:
        assert child.stdout is not None
        child.stdout.close()
        assert child.wait() is not None


# ---- real daemons -------------------------------------------------------------------------------


def _medpact(*arguments: str | Path, code: int = 0, home: Path | None = None) -> str:
    """Run a command that must end with `code`; what it printed, or for a failure what it said."""
    environment = {"MEDPACT_HOME": None if home is None else str(home)}
    result = CliRunner().invoke(main, [str(a) for a in arguments], env=environment)
    assert result.exit_code == code, result.stderr
    return result.stdout if code == 0 else result.stderr


def _launch(*arguments: str | Path, code: int = 0) -> str:
    """As above in a process of its own: the daemons that it leaves must not be our children."""
    command = [sys.executable, str(CLI), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def _status(network: Path, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["testnet", "status", str(network), "--json"])
    assert result.exit_code == code, result.stderr
    return {node["id"]: node for node in json.loads(result.stdout)["nodes"]}


def _read_until(stream: IO[str], text: str) -> str:
    for line in stream:
        if text in line:
            return line
    raise AssertionError(f"the output ended without {text!r}")


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "net"
    create(directory, _plan(1, 0, 1))
    yield directory
    pids = [home.running_pid() for home in homes(directory)]
    stop([pid for pid in pids if pid is not None], 1_000)


@pytest.mark.processes
def test_up_watches_and_stops_all_on_ctrl_c(network: Path) -> None:
    command = [sys.executable, str(CLI), "testnet", "up", str(network)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as up:
        assert up.stderr is not None
        _read_until(up.stderr, "All nodes are up. Ctrl-C stops them.")
        nodes = _status(network)
        assert [node["state"] for node in nodes.values()] == ["up", "up"]
        assert nodes["recorder-1"]["class"] == "recorder"
        assert nodes["recorder-1"]["head_hash"] == nodes["observer-1"]["head_hash"]

        _medpact("testnet", "kill", network, "observer-1")
        line = _read_until(up.stderr, "observer-1 was ended by SIGKILL")
        assert line.endswith("The others go on.\n")
        nodes = _status(network, code=3)
        assert (nodes["observer-1"]["state"], nodes["observer-1"]["pid"]) == ("stopped", None)
        assert nodes["recorder-1"]["state"] == "up"

        _launch("testnet", "start", network, "observer-1")
        pids = [node["pid"] for node in _status(network).values()]
        up.send_signal(signal.SIGINT)
        _read_until(up.stderr, "All nodes have stopped.")
        assert up.wait(WAIT_S) == 0
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.processes
def test_detached_nodes_go_on_until_down(network: Path) -> None:
    _launch("testnet", "up", network, "--detach")
    pids = {name: node["pid"] for name, node in _status(network).items()}
    said = _medpact("start", code=4, home=network / "recorder-1")
    assert f"is in use by the process {pids['recorder-1']}; one home serves one daemon" in said
    # A second `up` adopts what runs.
    _launch("testnet", "up", network, "--detach")
    assert {name: node["pid"] for name, node in _status(network).items()} == pids
    stopped = json.loads(_medpact("testnet", "down", network, "--json"))
    assert stopped == {"stopped": ["observer-1", "recorder-1"], "killed": []}
    assert [node["state"] for node in _status(network, code=3).values()] == ["stopped", "stopped"]
    _medpact("testnet", "down", network)
    said = _medpact("testnet", "kill", network, "recorder-1", code=3)
    assert said == "Error: recorder-1 does not run.\n"


@pytest.mark.processes
def test_a_taken_port_is_said_and_nothing_is_left_running(network: Path) -> None:
    with socket.create_server(("127.0.0.1", PORT)):
        said = _launch("testnet", "up", network, "--detach", code=4)
    assert "The network did not start. recorder-1 ended with code 4: " in said
    assert str(PORT) in said
    assert all(home.running_pid() is None for home in homes(network))


@pytest.mark.processes
def test_a_home_of_another_ledger_is_refused(network: Path, tmp_path: Path) -> None:
    _launch("testnet", "start", network, "recorder-1")
    _medpact("testnet", "down", network)
    genesis = network / "recorder-1" / "genesis.toml"
    genesis.write_bytes(genesis.read_bytes() + b"#")
    # What the daemon finds wrong it says in its log; `up` passes it on.
    said = _launch("testnet", "up", network, "--detach", code=4)
    assert "recorder-1 ended with code 4: The database" in said
    assert "Use the genesis file of that ledger" in said
