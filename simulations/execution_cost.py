"""What it costs to execute a block: processor time per operation, by kind of operation and by part.

    python -m simulations.execution_cost [--keys 20000 200000 1000000] [--blocks 5] [--json]

Blocks of 1,000 transactions with one operation each, and of ten transactions with a hundred, are
executed on a state of so many keys, in memory: what the database costs on top is not in here. The
signatures are not checked. Everything is drawn from fixed names, so that two runs execute the same
blocks; time is that of the processor, the lowest of `--blocks` executions of each block. The time
of a part is taken around the function that does it, once per block.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

import ledger.execution
from ledger.genesis import Genesis, genesis_state, parse_genesis, render_genesis
from ledger.operations import (
    EnrolPerson,
    Grant,
    InstitutionParty,
    Labels,
    Operation,
    PersonParty,
    RecordShare,
    RegisterRecord,
)
from ledger.replay import ReplayWindow
from ledger.state import (
    GrantState,
    Person,
    Record,
    chain_key,
    grant_id,
    grant_key,
    new_chain,
    person_id,
    record_id,
)
from ledger.store import StateReader, WriteGenesis
from ledger.transactions import (
    BatchBody,
    CheckedBatch,
    CheckedTransaction,
    Envelope,
    TransactionBody,
    batch_id,
    read_transaction,
)
from ledger.trie import update
from primitives.block import BlockHeader
from primitives.codec import Canonical, encode
from primitives.institution import Institution, lei_with_check_digits
from primitives.keys import PrivateKey
from simulations.store import MemoryStore

GENESIS_MS = 1_700_000_000_000
TRANSACTIONS = 1_000
PACKED = 100
"""Operations of one transaction in a packed block."""
CUSTODIAN, RESEARCHER = "hospital-0", "institute-0"
LABELS = Labels("imaging", "N", "CN-GD", "pacs", "verified")
PARTS = {
    "rules": "_run",
    "entries": "entry_hashes",
    "entry roots": "roots_of_hashes",
    "heads": "_advanced_heads",
    "committee": "settle",
    "trie": "update",
    "directory": "directory_leaves",
    "receipts": "receipts_root",
}
"""By part, the function of ledger/execution.py that does it. The rest is counted as "other"."""


def drawn(*words: object) -> bytes:
    """32 bytes that follow from the words."""
    return hashlib.sha256(" ".join(map(str, words)).encode()).digest()


def consortium(observers: int) -> list[Institution]:
    """Four recorders, three auditors, and as many observers as the question needs."""
    kinds = (
        ("hospital", "tertiary_hospital", 4),
        ("authority", "health_authority", 3),
        ("institute", "research_institute", observers),
    )
    names = [(f"{name}-{n}", kind) for name, kind, count in kinds for n in range(count)]
    return [
        Institution(
            id=id,
            name=id,
            type=kind,
            region="CN-GD",
            lei=lei_with_check_digits(f"MEDPACT{number:011d}"),
            key=PrivateKey(drawn(id)).public,
            address=f"{id}.example:7600",
        )
        for number, (id, kind) in enumerate(names)
    ]


class Bench:
    """A ledger whose state has `keys` keys: enrolled persons, a record and a grant of each, and
    others that nobody asks for. `observers` are added to seven voters.
    """

    def __init__(self, keys: int, observers: int = 1) -> None:
        raw = render_genesis("Cost", GENESIS_MS, consortium(observers), settings={})
        self.genesis: Genesis = parse_genesis(raw)
        self.store = MemoryStore()
        header, changes = genesis_state(self.genesis)
        self.store.write([WriteGenesis(header, changes)])
        self.head: BlockHeader = header
        self.window = ReplayWindow(self.genesis.limits.replay_window_blocks)
        self.custodian = PrivateKey(drawn(CUSTODIAN))
        values = {key: encode(value) for key, value in self._story()}
        missing = range(len(changes.values) + len(values), keys)
        filling = encode(new_chain(Record(bytes(32), LABELS, CUSTODIAN, bytes(32))))
        values.update((chain_key(drawn("filling", n)), filling) for n in missing)
        filled = update(self.store, values)
        self.store.values.update(filled.values)
        self.store.nodes.update(filled.nodes)

    def _story(self) -> Iterator[tuple[bytes, Canonical]]:
        institute = InstitutionParty(RESEARCHER)
        for n in range(TRANSACTIONS):
            key, commitment = drawn("person", n), drawn("known", n)
            person, record = person_id(key), record_id(CUSTODIAN, commitment)
            yield chain_key(person), new_chain(Person(key, "patient", CUSTODIAN))
            yield chain_key(record), new_chain(Record(commitment, LABELS, CUSTODIAN, person))
            grant = GrantState(PersonParty(person), institute, (record,), "HRESCH", 0, 0)
            yield grant_key(grant_id(drawn("grant", n), 0)), grant

    def transaction(self, author: bytes, nonce: int, *operations: Operation) -> CheckedTransaction:
        """A transaction as it comes out of its check, without a valid signature."""
        body = TransactionBody(author, 100, 2 * GENESIS_MS, nonce.to_bytes(16, "big"), operations)
        raw = encode(Envelope(encode(body), bytes(64)))
        return read_transaction(raw, self.genesis.chain_id)

    def batch(self, transactions: Sequence[CheckedTransaction]) -> CheckedBatch:
        """A batch as it comes out of its check, without a valid signature."""
        body = encode(BatchBody(CUSTODIAN, 1, 100, tuple(each.raw for each in transactions)))
        identity = batch_id(self.genesis.chain_id, body)
        raw = encode(Envelope(body, bytes(64)))
        key = self.custodian.public
        return CheckedBatch(identity, raw, CUSTODIAN, 1, 100, key, tuple(transactions))

    def batches(self, kind: str) -> list[CheckedBatch]:
        """A block's batches, here one, with a thousand operations of one kind."""
        custodian = self.custodian.public
        institute = InstitutionParty(RESEARCHER)
        persons = [drawn("person", n) for n in range(TRANSACTIONS)]
        ids = [person_id(key) for key in persons]
        commitments = [drawn("known", n) for n in range(TRANSACTIONS)]
        authors = [custodian] * TRANSACTIONS
        operations: list[Operation]
        match kind:
            case "enrol":
                operations = [EnrolPerson(drawn("new", n), "patient") for n in range(TRANSACTIONS)]
            case "register" | "register, packed":
                operations = [RegisterRecord(drawn("new", id), LABELS, id) for id in ids]
            case "grant":
                authors = persons
                operations = [
                    Grant(institute, (record_id(CUSTODIAN, each),), "HRESCH", 0)
                    for each in commitments
                ]
            case "share":
                operations = [
                    RecordShare(
                        record_id(CUSTODIAN, each),
                        institute,
                        grant_id(drawn("grant", n), 0),
                        each,
                        "HRESCH",
                    )
                    for n, each in enumerate(commitments)
                ]
            case _:
                raise ValueError(f"no block of {kind}")
        step = PACKED if kind.endswith("packed") else 1
        transactions = [
            self.transaction(authors[n], n, *operations[n : n + step])
            for n in range(0, TRANSACTIONS, step)
        ]
        return [self.batch(transactions)]

    def execute(
        self, batches: Sequence[CheckedBatch], state: StateReader | None = None
    ) -> ledger.execution.ExecutedBlock:
        """Execute a block of these batches on the state, which stays as it is."""
        time_ms, state = self.head.time_ms + 1, state or self.store
        return ledger.execution.execute_block(
            self.head, 0, CUSTODIAN, time_ms, batches, state, self.window, self.genesis
        )


KINDS = ("enrol", "register", "grant", "share", "register, packed")


@contextmanager
def timed_parts() -> Iterator[dict[str, float]]:
    """Seconds of processor time by part, for what is executed within the context."""
    seconds = dict.fromkeys(PARTS, 0.0)
    functions = {name: vars(ledger.execution)[name] for name in PARTS.values()}

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.process_time()
            result = function(*arguments)
            seconds[part] += time.process_time() - began
            return result

        return call

    for part, name in PARTS.items():
        setattr(ledger.execution, name, timed(part, functions[name]))
    try:
        yield seconds
    finally:
        for name, function in functions.items():
            setattr(ledger.execution, name, function)


def measure(bench: Bench, kind: str, blocks: int) -> dict[str, float]:
    """Microseconds per operation: of the parts, of the whole, and of decoding before it."""
    batches = bench.batches(kind)
    raws = [transaction.raw for batch in batches for transaction in batch.transactions]
    best: dict[str, float] = {}
    for _ in range(blocks):
        with timed_parts() as seconds:
            began = time.process_time()
            executed = bench.execute(batches)
            whole = time.process_time() - began
        if any(receipt.code for receipt in executed.receipts):
            raise RuntimeError(f"a block of {kind} has a transaction that fails")
        began = time.process_time()
        for raw in raws:
            read_transaction(raw, bench.genesis.chain_id)
        decoding = time.process_time() - began
        other = whole - sum(seconds.values())
        found = {"decode": decoding, **seconds, "other": other, "executed": whole}
        best = {part: min(took, best.get(part, took)) for part, took in found.items()}
    return {part: took / TRANSACTIONS * 1e6 for part, took in best.items()}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Processor time of executing an operation.")
    parser.add_argument("--keys", type=int, nargs="+", default=[20_000, 200_000, 1_000_000])
    parser.add_argument("--observers", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    document = []
    for keys in options.keys:
        bench = Bench(keys, options.observers)
        results = {kind: measure(bench, kind, options.blocks) for kind in KINDS}
        document.append({"keys": keys, "microseconds": results})
        if not options.json:
            table = Table(title=f"microseconds per operation, {keys:,} keys")
            table.add_column("part")
            for kind in KINDS:
                table.add_column(kind, justify="right")
            for part in results[KINDS[0]]:
                table.add_row(part, *(f"{results[kind][part]:.1f}" for kind in KINDS))
            Console().print(table)
    if options.json:
        print(json.dumps(document, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
