"""What the machine lends to a chaos run: networks that can be cut, small disks, clocks that move.

The run goes on in Linux namespaces of its own (network, mounts, processes), which `unshare` makes
for root, and on most systems for any user. Each daemon gets a network namespace, and all meet at a
bridge. Packets are lost silently: the sender is told that the receiver has an address at the bridge
that nobody has. When the run's first process ends, however it does, the kernel ends its daemons and
removes mounts and networks.

Without namespaces the network is cut by a proxy (simulations/chaos_proxy.py) and no disk is full.
Without libfaketime no clock moves. `missing` says so, with what to do about it.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from simulations.chaos_plan import ON_DISK, Kind

INSIDE = "MEDPACT_CHAOS_INSIDE"
"""Set in the environment of the process that runs in namespaces: "yes", or "no" without them."""
NETWORK_PREFIX = "10.99.0."
NOBODY = "02:00:00:00:00:99"
"""A link address that no daemon has."""
FAKETIME = (
    "/usr/lib/*/faketime/libfaketimeMT.so.1",
    "/usr/lib*/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
)
COMMAND_TIMEOUT_S = 20
DISK_BYTES = 20 * 1024 * 1024
BLOCK_BYTES = 64 * 1024
ENDED_BY_SIGTERM = 128 + signal.SIGTERM


class MachineError(Exception):
    """The machine refuses what it had promised; the message has its words."""


def _unshare() -> list[str] | None:
    """The command that begins namespaces for another command, or None if it is not allowed."""
    program = shutil.which("unshare")
    if program is None or shutil.which("ip") is None or shutil.which("nsenter") is None:
        return None
    options = ["--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid() != 0:
        options = ["--user", "--map-root-user", *options]
    bridge = "ip link add probe type bridge && mount -t tmpfs none /run"
    tried = subprocess.run(
        [program, *options, "sh", "-c", bridge],
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    return [program, *options] if tried.returncode == 0 else None


def enter(module: str, arguments: Sequence[str]) -> int | None:
    """Run `python -m module arguments` again in namespaces; its exit code.

    None if this process is the one that should work: it is inside, or there are no namespaces.
    """
    if INSIDE in os.environ:
        return None
    prefix = _unshare()
    if prefix is None:
        os.environ[INSIDE] = "no"
        return None
    command = [*prefix, sys.executable, "-m", module, *arguments]
    # In a session of its own, so that Ctrl-C reaches it once: from here.
    inside = subprocess.Popen(command, env={**os.environ, INSIDE: "yes"}, start_new_session=True)

    def pass_on(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(inside.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    return inside.wait()


def find_faketime() -> str | None:
    """Where libfaketime is, in the form for programs with threads."""
    for pattern in FAKETIME:
        for path in sorted(Path("/").glob(pattern.removeprefix("/"))):
            return str(path)
    return None


class Machine:
    """The machine as this process may use it."""

    def __init__(self) -> None:
        self.namespaces = os.environ.get(INSIDE) == "yes"
        self.faketime = find_faketime()
        self.missing: dict[Kind, str] = {}
        """What cannot be done here, and why."""
        if not self.namespaces:
            why = (
                "a small disk needs namespaces: install iproute2 and util-linux, and run as root "
                "or allow unprivileged user namespaces"
            )
            self.missing |= dict.fromkeys(ON_DISK, why)
        if self.faketime is None:
            self.missing[Kind.CLOCK] = "clocks cannot be moved: install the package faketime"

    def set_up(self) -> None:
        """Prepare the namespaces, if there are any. Raises MachineError."""
        if not self.namespaces:
            return
        # What libfaketime leaves in shared memory when its process is killed would meet a later one
        # with the same process id.
        for place in ("/run", "/dev/shm"):  # noqa: S108
            _do("mount", "-t", "tmpfs", "none", place)
        Path("/run/netns").mkdir()
        _do("ip", "link", "set", "lo", "up")

    def clock(self, file: Path) -> dict[str, str]:
        """Environment of a process whose wall clock follows a file; "+0" is the right time."""
        if self.faketime is None:
            return {}
        return {
            "LD_PRELOAD": self.faketime,
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Otherwise it times waits on conditions of the monotonic clock by the wrong clock, and
            # Python's threads wait a hundred times as long for each other.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "FAKETIME_DONT_RESET": "1",
            "NO_FAKE_STAT": "1",
        }


class Bridge:
    """A network namespace for each member, and a bridge between them."""

    def __init__(self, names: Sequence[str], port: int) -> None:
        self._numbers = {name: number for number, name in enumerate(names, start=1)}
        self._port = port
        self._cut: dict[tuple[str, str], None] = {}

    def open(self) -> None:
        """Make it. Raises MachineError."""
        _do("ip", "link", "add", "bridge", "type", "bridge")
        _do("ip", "link", "set", "bridge", "up")
        for name, number in self._numbers.items():
            ip = ("ip", "-n", name)
            _do("ip", "netns", "add", name)
            peer = ("peer", "name", "eth0", "netns", name)
            _do("ip", "link", "add", f"node{number}", "type", "veth", *peer)
            _do("ip", "link", "set", f"node{number}", "master", "bridge", "up")
            _do(*ip, "addr", "add", f"{self._ip(name)}/24", "dev", "eth0")
            _do(*ip, "link", "set", "eth0", "up")
            _do(*ip, "link", "set", "lo", "up")

    def close(self) -> None:
        """Remove it, so that the next seed can have its own."""
        for name, number in self._numbers.items():
            _try("ip", "link", "del", f"node{number}")
            _try("ip", "netns", "del", name)
        _try("ip", "link", "del", "bridge")

    def address(self, name: str) -> str:
        """Where a member listens and is dialled."""
        return f"{self._ip(name)}:{self._port}"

    listen = address

    def prefix(self, name: str) -> list[str]:
        """What to put before a command that runs at a member's place."""
        return ["nsenter", f"--net=/run/netns/{name}"]

    def apply(self, cut: Mapping[tuple[str, str], None]) -> None:
        """Lose exactly the packets between these pairs, each way named by itself."""
        lines: dict[str, list[str]] = {}
        for sender, receiver in cut:
            if (sender, receiver) not in self._cut:
                nobody = f"lladdr {NOBODY} nud permanent"
                lines.setdefault(sender, []).append(f"neigh replace {self._ip(receiver)} {nobody}")
        for sender, receiver in self._cut:
            if (sender, receiver) not in cut:
                lines.setdefault(sender, []).append(f"neigh del {self._ip(receiver)}")
        for sender, commands in lines.items():
            batch = "".join(f"{command} dev eth0\n" for command in commands)
            _do("ip", "-n", sender, "-batch", "-", given=batch)
        self._cut = dict(cut)

    def watch(self, pids: Mapping[int, str]) -> None:
        """Which processes belong to whom does not matter here: each has its own network."""

    def _ip(self, name: str) -> str:
        return f"{NETWORK_PREFIX}{self._numbers[name]}"


class SmallDisk:
    """A file system of its own at a directory, which can be full."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._bytes = DISK_BYTES
        self._filler = place / "filler"

    def mount(self) -> None:
        """Begin it under what is in the directory, which moves there. Raises MachineError."""
        kept = self._place.with_name(f"{self._place.name}.moving")
        self._place.rename(kept)
        self._place.mkdir(mode=0o700)
        _do("mount", "-t", "tmpfs", "-o", f"size={self._bytes},mode=700", "none", str(self._place))
        shutil.copytree(kept, self._place, dirs_exist_ok=True)
        shutil.rmtree(kept)

    def unmount(self, *, keep: bool) -> None:
        """End it; what is on it goes to the directory below if it is to be kept."""
        kept = self._place.with_name(f"{self._place.name}.moving")
        if keep:
            self._filler.unlink(missing_ok=True)
            shutil.copytree(self._place, kept, ignore=shutil.ignore_patterns("*.sock"))
        _try("umount", "--lazy", str(self._place))
        if keep:
            shutil.copytree(kept, self._place, dirs_exist_ok=True)
            shutil.rmtree(kept)

    def fill(self) -> None:
        """Leave no byte."""
        with self._filler.open("wb", buffering=0) as f:
            size = BLOCK_BYTES
            while size:
                try:
                    f.write(bytes(size))
                except OSError:
                    size //= 2

    def free(self) -> None:
        """Make room again, as an administrator would: a larger disk if nothing can be removed."""
        self._filler.unlink(missing_ok=True)
        self.grow_if_tight()

    def grow_if_tight(self) -> bool:
        """Double a disk that its own content nearly fills; whether it was."""
        usage = shutil.disk_usage(self._place)
        if usage.free > self._bytes // 3 or self._filler.exists():
            return False
        self._bytes *= 2
        _do("mount", "-o", f"remount,size={self._bytes}", str(self._place))
        return True


def _do(*command: str, given: str = "") -> None:
    ended = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    if ended.returncode != 0:
        raise MachineError(f"`{' '.join(command)}`: {ended.stderr.strip() or ended.returncode}")


def _try(*command: str) -> None:
    """As `_do`, for what may be gone already."""
    subprocess.run(command, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False)
