"""What is done to the machine, and how the end of a daemon is judged."""

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from simulations import chaos_machine
from simulations.chaos_machine import NOBODY, Bridge, Machine, SmallDisk
from simulations.chaos_nodes import DISK_AFTERMATH_S, Consortium, Crashed, Node
from simulations.chaos_plan import ON_DISK, Kind, Shape

NAMES = ("recorder-1", "recorder-2", "auditor-1")


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[str, ...], str]]:
    """The commands that would have been run, and what they would have been given."""
    commands: list[tuple[tuple[str, ...], str]] = []

    def record(*command: str, given: str = "") -> None:
        commands.append((command, given))

    monkeypatch.setattr(chaos_machine, "_do", record)
    return commands


def pairs(*names: tuple[str, str]) -> dict[tuple[str, str], None]:
    return dict.fromkeys(names)


def test_only_what_changes_is_told_to_the_kernel(done: list[tuple[tuple[str, ...], str]]) -> None:
    bridge = Bridge(NAMES, 21_000)
    bridge.apply(pairs(("recorder-1", "auditor-1"), ("recorder-1", "recorder-2")))
    ((command, given),) = done
    assert command == ("ip", "-n", "recorder-1", "-batch", "-")
    assert given.splitlines() == [
        f"neigh replace {place} lladdr {NOBODY} nud permanent dev eth0"
        for place in ("10.99.0.3", "10.99.0.2")
    ]
    done.clear()
    bridge.apply(pairs(("recorder-1", "auditor-1"), ("auditor-1", "recorder-1")))
    assert [(command[2], given.split()[:3]) for command, given in done] == [
        ("auditor-1", ["neigh", "replace", "10.99.0.1"]),
        ("recorder-1", ["neigh", "del", "10.99.0.2"]),
    ]
    done.clear()
    bridge.apply(pairs())
    assert {command[2] for command, _ in done} == {"recorder-1", "auditor-1"}
    assert all(given.startswith("neigh del") for _, given in done)
    done.clear()
    bridge.apply(pairs())
    assert done == []


@pytest.mark.parametrize(("inside", "left_out"), [("yes", ()), ("no", ON_DISK)])
def test_what_the_machine_cannot_do_is_said(
    monkeypatch: pytest.MonkeyPatch, inside: str, left_out: tuple[Kind, ...]
) -> None:
    monkeypatch.setenv(chaos_machine.INSIDE, inside)
    monkeypatch.setattr(chaos_machine, "FAKETIME", ("/absent/*.so",))
    machine = Machine()
    assert set(machine.missing) == {*left_out, Kind.CLOCK}
    assert "install" in machine.missing[Kind.CLOCK]
    assert machine.clock(Path("clock")) == {}


@pytest.fixture
def file_bytes_max() -> Iterator[int]:
    """The longest file that this process may write now; no disk here is full."""
    limit = 3 * chaos_machine.BLOCK_BYTES + 1_234
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_is_filled_to_the_last_byte(tmp_path: Path, file_bytes_max: int) -> None:
    SmallDisk(tmp_path).fill()
    assert (tmp_path / "filler").stat().st_size == file_bytes_max


def test_a_disk_that_its_content_fills_grows_but_not_while_it_is_kept_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: list[tuple[tuple[str, ...], str]]
) -> None:
    free = [chaos_machine.DISK_BYTES]
    usage: Callable[[Path], object] = lambda _: type("Usage", (), {"free": free[0]})  # noqa: E731
    monkeypatch.setattr("shutil.disk_usage", usage)
    disk = SmallDisk(tmp_path)
    assert not disk.grow_if_tight()
    free[0] = 1_000
    (tmp_path / "filler").touch()
    assert not disk.grow_if_tight()
    assert done == []
    disk.free()
    assert [command[:3] for command, _ in done] == [
        ("mount", "-o", f"remount,size={2 * chaos_machine.DISK_BYTES}")
    ]


# ---- the end of a daemon -------------------------------------------------------------------------


class Ended:
    """Links at whose places every command ends at once, with 0."""

    def open(self) -> None: ...

    def close(self) -> None: ...

    def address(self, name: str) -> str:
        return name

    def listen(self, name: str) -> str:
        return name

    def prefix(self, name: str) -> list[str]:
        return ["true"]

    def apply(self, cut: Mapping[tuple[str, str], None]) -> None: ...

    def watch(self, pids: Mapping[int, str]) -> None: ...


def ended_with(directory: Path, code: int) -> tuple[Consortium, Node]:
    """A consortium of one daemon that has just ended by itself."""
    consortium = Consortium(directory, Shape(1, 0, 0), Machine(), Ended())
    node = consortium.nodes["recorder-1"]
    node.log.write_text("its last words\n")
    node.process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    node.process.wait()
    return consortium, node


@pytest.mark.parametrize("code", [0, 1, 5, 70])
async def test_a_daemon_that_ends_by_itself_has_crashed(tmp_path: Path, code: int) -> None:
    consortium, _ = ended_with(tmp_path, code)
    with pytest.raises(Crashed, match=f"recorder-1 ended with {code}: its last words"):
        await consortium.supervise()


async def test_a_daemon_on_a_full_disk_may_end_as_promised_and_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.chaos_nodes.RESTART_S", 0.0)
    consortium, node = ended_with(tmp_path, 5)
    node.disk_full = True
    # What is started again ends at once, in another way than a full disk allows.
    with pytest.raises(Crashed, match="ended with 0"):
        await consortium.supervise()
    assert node.disk_ends == 1


async def test_a_full_disk_excuses_no_other_end(tmp_path: Path) -> None:
    consortium, node = ended_with(tmp_path, 70)
    node.disk_full = True
    with pytest.raises(Crashed, match="ended with 70"):
        await consortium.supervise()


async def test_a_full_disk_is_an_excuse_for_a_while_only(tmp_path: Path) -> None:
    consortium, node = ended_with(tmp_path, 5)
    consortium.free_disk("recorder-1")
    assert node.disk_trouble_until == 0.0
    node.disk_trouble_until = time.monotonic() - 1 - DISK_AFTERMATH_S
    with pytest.raises(Crashed, match="ended with 5"):
        await consortium.supervise()
