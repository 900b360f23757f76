"""`make demo`: a consortium of eight real daemons on this machine, from its creation to its proofs.

Everything goes through the `medpact` command and the local RPC, as it would for a user. DATA in the
environment names a directory of one's own files; without it DICOM and FHIR files are made. Each
step says what it does; the first that fails ends the demo with its name and exit code 1.
"""

import asyncio
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from node.client import RpcClient, RpcUnavailable
from simulations.command import CommandFailed, ask, heads, run, wait_for_equal_heads
from simulations.load import Load, LoadResult

NETWORK = "network"
"""Where in its directory a program keeps the homes of its nodes."""
NODES = 8
PORTS_FROM = 27_600
FILES_PER_CALL = 100
LOAD_PER_SECOND = 50
KILLED = "recorder-3"
GO_ON_BLOCKS = 5
"""Blocks that the others must make while one recorder is dead."""
CATCH_UP_SECONDS = 30
FHIR_NAMES = (
    "Freda O'Connell.json",
    'discharge summary "final".json',
    "病历 张伟.json",
    "laborbefund-müller.json",
)


class DemoFailed(Exception):
    """A step did not do what it should; the message says what happened instead."""


class Demo:
    """The steps in order, and what they hand on to one another."""

    def __init__(self, console: Console, directory: Path, data: Path | None) -> None:
        self._console = console
        self._data = data
        self.directory = directory
        self.network = directory / NETWORK
        self._files: list[Path] = []
        self._records: dict[str, str] = {}
        self._patient = ""
        self._record = ""
        self._grant = ""
        self._result = LoadResult()
        self.steps: tuple[tuple[str, Callable[[], str]], ...] = (
            ("Collect files to register", self.collect),
            ("Create 4 recorders, 3 auditors, 1 observer", self.create),
            ("Start eight daemons", self.start),
            ("Enrol a patient", self.enrol),
            ("Register the files' salted commitments", self.register),
            ("The patient grants a research institute", self.grant),
            ("Record a share under the grant", self.share),
            ("A share without a grant is refused", self.share_without_grant),
            ("Revoke: the next share is refused", self.revoke),
            ("Kill a recorder under load; it catches up", self.kill),
            ("Export a proof, verify it offline", self.prove),
            ("Change one byte: verification fails", self.tamper),
        )

    @property
    def _home(self) -> Path:
        return self.network / "recorder-1"

    @property
    def _key(self) -> Path:
        return self.directory / "patient.key"

    @property
    def _proof(self) -> Path:
        return self.directory / "record.proof"

    # ---- the steps -------------------------------------------------------------------------------

    def collect(self) -> str:
        """Find the user's files, or make some."""
        if self._data is None:
            self._files = make_files(self.directory / "files")
        else:
            self._files = find_files(self._data)
            if not self._files:
                raise DemoFailed(f"there is no readable file in {self._data}")
        size = sum(file.stat().st_size for file in self._files)
        return f"{len(self._files)} files, {size / 1024:.0f} KiB"

    def create(self) -> str:
        """Make keys, genesis and homes."""
        port = free_ports(NODES)
        made = ask("testnet", "create", self.network, "--base-port", str(port))
        return f"ledger {made['chain_id'][:16]}..., ports from {port}"

    def start(self) -> str:
        """Start the daemons and see them agree on the genesis block."""
        expect(run("testnet", "up", self.network, "--detach").code == 0, "a daemon did not start")
        height, _ = wait_for_equal_heads(self.network, 10)
        return f"all answer at height {height}"

    def enrol(self) -> str:
        """An institution attests the patient's key."""
        ask("keys", "generate", "-o", self._key)
        enrolled = ask("person", "enrol", "--key", self._key, "--kind", "patient", home=self._home)
        self._patient = enrolled["person"]
        return f"person {self._patient[:16]}..."

    def register(self) -> str:
        """Commit to every file; the content stays here."""
        for start in range(0, len(self._files), FILES_PER_CALL):
            files = self._files[start : start + FILES_PER_CALL]
            options = ("--subject", self._patient, "--category", "clinical-file")
            made = ask("record", "register", *options, *files, home=self._home)
            for file, record in zip(files, made["records"], strict=True):
                self._records[record["record"]] = str(file)
        self._record = next(iter(self._records))
        return f"{len(self._records)} records"

    def grant(self) -> str:
        """The patient signs with their own key."""
        options = ("--to", "observer-1", "--record", self._record, "--purpose", "HRESCH")
        made = ask("grant", "--key", self._key, *options, home=self._home)
        self._grant = made["grant"]
        return f"grant {self._grant[:16]}... for research"

    def share(self) -> str:
        """The custodian notarises the hand-over."""
        done = ask(*self._share("observer-1"), home=self._home)
        return f"in block {done['transactions'][0]['height']}"

    def share_without_grant(self) -> str:
        """Nobody granted anything to another hospital."""
        return self._refused("recorder-2", "GRANT_NOT_COVERING")

    def revoke(self) -> str:
        """The patient ends the grant."""
        ask("revoke", self._grant, "--key", self._key, home=self._home)
        return self._refused("observer-1", "GRANT_REVOKED")

    def kill(self) -> str:
        """SIGKILL under load: the others go on, it returns and has the same head."""
        load = Load([self.network / name for name in ("recorder-1", "recorder-2")], LOAD_PER_SECOND)
        return asyncio.run(self._kill(load))

    async def _kill(self, load: Load) -> str:
        loading = asyncio.create_task(load.run())
        try:
            took = await asyncio.to_thread(self._kill_and_return)
        finally:
            load.stop()
            self._result = await loading
        expect(self._result.acknowledged, "no transaction of the load was acknowledged")
        wait_for_equal_heads(self.network, CATCH_UP_SECONDS)
        return took

    def _kill_and_return(self) -> str:
        before = self._height()
        expect(run("testnet", "kill", self.network, KILLED).code == 0, "it could not be killed")
        wait_until(lambda: self._height() >= before + GO_ON_BLOCKS, 30, "the others stopped")
        went_on = self._height() - before
        started = time.monotonic()
        back = run("testnet", "start", self.network, KILLED)
        expect(back.code == 0, f"{KILLED} did not start again: {back.sentence}")

        def caught_up() -> bool:
            head = heads(self.network)[KILLED]
            return head is not None and head[0] >= before + went_on

        wait_until(caught_up, CATCH_UP_SECONDS, f"{KILLED} did not catch up")
        seconds = time.monotonic() - started
        return f"{went_on} blocks without {KILLED}, back in step after {seconds:.1f} s"

    def prove(self) -> str:
        """A proof needs nothing but itself and the genesis file."""
        ask("proof", "export", self._record, "-o", self._proof, home=self._home)
        ask(*self._verify(self._proof, self._data_file))
        return f"{self._proof.stat().st_size} bytes: all entries of the record, and its content"

    def tamper(self) -> str:
        """Neither the proof nor the data can be altered unnoticed."""
        raw = bytearray(self._proof.read_bytes())
        raw[random.randrange(len(raw))] ^= 1
        changed = self.directory / "changed.proof"
        changed.write_bytes(raw)
        ended = run(*self._verify(changed, self._data_file))
        expect(ended.code == 1, "a changed proof was not refused")
        data = bytearray(self._data_file.read_bytes()) or bytearray(1)
        data[len(data) // 2] ^= 1
        other = self.directory / "changed.data"
        other.write_bytes(data)
        altered = run(*self._verify(self._proof, other))
        expect(altered.code == 1, "changed data was not refused")
        return ended.sentence

    # ---- what the steps share --------------------------------------------------------------------

    @property
    def _data_file(self) -> Path:
        return Path(self._records[self._record])

    def _verify(self, proof: Path, data: Path) -> tuple[str | Path, ...]:
        genesis = self.network / "genesis.toml"
        return ("proof", "verify", proof, "--genesis", genesis, "--file", data)

    def _share(self, to: str) -> tuple[str, ...]:
        options = ("--to", to, "--grant", self._grant, "--purpose", "HRESCH")
        return ("share", self._record, *options)

    def _refused(self, to: str, reason: str) -> str:
        ended = run(*self._share(to), home=self._home)
        expect(ended.code == 1 and reason in ended.errors, f"not refused: {ended.errors.strip()}")
        return ended.sentence

    def _height(self) -> int:
        return max(head[0] for name, head in heads(self.network).items() if head and name != KILLED)

    def summary(self) -> Table:
        """The table at the end. Raises CommandFailed if the eight heads are not the same."""
        height, head_hash = wait_for_equal_heads(self.network, CATCH_UP_SECONDS)
        transactions = asyncio.run(count_transactions(self._home, height))
        table = Table(
            "", "", show_header=False, title="Eight nodes, one ledger", title_justify="left"
        )
        table.add_row("height", str(height))
        table.add_row("transactions", str(transactions))
        table.add_row("head of all eight nodes", Text(head_hash, overflow="fold"))
        table.add_row("commit latency p50, under load", f"{self._result.latency_ms(50):.0f} ms")
        table.add_row("commit latency p95, under load", f"{self._result.latency_ms(95):.0f} ms")
        table.add_row("transactions per second, under load", f"{self._result.rate:.1f}")
        return table


def expect(condition: object, otherwise: str) -> None:
    """Raise DemoFailed unless the condition holds."""
    if not condition:
        raise DemoFailed(otherwise)


async def count_transactions(home: Path, height: int) -> int:
    """How many transactions the blocks of a node list."""
    async with RpcClient(home / "rpc.sock") as rpc:
        blocks = [await rpc.call("block_get", height=number) for number in range(1, height + 1)]
    return sum(len(block["transactions"]) for block in blocks)


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Ask again until the condition holds; raises DemoFailed after a time."""
    deadline = time.monotonic() + seconds
    while not condition():
        expect(time.monotonic() < deadline, f"{otherwise} ({seconds:.0f} s)")


def make_files(directory: Path) -> list[Path]:
    """DICOM files of pydicom's own tests, FHIR R4 bundles, an empty file; awkward names too."""
    import pydicom.data
    from carebundle import generate_bundle, to_json

    directory.mkdir()
    source = Path(pydicom.data.__file__).parent / "test_files"
    for file in [*sorted(source.glob("examples_*.dcm"))[:4], source / "CT_small.dcm"]:
        shutil.copyfile(file, directory / file.name)
    for number, name in enumerate(FHIR_NAMES):
        bundle = generate_bundle(profile="hypertension", seed=number, sex="F")
        (directory / name).write_text(to_json(bundle), encoding="utf-8")
    (directory / "empty file.txt").touch()
    return find_files(directory)


def find_files(directory: Path) -> list[Path]:
    """The readable regular files below a directory, in order of path."""
    found = [Path(root, name) for root, _, names in os.walk(directory) for name in names]
    return sorted(file for file in found if file.is_file() and os.access(file, os.R_OK))


def free_ports(count: int, start: int = PORTS_FROM) -> int:
    """The first of `count` ports in a row, from `start` on, on which nothing listens."""
    for first in range(start, 60_000, count):
        if all(is_free(port) for port in range(first, first + count)):
            return first
    raise DemoFailed(f"no {count} free ports in a row on 127.0.0.1")


def is_free(port: int) -> bool:
    """Whether a port of the loopback address can be bound."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def perform(demo: Demo, console: Console) -> bool:
    """Run all steps and print the table; whether all went well."""
    started = time.monotonic()
    try:
        for number, (title, step) in enumerate(demo.steps, start=1):
            place = f"[{number:2}/{len(demo.steps)}]"
            with console.status(f"{place} {title}"):
                begun = time.monotonic()
                result = step()
            seconds = time.monotonic() - begun
            console.print(f"{place} {title} ({seconds:.1f} s)", markup=False, highlight=False)
            console.print(f"        {result}", markup=False, highlight=False, style="dim")
        title = "Compare the heads of all nodes"
        table = demo.summary()
    except (DemoFailed, CommandFailed, OSError) as error:
        console.print(f"FAILED at: {title}", style="bold red", markup=False)
        console.print(str(error), markup=False, highlight=False)
        console.print(f"Logs and homes are kept in {demo.network}", markup=False, highlight=False)
        return False
    console.print(table)
    console.print(f"All steps passed in {time.monotonic() - started:.0f} s.", highlight=False)
    return True


def attempt(name: str, steps: Callable[[Console, Path], None]) -> int:
    """Run `steps` in a new directory; 0, or 1 after saying what failed, with all kept for a look.

    Nodes whose homes are in its NETWORK are stopped at the end.
    """
    console = Console(highlight=False)
    directory = Path(tempfile.mkdtemp(prefix=f"medpact-{name}-"))
    network = directory / NETWORK
    passed = False
    try:
        steps(console, directory)
        passed = True
    except (DemoFailed, CommandFailed, RpcUnavailable) as error:
        console.print(f"FAILED: {error}", style="bold red", markup=False)
        console.print(f"Logs and homes are kept in {network}", markup=False)
    finally:
        if network.exists():
            run("testnet", "down", network)
        if passed:
            shutil.rmtree(directory)
    return 0 if passed else 1


def main() -> int:
    """Run the demo; 0 if every step passed, 1 if one failed, 130 after Ctrl-C."""
    console = Console(highlight=False)
    given = os.environ.get("DATA", "")
    data = Path(given).expanduser().absolute() if given else None
    if data is not None and not data.is_dir():
        console.print(f"DATA={given} is not a directory.", markup=False)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = Path(tempfile.mkdtemp(prefix="medpact-demo-"))
    demo = Demo(console, directory, data)
    passed = False
    try:
        passed = perform(demo, console)
    except KeyboardInterrupt:
        console.print("Interrupted.")
        return 130
    finally:
        if demo.network.exists():
            run("testnet", "down", demo.network)
        if passed:
            shutil.rmtree(directory)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
