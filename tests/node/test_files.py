"""Files of any name: read in pieces, written once, every failure a sentence that names the file."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.fingerprint import check_data, commitment, decode_sidecar, encode_sidecar
from ledger.operations import Labels
from ledger.state import record_id
from node.commands.record import Prepared, prepare
from node.console import CommandError, ExitCode
from node.files import CHUNK_BYTES, chunks, open_data, read_small, size_of, write_new
from node.home import Home, printable

LABELS = Labels("imaging", "normal", "CN", "clinic", "unrated")
NAMES = st.binary(min_size=1, max_size=100).filter(
    lambda name: b"\0" not in name and b"/" not in name and name not in (b".", b"..")
)


class Counter:
    """Progress that only adds up."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, amount: int) -> None:
        self.done += amount


def _prepare(file: Path, target: Path) -> tuple[Prepared, Counter]:
    steps = Counter()
    return prepare(file, "clinic", LABELS, None, target, steps), steps


def _fails(function: object, *arguments: object) -> str:
    assert callable(function)
    with pytest.raises(CommandError) as caught:
        function(*arguments)
    assert caught.value.code is ExitCode.FILE
    assert "\n" not in caught.value.message
    return caught.value.message


@given(name=NAMES, content=st.binary(max_size=200))
def test_a_file_of_any_name_is_committed_to(
    tmp_path_factory: pytest.TempPathFactory, name: bytes, content: bytes
) -> None:
    directory = tmp_path_factory.mktemp("names")
    file = directory / os.fsdecode(name)
    file.write_bytes(content)
    prepared, steps = _prepare(file, directory)
    sidecar = decode_sidecar(encode_sidecar(prepared.sidecar))
    assert steps.done == size_of(file) == len(content)
    assert prepared.operation.commitment == commitment(sidecar.opening)
    assert prepared.id == record_id("clinic", prepared.operation.commitment).hex()
    assert prepared.sidecar_path == directory / Home.sidecar_name(bytes.fromhex(prepared.id))
    with open_data(file) as f:
        check_data(sidecar.opening, chunks(file, f, steps))


def test_equal_files_have_unequal_commitments(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"same")
    first, _ = _prepare(tmp_path / "a", tmp_path)
    second, _ = _prepare(tmp_path / "a", tmp_path)
    assert first.operation.commitment != second.operation.commitment


def test_a_large_file_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(2 * CHUNK_BYTES + 1))
    steps = Counter()
    with open_data(path) as f:
        assert [len(chunk) for chunk in chunks(path, f, steps)] == [CHUNK_BYTES, CHUNK_BYTES, 1]
    assert steps.done == 2 * CHUNK_BYTES + 1


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    assert "is a directory; name the files in it" in _fails(size_of, tmp_path)
    assert "pipe is a device or pipe, not a file" in _fails(size_of, tmp_path / "pipe")
    assert "null is a device or pipe, not a file" in _fails(size_of, Path("/dev/null"))
    assert "cannot be read: no such file or directory" in _fails(size_of, tmp_path / "no\nfile")
    assert "cannot be read: too many levels of symbolic links" in _fails(size_of, tmp_path / "loop")
    assert "cannot be read: embedded null byte" in _fails(size_of, Path("a\0b"))


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        # The superuser may read anything: ask for what nobody can, a file below a file.
        path = path / "inner"
    message = _fails(size_of, path)
    assert message.startswith(f"{path} cannot be read: ")


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(bytes(2 * CHUNK_BYTES))

    class Grow(Counter):
        def advance(self, amount: int) -> None:
            with path.open("ab") as f:
                f.write(b"more")

    message = _fails(prepare, path, "clinic", LABELS, None, tmp_path, Grow())
    assert message == f"{path} changed while it was read; register it when it is complete."


def test_a_new_file_is_written_once_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"na\xffme")
    write_new(path, b"content", 0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    message = _fails(write_new, path, b"other", 0o600)
    assert message.endswith("na\\xffme exists already and is left as it is; choose another name.")
    assert path.read_bytes() == b"content"
    assert "cannot be written: no such file" in _fails(write_new, tmp_path / "a" / "b", b"", 0o600)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    # A process that may write 100 bytes to a file meets what a full disk does.
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from node.files import CommandError, write_new\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try: write_new(Path(sys.argv[1]), bytes(101), 0o600)\n"
        "except CommandError as error: print(error)\n"
    )
    path = tmp_path / "sidecar"
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{path} cannot be written: file too large.\n"
    assert not path.exists()


def test_a_file_that_cannot_be_of_the_kind_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(11))
    assert read_small(path, 11) == bytes(11)
    message = _fails(read_small, path, 10)
    assert message == f"{printable(path)} has 11 bytes; a file of its kind has at most 10."
