"""Chains, their entry blocks, and the directory over them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.entries import (
    Entry,
    accumulate,
    directory_leaf,
    directory_leaves,
    entries_of,
    entry_roots,
    receipts_root,
)
from ledger.receipts import Receipt
from ledger.state import EmptyState, StateError, institution_chain, known_chain, members
from primitives.codec import decode, encode
from primitives.hashing import ZERO_DIGEST, digest
from primitives.merkle import sized_root, tree_root
from tests.ledger.world import Story, World

chains = st.binary(min_size=32, max_size=32)
entry_lists = st.lists(st.binary(max_size=9), min_size=1, max_size=5)


@given(st.dictionaries(chains, entry_lists, max_size=6))
def test_roots_and_directory(entries: dict[bytes, list[bytes]]) -> None:
    roots = entry_roots(entries)
    assert list(roots) == sorted(entries)
    assert roots == {chain: tree_root(entries[chain]) for chain in entries}
    leaves = directory_leaves(roots, entries)
    expected = [encode((c, tree_root(entries[c]), len(entries[c]))) for c in sorted(entries)]
    assert leaves == expected


def test_entries_can_be_worked_out_again_at_any_later_time() -> None:
    world = Story(World()).world
    known = members(world.store)
    member_ids = {member.key: member.id for member in known}
    accumulated: dict[bytes, bytes] = {}
    counts: dict[bytes, int] = {}
    for height, block in world.store.blocks.items():
        header = block.decision.block.header
        transactions = [t for batch in block.batches for t in batch.transactions]
        entries = entries_of(transactions, block.receipts, world.store, member_ids)
        roots = entry_roots(entries)
        assert sized_root(directory_leaves(roots, entries)) == header.directory_root
        assert receipts_root(block.receipts) == header.receipts_root
        for chain, root in roots.items():
            before = accumulated.get(chain, ZERO_DIGEST)
            count = len(entries[chain])
            accumulated[chain] = accumulate(before, height, header.time_ms, root, count)
            counts[chain] = counts.get(chain, 0) + count
    for chain, hashed in accumulated.items():
        head = known_chain(world.store, chain)
        assert (head.accumulated, head.count) == (hashed, counts[chain])


def test_an_entry_names_its_transaction_and_author() -> None:
    story = Story(World())
    block = story.world.store.blocks[2]
    (transaction,) = block.batches[0].transactions
    member_ids = {member.key: member.id for member in members(story.world.store)}
    entries = entries_of([transaction], block.receipts, story.world.store, member_ids)
    assert set(entries) == {
        story.record,
        story.patient_id,
        institution_chain("hospital-0"),
        institution_chain("institute-0"),
    }
    (raw,) = entries[story.record]
    share: Any = story.share_of(story.record, story.grant)
    expected = Entry(transaction.id, 0, story.custodian.public, share)
    assert decode(raw, Entry, bytes_max=1_000) == expected


def test_a_transaction_that_failed_has_no_entries() -> None:
    story = Story(World())
    (transaction,) = story.world.store.blocks[2].batches[0].transactions
    failed = [Receipt(transaction.id, 20, 0)]
    assert entries_of([transaction], failed, story.world.store, {}) == {}


def test_an_author_that_succeeded_and_is_unknown_stops_loudly() -> None:
    story = Story(World())
    block = story.world.store.blocks[2]
    with pytest.raises(StateError, match="author of transaction"):
        entries_of(block.batches[0].transactions, block.receipts, EmptyState(), {})


def test_every_part_of_a_chain_head_counts() -> None:
    parts = (bytes(32), 1, 2, bytes([3]) * 32, 4)
    expected = digest(
        "chain-head",
        bytes(32)
        + (1).to_bytes(8, "big")
        + (2).to_bytes(8, "big")
        + bytes([3]) * 32
        + (4).to_bytes(8, "big"),
    )
    assert accumulate(*parts) == expected
    others: list[Any] = [bytes([9]) * 32, 9, 9, bytes([9]) * 32, 9]
    for place, other in enumerate(others):
        changed: Any = (*parts[:place], other, *parts[place + 1 :])
        assert accumulate(*changed) != expected
    assert len({directory_leaf(b"a", b"b", n) for n in range(3)}) == 3
