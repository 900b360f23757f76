"""What the machine is, and what processes have used of it; from /proc (Linux)."""

import contextlib
import os
import platform
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from operator import add
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Used:
    """What a node has used since it started: its process, and those that it started."""

    cpu_seconds: float
    rss_bytes: int
    rss_peak_bytes: int
    written_bytes: int
    """Handed to the disk below the file system; 0 where that is memory."""

    def __add__(self, other: "Used") -> "Used":
        return Used(*map(add, astuple(self), astuple(other)))


def used(pid: int) -> Used:
    """What a process and its children have used; raises OSError if it has ended."""
    whole = _used(pid)
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if int(_numbers(place)[1]) == pid:
                whole += _used(int(place.name))
    return whole


def _used(pid: int) -> Used:
    process = Path(f"/proc/{pid}")
    # With the time of children that have ended.
    ticks = sum(int(field) for field in _numbers(process)[11:15])
    memory = _fields(process / "status")
    # Of a process that has ended, and whose parent has not looked yet, there is none.
    now, peak = (int(memory.get(name, "0").split()[0]) for name in ("VmRSS", "VmHWM"))
    return Used(
        ticks / _TICKS_PER_SECOND,
        now * 1024,
        peak * 1024,
        int(_fields(process / "io")["write_bytes"]),
    )


def _numbers(process: Path) -> list[str]:
    """The fields of /proc/pid/stat after the name, which may hold anything: proc(5)."""
    return (process / "stat").read_text().rpartition(")")[2].split()


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def facts(directory: Path) -> dict[str, object]:
    """What figures depend on; nothing that names the machine or its user."""
    processor = _fields(Path("/proc/cpuinfo")).get("model name", platform.machine())
    memory = _fields(Path("/proc/meminfo")).get("MemTotal", "0 kB")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": cores(),
        "processor": processor,
        "memory_mib": int(memory.split()[0]) // 1024,
        "load_average_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": file_system(directory, Path("/proc/self/mounts").read_text()),
    }


def file_system(directory: Path, mounts: str) -> str:
    """The type of the file system that holds a directory, by the text of /proc/mounts."""
    wanted = directory.resolve()
    found = (0, "unknown")
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split()
        # Later mounts hide earlier ones at the same place.
        if wanted.is_relative_to(place) and len(place) >= found[0]:
            found = (len(place), kind)
    return found[1]


def database_bytes(home: Path) -> int:
    """The size of a node's database with its log."""
    return sum(path.stat().st_size for path in (home / "data").glob("ledger.db*"))


def _fields(path: Path) -> dict[str, str]:
    """The first "name: value" line of each name."""
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found
