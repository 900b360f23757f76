"""The numbers that a genesis file may set, with their defaults and bounds."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final

from ledger.operations import WORK_MAX
from ledger.transactions import OPERATIONS_MAX, TRANSACTIONS_MAX, Limits


@dataclass(frozen=True, slots=True)
class Setting:
    """One number of a genesis file."""

    default: int
    minimum: int
    maximum: int
    meaning: str
    """What the comment above it says."""


_KIB: Final = 1024
_DAY_MS: Final = 24 * 60 * 60 * 1000

TIMING: Final[Mapping[str, Setting]] = MappingProxyType(
    {
        "clock_drift_ms_max": Setting(
            10_000,
            100,
            _DAY_MS,
            "How far a proposed block's time may be from a voter's clock, before or after.",
        ),
        "heartbeat_ms": Setting(
            0,
            0,
            _DAY_MS,
            "After this long without transactions an empty block is made; 0: never.",
        ),
        "censorship_heights": Setting(
            10,
            1,
            1_000,
            "Blocks that may pass over a batch before its holders change the view.",
        ),
        "bench_heights_min": Setting(
            32,
            1,
            10_000,
            "For so many blocks a recorder that missed its turn is passed over; doubled each time.",
        ),
        "bench_heights_max": Setting(
            1_024, 1, 1_000_000, "The most blocks that a recorder is passed over at once."
        ),
        "evidence_heights_max": Setting(
            1_000,
            1,
            1_000_000,
            "For so many blocks evidence against a voter may be reported.",
        ),
        "view_timeout_ms_min": Setting(
            500, 10, 60_000, "The shortest time that a primary gets for a block."
        ),
        "view_timeout_ms_max": Setting(
            30_000, 100, 600_000, "The longest time that a primary gets, after failed views."
        ),
        "resend_ms": Setting(
            1_000, 10, 60_000, "While a block is undecided, messages are sent again this often."
        ),
        "batch_delay_ms": Setting(
            5, 0, 1_000, "How long a node collects transactions into one batch."
        ),
    }
)
"""Settings of [timing], in milliseconds or, where their name says so, in heights."""


# Upper bounds follow from what fits one message between nodes (node/wire.py).
_LIMITS: Final[Mapping[str, tuple[int, int, str]]] = {
    "transaction_bytes_max": (_KIB, 1024 * _KIB, "The longest transaction."),
    "transaction_operations_max": (1, OPERATIONS_MAX, "The most operations of a transaction."),
    "batch_bytes_max": (4 * _KIB, 4 * 1024 * _KIB, "The longest batch."),
    "batch_transactions_max": (1, TRANSACTIONS_MAX, "The most transactions of a batch."),
    "block_bytes_max": (4 * _KIB, 8 * 1024 * _KIB, "The most bytes of batches in a block."),
    "block_batches_max": (1, 256, "The most batches in a block."),
    "block_work_max": (
        WORK_MAX,
        1_000_000,
        "The most work in a block, in keys of the state that may be written.",
    ),
    "replay_window_blocks": (
        10,
        100_000,
        "How many blocks ahead a transaction may be valid, and how long its id is remembered.",
    ),
}

LIMITS: Final[Mapping[str, Setting]] = MappingProxyType(
    {
        field.name: Setting(getattr(Limits(), field.name), *_LIMITS[field.name])
        for field in fields(Limits)
    }
)
"""Settings of [limits]."""
