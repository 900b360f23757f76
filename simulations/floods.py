"""A member that turns hostile: one flood after another on a real daemon, and what they do to it.

    .venv/bin/python -m simulations.floods [FLOOD ...] [--seconds 5] [--json]

Four recorders and an auditor run under a light, steady load. The daemon of one recorder is replaced
by a process that holds its key and keeps no rules (`python -m tests.hostile`), and that floods
another recorder, the victim, in every way it knows. During each flood the victim's resident memory
must stay within RSS_BYTES_MAX of its level before, it must answer `node_status` within
STATUS_MS_MAX, go on applying blocks, and name what happened in its log once, not once a message.
Exit code 0 if so, 1 if not.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from node.client import RpcClient, RpcError, RpcUnavailable
from simulations.command import ask, run
from simulations.demo import NETWORK, attempt, expect, is_free
from simulations.load import Load

ROOT = Path(__file__).resolve().parents[1]
RECORDERS, AUDITORS = 4, 1
VICTIM, HONEST, HOSTILE = "recorder-1", "recorder-2", "recorder-4"
PORTS_FROM, PORTS_TO = 22_000, 22_900
LOAD_PER_SECOND = 20
SECONDS = 5.0
CALM_SECONDS = 2.0
"""Between two floods, for what is over to be let go."""
POLL_MS = 50
RSS_BYTES_MAX = 64 * 1024 * 1024
STATUS_MS_MAX = 1_000
LINES_MAX = 3
"""Log lines of one event about one peer in one flood: its beginning, and perhaps its summary."""
FLOODS = {
    "batches-valid": "valid batches of 2,000 transactions",
    "batches-bad": "the same with one bad signature",
    "future-heights": "votes for heights to come, validly signed",
    "future-views": "wishes for ever higher views, validly signed",
    "bad-signatures": "votes with bad signatures",
    "replayed": "old messages again",
    "decisions": "decided blocks that nobody decided",
    "malformed": "messages that cannot be read",
    "maximal": "messages as long as may be, and longer",
    "frames": "broken frames, one link each",
    "heartbeats": "empty frames",
    "flaps": "a new link each time",
    "gossip-invented": "signed announcements of nothing",
    "gossip-forged": "announcements in others' names",
    "gossip-control": "offers and wishes of gossip",
    "requests": "expensive questions",
    "requests-unread": "expensive questions, answers not read",
    "answers-trickle": "our questions, answered byte by byte",
    "answers-bombs": "our questions, answered with bombs",
    "yamux-resets": "streams opened and reset",
    "yamux-pings": "pings",
    "yamux-windows": "window updates, empty data",
    "streams-left": "streams left with data unread",
    "connections": "hundreds of connections of a member",
    "many-votes": "contradicting votes, validly signed",
    "port-half-open": "handshakes left half-way",
    "port-garbage": "garbage on the port",
    "port-strangers": "handshakes of strangers",
    "rpc": "the local RPC",
}
"""What `tests.hostile` can do, and how it is called here. What makes the ledger suspend the member
comes late: nobody listens to its votes after that.
"""
CALM = "none"
"""The name of the measurement without a flood."""
START_SECONDS_MAX = 30


@dataclass(slots=True)
class Measured:
    """What one flood did to the victim."""

    flood: str
    rss_before_bytes: int = 0
    rss_max_bytes: int = 0
    rss_after_bytes: int = 0
    status_ms_max: float = 0.0
    refused: int = 0
    """Calls of node_status that were turned away."""
    blocks: int = 0
    processor: float = 0.0
    """Of one core, how much the victim used."""
    sent: dict[str, int] = field(default_factory=dict)
    """What the hostile process counted."""
    counters: dict[str, int] = field(default_factory=dict)
    """By how much the victim's counters grew."""
    faults: dict[str, int] = field(default_factory=dict)
    """By how much the hostile member's faults grew, by reason."""
    lines: dict[str, int] = field(default_factory=dict)
    """New lines in the victim's log, by event, peer and reason."""

    @property
    def growth_bytes(self) -> int:
        """How far the memory rose."""
        return self.rss_max_bytes - self.rss_before_bytes

    def misses(self) -> list[str]:
        """The bounds that were not kept, in words."""
        found = []
        if self.growth_bytes > RSS_BYTES_MAX:
            found.append(f"memory grew by {_mib(self.growth_bytes)}")
        if self.status_ms_max > STATUS_MS_MAX:
            found.append(f"node_status took {self.status_ms_max:.0f} ms")
        if self.refused:
            found.append(f"node_status was refused {self.refused} times")
        if self.blocks < 1:
            found.append("no block was applied")
        for line, count in self.lines.items():
            if count > LINES_MAX:
                found.append(f"{count} log lines: {line}")
        return found


class Rig:
    """The network, its load and its victim."""

    def __init__(self, network: Path, per_second: int = LOAD_PER_SECOND) -> None:
        self.network = network
        self.home = network / VICTIM
        self._per_second = per_second
        self._pid = 0

    def create(self) -> None:
        """Make the network and start all of it but the hostile member."""
        count = RECORDERS + AUDITORS
        plan = ("--recorders", str(RECORDERS), "--auditors", str(AUDITORS), "--observers", "0")
        ports = range(PORTS_FROM, PORTS_TO, count)
        port = next(p for p in ports if all(is_free(each) for each in range(p, p + count)))
        ask("testnet", "create", self.network, *plan, "--base-port", str(port))
        for name in sorted(path.parent.name for path in self.network.glob("*/config.toml")):
            if name != HOSTILE:
                ended = run("testnet", "start", self.network, name)
                expect(ended.code == 0, f"{name} did not start: {ended.sentence}")
        # Its exit code says that one node is down, which is how it should be.
        nodes = json.loads(run("testnet", "status", self.network, "--json").output)["nodes"]
        self._pid = next(node["pid"] for node in nodes if node["id"] == VICTIM)

    @contextlib.asynccontextmanager
    async def loaded(self) -> AsyncIterator[None]:
        """While the block runs, an honest member submits."""
        self._load = Load([self.network / HONEST], self._per_second)
        loading = asyncio.create_task(self._load.run())
        try:
            yield
        finally:
            self._load.stop()
            await loading

    @property
    def acknowledged(self) -> int:
        """Transactions of the load that were seen final."""
        return len(self._load.result.acknowledged)

    async def measure(self, flood: str, seconds: float) -> Measured:
        """Let the hostile member do its worst for so long, and look at the victim meanwhile."""
        measured = Measured(flood)
        before, faults_before = await self._ask()
        log_from = (self.home / "node.log").stat().st_size
        measured.rss_before_bytes = measured.rss_max_bytes = self._memory("VmRSS")
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")  # Forget the peak: proc(5).
        busy, started = self._processor(), time.monotonic()
        polling = asyncio.create_task(self._poll(measured))
        try:
            await self._flood(measured, seconds)
        finally:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
        measured.processor = (self._processor() - busy) / (time.monotonic() - started)
        measured.rss_max_bytes = max(measured.rss_max_bytes, self._memory("VmHWM"))
        await asyncio.sleep(CALM_SECONDS)
        after, faults_after = await self._ask()
        measured.rss_after_bytes = self._memory("VmRSS")
        measured.blocks = after["height"] - before["height"]
        measured.counters = _grown(before["counters"], after["counters"])
        measured.faults = _grown(faults_before, faults_after)
        measured.lines = self._lines(log_from)
        return measured

    async def _ask(self) -> tuple[dict[str, Any], dict[str, int]]:
        """The victim's status, and what it has against the hostile member."""
        async with RpcClient(self.home / "rpc.sock") as rpc:
            status = await rpc.call("node_status")
            peers = (await rpc.call("node_peers"))["peers"]
        return status, next(p["faults"] for p in peers if p["institution"] == HOSTILE)

    async def _flood(self, measured: Measured, seconds: float) -> None:
        if measured.flood == CALM:
            await asyncio.sleep(seconds)
            return
        who = (str(self.network), HOSTILE, VICTIM, measured.flood, str(seconds))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.hostile",
            *who,
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(seconds + START_SECONDS_MAX):
                output, errors = await process.communicate()
        except TimeoutError:
            # It is still at work, which is no fault of the victim's.
            process.kill()
            await process.wait()
            return
        words = errors.decode(errors="replace").strip().splitlines()
        expect(process.returncode == 0, f"{measured.flood} failed: {words[-3:]}")
        measured.sent = json.loads(output.splitlines()[-1])

    async def _poll(self, measured: Measured) -> None:
        """Ask the victim how it is again and again, over a connection of its own each time."""
        while True:
            started = time.monotonic()
            try:
                async with RpcClient(self.home / "rpc.sock") as rpc:
                    await rpc.call("node_status")
            except (RpcError, RpcUnavailable):
                measured.refused += 1
            finally:
                # Also when the flood is over before the answer is there.
                took_ms = (time.monotonic() - started) * 1000
                measured.status_ms_max = max(measured.status_ms_max, took_ms)
            await asyncio.sleep(POLL_MS / 1000)

    def _memory(self, field: str) -> int:
        for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
        raise KeyError(field)

    def _processor(self) -> float:
        """Seconds of processor time that the victim has used."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _lines(self, start: int) -> dict[str, int]:
        found: Counter[str] = Counter()
        with (self.home / "node.log").open("rb") as f:
            f.seek(start)
            for raw in f:
                try:
                    line = json.loads(raw)
                except ValueError:
                    line = {"event": raw.decode(errors="replace").strip()[:60]}
                facts = [line.get(key) for key in ("event", "peer", "reason") if line.get(key)]
                found[" ".join(str(fact) for fact in facts)] += 1
        return dict(found)


def _grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    grown = {name: count - before.get(name, 0) for name, count in after.items()}
    return {name: count for name, count in grown.items() if count}


def _mib(size: int) -> str:
    return f"{size / 1024 / 1024:.0f} MiB"


def table(results: Sequence[Measured]) -> Table:
    """What was measured, a row for each flood."""
    shown = Table(
        title=f"Floods on {VICTIM} by {HOSTILE}, {RECORDERS} recorders, {AUDITORS} auditor"
    )
    shown.add_column("flood")
    shown.add_column("what", max_width=38)
    for name in ("sent", "MiB before", "max", "after", "status ms", "blocks", "core"):
        shown.add_column(name, justify="right")
    shown.add_column("faults counted")
    shown.add_column("log lines")
    shown.add_column("")
    for one in results:
        mebibytes = (one.rss_before_bytes, one.rss_max_bytes, one.rss_after_bytes)
        shown.add_row(
            one.flood,
            FLOODS.get(one.flood, "the load alone"),
            f"{one.sent.get('sent', 0):,}",
            *(f"{size / 1024 / 1024:.0f}" for size in mebibytes),
            f"{one.status_ms_max:.0f}",
            str(one.blocks),
            f"{one.processor:.2f}",
            "\n".join(f"{reason} {count:,}" for reason, count in one.faults.items()) or "-",
            "\n".join(f"{count} {line[:40]}" for line, count in one.lines.items()) or "-",
            "; ".join(one.misses()) or "ok",
            style="red" if one.misses() else None,
        )
    return shown


def as_json(results: Sequence[Measured]) -> str:
    """The same, with all counters."""
    documents = [
        {**dataclasses.asdict(one), "growth_bytes": one.growth_bytes, "misses": one.misses()}
        for one in results
    ]
    return json.dumps({"floods": documents}, indent=2)


async def flood_all(rig: Rig, floods: Sequence[str], seconds: float) -> list[Measured]:
    """One flood after the other, under load."""
    results: list[Measured] = []
    progress = Console(stderr=True, highlight=False)
    async with rig.loaded():
        for number, flood in enumerate(floods, 1):
            before = rig.acknowledged
            results.append(await rig.measure(flood, seconds))
            one = results[-1]
            final = rig.acknowledged - before
            progress.print(
                f"[{number}/{len(floods)}] {flood}: {final} transactions final, "
                f"+{_mib(one.growth_bytes)}, status {one.status_ms_max:.0f} ms, "
                f"{'; '.join(one.misses()) or 'ok'}",
                markup=False,
            )
    return results


def main() -> int:
    """Run the floods; 0 if all bounds were kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("floods", nargs="*", metavar="FLOOD", choices=[*FLOODS, []])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each flood")
    parser.add_argument("--json", action="store_true", help="a document instead of a table")
    arguments = parser.parse_args()
    floods = [CALM, *(arguments.floods or FLOODS)]

    def steps(console: Console, directory: Path) -> None:
        rig = Rig(directory / NETWORK)
        rig.create()
        results = asyncio.run(flood_all(rig, floods, arguments.seconds))
        if arguments.json:
            print(as_json(results))
        else:
            Console(width=200 if not console.is_terminal else None).print(table(results))
        missed = [one.flood for one in results if one.misses()]
        expect(not missed, f"bounds were missed: {', '.join(missed)}")

    return attempt("floods", steps)


if __name__ == "__main__":
    sys.exit(main())
