"""How a node ends: each reason with its exit code and a sentence, and a full stop in order."""

import asyncio
import gc
import signal
import sqlite3
import sys
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
import uvloop

from ledger.execution import restore_window
from ledger.genesis import genesis_state
from ledger.state import StateError
from ledger.store import WriteBatch, WriteGenesis
from node import daemon
from node.config import Config
from node.core import Core
from node.home import Home
from node.settings import CoreSettings
from node.transport import TransportError
from primitives.keys import verify
from storage.checked import CheckedReader
from storage.database import Database
from storage.errors import MismatchError, StorageError
from tests.node.support import key_of, make_batch, make_genesis

GENESIS = make_genesis(1)
KEY = key_of("recorder-1")
CONFIG = cast(Config, SimpleNamespace(home=Home(Path("/h"))))
Compose = Callable[..., Awaitable[None]]


async def run(monkeypatch: pytest.MonkeyPatch, compose: Compose) -> tuple[int, list[Any]]:
    """The exit code and the log of a node that is composed so."""
    monkeypatch.setattr(daemon, "_compose", compose)
    with structlog.testing.capture_logs() as logs:
        code = await daemon._run(CONFIG, GENESIS, KEY, daemon.Past())
    return code, logs


def test_checks_have_the_interpreter_back_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def stop(main: Coroutine[None, None, int]) -> int:
        main.close()
        return daemon.EXIT_STOPPED

    monkeypatch.setattr(daemon, "configure", lambda *_: None)
    monkeypatch.setattr(sys, "setswitchinterval", asked.append)
    monkeypatch.setattr(uvloop, "run", stop)
    config = cast(Config, SimpleNamespace(log_level="info", log_format="json"))
    assert daemon.run(config, GENESIS, KEY, daemon.Past()) == daemon.EXIT_STOPPED
    assert asked == [daemon.SWITCH_SECONDS]


def test_what_a_start_made_is_not_walked_again_and_its_garbage_not_kept() -> None:
    thresholds = gc.get_threshold()
    garbage: Any = asyncio.Event()
    garbage.itself = garbage
    gone = weakref.ref(garbage)
    del garbage
    try:
        daemon.spare_collector()
        assert gone() is None
        assert gc.get_freeze_count() > len(gc.get_objects())
        assert gc.get_threshold() == daemon.COLLECTED_EVERY
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


@pytest.mark.parametrize(
    ("error", "code", "event"),
    [
        (TransportError("The port is taken."), daemon.EXIT_START, "start_failed"),
        (MismatchError("It holds another ledger."), daemon.EXIT_START, "start_failed"),
        (StorageError("The disk is full."), daemon.EXIT_STORAGE, "storage_failed"),
        (daemon.NetworkDied("It ended."), daemon.EXIT_NETWORK, "network_failed"),
        (RuntimeError("A second PREPARE."), daemon.EXIT_BROKEN, "stopped_by_itself"),
        (ValueError("BlockStored must follow."), daemon.EXIT_BROKEN, "stopped_by_itself"),
    ],
)
async def test_every_failure_has_its_exit_code_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    event: str,
) -> None:
    closed: list[str] = []

    async def compose(stack: Any, *rest: object) -> None:
        stack.callback(closed.append, "database")
        raise error

    ended, logs = await run(monkeypatch, compose)

    assert ended == code
    assert closed == ["database"]
    assert logs[-1] == {"event": event, "log_level": "critical", "reason": str(error)}
    assert capsys.readouterr().err == f"Error: {error}\n"


async def test_a_state_that_contradicts_itself_is_a_damaged_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def compose(*_: object) -> None:
        raise StateError("The state has lost proposal 3.")

    ended, logs = await run(monkeypatch, compose)
    assert ended == daemon.EXIT_STORAGE
    assert logs[-1]["event"] == "storage_failed"
    words = "The database /h/data/ledger.db-derived is damaged: the state has lost proposal 3. Stop"
    assert logs[-1]["reason"].startswith(words)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_node(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    async def compose(*arguments: Any) -> None:
        signal.raise_signal(number)
        await arguments[-1].wait()

    code, logs = await run(monkeypatch, compose)
    assert code == daemon.EXIT_STOPPED
    assert [entry["event"] for entry in logs] == ["stopped"]


async def forever() -> None:
    """A driver that turns until it is cancelled."""
    await asyncio.get_running_loop().create_future()


async def test_stopping_cancels_the_driver() -> None:
    stop, network = asyncio.Event(), asyncio.get_running_loop().create_future()
    cancelled = asyncio.Event()

    async def turning() -> None:
        try:
            await forever()
        finally:
            cancelled.set()

    stopping = asyncio.create_task(daemon._until_stopped(turning(), network, stop))
    asyncio.get_running_loop().call_soon(stop.set)
    await stopping
    assert cancelled.is_set()


async def test_what_ends_the_driver_ends_the_node() -> None:
    stop, network = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def failing() -> None:
        raise StorageError("The disk is full.")

    with pytest.raises(StorageError, match="full"):
        await daemon._until_stopped(failing(), network, stop)


async def test_a_network_that_dies_ends_the_node() -> None:
    network = asyncio.get_running_loop().create_future()
    network.set_exception(OSError("gone"))
    with pytest.raises(daemon.NetworkDied, match="gone"):
        await daemon._until_stopped(forever(), network, asyncio.Event())


async def test_stored_batches_come_back_but_for_those_of_earlier_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[bytes] = []

    def verified(key: bytes, message: bytes, signature: bytes) -> bool:
        checked.append(message)
        return verify(key, message, signature)

    good = make_batch(GENESIS, "recorder-1", 1)
    monkeypatch.setattr("ledger.transactions.verify", verified)
    database = await Database.open(tmp_path / "node.db", GENESIS.chain_id)
    reader = CheckedReader(tmp_path / "node.db", database.recent, cached=True)
    await database.write([WriteGenesis(*genesis_state(GENESIS)), WriteBatch(good)])
    core = Core(
        GENESIS,
        "recorder-1",
        KEY,
        reader,
        CoreSettings(),
        restore_window(reader, GENESIS),
        boots=1,
        restored=False,
        now=0,
    )
    assert daemon._pending(core, reader) == [good]
    # Its transactions were checked before it was stored.
    assert checked == [good.id]

    await database.write([WriteBatch(make_batch(GENESIS, "stranger", 2))])
    with structlog.testing.capture_logs() as logs:
        assert daemon._pending(core, reader) == [good]
    assert [entry["event"] for entry in logs] == ["batch_dropped"]

    with sqlite3.connect(tmp_path / "node.db") as other:
        other.execute("UPDATE batch SET id = zeroblob(32) WHERE number = 1")
    other.close()
    with pytest.raises(StorageError, match="damaged: a batch is not that of its id"):
        daemon._pending(core, reader)
    reader.close()
    await database.close()
