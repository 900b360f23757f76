"""What the databases of a chaos run say, while it goes on and at its end.

The files are read by a process of their own (storage/dump.py), and judged here and by the
simulator's checkers.
"""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from consensus.messages import Decision
from ledger.genesis import Genesis
from ledger.operations import ReportMisbehaviour
from ledger.receipts import DID_NOT_RUN, Receipt
from ledger.store import StateChanges, WriteBlock
from ledger.transactions import check_batch
from node.conduct import TOLERATED
from primitives.codec import decode
from simulations.chaos_votes import Ballots, read_promises
from simulations.checkers import NoProgress, Violation, check_meaning
from simulations.command import CLI

LINE_BYTES_MAX = 1024**3
READ_TIMEOUT_S = 120
VERIFY_TIMEOUT_S = 600
BLOCKS_PER_READ = 1_000


class Reader:
    """A process that reads databases, one request after another."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._number = 0

    async def __aenter__(self) -> "Reader":
        """Start it."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "storage.dump",
            cwd=CLI.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=LINE_BYTES_MAX,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def read(self, home: Path, above: int | None = None) -> dict[str, Any]:
        """What the database of a home holds; {"error": ...} if it cannot be read now."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("use the reader as `async with Reader() as reader`")
        async with self._turn, asyncio.timeout(READ_TIMEOUT_S):
            self._number += 1
            path = str(home / "data" / "ledger.db")
            request = {"number": self._number, "path": path, "above": above}
            process.stdin.write(json.dumps(request).encode() + b"\n")
            while True:
                answer: dict[str, Any] = json.loads(await process.stdout.readline())
                # Who was cancelled while it waited has left its answer behind.
                if answer["number"] == self._number:
                    return answer


class Witness:
    """Gathers votes from the databases of running, paused and dead daemons."""

    def __init__(self, reader: Reader, homes: Mapping[str, Path]) -> None:
        self._reader = reader
        self._homes = homes
        self.ballots = Ballots()
        self.looks = 0
        """How often a database was read."""

    async def look(self, name: str) -> None:
        """Read what a member has promised at its undecided height. Raises Violation."""
        answer = await self._reader.read(self._homes[name])
        # While its disk is full, or before the first start, a database may be unreadable.
        if "error" not in answer:
            self.looks += 1
            read_promises(self.ballots, name, answer["promises"])

    async def look_at_all(self) -> None:
        """Read all once. Raises Violation."""
        for name in self._homes:
            await self.look(name)

    async def keep_looking(self, pause_s: float) -> None:
        """Read all again and again. Raises Violation."""
        while True:
            await self.look_at_all()
            await asyncio.sleep(pause_s)


# ---- the end ------------------------------------------------------------------------------------


class Chain:
    """The blocks of one database, as the simulator's checkers take them."""

    def __init__(self, name: str, answer: Mapping[str, Any], genesis: Genesis) -> None:
        """Raises Violation if something that it vouches for is missing."""
        self.name = name
        self.raw = [(block["receipts"], block["batches"]) for block in answer["blocks"]]
        self.decisions = [_decode(block["decision"], Decision) for block in answer["blocks"]]
        self._answer = answer
        self._genesis = genesis
        if len(self.decisions) != answer["head"]:
            raise Violation(f"{name} has {len(self.decisions)} blocks at height {answer['head']}")

    def writes(self) -> list[WriteBlock]:
        """The blocks with every signature of their transactions checked. Raises Violation."""
        return [
            self._write(decision, block)
            for decision, block in zip(self.decisions, self._answer["blocks"], strict=True)
        ]

    def _write(self, decision: Decision, block: Mapping[str, Any]) -> WriteBlock:
        if None in block["batches"]:
            height = decision.block.header.height
            raise Violation(f"{self.name} has lost a batch of block {height}")
        raws = [bytes.fromhex(raw) for raw in block["batches"]]
        genesis = self._genesis
        keys = {member.id: member.key for member in genesis.institutions}
        batches = [check_batch(raw, genesis.chain_id, genesis.limits, keys) for raw in raws]
        receipts: tuple[Receipt, ...] = _decode(block["receipts"], tuple[Receipt, ...])
        return WriteBlock(
            decision=decision,
            batches=batches,
            receipts=receipts,
            transaction_ids=tuple(r.transaction for r in receipts),
            executed=tuple(n for n, r in enumerate(receipts) if r.code not in DID_NOT_RUN),
            chains=(),
            changes=StateChanges({}, {}, decision.block.header.state_root),
        )


def _decode(text: str, kind: Any) -> Any:
    raw = bytes.fromhex(text)
    return decode(raw, kind, bytes_max=len(raw))


async def read_chains(
    witness: Witness, reader: Reader, homes: Mapping[str, Path], genesis: Genesis
) -> list[Chain]:
    """Read all databases to the end, votes included. Raises Violation."""
    chains: list[Chain] = []
    for name, home in homes.items():
        answer = await reader.read(home, 0)
        if "error" in answer:
            raise Violation(f"the database of {name} cannot be read: {answer['error']}")
        read_promises(witness.ballots, name, answer["promises"])
        chain = Chain(name, answer, genesis)
        for decision in chain.decisions:
            witness.ballots.add_certificate(decision.certificate)
        chains.append(chain)
    return chains


def check_chains(chains: list[Chain], genesis: Genesis, acknowledged: Mapping[str, int]) -> None:
    """All databases hold the same blocks, and these what clients were told. Raises Violation."""
    first = chains[0]
    for chain in chains[1:]:
        for mine, its in zip(first.decisions, chain.decisions, strict=False):
            if mine.block != its.block:
                height = mine.block.header.height
                raise Violation(f"fork at height {height}: {first.name} and {chain.name} differ")
        if len(chain.decisions) != len(first.decisions):
            raise NoProgress(f"{first.name} and {chain.name} ended at different heights")
        if chain.raw != first.raw:
            raise Violation(f"{first.name} and {chain.name} differ in receipts or batches")
    writes = first.writes()
    check_meaning(genesis, writes)
    check_innocence(writes)
    check_places(acknowledged, writes)


def check_innocence(writes: list[WriteBlock]) -> None:
    """Nobody here is dishonest, so nobody may have been shown to be. Raises Violation."""
    for write in writes:
        for transaction in (t for batch in write.batches for t in batch.transactions):
            if any(isinstance(o, ReportMisbehaviour) for o in transaction.body.operations):
                height = write.decision.block.header.height
                raise Violation(f"block {height} holds evidence against an honest member")


def check_places(acknowledged: Mapping[str, int], writes: list[WriteBlock]) -> None:
    """What clients have a receipt of ran once, where it said, and nothing ran twice.

    Raises Violation.
    """
    ran: dict[str, int] = {}
    for write in writes:
        height = write.decision.block.header.height
        for index in write.executed:
            identity = write.transaction_ids[index].hex()
            if identity in ran:
                raise Violation(f"{identity} ran at height {ran[identity]} and again at {height}")
            ran[identity] = height
    for identity, height in acknowledged.items():
        if ran.get(identity) != height:
            found = f"ran at {ran[identity]}" if identity in ran else "is lost"
            raise Violation(f"{identity} was acknowledged at height {height} and {found}")


def check_logs(logs: Mapping[str, Path]) -> dict[str, int]:
    """Nobody has been blamed for what no correct member ever does. Raises Violation.

    Returns how often a log complains of a member, by reason, where a reason is none to worry.
    """
    complaints: Counter[str] = Counter()
    for name, log in logs.items():
        with log.open(encoding="utf-8", errors="replace") as f:
            for line in f:
                event = _event(line)
                if event.get("event") == "contradiction":
                    raise Violation(f"{name} saw a contradiction: {line.strip()}")
                if event.get("event") == "peer_at_fault":
                    if event["reason"] not in TOLERATED:
                        raise Violation(f"{name} blames an honest member: {line.strip()}")
                    complaints[event["reason"]] += 1
    return dict(complaints)


def _event(line: str) -> dict[str, Any]:
    """What a line of a log says; nothing if it is none of the daemon's events."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def check_statuses(statuses: Mapping[str, Mapping[str, Any] | None]) -> None:
    """No daemon has counted a contradiction. Raises Violation, or NoProgress without an answer."""
    for name, status in statuses.items():
        if status is None:
            raise NoProgress(f"{name} does not answer at the end")
        if status["counters"].get("contradiction"):
            raise Violation(f"{name} has counted contradictions of honest members")
        if status["abstaining"]:
            raise NoProgress(f"{name} abstains from voting, though no backup was restored")


async def verify(home: Path) -> None:
    """`medpact verify` re-executes a whole database. Raises Violation."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(CLI),
        "verify",
        "--home",
        str(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    async with asyncio.timeout(VERIFY_TIMEOUT_S):
        output, _ = await process.communicate()
    if process.returncode != 0:
        words = output.decode("utf-8", "replace").strip()
        raise Violation(f"medpact verify refuses {home.name}: {words}")
