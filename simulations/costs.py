"""What a node's work costs: a table of unit costs in microseconds and nanoseconds.

`medpact simulate --capacity` charges these to the simulated processors, disks and links, since
virtual time would pass for nothing else. The shipped table was measured on one machine;
`--calibrate` measures another (costs_calibration.py) and writes the file that `--costs` reads.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

COSTS_VERSION: Final = 1
COSTS_BYTES_MAX: Final = 64 * 1024
COST_MAX: Final = 10_000_000.0
"""No unit cost is above ten seconds."""


class CostsError(ValueError):
    """A table of costs that cannot be used; the message says where and what to do."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Unit costs of one node. `_us` is microseconds of one core, `_ns` nanoseconds of one core."""

    signature_check_us: float
    """One Ed25519 check of a vote, a certificate's entry or a batch."""
    signature_make_us: float
    """One Ed25519 signature."""
    transaction_check_us: float
    """A transaction decoded, hashed and its signature checked, on a check thread."""
    transaction_submit_us: float
    """A client's transaction read from the RPC and sealed into a batch, without its check."""
    transaction_take_us: float
    """A checked transaction of another's batch taken into the mempool, and out of it again."""
    batch_take_us: float
    """A batch of another taken into the mempool, whatever is in it."""
    operation_execute_us: float
    """An operation executed, with its share of receipts, Merkle trees and the state trie."""
    block_execute_us: float
    """A block executed, whatever is in it."""
    block_apply_us: float
    """The step to the next height once a block is stored."""
    vote_handle_us: float
    """A PREPARE or COMMIT taken by the core, without the check of its signature."""
    message_send_us: float
    """A message to one peer: queued, framed, encrypted and written, as on a busy node."""
    message_receive_us: float
    """A message from a peer: read, decrypted, cut out of its frame and decoded."""
    byte_send_ns: float
    byte_receive_ns: float
    request_us: float
    """A request answered or asked: a stream of its own."""
    gossip_us: float
    """An announcement received, with its signature, or sent to one neighbour."""
    turn_us: float
    """A turn of the driver, whatever there is to do in it."""
    commit_us: float
    """An SQLite transaction, on the writer's thread, whatever is in it."""
    operation_commit_us: float
    """An operation's rows in it."""
    byte_commit_ns: float
    """A byte of batches in it."""
    fsync_us: float
    """How long the disk takes to make a transaction durable; no core works meanwhile."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A table of costs, and where and when it was measured."""

    costs: Costs
    machine: str
    date: str


DEFAULT: Final = Measured(
    Costs(
        signature_check_us=52.6,
        signature_make_us=18.3,
        transaction_check_us=56.2,
        transaction_submit_us=4.01,
        transaction_take_us=0.07,
        batch_take_us=10.2,
        operation_execute_us=11.8,
        block_execute_us=219.4,
        block_apply_us=161.0,
        vote_handle_us=27.9,
        message_send_us=3.85,
        message_receive_us=5.18,
        byte_send_ns=1.15,
        byte_receive_ns=1.15,
        request_us=488.0,
        gossip_us=359.6,
        turn_us=60.0,
        commit_us=278.2,
        operation_commit_us=6.83,
        byte_commit_ns=2.0,
        fsync_us=169.0,
    ),
    machine="2 cores (AMD EPYC), x86_64, Python 3.11.7",
    date="2026-11-26",
)


def write_costs(measured: Measured) -> str:
    """Return the text of a costs file: JSON, one cost a line."""
    document = {
        "version": COSTS_VERSION,
        "machine": measured.machine,
        "date": measured.date,
        "costs": asdict(measured.costs),
    }
    return json.dumps(document, indent=2) + "\n"


def read_costs(raw: bytes) -> Measured:
    """Return the table in a costs file. Raises CostsError."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CostsError(
            f"The costs file is not JSON: {error}. Make one with `medpact simulate --calibrate`."
        ) from error
    if not isinstance(document, dict) or document.get("version") != COSTS_VERSION:
        raise CostsError(
            f'The costs file must be an object with "version": {COSTS_VERSION}. Make one with '
            "`medpact simulate --calibrate`."
        )
    table = document.get("costs")
    if not isinstance(table, dict):
        raise CostsError('The costs file lacks its table "costs".')
    texts = {name: document.get(name) for name in ("machine", "date")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise CostsError(f'The costs file lacks "{name}", which is text.')
    return Measured(_read_table(table), str(texts["machine"]), str(texts["date"]))


def _read_table(table: Mapping[str, Any]) -> Costs:
    names = [field.name for field in fields(Costs)]
    unknown = [name for name in table if name not in names]
    if unknown:
        raise CostsError(f"The costs file has an unknown cost {unknown[0]!r}: remove it.")
    values: dict[str, float] = {}
    for name in names:
        value = table.get(name)
        if type(value) not in (int, float):
            raise CostsError(f"The costs file lacks a number for {name}.")
        number = float(value or 0)
        if not 0 <= number <= COST_MAX:
            raise CostsError(f"{name} is {value}; it must be from 0 to {COST_MAX:.0f}.")
        values[name] = number
    return Costs(**values)
