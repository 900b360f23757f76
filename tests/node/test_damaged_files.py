"""Settings, genesis file and key with any bit flipped: the node starts, or says which file."""

import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from node import daemon
from node.testnet import Plan, create

FLIPS = 40
FILES = ("config.toml", "genesis.toml", "node.key")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = tmp_path_factory.mktemp("files") / "n"
    create(network, Plan(2, 1, 0, 23_900, "per_class"))
    return network / "recorder-1"


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused_with_the_files_name_or_does_no_harm(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def run(config: object, genesis: object, key: object, past: object) -> int:
        started.append(name)
        return 0

    monkeypatch.setattr(daemon, "run", run)
    chance = random.Random(name)
    spoilt = tmp_path / "n"
    for _ in range(FLIPS):
        shutil.rmtree(spoilt, ignore_errors=True)
        shutil.copytree(home.parent, spoilt)
        path = spoilt / home.name / name
        if path.is_symlink():
            path = path.resolve()
        whole = bytearray(path.read_bytes())
        place = chance.randrange(len(whole))
        whole[place] ^= 1 << chance.randrange(8)
        path.write_bytes(whole)
        before = len(started)
        environment = {"MEDPACT_HOME": str(spoilt / home.name), "NO_COLOR": "1"}
        ended = CliRunner().invoke(main, ["start"], env=environment)
        what = f"{name} at {place}: {ended.stderr}"
        assert (ended.exit_code, len(started) - before) in ((0, 1), (4, 0)), what
        if ended.exit_code == 4:
            assert any(file in ended.stderr for file in FILES), what
            assert "Traceback" not in ended.stderr, what
    # Whatever the genesis file says, another ledger than the database's is then refused.
    assert len(started) < FLIPS
