"""Whom a capacity run is about: made-up consortia of any size, the consortium of a genesis file
with keys of which we have the private part, and who of them dies.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from msgspec.structs import replace

from consensus.committee import QuorumRule, faulty_max, quorum_size
from ledger.committee import committee_of
from ledger.genesis import Genesis, parse_genesis, render_genesis
from ledger.genesis_settings import TIMING
from ledger.operations import WORK_MAX
from primitives.institution import Institution, lei_with_check_digits
from primitives.keys import SEED_BYTES, PrivateKey

GENESIS_MS = 1_800_000_000_000
"""Wall clock at virtual time 0."""
Condition = Literal["healthy", "dead recorder", "f faults", "beyond"]
CONDITIONS: Final[tuple[Condition, ...]] = ("healthy", "dead recorder", "f faults")
"""What a sweep goes through; "beyond" stands still, and is for one consortium's questions."""
RECORDERS_MAX = 13
AUDITORS_MAX = 10
REGIONS = ("CN-GD", "HK", "MO")
LIMIT_BYTES_MIN = 4 * 1024
"""No genesis has smaller batches."""


@dataclass(frozen=True, slots=True)
class Load:
    """What clients do."""

    burst: int = 20
    """Transactions that a client submits at once."""
    operations: int = 1
    """In each transaction."""
    outstanding: int = 16_000
    """Transactions without a receipt, of all clients together, at saturation."""
    block_transactions: int = 0
    """The most that a block may hold; 0: what the genesis file allows."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How many institutions of each class."""

    recorders: int
    auditors: int
    observers: int


def mix_of(institutions: int) -> Mix:
    """A plausible consortium of so many: a quarter keeps the books, 4 to 13; 4 to 10 audit as soon
    as there are ten institutions.
    """
    recorders = min(max(4, institutions // 4), RECORDERS_MAX, institutions)
    wanted = min(max(4, institutions // 10), AUDITORS_MAX)
    auditors = min(wanted, institutions - recorders)
    return Mix(recorders, auditors, institutions - recorders - auditors)


def genesis_of(mix: Mix, quorum: QuorumRule, settings: Mapping[str, int]) -> bytes:
    """The genesis file of a made-up consortium, whose regions differ in turn."""
    kinds = (
        ("recorder", "tertiary_hospital", mix.recorders),
        ("auditor", "health_authority", mix.auditors),
        ("observer", "research_institute", mix.observers),
    )
    institutions: list[Institution] = []
    for name, kind, count in kinds:
        for number in range(1, count + 1):
            serial = len(institutions)
            institutions.append(
                Institution(
                    id=f"{name}-{number}",
                    name=f"{name.capitalize()} {number}",
                    type=kind,
                    region=REGIONS[serial % len(REGIONS)],
                    lei=lei_with_check_digits(f"5493{serial:014d}"),
                    key=_key(f"{name}-{number}", 0).public,
                    address=f"{name}-{number}.example:7600",
                )
            )
    return render_genesis(
        "Capacity", GENESIS_MS - 1, institutions, quorum=quorum, settings=settings
    )


def _key(id: str, seed: int) -> PrivateKey:
    return PrivateKey(random.Random(f"{seed} key of {id}").randbytes(SEED_BYTES))


def stand_in(genesis: Genesis, load: Load, seed: int) -> tuple[Genesis, dict[str, PrivateKey]]:
    """The same consortium with keys that we have, and limits for transactions each of which stands
    for `burst` of `operations` (capacity_node.py).
    """
    keys = {one.id: _key(one.id, seed) for one in genesis.institutions}
    limits, stands_for = genesis.limits, load.burst * load.operations
    batch_bytes = max(limits.batch_bytes_max // load.burst, LIMIT_BYTES_MIN)
    batches, in_batch = limits.block_batches_max, limits.batch_transactions_max // load.burst
    if load.block_transactions:
        # Each burst is a batch then, so that batches alone bound the block.
        batches, in_batch = min(batches, load.block_transactions // load.burst), 1
    settings = {
        "transaction_bytes_max": 1024,
        "batch_bytes_max": batch_bytes,
        "block_bytes_max": max(limits.block_bytes_max // load.burst, batch_bytes),
        "block_batches_max": max(batches, 1),
        "batch_transactions_max": max(in_batch, 1),
        "block_work_max": max(limits.block_work_max // stands_for, WORK_MAX),
        "replay_window_blocks": limits.replay_window_blocks,
    }
    settings |= {name: getattr(genesis, name) for name in TIMING}
    raw = render_genesis(
        genesis.name,
        GENESIS_MS - 1,
        [replace(one, key=keys[one.id].public) for one in genesis.institutions],
        quorum=genesis.quorum,
        classes=genesis.classes,
        settings=settings,
    )
    return parse_genesis(raw), keys


def dead_of(genesis: Genesis, condition: Condition) -> tuple[str, ...]:
    """Who dies: nobody, the recorder in the middle, f of each group that is counted, evenly chosen,
    or one more than the group that is the first to stand still can miss.
    """
    members, classes = genesis.institutions, genesis.classes
    voters = committee_of(members, classes, genesis.quorum).voters
    if condition == "healthy":
        return ()
    if condition == "dead recorder":
        recorders = [voter.id for voter in voters if voter.proposes]
        return (recorders[len(recorders) // 2],)
    groups: dict[str, list[str]] = {}
    for voter in voters:
        groups.setdefault(voter.group, []).append(voter.id)
    if condition == "beyond":
        weakest = min(groups.values(), key=lambda ids: len(ids) - quorum_size(len(ids)))
        return tuple(weakest[-(len(weakest) - quorum_size(len(weakest)) + 1) :])
    dead: list[str] = []
    for ids in groups.values():
        f = faulty_max(len(ids))
        dead += [ids[number * len(ids) // f] for number in range(f)]
    return tuple(sorted(dead))
