"""The daemons of a chaos run: made, started, hurt, and started again as systemd would.

A daemon that ends by itself is started again after a moment. While its disk is full it may end, in
the way that the documentation promises (docs/operating.md); any other end is a crash and stops the
run.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from node.client import RpcClient, RpcError, RpcUnavailable
from simulations.chaos_machine import Machine, MachineError, SmallDisk
from simulations.chaos_plan import Kind, Plan, Shape
from simulations.command import CLI, ask

RESTART_S = 1.0
WATCH_S = 0.2
ANSWER_MS = 3_000
STOP_S = 30.0
EXIT_FILE = 5
"""How the daemon says that its disk or database failed (docs/cli.md)."""
LAST_WORDS_BYTES_MAX = 4_096
DISK_AFTERMATH_S = 30.0
"""A daemon that a full disk has hurt may take so long to end, on a busy machine, though there is
room again."""

Status = Mapping[str, Any]
"""The result of the call `node_status` (docs/rpc.md)."""


class Crashed(Exception):
    """A daemon ended by itself, or did not stop in good order; the message has its last words."""


class Links(Protocol):
    """How daemons reach each other, and how that is taken from them."""

    def open(self) -> None:
        """Make it."""
        ...

    def close(self) -> None:
        """Remove it."""
        ...

    def address(self, name: str) -> str:
        """Where the others dial a member."""
        ...

    def listen(self, name: str) -> str:
        """Where a member listens."""
        ...

    def prefix(self, name: str) -> list[str]:
        """What to put before a command that runs at a member's place."""
        ...

    def apply(self, cut: Mapping[tuple[str, str], None]) -> None:
        """Lose exactly what goes from the first to the second of each of these pairs."""
        ...

    def watch(self, pids: Mapping[int, str]) -> None:
        """Say which process belongs to whom."""
        ...


@dataclass(slots=True)
class Node:
    """One daemon: its home, its process, and what is done to it now."""

    name: str
    home: Path
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    dead: int = 0
    """Faults that keep it dead now; it is not started again while there is one."""
    disk: SmallDisk | None = None
    disk_full: bool = False
    felt_full_disk: asyncio.Event = field(default_factory=asyncio.Event)
    """Set if it has ended since the disk was filled last."""
    disk_trouble_until: float = 0.0
    clock: Path | None = None
    restart_at: float = 0.0
    disk_ends: int = 0
    """How often it ended because its disk was full."""


@dataclass(slots=True)
class _Cuts:
    """The cuts in force, by the fault that asked for them."""

    by_fault: dict[int, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    def union(self) -> dict[tuple[str, str], None]:
        return dict.fromkeys(pair for pairs in self.by_fault.values() for pair in pairs)


class Consortium:
    """All daemons of a run."""

    def __init__(self, directory: Path, shape: Shape, machine: Machine, links: Links) -> None:
        self._directory = directory
        self._shape = shape
        self._machine = machine
        self._links = links
        self._cuts = _Cuts()
        self.network = directory / "network"
        self.nodes = {
            name: Node(name, self.network / name, directory / f"{name}.log")
            for name in shape.members
        }

    # ---- beginning and end -----------------------------------------------------------------------

    def create(self, plan: Plan, base_port: int) -> None:
        """Make homes, disks and network, ready to start. Raises CommandFailed or MachineError."""
        options = ["--base-port", str(base_port)]
        for kind, names in self._shape.classes.items():
            options += [f"--{kind}s", str(len(names))]
        ask("testnet", "create", self.network, *options)
        self._links.open()
        for place in (self.network, *(node.home for node in self.nodes.values())):
            self._set_addresses(place / "genesis.toml", base_port)
        for node in self.nodes.values():
            config = node.home / "config.toml"
            listen = f'listen = "{self._links.listen(node.name)}"\n'
            config.write_text(listen + config.read_text())
        if Kind.DISK not in self._machine.missing:
            for name in plan.small_disks:
                disk = SmallDisk(self.nodes[name].home)
                disk.mount()
                self.nodes[name].disk = disk
        if Kind.CLOCK not in self._machine.missing:
            for name in plan.moved_clocks:
                self.nodes[name].clock = self._directory / f"{name}.clock"
                self.set_clock(name, 0)

    def _set_addresses(self, genesis: Path, base_port: int) -> None:
        text = genesis.read_text()
        for number, name in enumerate(self._shape.members):
            made = f'"127.0.0.1:{base_port + number}"'
            if text.count(made) != 1:
                raise MachineError(f"{genesis} does not hold the address {made} once")
            text = text.replace(made, f'"{self._links.address(name)}"')
        genesis.write_text(text)

    def start_all(self) -> None:
        """Start every daemon that does not run."""
        for node in self.nodes.values():
            if node.process is None:
                self._launch(node)

    def stop_all(self) -> None:
        """Ask all to stop, and see that they do in good order. Raises Crashed."""
        running = {n.name: n.process for n in self.nodes.values() if n.process is not None}
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for name, process in running.items():
            try:
                code = process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired as error:
                raise Crashed(f"{name} did not stop within {STOP_S:.0f} s") from error
            self.nodes[name].process = None
            if code != 0:
                raise Crashed(f"{name} ended with {code} when stopped: {self._last_words(name)}")

    def destroy(self, *, keep: bool) -> None:
        """Kill what still runs and remove network and disks; homes stay if they are to be kept."""
        for node in self.nodes.values():
            if node.process is not None:
                node.process.kill()
                node.process.wait()
                node.process = None
        self._links.close()
        for node in self.nodes.values():
            if node.disk is not None:
                node.disk.unmount(keep=keep)
                node.disk = None

    # ---- faults ----------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """SIGKILL; it stays dead until `revive` has been called as often."""
        node = self.nodes[name]
        node.dead += 1
        if node.process is not None:
            node.process.kill()
            node.process.wait()
            node.process = None

    def revive(self, name: str) -> None:
        """Start it again, unless another fault keeps it dead."""
        node = self.nodes[name]
        node.dead -= 1
        if not node.dead and node.process is None:
            self._launch(node)

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self._signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self._signal(name, signal.SIGCONT)

    def cut(self, fault: int, pairs: Sequence[tuple[str, str]]) -> None:
        """Lose what goes either way between these pairs, until `heal` of the same fault."""
        self._cuts.by_fault[fault] = (*pairs, *((b, a) for a, b in pairs))
        self._links.apply(self._cuts.union())

    def heal(self, fault: int) -> None:
        """End the cuts of a fault; cuts of others stay."""
        del self._cuts.by_fault[fault]
        self._links.apply(self._cuts.union())

    def fill_disk(self, name: str) -> None:
        """No byte can be written at a member with a small disk."""
        node = self.nodes[name]
        if node.disk is not None:
            node.disk_full = True
            node.felt_full_disk.clear()
            node.disk.fill()

    def free_disk(self, name: str) -> None:
        """There is room again."""
        node = self.nodes[name]
        if node.disk is not None:
            node.disk.free()
            node.disk_full = False
            node.disk_trouble_until = time.monotonic() + DISK_AFTERMATH_S

    def set_clock(self, name: str, offset_ms: int) -> None:
        """Let the wall clock of a member differ from ours."""
        clock = self.nodes[name].clock
        if clock is not None:
            new = clock.with_suffix(".new")
            new.write_text(f"{offset_ms / 1000:+.3f}\n")
            new.replace(clock)

    # ---- watching --------------------------------------------------------------------------------

    async def supervise(self) -> None:
        """Start again what ended by itself and may; raises Crashed for what may not."""
        while True:
            await asyncio.sleep(WATCH_S)
            now = time.monotonic()
            for node in self.nodes.values():
                if node.process is not None and node.process.poll() is not None:
                    self._ended(node, node.process.returncode, now)
                elif node.process is None and not node.dead and now >= node.restart_at:
                    self._launch(node)
                if node.disk is not None and not node.disk_full:
                    node.disk.grow_if_tight()

    def _ended(self, node: Node, code: int, now: float) -> None:
        node.process = None
        node.restart_at = now + RESTART_S
        troubled = node.disk_full or now < node.disk_trouble_until
        if not (troubled and code == EXIT_FILE):
            raise Crashed(f"{node.name} ended with {code}: {self._last_words(node.name)}")
        node.disk_ends += 1
        node.felt_full_disk.set()

    async def statuses(self) -> dict[str, Status | None]:
        """What every daemon says of itself; None for one that does not answer."""
        names = list(self.nodes)
        found = await asyncio.gather(*(self._status(self.nodes[name]) for name in names))
        return dict(zip(names, found, strict=True))

    async def _status(self, node: Node) -> Status | None:
        try:
            async with RpcClient(node.home / "rpc.sock", timeout_ms=ANSWER_MS) as rpc:
                status: Status = await rpc.call("node_status")
        except (RpcError, RpcUnavailable):
            return None
        return status

    # ---- processes -------------------------------------------------------------------------------

    def _launch(self, node: Node) -> None:
        environment = {**os.environ, "NO_COLOR": "1"}
        if node.clock is not None:
            environment |= self._machine.clock(node.clock)
        command = [sys.executable, str(CLI), "start", "--home", str(node.home)]
        with node.log.open("ab") as log:
            node.process = subprocess.Popen(
                [*self._links.prefix(node.name), *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        pids = {n.process.pid: n.name for n in self.nodes.values() if n.process is not None}
        self._links.watch(pids)

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self.nodes[name].process
        if process is not None:
            process.send_signal(number)

    def _last_words(self, name: str) -> str:
        raw = self.nodes[name].log.read_bytes()[-LAST_WORDS_BYTES_MAX:]
        lines = [line for line in raw.decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"
