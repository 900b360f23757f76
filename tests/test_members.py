"""Members and evidence through the command, against real daemons: join, rotate, leave, suspend."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli import main
from consensus.evidence import evidence_id, evidence_of
from consensus.messages import Prepare, sign
from ledger.operations import ReportMisbehaviour
from ledger.receipts import ReceiptCode
from node.config import load_config
from node.console import ExitCode
from node.home import Home
from node.keyfile import next_key_file, read_key, write_key
from node.startup import read_genesis
from node.submission import Site, submit
from node.supervision import launch, stop
from node.testnet import Plan, create, homes
from primitives.institution import lei_with_check_digits
from primitives.keys import SEED_BYTES, PrivateKey
from simulations.demo import free_ports

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]
CLI = Path(__file__).resolve().parents[1] / "cli.py"
PORT = free_ports(8)
PATIENCE_S = 90
POLL_S = 0.05
VOTERS = ("recorder-1", "recorder-2", "recorder-3", "recorder-4", "auditor-1")


class Consortium:
    """Four recorders and an auditor, and the command."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.genesis = directory / "genesis.toml"
        self._persons = count(1)
        self.started: list[subprocess.Popen[bytes]] = []

    def home(self, node: str) -> Home:
        return Home(self.directory / node)

    def run(self, *arguments: str | Path, node: str = "recorder-1") -> Result:
        environment = {"MEDPACT_HOME": str(self.directory / node), "NO_COLOR": "1"}
        return CliRunner().invoke(main, [str(a) for a in arguments], env=environment)

    def ask(self, *arguments: str | Path, node: str = "recorder-1") -> Any:
        result = self.run("--json", *arguments, node=node)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    def member(self, id: str) -> dict[str, Any] | None:
        found = self.ask("member", "list")["members"]
        return next((each for each in found if each["id"] == id), None)

    def start(self, node: str) -> "subprocess.Popen[bytes]":
        process = launch(self.home(node))
        self.started.append(process)
        return process

    def height(self, node: str = "recorder-1") -> int:
        result = self.run("--json", "status", node=node)
        return int(json.loads(result.stdout)["height"]) if result.exit_code == 0 else -1

    def advance(self, height: int) -> None:
        """Have blocks made until the head is at `height`."""
        while self.height() < height:
            key = PrivateKey(next(self._persons).to_bytes(SEED_BYTES, "big"))
            self.ask("person", "enrol", "--public", key.public.hex(), "--kind", "patient")

    def approve(self, proposal: str, *voters: str) -> None:
        for voter in voters:
            self.ask("member", "approve", proposal, node=voter)

    def decide(self, *change: str | Path, by: str = "recorder-1") -> int:
        """Propose a change, have all voters approve it, and let its height come."""
        found = self.ask("member", "propose", *change, "--in", "12", node=by)
        voting = [id for id in VOTERS if (each := self.member(id)) is not None and each["votes"]]
        self.approve(found["proposal"], *(voter for voter in voting if voter != by))
        height = int(found["effective_height"])
        self.advance(height - 1)
        return height


def until(true: Callable[[], bool]) -> None:
    """Wait for other processes."""

    async def poll() -> None:
        async with asyncio.timeout(PATIENCE_S):
            for _ in count():
                if await asyncio.to_thread(true):
                    return
                await asyncio.sleep(POLL_S)

    asyncio.run(poll())


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    found = Consortium(tmp_path_factory.mktemp("members") / "n")
    create(found.directory, Plan(4, 1, 0, PORT, "per_class"))
    try:
        command = [sys.executable, str(CLI), "testnet", "up", str(found.directory), "--detach"]
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
        yield found
    finally:
        pids = [home.running_pid() for home in homes(found.directory)]
        stop([pid for pid in pids if pid is not None], 2_000)
        for process in found.started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)


def test_an_institution_joins(consortium: Consortium, tmp_path: Path) -> None:
    home, address = consortium.home("newcomer"), f"127.0.0.1:{PORT + 6}"
    home.create()
    write_key(home.key_file, PrivateKey(bytes([7]) * SEED_BYTES))
    home.genesis_file.write_bytes(consortium.genesis.read_bytes())
    home.config_file.write_text('institution = "newcomer"\n')
    refused = consortium.run("start", node="newcomer")
    assert refused.exit_code == ExitCode.START
    assert "add the key 'listen'" in refused.stderr
    home.config_file.write_text(f'institution = "newcomer"\nlisten = "{address}"\n')
    consortium.start("newcomer")
    until(lambda: consortium.height("newcomer") == 0)
    key = PrivateKey(bytes([8]) * SEED_BYTES).public.hex()
    early = consortium.run("person", "enrol", "--public", key, "--kind", "patient", node="newcomer")
    assert early.exit_code == ExitCode.START
    assert "is not a member of this ledger" in early.stderr

    application = tmp_path / "application.json"
    consortium.ask(
        *("member", "application", "--genesis", consortium.genesis, "--key", home.key_file),
        *("--id", "newcomer", "--name", "New Hospital", "--type", "tertiary_hospital"),
        *("--region", "CN-GD", "--lei", lei_with_check_digits("MEDPACTTRIAL900001")),
        *("--address", address, "-o", application),
    )
    height = consortium.decide("join", application)
    until(lambda: consortium.height("newcomer") >= height - 1)
    member = consortium.member("newcomer")
    assert member is not None
    assert (member["votes"], member["consensus_class"]) == (True, "recorder")
    consortium.ask("person", "enrol", "--public", key, "--kind", "patient", node="newcomer")
    assert consortium.ask("member", "list", "--closed")["proposals"][0]["outcome"] == "effective"


def test_a_key_is_rotated(consortium: Consortium) -> None:
    home = consortium.home("recorder-2")
    process_id = home.running_pid()
    assert process_id is not None
    old = read_key(home.key_file).public
    consortium.decide("rotate-key", by="recorder-2")
    until(lambda: home.running_pid() is None)
    new = read_key(next_key_file(home.key_file)).public
    assert new != old
    assert "A vote has replaced the key of recorder-2" in home.log_file.read_text()
    consortium.start("recorder-2")
    until(lambda: consortium.height("recorder-2") == consortium.height())
    assert read_key(home.key_file).public == new
    assert not next_key_file(home.key_file).exists()
    member = consortium.member("recorder-2")
    assert member is not None
    assert (member["key"], member["votes"]) == (new.hex(), True)
    key = PrivateKey(bytes([9]) * SEED_BYTES).public.hex()
    consortium.ask("person", "enrol", "--public", key, "--kind", "patient", node="recorder-2")


def test_a_class_is_never_left_empty(consortium: Consortium) -> None:
    result = consortium.run("member", "propose", "leave", "auditor-1")
    assert result.exit_code == ExitCode.REFUSED
    assert "a class of voters would be left without a voter" in result.stderr
    again = consortium.run("member", "propose", "leave", "nobody")
    assert again.exit_code == ExitCode.REFUSED
    assert "not a member" in again.stderr


def test_a_member_leaves(consortium: Consortium) -> None:
    consortium.decide("leave", "newcomer")
    assert consortium.member("newcomer") is None


def test_a_voter_that_contradicts_itself_is_suspended_until_it_is_forgiven(
    consortium: Consortium, tmp_path: Path
) -> None:
    config = load_config(consortium.home("recorder-1").path)
    where = Site(config, read_genesis(config))
    offender = read_key(consortium.home("recorder-4").key_file)
    chain_id, height = where.genesis.chain_id, consortium.height()
    pair = [
        sign(chain_id, "recorder-4", offender, Prepare(height, 3, bytes([n]) * 32)) for n in (1, 2)
    ]
    found = evidence_of(*pair)
    (sent,) = submit(where, where.node_key(), [ReportMisbehaviour(found)], wait=True)
    assert sent.outcome is not None
    assert sent.outcome["code"] == ReceiptCode.OK
    member = consortium.member("recorder-4")
    assert member is not None
    assert (member["suspended"], member["votes"]) == (True, False)

    identity = evidence_id(found).hex()
    (listed,) = consortium.ask("evidence", "list")["evidence"]
    assert listed["evidence"]["evidence"] == identity == member["evidence"]
    file = tmp_path / "evidence"
    shown = consortium.ask("evidence", "show", identity, "-o", file)
    assert shown["verified"]
    offline = ("evidence", "verify", file, "--genesis", consortium.genesis)
    verified = consortium.ask(*offline)
    assert verified["evidence"][0]["signer"] == "recorder-4"
    assert "PREPARE in view 3 for block 0101" in consortium.run(*offline).stdout
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    assert consortium.run(*offline).exit_code == ExitCode.REFUSED

    consortium.decide("reinstate", "recorder-4")
    member = consortium.member("recorder-4")
    assert member is not None
    assert (member["suspended"], member["votes"]) == (False, True)
