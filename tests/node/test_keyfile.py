"""Key files: made once, readable by the owner only, refused in one sentence otherwise."""

import os
import stat
from pathlib import Path

import pytest

from node.keyfile import KeyFileError, read_key, write_key
from primitives.keys import PrivateKey

KEY = PrivateKey(bytes(range(32)))


def test_a_written_key_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "it's a key"
    write_key(path, KEY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == bytes(range(32)).hex() + "\n"
    assert read_key(path).public == KEY.public


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_key(tmp_path / "key", KEY)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_key(path, KEY)
    with pytest.raises(KeyFileError, match="exists already and is left as it is"):
        write_key(path, PrivateKey(bytes(32)))
    assert read_key(path).public == KEY.public


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="missing/key cannot be written: no such file"):
        write_key(tmp_path / "missing" / "key", KEY)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o610])
def test_a_key_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a key"
    write_key(path, KEY)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=f"mode 0{mode:o}.*run: chmod 600 '{path}'"):
        read_key(path)


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"does not exist; .* `medpact keys generate -o "):
        read_key(tmp_path / "key")


def test_a_directory_and_a_pipe_are_no_key_files(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="is not a key file but a directory or device"):
        read_key(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError, match="is not a key file but a directory or device"):
        read_key(tmp_path / "pipe")


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"00" * 31, b"00" * 33, b"zz" * 32, b"00" * 32 + b"\nmore", b"\xff" * 64],
)
def test_what_is_not_a_key_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="must hold one line of 64 hexadecimal") as caught:
        read_key(path)
    secret = content.decode("latin-1").strip()
    assert not secret or secret not in str(caught.value)
