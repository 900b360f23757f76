"""Damage of any kind, with the daemon's own way of starting: a node either refuses with a sentence
or works on what is right. It never reads back what was not stored, and never votes twice.
"""

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from consensus.messages import Signed
from ledger.genesis import Genesis
from ledger.state import StateError
from node import daemon
from node.config import Config
from node.core import Core
from node.home import Home
from storage.checked import CheckedReader
from storage.database import Database
from storage.errors import DamagedError, StorageError, derived_path
from storage.repair import set_aside
from tests.storage.support import KEYS, Ledger

SEEDS = 150
BLOCKS = 3
ME = "alpha"
PLACES = ("ledger.db", "ledger.db-wal", "ledger.db-derived", "boot", "boot.mark")


class Started(Exception):
    """The node stood, and was told to go no further."""


async def opened(
    home: Home, genesis: Genesis, look: Callable[[Core, CheckedReader], Awaitable[None]]
) -> str:
    """Start as the daemon does, up to its network; "started", or why it refuses.

    Whatever is no sentence of a StorageError fails the test.
    """

    async def stand(core: Core, reader: CheckedReader) -> None:
        await look(core, reader)
        raise Started

    config = cast(Config, SimpleNamespace(home=home, institution=ME))
    try:
        async with AsyncExitStack() as stack:
            past = daemon.Past(known=True)
            stood = await daemon.stand_up(
                stack, config, genesis, KEYS[ME], past, lambda height, head: None
            )
            stood.core.start(stood.pending, 0, 0)
            await stand(stood.core, stood.reader)
    except Started:
        return "started"
    except StorageError as error:
        return str(error)
    except StateError as error:
        # The daemon says so of the state, see daemon._run.
        return str(DamagedError(derived_path(home.database), str(error)))
    raise AssertionError("neither started nor refused")


class Original:
    """A home in the middle of a height, its process killed: much of it is still in the WAL."""

    def __init__(self, directory: Path) -> None:
        self.ledger = Ledger()
        self.genesis = self.ledger.genesis
        self.home = Home(directory)
        self.signed: list[Signed] = []
        asyncio.run(self._fill(directory.with_name("live")))

    async def _fill(self, live: Path) -> None:
        ledger, home = self.ledger, Home(live)
        home.data.mkdir(parents=True)
        database = await Database.open(home.database, ledger.chain_id)
        await database.boot(home.boot_counter)
        await database.write([ledger.begin()])
        for _ in range(BLOCKS):
            batches = [ledger.batch(), ledger.batch(3)]
            await database.write(ledger.round(batches))
            await database.write([ledger.decide(batches)])
            if ledger.height == 1:
                # The rest is in the WAL alone, and what follows from it in no file.
                await database.close()
                database = await Database.open(home.database, ledger.chain_id)
                await database.boot(home.boot_counter)
        promises = ledger.round([ledger.batch()])
        await database.write(promises)
        ledger.model.apply(promises)
        shutil.copytree(live, self.home.path)
        await database.close()
        shutil.rmtree(live)

    def copy(self, directory: Path) -> Home:
        shutil.rmtree(directory, ignore_errors=True)
        # Moved into place, not copied: a copy would be noticed as such.
        shutil.copytree(self.home.path, directory)
        home = Home(directory)
        boots, promises, _ = home.boot_counter.read_bytes().split()
        mark = (home.data / "boot.mark").stat().st_ctime_ns
        home.boot_counter.write_bytes(b"%s %s %020d\n" % (boots, promises, mark))
        return home


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return Original(tmp_path_factory.mktemp("original") / "home")


def check_reads(original: Original, reader: CheckedReader, *, cached: bool) -> None:
    """Everything that a node hands out is as it was stored, or not at all."""
    model = original.ledger.model
    head = reader.head_height()
    assert head is not None
    for height in range(head + 1):
        check_read(reader.header, height, model.blocks[height])
        check_read(reader.decision, height, model.decisions.get(height))
        if not cached:
            check_read(reader.receipts, height, model.receipts[height])
    for id, batch in model.batches.items():
        # An index may have lost it; then it is asked from others.
        check_read(reader.batch, id, batch.raw, None)
    if head == original.ledger.height and not cached:
        for key, value in model.values.items():
            check_read(reader.value, key, value)
        check_read(reader.value, b"no such key", None)


def check_read(read: Callable[[Any], object], place: object, *expected: object) -> None:
    try:
        found = read(place)
    except StorageError:
        return
    assert found in expected


def damage(home: Home, chance: random.Random) -> str:
    """Do one thing to one file; what."""
    path = home.data / chance.choice((*PLACES, "ledger.db", "ledger.db-wal"))
    whole = path.read_bytes()
    way = chance.choice(("flip", "flip", "flip", "cut", "zero", "remove", "empty", "fill"))
    place = chance.randrange(len(whole))
    match way:
        case "flip":
            spoilt = bytearray(whole)
            spoilt[place] ^= 1 << chance.randrange(8)
            path.write_bytes(spoilt)
        case "cut":
            path.write_bytes(whole[:place])
        case "zero":
            path.write_bytes(
                whole[:place] + bytes(min(512, len(whole) - place)) + whole[place + 512 :]
            )
        case "remove":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case _:
            path.write_bytes(chance.randbytes(len(whole)))
    return f"{way} {path.name} at {place}"


async def test_no_damage_is_mistaken_for_what_was_stored(
    original: Original, tmp_path: Path
) -> None:
    outcomes: dict[str, int] = {}
    for seed in range(SEEDS):
        chance = random.Random(seed)
        home = original.copy(tmp_path / "home")
        what = damage(home, chance)
        outcome = await _start_damaged(original, home, f"seed {seed}: {what}")
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert outcomes.keys() == {"refused", "whole", "abstains", "derived"}, outcomes
    # Damage to the derived file shows at the start only where it cannot be read at all.
    assert outcomes.pop("derived") > 2, outcomes
    assert min(outcomes.values()) > 10, outcomes


async def _start_damaged(original: Original, home: Home, what: str) -> str:
    """Start on a damaged home; whatever comes of it, the node never votes on less than it knew."""
    ledger, seen = original.ledger, ""

    async def look(core: Core, reader: CheckedReader) -> None:
        nonlocal seen
        seen = "abstains" if core.abstaining else "whole"
        check_reads(original, reader, cached=True)
        if not core.abstaining:
            assert reader.head_height() == ledger.height, what
            kept = reader.promises(ledger.height + 1)
            assert kept == ledger.model.promises(ledger.height + 1), what
        plain = CheckedReader(home.database, reader.recent)
        check_reads(original, plain, cached=False)
        plain.close()

    said = await opened(home, original.genesis, look)
    if said == "started":
        return seen
    assert "Traceback" not in said
    assert "ledger.db" in said or "boot" in said, what
    assert any(word in said for word in ("medpact repair", "elete", "Check", "verify")), said
    if "delete this file" not in said:
        await _repair(original, home)
        return "refused"
    for file in home.data.glob("ledger.db-derived*"):
        file.unlink()
    assert await opened(home, original.genesis, look) == "started"
    assert seen == "whole"
    return "derived"


async def _repair(original: Original, home: Home) -> None:
    """What the sentence says to do leads to a node that starts, and abstains."""
    set_aside(home.database, home.boot_counter, "aside")

    async def look(core: Core, reader: CheckedReader) -> None:
        assert core.abstaining
        assert reader.head_height() == 0

    assert await opened(home, original.genesis, look) == "started"


async def test_an_undamaged_home_votes_on(original: Original, tmp_path: Path) -> None:
    home = original.copy(tmp_path / "home")
    assert await _start_damaged(original, home, "nothing") == "whole"


async def test_backups_of_every_mixture_abstain(original: Original, tmp_path: Path) -> None:
    """An old database with the counter of now, both old, or the counter alone old."""
    home = original.copy(tmp_path / "home")
    old = tmp_path / "old"
    shutil.copytree(home.path, old)

    async def promise_more(core: Core, reader: CheckedReader) -> None:
        assert not core.abstaining

    # One more start, which the old files know nothing of.
    assert await opened(home, original.genesis, promise_more) == "started"
    whole = tmp_path / "whole"
    shutil.copytree(home.path, whole)

    for name in ("ledger.db", "ledger.db-wal"):
        shutil.copy(old / "data" / name, home.data / name)
    assert await _start_damaged(original, home, "the database of old") == "abstains"

    shutil.rmtree(home.path)
    shutil.copytree(old, home.path)
    assert await _start_damaged(original, home, "all of old") == "abstains"

    shutil.rmtree(home.path)
    whole.rename(home.path)
    assert await _start_damaged(original, home, "a copy of now") == "abstains"


async def test_an_old_counter_alone_forgets_nothing(original: Original, tmp_path: Path) -> None:
    home = original.copy(tmp_path / "home")
    counter = home.boot_counter.read_bytes()

    async def look(core: Core, reader: CheckedReader) -> None:
        assert not core.abstaining

    assert await opened(home, original.genesis, look) == "started"
    home.boot_counter.write_bytes(counter)
    assert await opened(home, original.genesis, look) == "started"


async def test_data_that_was_deleted_abstains_and_a_new_home_does_not(
    original: Original, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()

    async def look(core: Core, reader: CheckedReader) -> None:
        assert core.abstaining

    assert await opened(home, original.genesis, look) == "started"


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM promise",
        "DELETE FROM promise WHERE number = (SELECT MIN(number) FROM promise)",
        "DELETE FROM promise WHERE number = (SELECT MAX(number) FROM promise)",
        "UPDATE promise SET height = height + 1",
        "UPDATE promise SET signed = (SELECT signed FROM promise LIMIT 1)",
        "UPDATE promise SET prepared = NULL",
        "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'promise'",
        "UPDATE meta SET boots = boots + 1",
        "UPDATE meta SET restored = 1",
        "UPDATE meta SET seal = x''",
        "DELETE FROM block WHERE height = (SELECT MAX(height) FROM block)",
        "UPDATE block SET hash = zeroblob(32) WHERE height = (SELECT MAX(height) FROM block)",
        "INSERT INTO promise SELECT number + 9, height, x'ff', NULL, NULL FROM promise LIMIT 1",
    ],
)
async def test_whatever_a_vote_rests_on_is_under_the_seal(
    original: Original, tmp_path: Path, statement: str
) -> None:
    home = original.copy(tmp_path / "home")
    with closing(sqlite3.connect(home.database, isolation_level=None)) as other:
        assert other.execute(statement).rowcount > 0

    async def look(core: Core, reader: CheckedReader) -> None:
        raise AssertionError("a node stood on what it had not stored")

    said = await opened(home, original.genesis, look)
    assert "is damaged: its head, its starts or the node's promises are not what was" in said
    await _repair(original, home)
