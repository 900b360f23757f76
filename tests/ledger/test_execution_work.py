"""What a block costs, counted and not timed: hashes, branches of the state map, decodings."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pytest

import ledger.entries
import ledger.state
import ledger.trie
import primitives.merkle
from ledger.operations import RegisterRecord
from ledger.state import person_id, record_id
from ledger.transactions import CheckedTransaction
from ledger.trie import DEPTHS_TRIED
from primitives.hashing import digest, midstate
from simulations.execution_cost import KINDS, LABELS, TRANSACTIONS, Bench

KEYS = 20_000


class CountingStore:
    """Reads of the state below, counted."""

    def __init__(self, bench: Bench) -> None:
        self._store = bench.store
        self.reads: Counter[str] = Counter()
        self.paths: Counter[bytes] = Counter()

    def value(self, key: bytes) -> bytes | None:
        self.reads["value"] += 1
        return self._store.value(key)

    def held(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        self.reads["held"] += 1
        return self._store.held(keys)

    def node(self, path: bytes) -> bytes | None:
        self.reads["node"] += 1
        self.paths[path] += 1
        return self._store.node(path)

    def nodes_at(self, paths: Sequence[bytes]) -> Mapping[bytes, bytes]:
        self.reads["nodes_at"] += 1
        self.paths.update(dict.fromkeys(paths, 1))
        return self._store.nodes_at(paths)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(KEYS)


class Begun:
    """A hash that has begun: it is copied once for each that is made of it."""

    def __init__(self, begun: "hashlib._Hash", counts: Counter[str], name: str) -> None:
        self._begun = begun
        self._counts = counts
        self._name = name

    def copy(self) -> "hashlib._Hash":
        self._counts[self._name] += 1
        return self._begun.copy()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often what was hashed, in the parts that execution has."""
    counts: Counter[str] = Counter()

    def counted(domain: str, data: bytes) -> bytes:
        counts[domain] += 1
        return digest(domain, data)

    def all_counted(domain: str, items: Iterable[bytes]) -> list[bytes]:
        return [counted(domain, data) for data in items]

    for module in (ledger.entries, ledger.state, ledger.trie):
        monkeypatch.setattr(module, "digest", counted)
        if "digests" in vars(module):
            monkeypatch.setattr(module, "digests", all_counted)
    for name in ("_LEAF", "_NODE"):
        begun = vars(primitives.merkle)[name]
        monkeypatch.setattr(primitives.merkle, name, Begun(begun, counts, "tree"))
    branches = Begun(midstate("state-branch"), counts, "state-branch")
    monkeypatch.setattr(ledger.trie, "midstate", lambda domain: branches)
    person_id.cache_clear()
    record_id.cache_clear()
    return counts


def test_hashes_of_a_registration(bench: Bench, hashed: Counter[str]) -> None:
    """Two chains: each a key and value of the state, a head, and a leaf of the directory."""
    batches = bench.batches("register")
    hashed.clear()
    changes = bench.execute(batches).changes

    assert hashed["record"] == TRANSACTIONS
    assert hashed["chain-head"] == hashed["state-key"] == hashed["state-value"]
    assert hashed["chain-head"] == 2 * TRANSACTIONS + 1
    assert hashed["state-branch"] == len(changes.nodes)
    # One for the entry and one above it in the author's chain; receipt and the node above it; and
    # the same for two chains in the directory.
    assert hashed["tree"] <= (2 + 2 + 4) * TRANSACTIONS + 10
    assert hashed.total() <= 17.5 * TRANSACTIONS


@pytest.mark.parametrize("kind", KINDS)
def test_every_branch_is_read_and_written_once(
    bench: Bench, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger.trie, "FORESEEN_DEPTH_MIN", 0)
    batches = bench.batches(kind)
    store = CountingStore(bench)
    executed = bench.execute(batches, store)
    changes = executed.changes

    assert len(changes.nodes) <= 1.5 * len(changes.values)
    # Level by level, but for the upper levels and for keys that no operation names.
    assert store.reads["nodes_at"] <= 4
    assert store.reads["node"] <= len(changes.nodes) / 2
    assert store.paths.total() <= len(store.paths) + 5 * DEPTHS_TRIED
    # What operations name is read in one go; only the subject of a shared record is not named.
    assert store.reads["held"] == 1
    assert store.reads["value"] <= 10 + (TRANSACTIONS if kind == "share" else 0)


def test_keys_written_by_kind(bench: Bench) -> None:
    """Fewer keys are the best way to a cheaper block; more must be meant."""
    written = {kind: len(bench.execute(bench.batches(kind)).changes.values) for kind in KINDS}
    per_operation = {kind: round(count / TRANSACTIONS) for kind, count in written.items()}

    assert per_operation == {
        "enrol": 1,
        "register": 2,
        "grant": 3,
        "share": 2,
        "register, packed": 2,
    }


def test_members_are_decoded_once(bench: Bench) -> None:
    remembered = vars(ledger.state)["_decode_remembered"]
    remembered.cache_clear()
    batches = bench.batches("enrol")
    for _ in range(3):
        bench.execute(batches)

    assert remembered.cache_info().misses == 1


def test_work_is_counted_where_a_transaction_is_checked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(operations: object) -> int:
        raise AssertionError("work was counted again")

    batches = bench.batches("register, packed")
    monkeypatch.setattr("ledger.transactions.work_of", never)

    assert bench.execute(batches).batches[0].work == 3 * TRANSACTIONS


def test_a_transaction_without_signature_runs_only_here(bench: Bench) -> None:
    """The benchmark measures execution: it makes what no check lets through."""
    operation = RegisterRecord(bytes(32), LABELS, None)
    transaction = bench.transaction(bench.custodian.public, 1, operation)

    assert isinstance(transaction, CheckedTransaction)
    assert bench.execute([bench.batch([transaction])]).receipts[0].code == 0
