"""What follows from the ledger's last blocks, made again after a crash.

The derived file is written behind the ledger's. A node that was not stopped in order finds its last
blocks in the ledger's file alone, those of at most two steps (storage/recent.py), and executes them
again before it does anything else; all of them, where the derived file is gone. Their certificates
and signatures were checked before they were stored, and the roots in their headers show whether
this execution is the same.
"""

from collections.abc import Callable
from pathlib import Path

from ledger.execution import BlockError, check_block, payload_batches, restore_window
from ledger.genesis import Genesis, genesis_state
from ledger.replay import ReplayWindow
from ledger.state import StateError, members
from ledger.store import WriteBlock, WriteGenesis
from ledger.transactions import BatchError, read_decided_batch
from storage.database import Database
from storage.errors import DamagedError, derived_path
from storage.reader import SqliteReader

Tell = Callable[[int, int], None]
"""Called with the height that is done and that of the head."""


async def redo(
    database: Database, reader: SqliteReader, genesis: Genesis, tell: Tell
) -> ReplayWindow:
    """Bring the state up to the ledger's head; return the replay window there.

    `reader` is the one that will execute what comes next. A store without genesis gets it. Some
    70 us a transaction and a millisecond a block. Raises StorageError and what `tell` raises.
    """
    head = reader.head_height()
    if head is None:
        first = WriteGenesis(*genesis_state(genesis))
        await database.write([first])
        reader.written([first])
        return restore_window(reader, genesis, 0)
    known = database.derived_height
    try:
        window = restore_window(reader, genesis, max(known, 0))
    except StateError as error:
        raise DamagedError(database.path, _clause(error)) from error
    # A state that was made from nothing but the blocks is not what is wrong.
    suspect = database.path if known < 0 else derived_path(database.path)
    for height in range(known + 1, head + 1):
        write: WriteBlock | WriteGenesis
        try:
            with reader.steady():
                write = (
                    _executed(database.path, reader, genesis, window, height)
                    if height > 0
                    else WriteGenesis(*genesis_state(genesis))
                )
        except (BatchError, BlockError, StateError) as error:
            raise DamagedError(suspect, _clause(error), height) from error
        await database.derive(write)
        reader.written([write])
        tell(height, head)
    return window


def _executed(
    path: Path, reader: SqliteReader, genesis: Genesis, window: ReplayWindow, height: int
) -> WriteBlock:
    parent, decision = reader.header(height - 1), reader.decision(height)
    if parent is None or decision is None:
        raise DamagedError(path, "the block is missing, or the one before it", height)
    keys = {member.id: member.key for member in members(reader)}
    batches = []
    for id in payload_batches(decision.block.payload):
        raw = reader.batch(id)
        if raw is None:
            raise DamagedError(path, f"the batch {id.hex()} is missing", height)
        batches.append(read_decided_batch(raw, genesis.chain_id, genesis.limits, keys))
    executed = check_block(decision.block, parent, batches, reader, window, genesis)
    window.add(height, executed.ran, executed.sequences)
    return executed.write(decision)


def _clause(error: Exception) -> str:
    text = str(error).removesuffix(".")
    return text[:1].lower() + text[1:]
