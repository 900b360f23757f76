"""Checks a whole database: every hash, certificate and signature, and that the rest follows.

SQLite's own integrity_check sees a broken tree, not a flipped bit in what the tree holds. So the
ledger is executed again from the genesis file, in memory, and every column of every table must be
exactly what this gives:

* each header, by comparison with the execution of its batches on its parent (ledger.execution);
* each batch by its id, which the block lists, and by its signatures;
* each commit certificate by the committee of its height;
* receipts, because execution makes them again, and so every row of the derived file, which holds
  what follows up to a height of its own; without that file, as in a backup, the ledger alone is
  checked;
* what is not decided yet (batches, promises, their blocks) by its own hashes and signatures.

What nothing else signs or derives, how often the node was started, whether it abstains and which
promises there are, is under the seal (storage/seal.py).

It may run beside the node that uses the file. Blocks never change once written, so the long way up
to the head needs no snapshot; one is held only for the comparison at the end. Memory grows with the
state: about 600 bytes a key. Time is mostly that of signatures, some 80 us each.
"""

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from consensus.certificates import CertificateError, check_certificate
from consensus.messages import Phase
from ledger.committee import committee_at
from ledger.execution import BlockError, ExecutedBlock, check_block, payload_batches
from ledger.genesis import Genesis, genesis_state
from ledger.replay import ReplayWindow
from ledger.state import MEMBERS_KEY, StateInMemory, members
from ledger.store import StateChanges
from ledger.transactions import (
    BatchError,
    CheckedBatch,
    check_batch,
    read_decided_batch,
)
from primitives.block import BlockHeader
from primitives.codec import CodecError, encode
from storage.errors import DamagedError, derived_path
from storage.places import NIBBLES_MAX, path_at
from storage.reader import SqliteReader
from storage.verify_indexes import Indexes, IndexFault
from storage.verify_promises import PromiseFault, check_promises


@dataclass(frozen=True, slots=True)
class Progress:
    """Blocks up to `height` are right, and so is the whole database once `complete` is true."""

    height: int
    head_height: int
    transactions: int
    complete: bool


class _Fault(Exception):
    """What is wrong, as a clause."""


_FAULTS: Final = (_Fault, BlockError, BatchError, CertificateError, CodecError, PromiseFault)


def verify_chain(
    path: Path, genesis: Genesis, *, check_signatures: bool = True
) -> Iterator[Progress]:
    """Check the database at `path` from genesis up; yield after each block and at the end.

    Without `check_signatures` the signatures of decided transactions are taken on trust of the
    certificates that cover their bytes, which is many times faster and finds any damage as well.
    Raises DamagedError at the first damage, StorageError if the file cannot be read at all.
    """
    reader = SqliteReader(path, ledger_alone=True)
    try:
        yield from _Verification(path, reader, genesis, check_signatures).run()
    finally:
        reader.close()


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A block whose entries in the derived file are still to be compared."""

    height: int
    executed: Sequence[tuple[bytes, int]]
    """Ids and places of its transactions."""
    chains: Sequence[bytes]
    values: Mapping[bytes, bytes | None]
    nodes: Mapping[bytes, bytes | None]
    """What there was before it."""


class _Memory(StateInMemory):
    """The state as execution makes it."""

    def take_back(self, block: _Ahead) -> None:
        for held, before in ((self.values, block.values), (self.nodes, block.nodes)):
            for key, old in before.items():
                if old is None:
                    del held[key]
                else:
                    held[key] = old


class _Verification:
    def __init__(
        self, path: Path, reader: SqliteReader, genesis: Genesis, check_signatures: bool
    ) -> None:
        self._path = path
        self._reader = reader
        self._rows = reader.rows
        self._genesis = genesis
        self._check_signatures = check_signatures
        self._state = _Memory()
        self._replay = ReplayWindow(genesis.limits.replay_window_blocks)
        self._head: BlockHeader | None = None
        self._keys: dict[str, dict[bytes, None]] = {}
        """Every key that a member has had so far."""
        self._batches = 0
        self._indexes = Indexes()
        self._transactions = 0
        self._ahead: deque[_Ahead] = deque()
        """Blocks above the derived file's."""

    def run(self) -> Iterator[Progress]:
        """Check everything."""
        height: int | None = None
        try:
            self._check_tree()
            self._reader.check_ledger(self._genesis.chain_id)
            for height in self._heights():
                yield self._check_height(height)
            height = None
            with self._reader.snapshot():
                for height in self._heights():
                    yield self._check_height(height)
                height = None
                self._check_undecided()
                self._reader.check_seal()
                self._check_batches()
                if self._reader.has_derived:
                    self._check_derived()
        except _FAULTS as error:
            raise DamagedError(self._path, str(error).removesuffix("."), height) from error
        except DamagedError as error:
            raise DamagedError(error.path, error.what, height) from error
        yield self._progress(self._checked_head().height, complete=True)

    def _heights(self) -> range:
        """The heights that are stored and not checked yet."""
        head = self._reader.head_height()
        if head is None:
            raise _Fault("it holds no block, not even that of genesis")
        return range(0 if self._head is None else self._head.height + 1, head + 1)

    def _checked_head(self) -> BlockHeader:
        if self._head is None:
            raise _Fault("it holds no block, not even that of genesis")
        return self._head

    def _progress(self, height: int, *, complete: bool) -> Progress:
        head = self._reader.head_height() or 0
        return Progress(height, head, self._transactions, complete)

    # ---- the file --------------------------------------------------------------------------------

    def _check_tree(self) -> None:
        files = {"main": self._path}
        if self._reader.has_derived:
            files["derived"] = derived_path(self._path)
        for schema, path in files.items():
            for (message,) in self._rows(f"PRAGMA {schema}.integrity_check"):
                if message != "ok":
                    raise DamagedError(path, f"SQLite finds: {message}")

    # ---- blocks ----------------------------------------------------------------------------------

    def _check_height(self, height: int) -> Progress:
        rows = self._rows(
            "SELECT hash, header, certificate, payload, receipts FROM block WHERE height = ?",
            height,
        )
        if not rows:
            raise _Fault("the block is missing")
        hash_, header, certificate, payload, receipts = rows[0]
        parent = self._head
        if parent is None:
            expected, changes = genesis_state(self._genesis)
            found = (hash_, header, certificate, payload, receipts)
            if found != (expected.hash(), encode(expected), None, b"", encode(())):
                raise _Fault("the genesis block is not that of the genesis file")
            self._take(changes)
            self._head = expected
        else:
            read = self._reader.decision(height)
            if read is None:
                raise _Fault("the block has no certificate")
            voted = read.certificate
            if (voted.height, voted.block_hash, hash_) != (
                height,
                read.block.hash,
                read.block.hash,
            ):
                raise _Fault("the certificate or the index is for another block")
            committee = committee_at(self._state, self._genesis)
            check_certificate(voted, Phase.COMMIT, self._genesis.chain_id, committee)
            batches = [self._read_batch(id, height) for id in payload_batches(payload)]
            executed = check_block(
                read.block, parent, batches, self._state, self._replay, self._genesis
            )
            if receipts != encode(executed.receipts):
                raise _Fault("the receipts are not those of its execution")
            if self._reader.has_derived:
                self._ahead.append(self._passed(executed))
                self._pass_indexes(self._reader.derived_height())
            self._take(executed.changes)
            self._transactions += len(executed.executed)
            self._batches += len(executed.batches)
            self._replay.add(height, executed.ran, executed.sequences)
            self._head = read.block.header
        return self._progress(height, complete=False)

    def _take(self, changes: StateChanges) -> None:
        self._state.take(changes)
        if MEMBERS_KEY in changes.values:
            for member in members(self._state):
                self._keys.setdefault(member.id, {})[member.key] = None

    def _passed(self, executed: ExecutedBlock) -> _Ahead:
        """What is to be compared once the derived file has come as far, or to be taken back."""
        state, changes = self._state, executed.changes
        return _Ahead(
            executed.block.header.height,
            [(executed.transaction_ids[index], index) for index in executed.executed],
            executed.chains,
            {key: state.values.get(key) for key in changes.values},
            {path: state.nodes.get(path) for path in changes.nodes},
        )

    def _pass_indexes(self, derived_height: int) -> None:
        """Take the entries of the blocks up to `derived_height` as those that must be there."""
        while self._ahead and self._ahead[0].height <= derived_height:
            block = self._ahead.popleft()
            self._indexes.expect(block.height, block.executed, block.chains)

    def _derived_damage(self, what: str) -> DamagedError:
        return DamagedError(derived_path(self._path), what)

    # ---- batches ---------------------------------------------------------------------------------

    def _read_batch(self, id: bytes, height: int) -> CheckedBatch:
        rows = self._rows(
            "SELECT id, author, sequence, valid_until_height, height, raw"
            " FROM batch LEFT JOIN batch_body USING (number) WHERE id = ?",
            id,
        )
        if not rows:
            raise _Fault(f"the batch {id.hex()} is missing")
        return self._check_batch(rows[0], height, self._check_signatures)

    def _check_batch(
        self, row: tuple[Any, ...], height: int | None, check_signatures: bool
    ) -> CheckedBatch:
        keys = {member.id: member.key for member in members(self._state)}
        return self._check_batch_by(keys, row, height, check_signatures)

    def _check_batch_by(
        self,
        keys: Mapping[str, bytes],
        row: tuple[Any, ...],
        height: int | None,
        check_signatures: bool,
    ) -> CheckedBatch:
        id, author, sequence, valid_until_height, listed, raw = row
        if raw is None:
            raise _Fault(f"the bytes of batch {id.hex()} are missing")
        genesis = self._genesis
        if check_signatures:
            batch = check_batch(raw, genesis.chain_id, genesis.limits, keys)
        else:
            batch = read_decided_batch(raw, genesis.chain_id, genesis.limits, keys)
            if not batch.signer_key:
                raise _Fault(f"the batch {id.hex()} is not signed with the key of {batch.author}")
        found = (batch.id, batch.author, batch.sequence, batch.valid_until_height, height)
        if found != (id, author, sequence, valid_until_height, listed):
            raise _Fault(f"the batch {id.hex()} is not what its index says")
        return batch

    def _check_waiting(self, row: tuple[Any, ...]) -> None:
        """Check a batch that no block lists: it may be older than its author's present key."""
        fault: BatchError | None = None
        for key in self._keys.get(row[1], {}):
            try:
                self._check_batch_by({row[1]: key}, row, None, True)
                return
            except BatchError as error:
                fault = error
        raise fault or _Fault(f"the batch {row[0].hex()} is of {row[1]}, who was never a member")

    # ---- what is not decided, and the whole ------------------------------------------------------

    def _check_undecided(self) -> None:
        head = self._checked_head()
        for row in self._rows(
            "SELECT id, author, sequence, valid_until_height, batch.height, raw"
            " FROM batch LEFT JOIN batch_body USING (number) WHERE batch.height IS NULL"
        ):
            if row[3] <= head.height:
                raise _Fault(f"the batch {row[0].hex()} has expired and should be gone")
            self._check_waiting(row)
            self._batches += 1
        committee = committee_at(self._state, self._genesis)
        check_promises(self._reader, head.height + 1, self._genesis.chain_id, committee)

    def _check_batches(self) -> None:
        for table in ("batch", "batch_body"):
            self._check_count(table, self._batches)

    def _check_count(self, table: str, expected: int) -> None:
        ((count,),) = self._rows(f"SELECT COUNT(*) FROM {table}")  # noqa: S608
        if count != expected:
            raise _Fault(f"the table {table} has {count} rows; {expected} are accounted for")

    def _check_derived(self) -> None:
        """Compare the derived file with what follows from the blocks up to its height."""
        try:
            self._check_derived_tables()
        except (_Fault, IndexFault) as error:
            raise self._derived_damage(str(error)) from error

    def _check_derived_tables(self) -> None:
        height = self._reader.derived_height()
        rows = self._rows("SELECT only, chain_id, height, hash FROM derived.meta")
        header = self._reader.header(height)
        block_hash = b"" if header is None else header.hash()
        whose = (1, self._genesis.chain_id, height, block_hash)
        if rows != [whose] or (header is None) != (height < 0):
            raise _Fault("it does not say of which ledger and block it is")
        self._pass_indexes(height)
        while self._ahead:
            self._state.take_back(self._ahead.pop())
        if height < 0:
            self._state = _Memory()
        self._indexes.check(self._rows, height)
        values, nodes = "SELECT key, value FROM derived.state_value", self._state.nodes
        self._check_state("value", self._reader.each(values), self._state.values)
        self._check_state("node", self._stored_nodes(), nodes)

    def _stored_nodes(self) -> Generator[tuple[bytes, bytes]]:
        for number, node in self._reader.each("SELECT place, node FROM derived.node"):
            if (path := path_at(number)) is None:
                raise _Fault(f"a node of the state has the number {number}, which no path has")
            yield path, node
        for path, node in self._reader.each("SELECT path, node FROM derived.deep_node"):
            if len(path) <= NIBBLES_MAX:
                raise _Fault(f"the node {path.hex()} of the state is in the wrong table")
            yield path, node

    def _check_state(
        self, what: str, found: Generator[tuple[bytes, bytes]], expected: Mapping[bytes, bytes]
    ) -> None:
        count = 0
        with closing(found):
            for key, held in found:
                if expected.get(key) != held:
                    fault = f"the {what} {_hex(key)} of the state is not what the blocks lead to"
                    raise _Fault(fault)
                count += 1
        if count != len(expected):
            raise _Fault(f"the state has {count} {what}s in it; there should be {len(expected)}")


def _hex(key: object) -> str:
    return key.hex() if isinstance(key, bytes) else repr(key)
