"""Blocks: which may exist, what their header says, and what follows from them."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.committee import committee_at
from ledger.entries import directory_leaves, entries_of, entry_roots
from ledger.execution import (
    PAYLOAD_BYTES_MAX,
    BlockError,
    check_block,
    payload_batches,
    restore_window,
    select_batches,
    stored_block,
)
from ledger.operations import EnrolPerson, RegisterRecord, Revoke
from ledger.receipts import DID_NOT_RUN, ReceiptCode
from ledger.replay import ReplayWindow
from ledger.state import StateError, grant_state, known_chain, members, person_id, record_id
from ledger.transactions import CheckedBatch, CheckedTransaction
from ledger.trie import check_value, prove_value
from primitives.block import Block, BlockHeader
from primitives.codec import encode
from primitives.merkle import check, prove, sized_root
from tests.ledger.world import LABELS, Story, World, key_of

C = ReceiptCode
HOSPITAL = key_of("hospital-0")
FAIL = Revoke(bytes(32))


def enrol(world: World, number: int, **until: int) -> CheckedTransaction:
    return world.transaction(HOSPITAL, EnrolPerson(bytes([number]) * 32, "patient"), **until)


def codes(world: World, *batches: CheckedBatch, time_ms: int | None = None) -> list[ReceiptCode]:
    return [ReceiptCode(r.code) for r in world.execute(*batches, time_ms=time_ms).receipts]


def test_the_header_binds_everything() -> None:
    world = Story(World()).world
    parent = world.head
    batches = [world.batch(enrol(world, 1)), world.batch(enrol(world, 2), author="institute-0")]
    executed = world.execute(*batches)
    header = executed.block.header
    assert header.chain_id == world.chain_id
    assert (header.height, header.parent_hash) == (parent.height + 1, parent.hash())
    assert (header.view, header.proposer) == (0, "hospital-1")
    assert header.time_ms == parent.time_ms + 1_000
    assert header.batches_root == sized_root([batch.id for batch in batches])
    assert payload_batches(executed.block.payload) == tuple(batch.id for batch in batches)
    assert header.receipts_root == sized_root([encode(r) for r in executed.receipts])
    assert header.state_root == executed.changes.root
    assert header.next_committee_hash == committee_at(world.store, world.genesis).hash
    assert executed.batches == tuple(batches)
    assert executed.sequences == tuple((batch.author, batch.sequence) for batch in batches)
    ids = [t.id for batch in batches for t in batch.transactions]
    assert list(executed.transaction_ids) == ids == [r.transaction for r in executed.receipts]
    world.apply(executed)
    member_ids = {member.key: member.id for member in members(world.store)}
    transactions = [t for batch in batches for t in batch.transactions]
    entries = entries_of(transactions, executed.receipts, world.store, member_ids)
    leaves = directory_leaves(entry_roots(entries), entries)
    assert header.directory_root == sized_root(leaves)
    assert executed.chains == tuple(sorted(entries))
    for index, leaf in enumerate(leaves):
        check(leaf, prove(leaves, index), header.directory_root)
    for key, value in world.store.values.items():
        check_value(prove_value(world.store, key), key, value, header.state_root)


def test_a_transaction_takes_effect_as_a_whole_or_not_at_all() -> None:
    world = World()
    bad = world.transaction(HOSPITAL, EnrolPerson(bytes([1]) * 32, "patient"), FAIL)
    good = world.transaction(
        HOSPITAL,
        EnrolPerson(bytes([2]) * 32, "patient"),
        RegisterRecord(bytes(32), LABELS, person_id(bytes([2]) * 32)),
    )
    executed = world.execute(world.batch(bad, good))
    receipts = executed.receipts
    assert [(r.code, r.operation) for r in receipts] == [(C.UNKNOWN_GRANT, 1), (C.OK, 0)]
    assert executed.executed == (0, 1)
    world.apply(executed)
    assert codes(world, world.batch(enrol(world, 1))) == [C.OK]
    assert codes(world, world.batch(enrol(world, 2))) == [C.ALREADY_ENROLLED]
    assert known_chain(world.store, record_id("hospital-0", bytes(32))).count == 1


def test_later_transactions_see_earlier_ones() -> None:
    world = World()
    batches = [world.batch(enrol(world, 1)), world.batch(enrol(world, 1), author="hospital-1")]
    assert codes(world, *batches) == [C.OK, C.ALREADY_ENROLLED]


def test_replays_run_once() -> None:
    world = World()
    one, two = enrol(world, 1), enrol(world, 2)
    executed = world.execute(world.batch(one, one), world.batch(one, two, author="hospital-1"))
    assert [r.code for r in executed.receipts] == [C.OK, C.REPLAYED, C.REPLAYED, C.OK]
    assert executed.executed == (0, 3)
    assert executed.ran == (one.id, two.id)
    world.apply(executed)
    assert codes(world, world.batch(one, enrol(world, 3))) == [C.REPLAYED, C.OK]


def test_a_failed_transaction_is_not_run_again_either() -> None:
    world = World()
    failed = world.transaction(HOSPITAL, FAIL)
    assert world.run(failed) == [C.UNKNOWN_GRANT]
    assert codes(world, world.batch(failed, enrol(world, 1))) == [C.REPLAYED, C.OK]


def test_expiry_by_height_and_by_time() -> None:
    world = World()
    next_ms = world.head.time_ms + 1_000
    late = enrol(world, 1, valid_until_ms=next_ms - 1)
    just = enrol(world, 2, valid_until_ms=next_ms, valid_until_height=1)
    assert codes(world, world.batch(late, just)) == [C.EXPIRED, C.OK]
    world.run(enrol(world, 3))
    assert codes(world, world.batch(just, enrol(world, 4))) == [C.EXPIRED, C.OK]


def test_each_transaction_runs_at_most_once_in_the_life_of_a_ledger() -> None:
    """Beyond the window it has expired; until it fits the window it has no verdict at all."""
    world = World(replay_window_blocks=10)
    first, early = enrol(world, 1, valid_until_height=11), enrol(world, 2, valid_until_height=12)
    executed = world.execute(world.batch(first, early))
    assert [r.code for r in executed.receipts] == [C.OK, C.TOO_FAR_AHEAD]
    assert executed.ran == (first.id,)
    world.apply(executed)
    seen: dict[bytes, list[int]] = {first.id: [], early.id: []}
    for number in range(3, 30):
        executed = world.execute(world.batch(enrol(world, number), first, early))
        for receipt in executed.receipts[1:]:
            seen[receipt.transaction].append(receipt.code)
        world.apply(executed)
    assert seen[first.id] == [C.REPLAYED] * 10 + [C.EXPIRED] * 17
    assert seen[early.id] == [C.OK] + [C.REPLAYED] * 10 + [C.EXPIRED] * 16


def broken(world: World) -> list[tuple[str, Callable[[], object]]]:
    """Blocks that may not exist, each with the reason."""
    execute, batch = world.execute, world.batch
    far = world.head.height + 1 + world.genesis.limits.replay_window_blocks
    fine = batch(enrol(world, 99))
    return [
        ("is not above its parent's", lambda: execute(fine, time_ms=world.head.time_ms)),
        ("no transaction that runs", execute),
        ("no transaction that runs", lambda: execute(batch(enrol(world, 1, valid_until_ms=1)))),
        (
            "has a sequence that another batch of the block has",
            lambda: execute(fine, batch(enrol(world, 1), sequence=fine.sequence)),
        ),
        ("is not signed with the key", lambda: execute(batch(enrol(world, 1), key=key_of("x")))),
        (
            "is not signed with the key",
            lambda: execute(batch(enrol(world, 1), author="stranger")),
        ),
        ("too far above", lambda: execute(batch(enrol(world, 1), valid_until_height=far + 1))),
        ("3 batches; this ledger allows 2", lambda: execute(*(batch(FAILING) for _ in "abc"))),
        ("140 units of work", lambda: execute(batch(*[BUSY] * 2), batch(FINE_THREE))),
    ]


WORLD = World(block_batches_max=2, block_work_max=134)
FAILING = enrol(WORLD, 1)
BUSY = WORLD.transaction(HOSPITAL, FAIL)
FINE_THREE = WORLD.transaction(HOSPITAL, *[EnrolPerson(bytes(32), "patient")] * 3)


@pytest.mark.parametrize("number", range(9))
def test_blocks_that_may_not_exist(number: int) -> None:
    reason, make = broken(WORLD)[number]
    with pytest.raises(BlockError, match=reason):
        make()


def test_limits_are_inclusive() -> None:
    full = WORLD.batch(BUSY, BUSY)
    pending = [full, WORLD.batch(FAILING)]
    chosen = select_batches(pending, 1, WORLD.store, WORLD.window, WORLD.genesis)
    assert chosen == [full]
    assert [r.code for r in WORLD.execute(full).receipts] == [C.UNKNOWN_GRANT, C.REPLAYED]
    far = WORLD.head.height + 1 + WORLD.genesis.limits.replay_window_blocks
    assert WORLD.execute(WORLD.batch(enrol(WORLD, 1), valid_until_height=far)).executed == (0,)


def test_a_block_has_a_limit_of_bytes() -> None:
    world = World(
        transaction_bytes_max=1_024,
        batch_bytes_max=4_096,
        block_bytes_max=4_096,
        block_work_max=1_000_000,
    )
    operations = [RegisterRecord(bytes([n]) * 32, LABELS, None) for n in range(10)]
    batches = [world.batch(world.transaction(HOSPITAL, *operations)) for _ in range(6)]
    assert select_batches(batches, 1, world.store, world.window, world.genesis) == batches[:4]
    with pytest.raises(BlockError, match="bytes of batches; this ledger allows 4096"):
        world.execute(*batches)
    assert len(world.execute(*batches[:4]).receipts) == 4


def test_batches_of_earlier_blocks() -> None:
    world = World()
    batch = world.batch(enrol(world, 1), valid_until_height=1)
    world.apply(world.execute(batch))
    again = world.batch(enrol(world, 2), sequence=batch.sequence)
    with pytest.raises(BlockError, match="an earlier block has used"):
        world.execute(again)
    expired = world.batch(enrol(world, 3), valid_until_height=1)
    with pytest.raises(BlockError, match="expired at block 1, before block 2"):
        world.execute(expired)
    other = world.batch(enrol(world, 2), sequence=batch.sequence, author="hospital-1")
    pending = [batch, again, expired, other, other]
    chosen = select_batches(pending, 2, world.store, world.window, world.genesis)
    assert chosen == [other]
    assert world.execute(*chosen).executed == (0,)


def test_a_heartbeat_is_an_empty_block_when_it_is_due() -> None:
    world = World(heartbeat_ms=5_000)
    due = world.head.time_ms + 5_000
    with pytest.raises(BlockError, match="no transaction that runs"):
        world.execute(time_ms=due - 1)
    executed = world.execute(time_ms=due)
    header = executed.block.header
    assert header.state_root == world.head.state_root
    assert header.directory_root == header.batches_root == sized_root(())
    assert (executed.chains, executed.receipts) == ((), ())
    world.check(executed.block)
    world.apply(executed)
    with pytest.raises(BlockError, match="no transaction that runs"):
        world.execute(time_ms=due + 4_999)


def changed(header: BlockHeader, name: str, value: Any) -> BlockHeader:
    fields = {key: getattr(header, key) for key in header.__struct_fields__}
    return BlockHeader(**{**fields, name: value})


def test_a_block_is_checked_to_the_last_field() -> None:
    world = World()
    batch = world.batch(enrol(world, 1))
    block = world.execute(batch).block
    assert world.check(block, batch).block == block
    # Who may propose is for consensus to say; but what is executed depends on time and view.
    world.check(Block(changed(block.header, "proposer", "hospital-2"), block.payload), batch)
    for name in ("time_ms", "view"):
        later = changed(block.header, name, getattr(block.header, name) + 2)
        with pytest.raises(BlockError, match="another state_root"):
            world.check(Block(later, block.payload), batch)
    for name in block.header.__struct_fields__:
        if name not in ("proposer", "time_ms", "view"):
            value = getattr(block.header, name)
            other = value + 1 if isinstance(value, int) else bytes(32)
            if name == "parent_hash":
                other = bytes([1]) * 32
            false = Block(changed(block.header, name, other), block.payload)
            with pytest.raises(BlockError, match=f"names another {name} than"):
                world.check(false, batch)


def test_a_block_comes_with_its_batches() -> None:
    world = World()
    one, two = world.batch(enrol(world, 1)), world.batch(enrol(world, 2))
    block = world.execute(one, two).block
    for batches in ([], [one], [two, one], [one, two, two]):
        with pytest.raises(BlockError, match="other batches than"):
            check_block(block, world.head, batches, world.store, world.window, world.genesis)
    reordered = Block(block.header, encode((two.id, one.id)))
    with pytest.raises(BlockError, match="another batches_root"):
        world.check(reordered, two, one)


@given(st.binary(max_size=80))
def test_a_payload_is_canonical_or_refused(payload: bytes) -> None:
    try:
        ids = payload_batches(payload)
    except BlockError:
        return
    assert encode(ids) == payload


def test_a_payload_has_a_limit() -> None:
    ids = (bytes(32),) * 256
    assert payload_batches(encode(ids)) == ids
    with pytest.raises(BlockError, match="cannot be read"):
        payload_batches(encode(ids * 10))
    assert len(encode(ids)) < PAYLOAD_BYTES_MAX


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40), st.booleans()), max_size=12))
def test_what_is_selected_can_be_executed(shapes: list[tuple[int, int, bool]]) -> None:
    pending = [
        WORLD.batch(
            *[FAILING] * size,
            sequence=sequence,
            key=HOSPITAL if honest else key_of("forger"),
        )
        for sequence, size, honest in shapes
    ]
    chosen = select_batches(pending, 1, WORLD.store, WORLD.window, WORLD.genesis)
    places = [next(i for i, batch in enumerate(pending) if batch is one) for one in chosen]
    assert places == sorted(set(places))
    if chosen:
        assert WORLD.execute(*chosen).executed == (0,)
    # Maximal: whatever was left out does not go in as well.
    for batch in pending:
        if not any(batch is one for one in chosen):
            with pytest.raises(BlockError):
                WORLD.execute(*chosen, batch)


def test_a_window_restored_from_the_store_is_the_same() -> None:
    world = World(replay_window_blocks=10)
    early = enrol(world, 200, valid_until_height=15)
    for number in range(1, 15):
        transactions = [enrol(world, number), world.transaction(HOSPITAL, FAIL)]
        executed = world.execute(world.batch(*transactions, *([early] if number < 4 else [])))
        world.apply(executed)
    restored = restore_window(world.store, world.genesis)
    assert vars(restored) == vars(world.window)
    assert not restored.seen(early.id)
    fresh = World()
    assert vars(restore_window(fresh.store, fresh.genesis)) == vars(ReplayWindow(1_000))


def test_a_store_that_lost_something_stops_loudly() -> None:
    world = World()
    world.run(enrol(world, 1))
    stored = stored_block(world.store, 1)
    assert [receipt.code for receipt in stored.receipts] == [C.OK]
    world.store.batches.clear()
    with pytest.raises(StateError, match="lost block 1, or a batch of it"):
        restore_window(world.store, world.genesis)
    with pytest.raises(StateError, match="lost batch"):
        stored_block(world.store, 1)
    with pytest.raises(StateError, match="lost block 7"):
        stored_block(world.store, 7)


def test_executing_changes_nothing_but_its_result() -> None:
    world = Story(World()).world
    values, nodes = dict(world.store.values), dict(world.store.nodes)
    batch = world.batch(enrol(world, 1))
    assert world.execute(batch).block == world.execute(batch).block
    assert (world.store.values, world.store.nodes) == (values, nodes)
    assert not world.window.seen(batch.transactions[0].id)


def test_a_revoked_grant_carries_no_share_in_the_same_block() -> None:
    story = Story(World())
    world = story.world
    revoke = world.transaction(story.patient, Revoke(story.grant))
    share = world.transaction(story.custodian, story.share_of(story.record, story.grant))
    assert world.run(revoke, share) == [C.OK, C.GRANT_REVOKED]
    grant = grant_state(world.store, story.grant)
    assert grant is not None
    assert grant.revoked_height == world.head.height


def test_codes_without_a_verdict() -> None:
    assert DID_NOT_RUN == (C.EXPIRED, C.TOO_FAR_AHEAD, C.REPLAYED)
