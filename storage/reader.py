"""ledger.store.LedgerReader: synchronous point reads through a read-only connection.

The connection can neither write nor checkpoint. It belongs to the thread that made it. It has the
ledger's file and the derived file, and what `Recent` holds lies above the latter: only with the
`Recent` of the database that is open does a reader see all that was committed before it. Without,
as `medpact verify` beside a node, its state and indexes may be some blocks behind its head. A
`snapshot` holds one state still over many reads, for proofs, while blocks are committed.

A cached reader is for the one who executes blocks. It keeps state values and trie nodes, present or
absent, in memory; whoever commits through `Database.write` tells it with `written` before the next
read that must see the change. Between the commit and `written` it may show a changed key as before
or as after, as any reader may; after it, never the old value: `written` covers every changed key.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

from consensus.events import Persist
from consensus.messages import Certificate, Decision, Signed
from ledger.receipts import Receipt
from ledger.store import Write, WriteBlock, WriteGenesis
from primitives.block import Block, BlockHeader
from primitives.codec import CodecError, decode_own
from storage import schema
from storage.cache import UNKNOWN, Cache, NodeCache
from storage.derived import VERSION
from storage.errors import DamagedError, StorageError, derived_path, explain
from storage.many import KEYS_ASKED_MIN, NODES_OF, SEQUENCES_OF, VALUES_OF, known, questions
from storage.places import NIBBLES_MAX, place
from storage.queries import UNREADABLE, Queries
from storage.recent import NOTHING, Recent, Step, View
from storage.runs import CHAIN, TRANSACTION, PageError, read

VALUES_CACHED_MAX: Final = 65_536
"""State values; about 30 MB at 200 bytes a value."""
NODES_CACHED_MAX: Final = 16_384
"""Trie nodes below those that are always remembered (storage/cache.py); about 6 MB."""
CACHE_KIB: Final = 8 * 1024
"""Pages that a reader keeps in memory. Any commit empties them."""


class SqliteReader(Queries):
    """Reads one database file. Every method raises StorageError if the file cannot be read."""

    def __init__(
        self,
        path: Path,
        recent: Recent | None = None,
        *,
        cached: bool = False,
        ledger_alone: bool = False,
    ) -> None:
        """With `ledger_alone` the derived file may be missing: then there is no state to read."""
        self.has_derived = not ledger_alone or derived_path(path).exists()
        self.recent = recent
        self._held: View | None = None
        """In a snapshot: what is in memory above the derived file, if anything."""
        self._held_height = -1
        """In a snapshot: the height of its state, -1 before genesis."""
        self._values = Cache(VALUES_CACHED_MAX if cached else 0)
        self._nodes: Cache = NodeCache(NODES_CACHED_MAX) if cached else Cache(0)
        self._cached = cached
        self._shares = False
        """Whether reads of the state belong to one transaction of SQLite; see `steady`."""
        super().__init__(path)
        try:
            self._prepare()
        except StorageError:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        try:
            version = schema.schema_version(self._connection, self._path)
        except sqlite3.Error as error:
            raise explain(error, self._path) from error
        if version < len(schema.SCRIPTS):
            raise StorageError(
                f"The database {self._path} was last used by an older version of this program. "
                "Start the node once: it brings the file up to date."
            )
        if self.has_derived:
            self._prepare_derived(derived_path(self._path))
        self.rows("PRAGMA query_only = ON")

    def _prepare_derived(self, beside: Path) -> None:
        try:
            made = self._attach(beside) if beside.exists() else None
        except sqlite3.Error as error:
            raise explain(error, beside) from error
        if made != VERSION:
            raise StorageError(
                f"The file {beside} is missing, or not of this version of the program. Start the "
                "node once: it makes the file from the ledger."
            )

    def _attach(self, beside: Path) -> int:
        """Attach the derived file; return the version of its tables."""
        self._connection.execute("ATTACH ? AS derived", (f"{beside.absolute().as_uri()}?mode=ro",))
        for schema_name in ("main", "derived"):
            self._connection.execute(f"PRAGMA {schema_name}.cache_size = -{CACHE_KIB}")
        return int(self._connection.execute("PRAGMA derived.user_version").fetchone()[0])

    def written(self, writes: Sequence[Write]) -> None:
        """Take note of what was just committed; see the module. Without a cache, nothing to do."""
        for write in writes:
            if self._cached and isinstance(write, WriteBlock | WriteGenesis):
                self._values.put_all(write.changes.values)
                self._nodes.put_all(write.changes.nodes)

    @contextmanager
    def snapshot(self) -> Iterator[Self]:
        """Within the context this reader sees one state of the database, that of its beginning.

        The WAL grows meanwhile: be brief. Raises RuntimeError in a cached reader, whose memory
        moves on, and inside another snapshot.
        """
        if self._cached or self._connection.in_transaction:
            raise RuntimeError("a cached reader, or one in a snapshot, cannot begin a snapshot")
        # In this order, a block that moves meanwhile is seen twice rather than not at all. The view
        # of each file begins with its first read.
        view = NOTHING if self.recent is None else self.recent.view()
        self._row("BEGIN")
        try:
            written = self.derived_height()
            self._row("SELECT 1 FROM main.meta")
            # Where the file has come further meanwhile, it alone is the state.
            self._held = view if view.height > written else NOTHING
            self._held_height = max(view.height, written)
            yield self
        finally:
            self._held = None
            self._row("ROLLBACK")

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Within the context reads of the state share one transaction, begun by the first of them
        that memory does not answer: a read then costs a third.

        For the thread that executes blocks, which must not let anybody else go on meanwhile: what
        is committed within is not seen, nor that a step has moved to its file. Not for a snapshot.
        """
        self._shares = True
        try:
            yield
        finally:
            self._shares = False
            if self._connection.in_transaction:
                self._row("ROLLBACK")

    def derived_height(self) -> int:
        """Return the height up to which the derived file holds what follows, -1 if nothing."""
        if not self.has_derived:
            return -1
        row = self._row("SELECT height FROM derived.meta")
        if row is None or not isinstance(row[0], int):
            raise DamagedError(derived_path(self._path), "it does not say what it holds")
        return row[0]

    def state_height(self) -> int:
        """Return, in a snapshot, the height whose state this reader shows; -1 before genesis."""
        return self._held_height

    # ---- state -----------------------------------------------------------------------------------

    def value(self, key: bytes) -> bytes | None:
        """Return the canonical value bytes under a key, or None."""
        if not self._cached:
            return self._value(key)
        found = self._values.get(key)
        if found is UNKNOWN:
            found = self._value(key)
            self._values.put(key, found)
        return found

    def held(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return what those of `keys` hold that hold anything; a cached reader reads them together.

        See storage/many.py.
        """
        if not self._cached or len(keys) < KEYS_ASKED_MIN:
            return {key: held for key in keys if (held := self.value(key)) is not None}
        memories = (*self._values.parts(), *(step.values for step in self._steps()))
        found, left = known(keys, memories)
        stored: dict[bytes, bytes] = {}
        for asked in questions(left):
            stored.update(self._state_rows(VALUES_OF, asked))
        return found | self._kept(self._values, stored)

    def node(self, path: bytes) -> bytes | None:
        """Return the encoded trie node at a path of nibbles (one byte each), or None."""
        if not self._cached:
            return self._node(path)
        found = self._nodes.get(path)
        if found is UNKNOWN:
            found = self._node(path)
            self._nodes.put(path, found)
        return found

    def nodes_at(self, paths: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the nodes at those of `paths` that have one; a cached reader reads them together.

        See storage/many.py.
        """
        if not self._cached or len(paths) < KEYS_ASKED_MIN:
            return {path: node for path in paths if (node := self.node(path)) is not None}
        memories = (*self._nodes.parts(), *(step.nodes for step in self._steps()))
        found, left = known(paths, memories)
        places = {place(path): path for path in left if len(path) <= NIBBLES_MAX}
        stored: dict[bytes, bytes] = {}
        for asked in questions(list(places)):
            stored.update((places[at], node) for at, node in self._state_rows(NODES_OF, asked))
        deep = [path for path in left if len(path) > NIBBLES_MAX]
        found.update((path, node) for path in deep if (node := self.node(path)) is not None)
        return found | self._kept(self._nodes, stored)

    def _kept(self, memory: Cache, stored: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Remember what many rows of the derived file hold. Raises DamagedError."""
        if not all(isinstance(held, bytes) for held in stored.values()):
            raise DamagedError(derived_path(self._path), UNREADABLE)
        memory.put_all(stored)
        return stored

    def _steps(self) -> tuple[Step, ...]:
        """The steps in memory, the newer first, that a read outside of a snapshot looks at."""
        return () if self.recent is None else self.recent.steps()

    def _value(self, key: bytes) -> bytes | None:
        if self._held is None:
            for step in self._steps():
                if key in step.values:
                    return step.values[key]
        else:
            for values in self._held.values:
                if key in values:
                    return values[key]
        return self._state_blob("SELECT value FROM derived.state_value WHERE key = ?", key)

    def _node(self, path: bytes) -> bytes | None:
        if self._held is None:
            for step in self._steps():
                if path in step.nodes:
                    return step.nodes[path]
        else:
            for nodes in self._held.nodes:
                if path in nodes:
                    return nodes[path]
        if len(path) <= NIBBLES_MAX:
            return self._state_blob("SELECT node FROM derived.node WHERE place = ?", place(path))
        return self._state_blob("SELECT node FROM derived.deep_node WHERE path = ?", path)

    def _state_blob(self, sql: str, parameter: bytes | int) -> bytes | None:
        self._begin_shared()
        return self._blob(sql, parameter)

    def _state_rows(self, sql: str, parameters: Sequence[bytes | int]) -> list[Any]:
        self._begin_shared()
        return self.rows(sql, *parameters)

    def _begin_shared(self) -> None:
        if self._shares and not self._connection.in_transaction:
            self._row("BEGIN")

    # ---- blocks ----------------------------------------------------------------------------------

    def head_height(self) -> int | None:
        """Return the height of the newest applied block, or None in an empty store."""
        if self._held is not None and self.recent is not None:
            # A block whose changes had not been taken in yet does not belong to the snapshot.
            return None if self._held_height < 0 else self._held_height
        row = self._row("SELECT MAX(height) FROM block")
        return None if row is None else row[0]

    def header(self, height: int) -> BlockHeader | None:
        """Return the header at a height."""
        raw = self._blob("SELECT header FROM block WHERE height = ?", height)
        return None if raw is None else self._decode(raw, BlockHeader, f"header {height}")

    def height_of(self, block_hash: bytes) -> int | None:
        """Return the height of an applied block."""
        row = self._row("SELECT height FROM block WHERE hash = ?", block_hash)
        return None if row is None else row[0]

    def decision(self, height: int) -> Decision | None:
        """Return the decided block with its commit certificate; genesis has none."""
        row = self._row(
            "SELECT header, payload, certificate FROM block"
            " WHERE height = ? AND certificate IS NOT NULL",
            height,
        )
        if row is None:
            return None
        header = self._decode(row[0], BlockHeader, f"header {height}")
        certificate = self._decode(row[2], Certificate, f"certificate {height}")
        return Decision(Block(header, row[1]), certificate)

    def receipts(self, height: int) -> tuple[Receipt, ...] | None:
        """Return the receipts of a block, in the order of its transactions."""
        raw = self._blob("SELECT receipts FROM block WHERE height = ?", height)
        if raw is None:
            return None
        try:
            # A start reads those of a million transactions; they were encoded here.
            return decode_own(raw, tuple[Receipt, ...])
        except CodecError as error:
            raise DamagedError(
                self._path, f"the list of receipts {height} cannot be read"
            ) from error

    def sequences(self, height: int) -> tuple[tuple[str, int], ...] | None:
        """Return author and sequence of every batch of a block, as the index has them."""
        payload = self._blob("SELECT payload FROM block WHERE height = ?", height)
        if payload is None:
            return None
        if height == 0:
            return ()
        ids = self._decode(payload, tuple[bytes, ...], f"list of batches {height}")
        found = self.rows(SEQUENCES_OF, b"".join(ids), str([0] * len(ids)))
        if not all(isinstance(row[0], str) and isinstance(row[1], int) for row in found):
            raise DamagedError(self._path, f"the index of the batches {height} cannot be read")
        return tuple(found) if len(found) == len(ids) else None

    def has_batch(self, batch_id: bytes) -> bool:
        """Return whether a batch is stored, decided or not, without reading it."""
        return self._row("SELECT 1 FROM batch WHERE id = ?", batch_id) is not None

    def batch(self, batch_id: bytes) -> bytes | None:
        """Return the raw bytes of a stored batch, decided or not."""
        return self._blob(
            "SELECT raw FROM batch JOIN batch_body USING (number) WHERE id = ?", batch_id
        )

    def pending_batches(self) -> tuple[bytes, ...]:
        """Return the raw bytes of batches that no applied block lists, in the order they came."""
        rows = self.rows(
            "SELECT raw FROM batch JOIN batch_body USING (number)"
            " WHERE batch.height IS NULL ORDER BY number"
        )
        return tuple(row[0] for row in rows)

    def transaction_position(self, transaction_id: bytes) -> tuple[int, int] | None:
        """Return (height, index in the block) of the execution of a transaction."""
        # In a snapshot, what the file has received meanwhile is in neither the file nor `recent`.
        held = self._held
        for positions in held.positions if held else (step.positions for step in self._steps()):
            recent = positions.get(transaction_id)
            if recent is not None:
                return recent if self._shows(recent[0]) else None
        for number in self._numbers(TRANSACTION, transaction_id, 0, -1):
            return (number >> 32, number & 0xFFFF_FFFF) if self._shows(number >> 32) else None
        return None

    def _shows(self, height: int) -> bool:
        return self._held is None or height <= self._held_height

    def chain_heights(self, chain_id: bytes, above: int, limit: int) -> tuple[int, ...]:
        """Return up to `limit` heights above `above` with entries in this chain, ascending."""
        if self._held is not None:
            blocks = self._held.blocks
        else:
            blocks = () if self.recent is None else self.recent.blocks()
        heights = list(islice(self._numbers(CHAIN, chain_id, above + 1, above), limit))
        last = heights[-1] if heights else above
        heights += [
            block.height for block in blocks if block.height > last and block.touches(chain_id)
        ]
        return tuple(heights[:limit])

    def _numbers(self, what: bytes, id: bytes, least: int, above: int) -> Iterator[int]:
        """See storage/runs.py."""
        try:
            yield from read(self.each, what, id, least, above)
        except PageError as error:
            raise DamagedError(derived_path(self._path), str(error)) from error

    # ---- promises --------------------------------------------------------------------------------

    def promises(self, height: int) -> tuple[Persist, ...]:
        """Return what this node has signed at a height, in the order it was written."""
        rows = self.rows(
            "SELECT signed, prepared, block_hash, block FROM promise"
            " LEFT JOIN proposal ON hash = block_hash WHERE promise.height = ? ORDER BY number",
            height,
        )
        return tuple(self._promise(height, *row) for row in rows)

    def proposal(self, block_hash: bytes) -> Block | None:
        """Return an undecided block stored with a promise."""
        raw = self._blob("SELECT block FROM proposal WHERE hash = ?", block_hash)
        return None if raw is None else self._decode(raw, Block, "stored proposal")

    def _promise(
        self,
        height: int,
        signed: bytes,
        prepared: bytes | None,
        block_hash: bytes | None,
        block: bytes | None,
    ) -> Persist:
        what = f"promise at height {height}"
        if block_hash is not None and block is None:
            raise DamagedError(self._path, f"the block of a {what} is lost")
        return Persist(
            self._decode(signed, Signed, what),
            None if prepared is None else self._decode(prepared, Certificate, what),
            None if block is None else self._decode(block, Block, what),
        )
