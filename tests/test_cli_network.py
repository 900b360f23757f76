"""The command against a real, small network: consent from the first file to the offline proof."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli import main
from node.client import call_sync
from node.console import ExitCode
from node.home import Home
from node.supervision import stop
from node.testnet import Plan, create, homes
from simulations.demo import free_ports

pytestmark = pytest.mark.processes
CLI = Path(__file__).resolve().parents[1] / "cli.py"
PORT = free_ports(8)
NAMES: tuple[bytes, ...] = (
    "病历 张伟.json".encode(),
    b'it\'s "quoted" & $HOME.dcm',
    b"-o",
    b"new\nline\ttab",
    b"caf\xe9",
    b"  ",
)


class Network:
    """One recorder and one observer, a patient, and the command."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.genesis = directory / "genesis.toml"
        self.patient_key = directory / "patient.key"
        self.home = Home(directory / "recorder-1")

    def run(self, *arguments: str | Path, node: str = "recorder-1") -> Result:
        environment = {"MEDPACT_HOME": str(self.directory / node), "NO_COLOR": "1"}
        return CliRunner().invoke(main, [str(a) for a in arguments], env=environment)

    def ask(self, *arguments: str | Path, node: str = "recorder-1") -> Any:
        result = self.run("--json", *arguments, node=node)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    def refused(self, *arguments: str | Path, code: ExitCode = ExitCode.REFUSED) -> Any:
        result = self.run("--json", *arguments)
        assert (result.exit_code, result.stdout) == (code, "")
        return json.loads(result.stderr)["error"]

    def register(self, *files: Path, **options: str | Path) -> list[dict[str, Any]]:
        given = [text for name, value in options.items() for text in (f"--{name}", value)]
        registered = self.ask("record", "register", "--category", "x", *given, "--", *files)
        records: list[dict[str, Any]] = registered["records"]
        return records

    def verify(self, proof: Path, *options: str | Path) -> Result:
        return CliRunner().invoke(
            main,
            ["proof", "verify", str(proof), "--genesis", str(self.genesis), *map(str, options)],
        )


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    found = Network(tmp_path_factory.mktemp("network") / "n")
    create(found.directory, Plan(1, 0, 1, PORT, "per_class"))
    try:
        # In a process of its own: the daemons must not be children of the tests.
        command = [sys.executable, str(CLI), "testnet", "up", str(found.directory), "--detach"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        found.ask("keys", "generate", "-o", found.patient_key)
        yield found
    finally:
        pids = [home.running_pid() for home in homes(found.directory)]
        stop([pid for pid in pids if pid is not None], 2_000)


@pytest.fixture(scope="module")
def patient(network: Network) -> str:
    enrolled = network.ask("person", "enrol", "--key", network.patient_key, "--kind", "patient")
    return str(enrolled["person"])


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.dcm"
    path.write_bytes(os.urandom(3 * 1024 * 1024 + 7))
    return path


def test_files_of_any_name_are_registered_in_one_transaction(
    network: Network, tmp_path: Path
) -> None:
    files = [tmp_path / os.fsdecode(name) for name in NAMES]
    for number, file in enumerate(files):
        file.write_bytes(b"x" * number)
    registered = network.ask("record", "register", "--category", "x", "--", *files)
    assert len(registered["transactions"]) == 1
    assert [record["bytes"] for record in registered["records"]] == list(range(len(NAMES)))
    for record in registered["records"]:
        assert Path(record["sidecar"]).stat().st_mode & 0o777 == 0o600
        shown = network.ask("record", "show", record["record"])
        assert shown["labels"]["jurisdiction"] == "CN-GD"
        assert (shown["custodian"], shown["subject"]) == ("recorder-1", None)
        assert shown["history"][0]["operation"]["operation"] == "register_record"


def test_a_consent_from_the_grant_to_its_end(network: Network, patient: str, scan: Path) -> None:
    (record,) = network.register(scan, subject=patient)
    purpose = ("--purpose", "HRESCH")
    to = ("--to", "observer-1", *purpose)
    key = ("--key", network.patient_key)
    share = ("share", record["record"], *to, "--grant")

    refusal = network.refused(*share, record["record"])
    assert refusal["transaction"]["name"] == "UNKNOWN_GRANT"
    granted = network.ask("grant", *key, *to, "--record", record["record"], "--expires", "90d")
    shared = network.ask(*share, granted["grant"])
    (transaction,) = shared["transactions"]
    assert network.refused("revoke", granted["grant"])["transaction"]["name"] == "NOT_ENTITLED"
    network.ask("revoke", granted["grant"], *key)
    refusal = network.refused(*share, granted["grant"])
    assert refusal["transaction"]["name"] == "GRANT_REVOKED"
    # The observer follows the recorder: it has the last word once it has this transaction.
    last = [refusal["transaction"]["id"]]
    call_sync(network.directory / "observer-1", "transaction_wait", ids=last)
    assert refusal["message"].endswith(
        "Nothing may be handed over; ask the patient for a new grant."
    )

    shown = network.ask("record", "show", record["record"], node="observer-1")
    said = [entry["operation"]["operation"] for entry in shown["history"]]
    assert said == ["register_record", "grant", "record_share", "revoke"]
    assert shown["history"][2]["height"] == transaction["height"]
    assert shown["sidecar"] is None
    text = network.run("record", "show", record["record"]).stdout
    assert f"revoke by {patient}, transaction" in text


def test_what_the_ledger_holds_is_shown(network: Network, patient: str) -> None:
    again = network.refused("person", "enrol", "--key", network.patient_key, "--kind", "patient")
    transaction = again["transaction"]
    assert transaction["name"] == "ALREADY_ENROLLED"
    shown = network.ask("tx", "show", transaction["id"])
    assert shown["operations"][0]["person"] == patient
    assert "ALREADY_ENROLLED: the key is that of" in network.run("tx", "show", shown["id"]).stdout
    block = network.ask("block", "show", str(transaction["height"]))
    assert transaction["id"] in [listed["id"] for listed in block["transactions"]]
    assert network.ask("block", "show", block["header"]["hash"]) == block
    latest = network.ask("block", "show", "latest")
    assert latest["header"]["height"] == network.ask("status")["height"]
    assert latest["header"]["proposer"] in network.run("block", "show", "latest").stdout
    missing = network.refused("block", "show", "123456789")
    assert missing["message"].startswith("This node has no such block")
    assert network.refused("tx", "show", patient)["code"] == "refused"
    assert "recorder-1 (Trial Hospital 1)" in network.run("status").stdout


def test_without_waiting_the_id_is_enough(network: Network, tmp_path: Path) -> None:
    network.ask("keys", "generate", "-o", tmp_path / "key")
    enrol = ("person", "enrol", "--key", tmp_path / "key", "--kind", "researcher")
    (sent,) = network.ask(*enrol, "--no-wait")["transactions"]
    assert set(sent) == {"id"}
    # One that is waited for comes later in the same node's queue.
    network.refused(*enrol)
    assert network.ask("tx", "show", sent["id"])["name"] == "OK"


def test_a_proof_is_checked_with_nothing_but_genesis(
    network: Network, patient: str, scan: Path, tmp_path: Path
) -> None:
    (record,) = network.register(scan, subject=patient, sidecar=tmp_path / "side")
    assert record["sidecar"] == str(tmp_path / "side")
    closed = tmp_path / "closed.proof"
    exported = network.ask("proof", "export", record["record"], "-o", closed)
    assert (exported["kind"], exported["has_opening"]) == ("record", False)
    side = ("--sidecar", tmp_path / "side", "--file", scan)
    verdict = json.loads(network.verify(closed, *side, "--json").stdout)
    assert (verdict["verified"], verdict["data_checked"]) == (True, True)
    assert verdict["operations"][0]["author"] == "recorder-1"
    assert [line for line in verdict["does_not_prove"] if "every member of the ledger" in line]

    (tmp_path / "side").rename(network.home.sidecar(bytes.fromhex(record["record"])))
    opened = tmp_path / "opened.proof"
    assert network.ask("proof", "export", record["record"], "-o", opened)["has_opening"]
    assert "byte for byte" in network.verify(opened, "--file", scan).stdout
    assert "give --file to compare the data" in network.verify(opened).stdout
    again = network.refused("proof", "export", record["record"], "-o", opened, code=ExitCode.FILE)
    assert "exists already" in again["message"]


def test_whatever_byte_changes_the_proof_fails(
    network: Network, scan: Path, tmp_path: Path
) -> None:
    (record,) = network.register(scan)
    proof = tmp_path / "proof"
    network.ask("proof", "export", record["record"], "-o", proof)
    for path in (proof, network.genesis, scan):
        content = path.read_bytes()
        for place in range(0, len(content), max(1, len(content) // 40)):
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(changed)
            result = network.verify(proof, "--file", scan)
            assert result.exit_code == ExitCode.REFUSED, (path, place)
            assert result.stdout == ""
            assert result.stderr.startswith("Error: ")
        path.write_bytes(content)
    assert network.verify(proof, "--file", scan).exit_code == 0


def test_a_transaction_and_an_absence_are_proved(
    network: Network, scan: Path, tmp_path: Path
) -> None:
    registered = network.ask("record", "register", "--category", "x", scan)
    (transaction,), (record,) = registered["transactions"], registered["records"]
    export = ("proof", "export", transaction["id"], "-o", tmp_path / "t")
    assert network.ask(*export, "--chain", record["record"])["kind"] == "transaction"
    verified = network.verify(tmp_path / "t")
    assert f"The transaction {transaction['id']} took effect in block" in verified.stdout
    nobody = "ab" * 32
    missing = network.refused("proof", "export", nobody, "-o", tmp_path / "a")
    assert "give --absent to prove that there is no such record" in missing["message"]
    network.ask("proof", "export", nobody, "--absent", "-o", tmp_path / "a")
    assert f"No record {nobody} was registered up to" in network.verify(tmp_path / "a").stdout


def test_the_whole_home_verifies(network: Network, patient: str) -> None:
    for options in ((), ("--fast",)):
        verified = network.ask("verify", *options)
        assert verified["verified"]
        assert verified["height"] == network.ask("status")["height"]
    assert f"all {verified['height'] + 1} blocks from genesis up" in network.run("verify").stdout


def test_damage_in_a_home_is_found_and_explained(
    network: Network, patient: str, tmp_path: Path
) -> None:
    for name in ("config.toml", "genesis.toml"):
        shutil.copy(network.home.path / name, tmp_path)
    (tmp_path / "data").mkdir()
    copy = Home(tmp_path).database
    with (
        closing(sqlite3.connect(network.home.database)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
        target.execute("UPDATE block SET receipts = x'90' WHERE height = 1")
        target.commit()
    environment = {"MEDPACT_HOME": str(tmp_path)}
    result = CliRunner().invoke(main, ["--json", "verify"], env=environment)
    assert result.exit_code == ExitCode.REFUSED
    error = json.loads(result.stderr)["error"]
    assert (error["verified"], error["height"]) == (False, 1)
    assert "is damaged at height 1" in error["message"]


def test_garbage_is_no_proof(network: Network, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(os.urandom(1000))
    result = network.verify(tmp_path / "garbage")
    assert result.exit_code == ExitCode.REFUSED
    assert "garbage proves nothing. This is not a proof file" in result.stderr
    result = network.verify(tmp_path / "nowhere")
    assert result.exit_code == ExitCode.FILE
    result = network.verify(tmp_path / "garbage", "--sidecar", tmp_path / "garbage")
    assert "garbage cannot be used. This is not a sidecar file" in result.stderr
