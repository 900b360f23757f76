"""Bad input against real daemons: whatever one node or client does wrong, the ledger goes on.

One network of four recorders, of which the fourth is the one that has the bad luck. After every
test the network must commit a transaction.
"""

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ledger.genesis import Genesis
from ledger.operations import (
    EnrolPerson,
    Grant,
    InstitutionParty,
    Labels,
    Operation,
    RecordShare,
    RegisterRecord,
    Revoke,
)
from ledger.receipts import ReceiptCode
from ledger.state import grant_id, person_id, record_id
from ledger.transactions import TransactionBody, sign_transaction
from node.client import RpcClient, RpcError
from node.config import load_config
from node.console import ExitCode
from node.home import Home, printable
from node.jsonrpc import ErrorCode
from node.keyfile import read_key
from node.libp2p import Libp2pTransport
from node.startup import read_genesis
from node.submission import ask_status
from node.supervision import Supervisor, last_words, launch
from node.testnet import Plan, create
from node.transport import Member, PeerUnreachable, TransportLimits
from primitives.keys import PrivateKey
from simulations.demo import free_ports
from tests.node.network_support import Recorder

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]
CLI = Path(__file__).resolve().parents[1] / "cli.py"
PATIENCE_S = 90
"""For what takes a second or two: a machine that others use as well starts a node in thirty."""
POLL_S = 0.02
SHARES = 9
UNLUCKY = 3
"""The index of the node that tests stop and start."""

_WRONG_CLOCK = """
import sys, time
hours, cli, home = sys.argv[1:]
true_time = time.time_ns
time.time_ns = lambda: true_time() + int(hours) * 3_600_000_000_000
sys.argv = [cli, "start", "--home", home]
sys.path.insert(0, cli.removesuffix("/cli.py"))
import cli
cli.main()
"""
_SMALL_DISK = """
import os, resource, sys
size, cli, home = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
os.execv(sys.executable, [sys.executable, cli, "start", "--home", home])
"""


class Network:
    """Four recorders, and what a client needs to sign."""

    def __init__(self, directory: Path) -> None:
        ports = free_ports(5)
        create(directory, Plan(4, 0, 0, ports, "per_class"))
        self.homes = [Home(directory / f"recorder-{n}") for n in range(1, 5)]
        # The unlucky one misses many turns, and the tests want to see the next.
        for copy in (directory / "genesis.toml", *(home.genesis_file for home in self.homes)):
            text = re.sub(r"(bench_heights_m..) = \d+", r"\1 = 1", copy.read_text())
            copy.write_text(text)
        self.tcp = f"127.0.0.1:{ports + 4}"
        text = self.homes[0].config_file.read_text()
        text = text.replace('# tcp = "127.0.0.1:8545"', f'tcp = "{self.tcp}"')
        self.homes[0].config_file.write_text(text)
        self.genesis: Genesis = read_genesis(load_config(directory / "recorder-1"))
        self.members = [Member(i.id, i.key, i.address) for i in self.genesis.institutions]
        self.keys = [read_key(home.key_file) for home in self.homes]
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, number: int, launcher: str = "", *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a node, or the program `launcher` that becomes one."""
        home = self.homes[number]
        if not launcher:
            process = launch(home)
        else:
            command = [sys.executable, "-c", launcher, *arguments, str(CLI), str(home.path)]
            with home.log_file.open("ab") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def halt(self, number: int) -> None:
        """Stop a node; it must do so in good order."""
        pid = self.homes[number].running_pid()
        assert pid is not None
        (process,) = (p for p in self.processes if p.pid == pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0

    async def ready(self, *numbers: int, links: int = 3) -> None:
        """Wait until these nodes answer and have so many peers."""
        for number in numbers:
            await until(partial(self._linked, number, links))

    async def _linked(self, number: int, links: int) -> bool:
        status = await ask_status(self.homes[number])
        return status is not None and len(status["peers"]) >= links and not status["syncing"]

    async def status(self, number: int = 0) -> Any:
        status = await ask_status(self.homes[number])
        assert status is not None
        return status

    def sign(
        self, key: PrivateKey, *operations: Operation, chain: bytes = b"", until_ms: int = 0
    ) -> bytes:
        until_ms = until_ms or time.time_ns() // 1_000_000 + 600_000
        body = TransactionBody(key.public, 900, until_ms, secrets.token_bytes(16), operations)
        return sign_transaction(chain or self.genesis.chain_id, key, body)

    def enrolment(self, until_ms: int = 0) -> bytes:
        person = PrivateKey(secrets.token_bytes(32)).public
        return self.sign(self.keys[0], EnrolPerson(person, "patient"), until_ms=until_ms)

    async def submit(self, raws: Sequence[bytes], number: int = 0) -> list[dict[str, Any]]:
        """What the ledger says of transactions submitted through one node."""
        async with RpcClient(self.homes[number].path) as rpc:
            answer = await rpc.call("transaction_submit", transactions=[r.hex() for r in raws])
            ids = [taken["id"] for taken in answer["transactions"]]
            waited = await rpc.call("transaction_wait", ids=ids, timeout_ms=60_000)
        outcomes: list[dict[str, Any]] = waited["transactions"]
        assert all(outcome["final"] for outcome in outcomes)
        return outcomes

    async def commits(self, number: int = 0) -> None:
        (outcome,) = await self.submit([self.enrolment()], number)
        assert outcome["name"] == "OK"

    def said(self, number: int, event: str, after: int = 0) -> list[dict[str, Any]]:
        """The lines of a node's log about an event, from a byte on."""
        content = self.homes[number].log_file.read_bytes()[after:].decode()
        lines = [json.loads(line) for line in content.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def log_size(self, number: int) -> int:
        return self.homes[number].log_file.stat().st_size

    async def faults(self, institution: str, reason: str) -> int:
        """How often the first node has seen a member do wrong."""
        async with RpcClient(self.homes[0].path) as rpc:
            peers = (await rpc.call("node_peers"))["peers"]
        (found,) = (peer["faults"] for peer in peers if peer["institution"] == institution)
        return int(found.get(reason, 0))

    async def counted(self, name: str, more_than: int = 0, number: int = 0) -> None:
        """Wait for a counter of a node."""

        async def reached() -> bool:
            counters = (await self.status(number))["counters"]
            return bool(counters.get(name, 0) > more_than)

        await until(reached)


async def until(condition: Callable[[], Any]) -> None:
    """Ask again and again until it is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    network = Network(tmp_path_factory.mktemp("bad") / 'it\'s a "trial" 病历')
    try:
        supervisor = Supervisor(network.homes, ask_status, print)
        supervisor.start()
        network.processes += [node.process for node in supervisor.nodes if node.process]

        async def wait() -> None:
            assert await supervisor.wait_ready(asyncio.Event()) is None
            assert await supervisor.wait_linked(asyncio.Event()) is None

        asyncio.run(wait())
        yield network
    finally:
        for process in network.processes:
            process.kill()
            process.wait(PATIENCE_S)


@pytest.fixture
async def network(running: Network) -> AsyncIterator[Network]:
    """The network, which after the test must still commit."""
    before = (await running.status())["height"]
    yield running
    await running.commits()
    assert (await running.status())["height"] > before


@pytest.fixture
async def unlucky(network: Network) -> AsyncIterator[Home]:
    """The home of the fourth node, which does not run; after the test it runs as before."""
    network.halt(UNLUCKY)
    home = network.homes[UNLUCKY]
    yield home
    if home.running_pid() is not None:
        network.halt(UNLUCKY)
    network.start(UNLUCKY)
    await network.ready(UNLUCKY)
    await network.commits(UNLUCKY)


# ---- clients ------------------------------------------------------------------------------------


async def test_a_token_opens_the_port_and_a_wrong_one_does_not(network: Network) -> None:
    url, token = f"http://{network.tcp}/", network.homes[0].rpc_token.read_text()
    async with RpcClient((url, token)) as rpc:
        assert (await rpc.call("node_status"))["institution"] == "recorder-1"
    for wrong in ("", token[::-1], token.strip() + "0", "x" * 5_000):
        async with RpcClient((url, wrong)) as rpc:
            with pytest.raises(RpcError, match="send the header 'Authorization: Bearer") as caught:
                await rpc.call("node_status")
        assert caught.value.code == ErrorCode.UNAUTHENTICATED


async def test_forged_expired_and_repeated_transactions(network: Network) -> None:
    good = network.enrolment()
    forged = good[:-1] + bytes([good[-1] ^ 1])
    operation = EnrolPerson(network.keys[0].public, "patient")
    foreign = network.sign(network.keys[0], operation, chain=b"x" * 32)
    late = network.sign(network.keys[0], operation, until_ms=1)
    async with RpcClient(network.homes[0].path) as rpc:
        answer = await rpc.call(
            "transaction_submit",
            transactions=[raw.hex() for raw in (forged, foreign, late, b"", good[:40])],
        )
    refusals = [taken["refused"] for taken in answer["transactions"]]
    assert ["signature" in refusal for refusal in refusals] == [True, True, False, False, False]
    assert "expired" in refusals[2]
    assert all("cannot be read" in refusal for refusal in refusals[3:])

    stranger = PrivateKey(secrets.token_bytes(32))
    unknown = network.sign(stranger, EnrolPerson(stranger.public, "patient"))
    outcomes = await network.submit([good, unknown])
    assert [outcome["name"] for outcome in outcomes] == ["OK", "UNKNOWN_AUTHOR"]
    # Again, through all nodes at once: it has run, and runs no second time.
    again = await asyncio.gather(*(network.submit([good], number) for number in range(4)))
    assert [outcome for (outcome,) in again] == [outcomes[0]] * 4


# ---- the port for other nodes -------------------------------------------------------------------


async def test_garbage_on_the_port(network: Network) -> None:
    host, port = network.members[0].address.rsplit(":", 1)
    before = (await network.status())["counters"].get("handshakes_failed", 0)
    garbage = [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\xff" * 70_000, b"\0"]
    garbage.append(os.urandom(70_000))
    for data in garbage:
        with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                continue
    await network.counted("handshakes_failed", before + len(garbage) - 1)


@asynccontextmanager
async def peer(network: Network, own: Member, key: PrivateKey) -> AsyncIterator[Libp2pTransport]:
    """A node's network layer in our hands, without the node."""
    chain = network.genesis.chain_id
    members = [*network.members, own] if own not in network.members else network.members
    limits = TransportLimits(redial_ms_min=20, redial_ms_max=200)
    found = Libp2pTransport(key.seed, own, members, chain, own.address, limits, "test")
    await found.start(Recorder())
    try:
        yield found
    finally:
        await found.stop()


async def test_a_stranger_is_turned_away(network: Network) -> None:
    key = PrivateKey(secrets.token_bytes(32))
    own = Member("stranger", key.public, f"127.0.0.1:{free_ports(1)}")
    size = network.log_size(0)
    async with peer(network, own, key) as stranger:
        await network.counted("strangers_refused", 2)
        assert stranger.connected() == ()
    (line,) = network.said(0, "strangers_refused", size)
    assert line["last_address"] == "127.0.0.1"


async def test_a_member_that_talks_nonsense(network: Network, unlucky: Home) -> None:
    async with peer(network, network.members[UNLUCKY], network.keys[UNLUCKY]) as member:

        async def linked() -> bool:
            return len(member.connected()) == 3

        await until(linked)
        for nonsense in (b"\0", b"\xc1" * 1000, os.urandom(5_000), b"\x94" * 5_000):
            assert [member.send(other, nonsense) for other in member.connected()] == [True] * 3
            with suppress(PeerUnreachable):
                await member.request("recorder-1", nonsense, 5_000)
        name = network.members[UNLUCKY].id

        async def blamed() -> bool:
            return await network.faults(name, "malformed") >= 8

        await until(blamed)
        before = await network.faults(name, "malformed")

        async def gossiped() -> bool:
            member.publish(os.urandom(100))
            return await network.faults(name, "malformed") > before

        await until(gossiped)
        assert len(member.connected()) == 3
        await network.commits()


# ---- one node of four ---------------------------------------------------------------------------


async def test_another_genesis_by_one_byte(network: Network, unlucky: Home) -> None:
    """Both sides say why they do not talk."""
    true = unlucky.genesis_file.read_bytes()
    kept = unlucky.data.rename(unlucky.path / "kept")
    size = network.log_size(0)
    unlucky.genesis_file.write_bytes(true + b"\n")
    network.start(UNLUCKY)
    await network.ready(UNLUCKY, links=0)

    async def told(number: int, other: str) -> bool:
        said = network.said(number, "no_link", size if number == 0 else 0)
        reasons = [line["reason"] for line in said if line["peer"] == other]
        start = f"{other} follows another genesis (its chain id starts with "
        return any(r.startswith(start) and "compare the genesis.toml files" in r for r in reasons)

    await until(lambda: told(0, "recorder-4"))
    await until(lambda: told(UNLUCKY, "recorder-1"))
    await network.commits()
    network.halt(UNLUCKY)
    unlucky.genesis_file.write_bytes(true)
    shutil.rmtree(unlucky.data)
    kept.rename(unlucky.data)


@pytest.mark.parametrize("hours", [3, -3])
async def test_a_clock_that_is_hours_off(network: Network, unlucky: Home, hours: int) -> None:
    """The node follows the others' blocks; if its own lie in the future, it is passed over."""
    sizes = [network.log_size(number) for number in range(4)]
    network.start(UNLUCKY, _WRONG_CLOCK, str(hours))
    await network.ready(UNLUCKY)
    # A transaction that is valid for both clocks.
    tomorrow = time.time_ns() // 1_000_000 + 86_400_000

    def differing(number: int) -> list[dict[str, Any]]:
        faults = network.said(number, "peer_at_fault", sizes[number])
        return [line for line in faults if line["reason"] == "clock_differs"]

    async def noticed(number: int) -> bool:
        (outcome,) = await network.submit([network.enrolment(tomorrow)])
        assert outcome["name"] == "OK"
        return bool(differing(number))

    for number in (0, UNLUCKY) if hours > 0 else (UNLUCKY,):
        await until(partial(noticed, number))
        (line, *_) = differing(number)
        assert "check this machine's clock (NTP)" in line["meaning"]
        assert (line["peer"] == "recorder-4") == (number == 0)
        assert abs(int(line["detail"].split()[1])) > 10_000_000
    await until(lambda: _has(network, UNLUCKY))


async def _has(network: Network, number: int) -> bool:
    """Whether a node has the head of the first."""
    heads = [await network.status(n) for n in (0, number)]
    return bool(heads[0]["head_hash"] == heads[1]["head_hash"])


async def test_a_full_disk_stops_the_node_with_a_sentence(network: Network, unlucky: Home) -> None:
    size = str(unlucky.database.stat().st_size + 100_000)
    process = network.start(UNLUCKY, _SMALL_DISK, size)
    await network.ready(UNLUCKY)
    while process.poll() is None:
        labels = Labels("imaging", "normal", "HK", "here", "unrated")
        records = (RegisterRecord(secrets.token_bytes(32), labels, None) for _ in range(50))
        await network.submit([network.sign(network.keys[0], *records)])
    assert process.returncode == ExitCode.FILE
    words = last_words(unlucky)
    assert words.startswith(f"The database {printable(unlucky.database)} cannot be used: its disk")
    assert "then start the node again." in words


async def test_neither_a_new_place_nor_a_full_disk_for_logs_stops_a_node(
    network: Network, unlucky: Home
) -> None:
    moved = Home(unlucky.path.with_name("new\nplace; $(exit) 'x' " + "y" * 100))
    unlucky.path.rename(moved.path)
    log = moved.log_file.rename(moved.path / "kept.log")
    moved.log_file.symlink_to("/dev/full")
    network.homes[UNLUCKY] = moved
    process = network.start(UNLUCKY)
    await network.ready(UNLUCKY)
    await network.commits(UNLUCKY)
    assert moved.running_pid() == process.pid
    network.halt(UNLUCKY)
    log.rename(moved.log_file)
    moved.path.rename(unlucky.path)
    network.homes[UNLUCKY] = unlucky


# ---- consent ------------------------------------------------------------------------------------


async def test_after_a_revocation_no_share_rests_on_the_grant_on_any_node(
    network: Network,
) -> None:
    """Shares race with the revocation through all nodes; what counts is the order of the ledger."""
    patient = PrivateKey(secrets.token_bytes(32))
    custodian, salted = network.keys[0], secrets.token_bytes(32)
    labels = Labels("imaging", "normal", "HK", "here", "unrated")
    subject = person_id(patient.public)
    prepared = [
        network.sign(custodian, EnrolPerson(patient.public, "patient")),
        network.sign(custodian, RegisterRecord(salted, labels, subject)),
        network.sign(patient, Grant(InstitutionParty("recorder-2"), (), "HRESCH", 0)),
    ]
    outcomes = [(await network.submit([raw]))[0] for raw in prepared]
    assert [outcome["name"] for outcome in outcomes] == ["OK"] * 3
    grant = grant_id(bytes.fromhex(outcomes[2]["id"]), 0)
    record = record_id("recorder-1", salted)
    operation = RecordShare(record, InstitutionParty("recorder-2"), grant, salted, "HRESCH")

    async def shares(number: int) -> list[str]:
        made = [
            await network.submit([network.sign(custodian, operation)], number) for _ in range(9)
        ]
        return [outcome["name"] for (outcome,) in made]

    async def revoke() -> int:
        for raw in [network.sign(custodian, operation) for _ in range(SHARES // 3)]:
            await network.submit([raw])
        (revoked,) = await network.submit([network.sign(patient, Revoke(grant))], 1)
        assert revoked["name"] == "OK"
        return int(revoked["height"])

    revoking = asyncio.create_task(revoke())
    names = [name for made in await asyncio.gather(*map(shares, range(4))) for name in made]
    height = await revoking
    assert set(names) == {"OK", "GRANT_REVOKED"}
    chains = [await _shares(network, number, grant.hex()) for number in range(4)]
    assert chains[1:] == chains[:1] * 3
    assert len(chains[0]) == names.count("OK") + SHARES // 3
    assert max(chains[0]) <= height


async def _shares(network: Network, number: int, grant: str) -> list[int]:
    """The heights at which shares took effect that rest on a grant, by all blocks of one node."""
    heights = []
    async with RpcClient(network.homes[number].path) as rpc:
        top = (await rpc.call("chain_head"))["height"]
        for height in range(1, top + 1):
            block = await rpc.call("block_get", height=height)
            for listed in block["transactions"]:
                if listed["code"] == ReceiptCode.OK:
                    said = await rpc.call("transaction_get", id=listed["id"])
                    shares = (o for o in said["operations"] if o["operation"] == "record_share")
                    heights += [height for share in shares if share["grant"] == grant]
    return heights


# ---- last ---------------------------------------------------------------------------------------


async def test_after_all_that_every_node_agrees_and_no_log_tells_a_secret(network: Network) -> None:
    token = network.homes[0].rpc_token.read_bytes().strip()
    for number, home in enumerate(network.homes):
        await until(partial(_has, network, number))
        log = home.log_file.read_bytes()
        assert b"Traceback" not in log
        assert b'"trace"' not in log
        assert token not in log
        assert not [key for key in network.keys if key.seed.hex().encode() in log]
